//! What the bound promises, and that it costs nothing while it is not needed.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;

use super::super::{
    Random, Tried, build, build_bounded,
    tests::{Asker, members, occupy},
};
use super::*;
use crate::model::{Algorithm, Clock, InFlight, Timestamp};

const BOUND: u16 = 125;

fn bounded(members: &[Member], percent: u16) -> Arc<dyn Balancer> {
    build_bounded(Algorithm::ConsistentHash, members, 2, Some(percent))
}

/// `⌈percent / 100 · (total + 1) · weight / weights⌉` in the plainest way.
fn cap(members: &[Member], position: usize, percent: u16, total: u64) -> u64 {
    let weights: u128 = members.iter().map(|m| u128::from(m.weight)).sum();
    let of = u128::from(percent) * u128::from(total + 1) * u128::from(members[position].weight);
    of.div_ceil(100 * weights) as u64
}

fn begin(member: &Member) -> InFlight {
    let clock = Clock::manual(Timestamp(1));
    member.instance.begin(Algorithm::ConsistentHash, 0, &clock)
}

proptest! {
    // Every case builds tables.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nobody_gets_a_request_beyond_the_bound_and_somebody_always_has_room(
        shares in prop::collection::vec((0u32..5, any::<bool>()), 1..30),
        percent in 101u16..400,
        keys in prop::collection::vec((0u64..3, any::<bool>()), 1..200),
    ) {
        let mut members = members(&shares.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        for (member, (_, recovering)) in members.iter_mut().zip(&shares) {
            member.recovering = *recovering;
        }
        prop_assume!(members.iter().any(|member| member.weight > 0));
        let (balancer, asker) = (bounded(&members, percent), Asker::new(1));
        let mut in_flight = Vec::new();
        for (key, ends_one) in keys {
            let total = members[0].instance.load.total();
            prop_assert_eq!(total, in_flight.len() as u64);
            let position = asker.pick(&*balancer, &members, key).unwrap();
            prop_assert!(members[position].weight > 0);
            in_flight.push(begin(&members[position]));
            let now = u64::from(members[position].instance.in_flight());
            let cap = cap(&members, position, percent, total);
            prop_assert!(now <= cap, "{now} of at most {cap}");
            if ends_one {
                in_flight.swap_remove(key as usize % in_flight.len());
            }
        }
    }

    #[test]
    fn idle_members_are_chosen_as_without_a_bound(
        weights in prop::collection::vec(0u32..5, 1..30),
        keys in prop::collection::vec(any::<u64>(), 1..50),
        rotation in 0usize..30,
    ) {
        let members = members(&weights);
        let plain = build(Algorithm::ConsistentHash, &members, 1);
        let mut turned = members.clone();
        turned.rotate_left(rotation % members.len());
        // Another process lists its members in another order.
        let (here, there) = (bounded(&members, BOUND), bounded(&turned, BOUND));
        let asker = Asker::new(1);
        for key in keys {
            let home = asker.pick(&*plain, &members, key);
            prop_assert_eq!(asker.pick(&*here, &members, key), home);
            let id = |list: &[Member], at: Option<usize>| at.map(|at| list[at].instance.identity);
            let other = asker.pick(&*there, &turned, key);
            prop_assert_eq!(id(&turned, other), id(&members, home));
        }
    }
}

#[test]
fn a_hot_key_is_spread_and_returns_when_its_home_has_room() {
    let members = members(&[1; 10]);
    let (balancer, asker) = (bounded(&members, BOUND), Asker::new(1));
    let home = asker.pick(&*balancer, &members, 7).unwrap();
    let mut in_flight: Vec<InFlight> = Vec::new();
    for _ in 0..1000 {
        let position = asker.pick(&*balancer, &members, 7).unwrap();
        in_flight.push(begin(&members[position]));
    }
    // Each has a share of 100 and is bounded by 125, so eight of ten can have it all.
    let own = members.iter().map(|member| member.instance.in_flight());
    assert!(own.clone().max().is_some_and(|most| most <= 125));
    assert!(own.filter(|own| *own > 0).count() >= 8);
    in_flight.clear();
    assert_eq!(asker.pick(&*balancer, &members, 7), Some(home));
    let _one = begin(&members[home]);
    let second = asker.pick(&*balancer, &members, 7).unwrap();
    assert_ne!(second, home, "one of ten may have one of two in flight");
    // With more in flight elsewhere there is room again.
    let _others = occupy(&members[second], 20);
    assert_eq!(asker.pick(&*balancer, &members, 7), Some(home));
}

#[test]
fn overflow_spreads_over_all_others_by_weight() {
    let mut weights = [1; 11];
    weights[0] = 5;
    let members = members(&weights);
    let balancer = bounded(&members, BOUND);
    // The first one is full whatever the others have; they have plenty of room.
    let _full = occupy(&members[0], 100);
    let mut asker = Asker::new(1);
    let counts = asker.counts(&*balancer, &members, 30_000);
    assert_eq!(counts[0], 0);
    // A third of the keys is its, two thirds are the others' own; all of it falls on ten alike.
    for count in &counts[1..] {
        assert!((2700..3300).contains(count), "{counts:?}");
    }
    // The same with the full one out of the way for another reason.
    asker.tried.insert(members[0].instance.id);
    assert_eq!(asker.counts(&*balancer, &members, 30_000), counts);
}

#[test]
fn the_second_choice_survives_a_change_elsewhere() {
    let mut members = members(&[1; 20]);
    let asker = Asker::new(1);
    let choices = |members: &[Member]| -> Vec<(usize, usize)> {
        let balancer = bounded(members, BOUND);
        let both = |key| {
            let home = asker.pick(&*balancer, members, key).unwrap();
            let _one = occupy(&members[home], 1);
            (home, asker.pick(&*balancer, members, key).unwrap())
        };
        (0..300).map(both).collect()
    };
    let before = choices(&members);
    assert!(before.iter().all(|(home, second)| home != second));
    let lost = 5;
    members[lost].weight = 0;
    let after = choices(&members);
    let stays = |(home, second): (usize, usize)| home != lost && second != lost;
    let moved = before.iter().zip(&after);
    let moved = moved
        .filter(|(before, after)| stays(**before) && before != after)
        .count();
    // Each of the two may be among the 0.4 % of the table that move without need.
    assert!(moved <= 9, "{moved} of 300 keys moved without need");
}

#[test]
fn who_recovers_takes_its_own_keys_and_no_overflow() {
    let mut members = members(&[10, 100, 100]);
    members[0].recovering = true;
    let (balancer, asker) = (bounded(&members, BOUND), Asker::new(1));
    let share = |counts: &[u32]| f64::from(counts[0]) / 21_000.0;
    let idle = asker.counts(&*balancer, &members, 21_000);
    let _busy = occupy(&members[1], 50);
    let busy = asker.counts(&*balancer, &members, 21_000);
    assert_eq!((idle[0], busy[1]), (busy[0], 0), "{idle:?} {busy:?}");
    assert!((share(&busy) - 1.0 / 21.0).abs() < 0.01, "{busy:?}");
    // Its bound is that of its share: 1.25 of 51, of which it may have a twenty-first.
    let _own = occupy(&members[0], 4);
    assert_eq!(asker.counts(&*balancer, &members, 21_000)[0], 0);
}

#[test]
fn the_bound_gives_way_before_a_request_is_refused() {
    let members = members(&[1, 1]);
    let balancer = bounded(&members, BOUND);
    let mut asker = Asker::new(1);
    let _full = occupy(&members[0], 10);
    asker.tried.insert(members[1].instance.id);
    assert_eq!(asker.pick(&*balancer, &members, 1), Some(0));
    // Whoever recovers takes overflow before the bound is broken.
    let mut members = members;
    members[1].recovering = true;
    asker.tried = Tried::default();
    let balancer = bounded(&members, BOUND);
    assert_eq!(asker.counts(&*balancer, &members, 100), [0, 100]);
}

#[test]
fn where_nobody_has_room_a_hot_key_is_still_spread() {
    // Half of the members, with half of the bounds, have been lost this moment.
    let members = members(&[1; 8]);
    let balancer = bounded(&members, BOUND);
    let mut asker = Asker::new(1);
    for lost in &members[..4] {
        asker.tried.insert(lost.instance.id);
    }
    let mut in_flight = Vec::new();
    for _ in 0..100 {
        let position = asker.pick(&*balancer, &members, 3).unwrap();
        in_flight.push(begin(&members[position]));
    }
    for member in &members[4..] {
        assert!(
            (20..=30).contains(&member.instance.in_flight()),
            "{members:?}"
        );
    }
}

#[test]
fn workers_at_once_exceed_the_bound_by_no_more_than_one_request_each() {
    const WORKERS: usize = 4;
    let members = members(&[1, 2, 3]);
    let balancer = bounded(&members, BOUND);
    let most = AtomicU32::new(0);
    let clock = Clock::manual(Timestamp(1));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (members, balancer, most, clock) = (&members, &balancer, &most, &clock);
            scope.spawn(move || {
                let (random, tried) = (Random::new(worker as u64 + 1), Tried::default());
                let mut in_flight = Vec::new();
                for _ in 0..2000 {
                    let choice = Choice {
                        key: 1,
                        worker,
                        now: clock.now(),
                        random: &random,
                        tried: &tried,
                    };
                    let position = balancer.pick(members, &choice).unwrap();
                    let member = &members[position];
                    in_flight.push(
                        member
                            .instance
                            .begin(Algorithm::ConsistentHash, worker, clock),
                    );
                    if position == 0 {
                        most.fetch_max(member.instance.in_flight(), Ordering::Relaxed);
                    }
                    // Never more than ten each, so at most 40 in flight.
                    if in_flight.len() == 10 {
                        in_flight.swap_remove(random.below(10));
                    }
                }
            });
        }
    });
    let cap = cap(&members, 0, BOUND, 10 * WORKERS as u64);
    let most = u64::from(most.into_inner());
    assert!(most < cap + WORKERS as u64, "{most}, bound {cap}");
    assert_eq!(members[0].instance.load.total(), 0);
}
