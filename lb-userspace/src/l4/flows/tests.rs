use std::future::Future;

use lb_common::{FOLLOW_ALL_VIPS, FOLLOW_NEW, Follower, Traffic};

use super::{
    fixture::{Tape, event, ring},
    *,
};
use crate::{
    l4::{
        VipReport,
        fixture::vip,
        host,
        report::{Report, Reporter},
    },
    model::Protocol,
};

/// A hub over a ring in memory.
struct World {
    tape: Tape,
    reporter: Reporter,
    flows: Flows,
}

impl World {
    fn new() -> Self {
        let (tape, recorder) = ring();
        let reporter = Reporter::new(Report::default());
        let flows = start(recorder, reporter.handle().subscribe()).unwrap();
        Self {
            tape,
            reporter,
            flows,
        }
    }

    async fn follow(&self, filter: Filter) -> Followed {
        self.flows.follow(filter).await.unwrap()
    }

    fn publish(&self, change: impl FnOnce(&mut Report)) {
        let mut report = (*self.reporter.latest()).clone();
        change(&mut report);
        self.reporter.publish(report);
    }
}

fn drops() -> Filter {
    Filter {
        counters: Filter::counters_of(CounterKind::Dropped).collect(),
        ..Filter::default()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(20), what).await;
    done.expect("it does not happen")
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn packets_are_recorded_while_somebody_follows() {
    let world = World::new();
    assert_eq!(world.tape.until(), 0);
    let followed = world.follow(drops()).await;
    assert!(world.tape.until() > host::monotonic_ns());
    let told = world.tape.follower(0);
    assert!(told.counters >> Counter::DropTtl as u32 & 1 == 1);
    assert!(told.counters >> Counter::Redirected as u32 & 1 == 0);
    assert_eq!(told.flags, FOLLOW_ALL_VIPS);
    assert_eq!(world.flows.figures().followers, 1);
    let second = world.follow(drops()).await;
    drop(followed);
    until(|| world.tape.follower(0) == Follower::default()).await;
    assert!(world.tape.until() > 0, "the other one still follows");
    drop(second);
    until(|| world.tape.until() == 0).await;
    assert_eq!(world.tape.follower(1), Follower::default());
    assert_eq!(world.flows.figures().followers, 0);
}

#[tokio::test]
async fn the_program_is_told_to_go_on() {
    let world = World::new();
    let _followed = world.follow(drops()).await;
    let first = world.tape.until();
    until(|| world.tape.until() > first).await;
}

#[tokio::test]
async fn events_come_to_those_who_want_them() {
    let world = World::new();
    let mut first = world.follow(drops()).await;
    let mut second = world.follow(drops()).await;
    world.tape.record(event(Counter::DropTtl, 0b01));
    world.tape.record(event(Counter::DropNoRoute, 0b11));
    world.tape.record(event(Counter::DropFamily, 0b10));
    for (followed, expected) in [
        (&mut first, [Counter::DropTtl, Counter::DropNoRoute]),
        (&mut second, [Counter::DropNoRoute, Counter::DropFamily]),
    ] {
        for counter in expected {
            let packet = soon(followed.next()).await.unwrap();
            assert_eq!(packet.counter(), Some(counter));
            let age = packet.at.elapsed().unwrap();
            assert!(age < Duration::from_secs(20), "{age:?}");
        }
        assert!(followed.ready().is_none());
    }
    assert_eq!(world.flows.figures().delivered, 4);
}

#[tokio::test]
async fn who_is_slow_is_told_how_much_is_missing() {
    let world = World::new();
    let mut slow = world.follow(drops()).await;
    let mut quick = world.follow(drops()).await;
    let sent = QUEUE + 10;
    for _ in 0..sent {
        world.tape.record(event(Counter::DropTtl, 0b11));
        soon(quick.next()).await.unwrap();
    }
    assert_eq!((quick.take_lost(), slow.take_lost()), (0, 10));
    assert_eq!(slow.take_lost(), 0, "told twice");
    for _ in 0..QUEUE {
        soon(slow.next()).await.unwrap();
    }
    assert!(slow.ready().is_none());
    // What the program itself has lost nobody knows the owner of.
    world.publish(|report| report.counters.values[Counter::FlowsLost as usize] = 3);
    until(|| world.tape.unread() == 0).await;
    let lost = soon(async {
        loop {
            match (slow.take_lost(), quick.take_lost()) {
                (0, 0) => tokio::time::sleep(Duration::from_millis(1)).await,
                both => break both,
            }
        }
    });
    assert_eq!(lost.await, (3, 3));
    assert_eq!(world.flows.figures().lost, 10);
}

#[tokio::test]
async fn there_are_so_many_places() {
    let world = World::new();
    let mut all = Vec::new();
    for _ in 0..MOST_FOLLOWERS {
        all.push(world.follow(drops()).await);
    }
    let refused = world.flows.follow(drops()).await.map(drop);
    assert!(
        matches!(refused, Err(L4Error::Followers { most: 8 })),
        "{refused:?}"
    );
    // Who leaves makes room at once.
    drop(all.remove(3));
    all.push(world.follow(drops()).await);
}

#[tokio::test]
async fn nobody_gets_what_was_recorded_for_somebody_before() {
    let world = World::new();
    let first = world.follow(drops()).await;
    let old = event(Counter::DropTtl, 1);
    drop(first);
    until(|| world.tape.until() == 0).await;
    world.tape.record(old);
    let mut second = world.follow(drops()).await;
    // One that a processor was late with.
    world.tape.record(old);
    world.tape.record(event(Counter::DropNoRoute, 1));
    let packet = soon(second.next()).await.unwrap();
    assert_eq!(packet.counter(), Some(Counter::DropNoRoute));
}

#[tokio::test]
async fn vips_are_followed_by_the_ids_that_they_have() {
    let world = World::new();
    let report = |address: &str, service: &str, id| VipReport {
        vip: vip(address, Protocol::Tcp, service),
        id,
        table: 1,
        generation: 1,
        traffic: Traffic::default(),
        drops: lb_common::Counters::default(),
        live: None,
        relayed: None,
    };
    let vips = |ids: [u32; 3]| {
        vec![
            report("192.0.2.1:80", "web", ids[0]),
            report("192.0.2.2:80", "web", ids[1]),
            report("192.0.2.3:80", "other", ids[2]),
        ]
    };
    world.publish(|report| report.vips = vips([1, 70, 3]));
    let filter = |vips: &[&str], services: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Filter {
            vips: owned(vips),
            services: owned(services),
            new: true,
            source: Some("198.51.100.0/24".parse().unwrap()),
            sample: 7,
            ..drops()
        }
    };
    let _web = world.follow(filter(&[], &["web"])).await;
    let _other = world.follow(filter(&["tcp/192.0.2.3:80"], &[])).await;
    let bits = |place: usize| world.tape.follower(place).vips[..2].to_vec();
    assert_eq!((bits(0), bits(1)), (vec![1 << 1, 1 << 6], vec![1 << 3, 0]));
    let told = world.tape.follower(0);
    assert_eq!((told.flags, told.sample), (FOLLOW_NEW, 7));
    assert_eq!(told.mask, [u64::MAX, 0x00ff_ffff_ffff_ffff]);
    world.publish(|report| report.vips = vips([5, 6, 1]));
    until(|| bits(0) == [1 << 5 | 1 << 6, 0] && bits(1) == [1 << 1, 0]).await;
}

#[tokio::test]
async fn what_cannot_be_told_is_refused() {
    let world = World::new();
    world.tape.break_down();
    let refused = world.flows.follow(drops()).await.map(drop);
    assert!(matches!(refused, Err(L4Error::Datapath(_))), "{refused:?}");
}

#[tokio::test]
async fn following_ends_with_the_packet_path() {
    let World {
        tape,
        reporter,
        flows,
    } = World::new();
    let mut followed = flows.follow(drops()).await.unwrap();
    drop(reporter);
    assert!(soon(followed.next()).await.is_none());
    assert_eq!(tape.until(), 0);
    let refused = flows.follow(drops()).await.map(drop);
    assert!(
        matches!(refused, Err(L4Error::NoPath { .. })),
        "{refused:?}"
    );
}
