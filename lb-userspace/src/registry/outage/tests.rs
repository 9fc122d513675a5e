use std::sync::Arc;

use super::*;
use crate::{
    model::{
        Algorithm, BreakersSpec, Clock, Detector, Endpoint, InstanceSpec, Outcome, ServiceName,
        ServiceSpec,
    },
    registry::{Change, Desired, Registry},
    resilience::Ejection,
};

struct World {
    registry: Registry,
    clock: Clock,
}

impl World {
    /// So many instances, of which breakers may leave out this share.
    fn new(count: usize, max_out: u8) -> Self {
        let endpoint = |i| Endpoint::parse(&format!("10.0.0.{i}:80")).unwrap();
        let service = ServiceSpec {
            breakers: BreakersSpec {
                instance: Some(BreakerSpec::default()),
                max_out,
                ..BreakersSpec::default()
            },
            outlier: Some(crate::model::OutlierSpec::default()),
            instances: (1..=count)
                .map(|i| InstanceSpec::new(endpoint(i), 10))
                .collect(),
            ..ServiceSpec::new(ServiceName::new("web").unwrap())
        };
        let registry = Registry::new(4, []);
        let desired = Desired {
            services: vec![service],
            ..Desired::default()
        };
        registry
            .apply(Change::Configure(Box::new(desired)))
            .unwrap();
        Self {
            registry,
            clock: Clock::manual(Timestamp(100_000_000)),
        }
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.registry.snapshot().services[0])
    }

    fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// So many requests to an instance end like this, by this worker.
    fn end_at(&self, worker: usize, at: usize, count: usize, outcome: Outcome) {
        let service = self.service();
        for _ in 0..count {
            let instance = &service.members[at].instance;
            let mut request = instance.begin(Algorithm::RoundRobin, worker, &self.clock);
            request.judge(outcome);
            let verdict = match outcome {
                Outcome::Success => Verdict::Success,
                Outcome::Failure | Outcome::Refused => Verdict::Failure,
            };
            service.weigh(worker, &request, None, verdict, self.clock.now(), 0);
        }
    }

    fn serve(&self, at: usize, count: usize) {
        self.end_at(0, at, count, Outcome::Success);
    }

    fn fail(&self, at: usize, count: usize) {
        self.end_at(0, at, count, Outcome::Failure);
    }

    fn open(&self) -> Vec<usize> {
        let service = self.service();
        let members = service.members.iter().enumerate();
        members
            .filter(|(_, member)| !member.instance.gate.is_closed())
            .map(|(at, _)| at)
            .collect()
    }
}

#[test]
fn a_run_without_a_pace_before_it_is_enough() {
    for count in [1, 3] {
        let world = World::new(count, 50);
        world.fail(0, 6);
        assert_eq!(world.open(), [0; 0]);
        world.fail(0, 1);
        assert_eq!(world.open(), [0]);
    }
}

#[test]
fn a_busy_instance_is_spared_until_it_is_silent() {
    let world = World::new(3, 50);
    for _ in 0..10 {
        world.serve(0, 100);
        world.pass(1000);
    }
    // 100 a second: 12.8 are missing after 128 ms.
    world.fail(0, 1);
    world.pass(127);
    world.fail(0, 20);
    assert_eq!(world.open(), [0; 0]);
    let instance = Arc::clone(&world.service().members[0].instance);
    assert!(instance.is_spared(world.clock.now()));
    assert_eq!(instance.spared(), 1);
    world.pass(1);
    world.fail(0, 1);
    assert_eq!(world.open(), [0]);
    world.pass(2000);
    assert!(!instance.is_spared(world.clock.now()));
}

#[test]
fn refused_connections_are_no_sign_of_being_busy() {
    let world = World::new(3, 50);
    for _ in 0..10 {
        world.serve(0, 100);
        world.pass(1000);
    }
    // What was under way when the instance died, and what came to the closed door.
    world.fail(0, 3);
    world.end_at(0, 0, 3, Outcome::Refused);
    assert_eq!(world.open(), [0; 0]);
    world.end_at(0, 0, 1, Outcome::Refused);
    assert_eq!(world.open(), [0]);
    // When all refuse, something stands before them all, and one may be out.
    let world = World::new(3, 50);
    for at in 0..3 {
        world.serve(at, 100);
    }
    world.pass(1000);
    for _ in 0..7 {
        (0..3).for_each(|at| world.end_at(0, at, 1, Outcome::Refused));
    }
    assert_eq!(world.open(), [0]);
}

#[test]
fn a_long_run_is_a_silence_however_short_it_was() {
    let world = World::new(3, 50);
    for _ in 0..10 {
        world.serve(0, 100);
        world.pass(1000);
    }
    world.fail(0, 20);
    assert_eq!(world.open(), [0; 0]);
    world.fail(0, 6);
    assert_eq!(world.open(), [0]);
}

#[test]
fn when_all_fail_at_once_nobody_is_out_until_all_are_certainly_dead() {
    let world = World::new(4, 50);
    let all = |world: &World, count| (0..4).for_each(|at| world.fail(at, count));
    // The first two find room before the others have failed as often.
    all(&world, 6);
    all(&world, 1);
    assert_eq!(world.open(), [0, 1]);
    world.pass(999);
    all(&world, 1);
    assert_eq!(world.open(), [0, 1]);
    world.pass(1);
    all(&world, 1);
    assert_eq!(world.open(), [0, 1, 2, 3]);
    // Those that have served until now have a pace of their own.
    let world = World::new(4, 50);
    (0..4).for_each(|at| world.serve(at, 1000));
    all(&world, 1);
    world.pass(200);
    all(&world, 5);
    assert_eq!(world.open(), [0; 0]);
    all(&world, 1);
    assert_eq!(world.open(), [0, 1]);
}

/// Requests of which this share in percent fails, never two in a row but for more than half.
fn mixed(world: &World, at: usize, count: usize, percent: usize) {
    for i in 0..count {
        let fails = (i + 1) * percent / 100 > i * percent / 100;
        match fails {
            true => world.fail(at, 1),
            false => world.serve(at, 1),
        }
    }
}

#[test]
fn a_share_of_failures_opens_for_who_serves_less_than_the_others() {
    let world = World::new(3, 50);
    mixed(&world, 1, 100, 0);
    mixed(&world, 2, 100, 0);
    world.pass(100);
    mixed(&world, 0, 100, 60);
    assert_eq!(world.open(), [0]);
    // All of them get more than twice what they can do.
    let world = World::new(3, 50);
    for _ in 0..100 {
        (0..3).for_each(|at| mixed(&world, at, 10, 60));
        world.pass(10);
    }
    assert_eq!(world.open(), [0; 0]);
    assert!(world.service().members[2].instance.spared() > 0);
    // The only one serves more than nobody.
    let world = World::new(1, 50);
    mixed(&world, 0, 1000, 80);
    assert_eq!(world.open(), [0; 0]);
}

#[test]
fn ejected_instances_take_room() {
    let world = World::new(4, 25);
    let id = world.service().members[3].instance.id;
    let ejection = Ejection {
        by: Detector::SuccessRate,
        detail: "test".into(),
        since: world.clock.now(),
        until: world.clock.now() + Duration::from_secs(30),
        times: 1,
    };
    let change = Change::Eject(vec![(id, ejection)]);
    world.registry.apply(change).unwrap();
    world.fail(0, 10);
    assert_eq!(world.open(), [0; 0]);
    let service = world.service();
    let now = world.clock.now();
    assert_eq!((service.out(now), service.most_out()), (1, 1));
    world
        .registry
        .apply(Change::EndEjections(vec![id]))
        .unwrap();
    world.pass(10);
    world.fail(0, 1);
    assert_eq!(world.open(), [0]);
}

#[test]
fn many_threads_together_leave_out_no_more_than_the_share() {
    let mut most = 0;
    for _ in 0..20 {
        let world = World::new(8, 25);
        (0..2).for_each(|at| world.serve(at, 1000));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let world = &world;
                scope.spawn(move || {
                    for _ in 0..100 {
                        world.pass(1);
                        for at in 2..8 {
                            world.end_at(worker, at, 1, Outcome::Failure);
                            world.end_at(worker, at, 1, Outcome::Failure);
                            world.end_at(worker, at, 1, Outcome::Success);
                        }
                    }
                });
            }
        });
        let open = world.open().len();
        assert!(open <= 2, "{open} of 8");
        most = most.max(open);
    }
    assert_eq!(most, 2);
}
