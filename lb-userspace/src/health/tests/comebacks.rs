//! Instances that come back, through registry, weights and picks, in virtual time.

use std::time::Duration;

use super::*;
use crate::{
    balance::{Choice, Random, Tried},
    health::comeback::{self, Comebacks},
    model::{AdminState, Clock, Health, Outcome, RecoverySpec, Timestamp},
    resilience::UNIT,
};

const FULL: u32 = 10 * UNIT;

struct Run {
    registry: Arc<Registry>,
    clock: Clock,
    comebacks: Comebacks,
}

impl Run {
    fn new(algorithm: Algorithm) -> Self {
        let endpoints: Vec<String> = (1..=3).map(|i| format!("10.0.0.{i}:80")).collect();
        let spec = ServiceSpec {
            recovery: Some(RecoverySpec::default()),
            ..service(
                "web",
                algorithm,
                Some(HealthCheckSpec::default()),
                &endpoints,
            )
        };
        Self {
            registry: registry(vec![spec]),
            clock: Clock::manual(Timestamp(100_000_000)),
            comebacks: Comebacks::default(),
        }
    }

    fn health(&self, instance: usize, health: Health) {
        let id = self.registry.snapshot().services[0].members[instance]
            .instance
            .id;
        let detail = "test".into();
        let change = Change::Health { id, health, detail };
        self.registry.apply(change).unwrap();
    }

    /// The first instance has been down and is healthy again.
    fn flap(&mut self) {
        self.health(0, Health::Unhealthy);
        self.drive();
        self.health(0, Health::Healthy);
    }

    fn drive(&mut self) -> u32 {
        self.comebacks.drive(&self.registry, self.clock.now());
        self.weight()
    }

    /// `seconds` in each of which the first instance serves a request well, or fails it.
    fn seconds(&mut self, seconds: u64, outcome: Outcome) -> u32 {
        for _ in 0..seconds {
            let instance = Arc::clone(&self.registry.snapshot().services[0].members[0].instance);
            instance
                .begin(Algorithm::RoundRobin, 0, &self.clock)
                .judge(outcome);
            self.clock.advance(Duration::from_secs(1));
            self.drive();
        }
        self.weight()
    }

    fn weight(&self) -> u32 {
        self.registry.snapshot().services[0].members[0].weight
    }

    /// How many of so many requests the first instance gets.
    fn picks(&self, requests: u64) -> f64 {
        let service = Arc::clone(&self.registry.snapshot().services[0]);
        let (random, tried) = (Random::new(7), Tried::default());
        let picked = (0..requests).filter(|key| {
            let choice = Choice {
                key: *key,
                worker: 0,
                now: self.clock.now(),
                random: &random,
                tried: &tried,
            };
            service.balancer.pick(&service.members, &choice) == Some(0)
        });
        picked.count() as f64 / requests as f64
    }
}

#[test]
fn shares_are_within_two_points_of_every_step_under_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let mut run = Run::new(algorithm);
        let full = if algorithm == Algorithm::RoundRobin {
            UNIT
        } else {
            FULL
        };
        run.flap();
        run.drive();
        for step in 1..=10u32 {
            assert_eq!(run.weight(), full * step / 10, "{algorithm}");
            let exact = f64::from(step) / f64::from(20 + step);
            let got = run.picks(5_000);
            // Without load and without history the algorithms by load take turns at full weight.
            assert!(
                (got - exact).abs() < 0.02,
                "{algorithm} {step}: {got} for {exact}"
            );
            run.seconds(30, Outcome::Success);
        }
        let status = status(&run.registry, 0);
        assert_eq!(status.recovery, None, "{algorithm}");
    }
}

#[test]
fn at_no_moment_is_it_back_with_all_its_weight() {
    let mut run = Run::new(Algorithm::WeightedRoundRobin);
    assert_eq!(run.weight(), FULL);
    run.flap();
    assert_eq!(run.weight(), 0);
    assert_eq!(run.drive(), FULL / 10);
    // Down and up again between two looks is a relapse.
    run.health(0, Health::Unhealthy);
    run.health(0, Health::Healthy);
    assert_eq!(run.weight(), 0);
    assert_eq!(run.drive(), 0);
    assert_eq!(status(&run.registry, 0).recovery.unwrap().relapses, 1);
    run.clock.advance(Duration::from_secs(29));
    assert_eq!(run.drive(), 0);
    run.clock.advance(Duration::from_secs(1));
    assert_eq!(run.drive(), FULL / 10);
}

#[test]
fn failures_send_it_back_to_zero() {
    let mut run = Run::new(Algorithm::Adaptive);
    run.flap();
    run.drive();
    assert_eq!(run.seconds(60, Outcome::Success), FULL * 3 / 10);
    assert_eq!(run.seconds(10, Outcome::Failure), 0);
}

#[test]
fn force_ends_it_and_an_operator_only_interrupts_it() {
    let mut run = Run::new(Algorithm::LeastConnections);
    let name = || ServiceName::new("web").unwrap();
    let instance = || "10.0.0.1:80".to_owned();
    let admin = |run: &Run, state| {
        let change = Change::Admin {
            service: name(),
            instance: instance(),
            state,
        };
        run.registry.apply(change).unwrap();
    };
    run.flap();
    run.drive();
    run.seconds(30, Outcome::Success);
    admin(&run, AdminState::Draining);
    run.seconds(100, Outcome::Success);
    admin(&run, AdminState::Enabled);
    assert_eq!(run.drive(), FULL / 5);
    let force = || Change::ForceRecovery {
        service: name(),
        instance: instance(),
    };
    assert_eq!(run.registry.apply(force()).unwrap().events.len(), 1);
    assert_eq!(run.weight(), FULL);
    assert_eq!(run.drive(), FULL);
    assert!(run.registry.apply(force()).unwrap().events.is_empty());
    // Nothing of it is remembered.
    run.flap();
    assert_eq!(run.drive(), FULL / 10);
    assert_eq!(status(&run.registry, 0).recovery.unwrap().relapses, 0);
}

#[test]
fn who_was_never_down_has_no_recovery_and_who_waits_serves_when_nobody_else_can() {
    let mut run = Run::new(Algorithm::WeightedRoundRobin);
    (0..3).for_each(|instance| run.health(instance, Health::Healthy));
    assert_eq!(run.drive(), FULL);
    (0..3).for_each(|instance| run.health(instance, Health::Unhealthy));
    run.drive();
    run.health(0, Health::Healthy);
    assert_eq!(run.weight(), FULL);
    run.health(1, Health::Healthy);
    run.health(0, Health::Unhealthy);
    assert_eq!(run.weight(), 0);
}

#[tokio::test]
async fn a_change_of_health_is_followed_at_once() {
    let run = Run::new(Algorithm::ConsistentHash);
    let task = tokio::spawn(comeback::run(Arc::clone(&run.registry), Clock::real()));
    run.health(0, Health::Unhealthy);
    run.health(0, Health::Healthy);
    let mut changes = run.registry.subscribe();
    tokio::time::timeout(Duration::from_millis(900), async {
        while run.weight() == 0 {
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    assert_eq!(run.weight(), FULL / 10);
    task.abort();
}
