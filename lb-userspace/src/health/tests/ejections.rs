//! Ejections from requests to weights, and what else happens meanwhile, in virtual time.

use std::time::Duration;

use super::*;
use crate::{
    health::{
        comeback::Comebacks,
        outlier::{self, Look, Outliers},
        slow_start::Starts,
    },
    model::{
        AdminState, Clock, FailOpenSpec, Health, Outcome, OutlierSpec, RecoverySpec, SlowStartSpec,
        Timestamp,
    },
    registry::FailOpen,
    resilience::{Ejection, UNIT},
};

const FULL: u32 = 10 * UNIT;

struct Run {
    registry: Arc<Registry>,
    clock: Clock,
    outliers: Outliers,
    comebacks: Comebacks,
    starts: Starts,
}

/// Three instances unless `count` says otherwise, with ejection and recovery.
fn spec(count: usize) -> ServiceSpec {
    let endpoints: Vec<String> = (1..=count).map(|i| format!("10.0.0.{i}:80")).collect();
    let check = Some(HealthCheckSpec::default());
    ServiceSpec {
        outlier: Some(OutlierSpec::default()),
        recovery: Some(RecoverySpec::default()),
        fail_open: Some(FailOpenSpec::default()),
        ..service("web", Algorithm::WeightedRoundRobin, check, &endpoints)
    }
}

impl Run {
    fn new(spec: ServiceSpec) -> Self {
        let mut run = Self {
            registry: registry(vec![spec]),
            clock: Clock::manual(Timestamp(100_000_000)),
            outliers: Outliers::with_seed(7),
            comebacks: Comebacks::default(),
            starts: Starts::default(),
        };
        run.look();
        run
    }

    fn look(&mut self) {
        let now = self.clock.now();
        self.outliers.look(&self.registry, now, Look::Whole);
        self.comebacks.drive(&self.registry, now);
        self.starts.drive(&self.registry, now);
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.look();
        }
    }

    fn instance(&self, at: usize) -> Arc<crate::model::Instance> {
        Arc::clone(&self.registry.snapshot().services[0].members[at].instance)
    }

    fn answers(&self, at: usize, count: usize, outcome: Outcome, ms: u64) {
        for _ in 0..count {
            let instance = self.instance(at);
            let mut request = instance.begin(Algorithm::RoundRobin, 0, &self.clock);
            let later = Duration::from_millis(ms);
            self.clock.advance(later);
            request.judge(outcome);
        }
    }

    fn fail(&mut self, at: usize) {
        self.answers(at, 5, Outcome::Failure, 0);
        self.look();
    }

    fn weights(&self) -> Vec<u32> {
        let snapshot = self.registry.snapshot();
        snapshot.services[0]
            .members
            .iter()
            .map(|m| m.weight)
            .collect()
    }

    fn ejected(&self, at: usize) -> Option<Ejection> {
        status(&self.registry, at).ejected
    }

    fn fail_open(&self) -> Option<FailOpen> {
        self.registry.snapshot().services[0].fail_open
    }

    fn health(&self, at: usize, health: Health) {
        let id = self.instance(at).id;
        let detail = "test".into();
        let change = Change::Health { id, health, detail };
        self.registry.apply(change).unwrap();
    }

    fn admin(&self, at: usize, state: AdminState) {
        let change = Change::Admin {
            service: ServiceName::new("web").unwrap(),
            instance: format!("10.0.0.{}:80", at + 1),
            state,
        };
        self.registry.apply(change).unwrap();
    }

    fn named(&self, at: usize, force: bool) {
        let service = ServiceName::new("web").unwrap();
        let instance = format!("10.0.0.{}:80", at + 1);
        let change = match force {
            true => Change::ForceRecovery { service, instance },
            false => Change::Uneject { service, instance },
        };
        self.registry.apply(change).unwrap();
    }
}

#[test]
fn five_failures_take_it_out_and_it_comes_back_through_its_recovery() {
    let mut run = Run::new(spec(3));
    run.answers(0, 4, Outcome::Failure, 0);
    run.answers(0, 1, Outcome::Success, 0);
    run.answers(0, 4, Outcome::Failure, 0);
    run.look();
    assert_eq!(run.weights(), [FULL; 3]);
    run.answers(0, 1, Outcome::Failure, 0);
    run.look();
    assert_eq!(run.weights(), [0, FULL, FULL]);
    let ejection = run.ejected(0).unwrap();
    assert_eq!(
        (ejection.times, &*ejection.detail),
        (1, "5 failures in a row")
    );
    let time = (ejection.until - ejection.since).as_secs_f64();
    assert!((30.0..=33.0).contains(&time), "{time}");
    assert_eq!(run.instance(0).ejections(ejection.by), 1);
    run.pass(29);
    assert_eq!(run.weights()[0], 0);
    run.pass(4);
    assert_eq!(run.ejected(0), None);
    assert_eq!(run.weights()[0], FULL / 10);
    // What it failed while it was out, and before, is not held against it.
    assert_eq!(run.instance(0).failures.length(), 0);
    // It falls again, for twice the time.
    run.fail(0);
    let ejection = run.ejected(0).unwrap();
    assert_eq!(ejection.times, 2);
    assert!(ejection.until - ejection.since >= Duration::from_secs(60));
}

#[test]
fn without_recovery_it_has_all_its_weight_when_its_time_is_over() {
    let mut run = Run::new(ServiceSpec {
        recovery: None,
        ..spec(2)
    });
    run.fail(0);
    assert_eq!(run.weights(), [0, FULL]);
    run.pass(34);
    assert_eq!(run.weights(), [FULL, FULL]);
}

#[test]
fn the_last_one_and_more_than_half_stay_whatever_they_do() {
    let mut run = Run::new(spec(4));
    run.answers(0, 6, Outcome::Failure, 0);
    run.answers(1, 7, Outcome::Failure, 0);
    run.fail(2);
    // So many at once are not at fault themselves, unless it lasts.
    assert_eq!(run.weights(), [FULL; 4]);
    run.pass(1);
    assert_eq!(run.weights(), [0, 0, FULL, FULL]);
    run.fail(3);
    run.pass(1);
    assert_eq!(run.weights(), [0, 0, FULL, FULL]);
    // As soon as there is room, and somebody better, it is the next one's turn.
    run.answers(3, 1, Outcome::Success, 0);
    run.named(0, true);
    run.look();
    assert_eq!(run.weights(), [FULL, 0, 0, FULL]);
    let mut alone = Run::new(spec(1));
    alone.fail(0);
    assert_eq!(alone.weights(), [FULL]);
    assert_eq!(alone.fail_open(), None);
}

#[test]
fn one_that_became_slow_and_overflows_goes_though_it_serves() {
    for (queue, out) in [(50, true), (0, false)] {
        let mut run = Run::new(spec(3));
        let slow = run.instance(0);
        let waiting: Vec<_> = (0..queue)
            .map(|_| slow.begin(Algorithm::RoundRobin, 0, &run.clock))
            .collect();
        for _ in 0..3 {
            run.clock.advance(Duration::from_secs(1));
            run.answers(0, 20, Outcome::Success, 0);
            run.answers(1, 100, Outcome::Success, 0);
            run.answers(2, 100, Outcome::Success, 0);
        }
        // With 20 a second half a second without a success is nothing.
        run.fail(0);
        assert_eq!(run.ejected(0).is_some(), out, "{queue} wait");
        drop(waiting);
    }
}

#[test]
fn a_third_of_failures_is_seen_within_a_window_among_three() {
    let mut run = Run::new(spec(3));
    for _ in 0..12 {
        for at in 0..3 {
            for request in 0..20 {
                let failed = at == 0 && request % 3 == 0;
                let outcome = if failed {
                    Outcome::Failure
                } else {
                    Outcome::Success
                };
                run.answers(at, 1, outcome, 0);
            }
        }
        run.pass(1);
    }
    let ejection = run.ejected(0).unwrap();
    assert_eq!(ejection.by.as_str(), "success_rate");
    assert_eq!(run.weights(), [0, FULL, FULL]);
}

#[test]
fn a_slow_one_goes_when_that_is_asked_for() {
    for (latency_factor, out) in [(0, false), (300, true)] {
        let mut spec = spec(3);
        spec.outlier = Some(OutlierSpec {
            latency_factor,
            min_requests: 20,
            ..OutlierSpec::default()
        });
        let mut run = Run::new(spec);
        for _ in 0..12 {
            run.answers(0, 5, Outcome::Success, 40);
            run.answers(1, 5, Outcome::Success, 4);
            run.answers(2, 5, Outcome::Success, 5);
            run.pass(1);
        }
        assert_eq!(run.ejected(0).is_some(), out);
    }
}

#[test]
fn checks_and_operators_stand_beside_an_ejection() {
    let mut run = Run::new(spec(3));
    run.fail(0);
    run.health(0, Health::Healthy);
    run.pass(1);
    assert_eq!(
        run.weights()[0],
        0,
        "a check that passes says nothing of requests"
    );
    for state in [
        AdminState::Draining,
        AdminState::Disabled,
        AdminState::Enabled,
    ] {
        run.admin(0, state);
        run.look();
        assert_eq!(run.weights()[0], 0, "{state:?}");
        assert!(run.ejected(0).is_some());
    }
    // Its time is over while a check speaks against it: the check holds it.
    run.health(0, Health::Unhealthy);
    run.pass(34);
    assert_eq!(run.ejected(0), None);
    assert_eq!(run.weights()[0], 0);
    run.health(0, Health::Healthy);
    run.pass(1);
    assert_eq!(run.weights()[0], FULL / 10);
}

#[test]
fn who_was_down_and_is_up_again_is_ejected_no_longer() {
    let mut run = Run::new(spec(3));
    run.fail(0);
    run.health(0, Health::Unhealthy);
    run.pass(1);
    assert!(run.ejected(0).is_some());
    run.health(0, Health::Healthy);
    run.look();
    assert_eq!(run.ejected(0), None);
    assert_eq!(run.weights()[0], FULL / 10);
    // That it was ejected is not forgotten.
    run.fail(0);
    assert_eq!(run.ejected(0).unwrap().times, 2);
}

#[test]
fn a_reload_an_algorithm_and_a_reset_do_what_is_documented() {
    let mut run = Run::new(spec(3));
    run.fail(0);
    let before = run.ejected(0);
    let mut changed = spec(3);
    changed.instances[1].weight = 20;
    configure(&run.registry, vec![changed]);
    run.registry
        .apply(Change::Algorithm {
            service: ServiceName::new("web").unwrap(),
            algorithm: Algorithm::Adaptive,
        })
        .unwrap();
    run.look();
    assert_eq!(run.ejected(0), before);
    assert_eq!(run.weights(), [0, 2 * FULL, FULL]);
    run.registry.apply(Change::Reset).unwrap();
    run.look();
    assert_eq!(run.ejected(0), None);
    assert_eq!(run.weights()[0], FULL / 10);
    run.fail(0);
    assert_eq!(run.ejected(0).unwrap().times, 1, "forgotten");
    configure(
        &run.registry,
        vec![ServiceSpec {
            outlier: None,
            ..spec(3)
        }],
    );
    assert_eq!(run.ejected(0), None);
    run.fail(0);
    assert_eq!(run.ejected(0), None);
}

#[test]
fn an_operator_ends_it_with_and_without_a_recovery() {
    let mut run = Run::new(spec(3));
    run.fail(0);
    run.named(0, false);
    run.look();
    assert_eq!(run.ejected(0), None);
    assert_eq!(run.weights()[0], FULL / 10);
    run.pass(1);
    assert_eq!(run.ejected(0), None, "nothing new speaks against it");
    run.fail(0);
    assert_eq!(run.ejected(0).unwrap().times, 2);
    run.named(0, true);
    assert_eq!(run.weights()[0], FULL);
}

#[test]
fn a_service_of_which_none_is_left_fails_open_and_says_why() {
    let mut run = Run::new(spec(3));
    run.fail(0);
    run.health(1, Health::Unhealthy);
    assert_eq!(run.fail_open(), None);
    run.health(2, Health::Unhealthy);
    assert_eq!(run.fail_open(), Some(FailOpen::NoneLeft));
    assert_eq!(run.weights(), [FULL; 3]);
    run.admin(1, AdminState::Disabled);
    assert_eq!(run.weights(), [FULL, 0, FULL], "an operator's word holds");
    // Who only waits for a recovery goes before those that checks speak against.
    run.health(2, Health::Healthy);
    assert_eq!(run.fail_open(), Some(FailOpen::OnlyRecovering));
    assert_eq!(run.weights(), [0, 0, FULL]);
    run.look();
    assert_eq!(run.fail_open(), None);
    assert_eq!(run.weights(), [0, 0, FULL / 10]);
    let mut closed = Run::new(ServiceSpec {
        fail_open: None,
        ..spec(2)
    });
    (0..2).for_each(|at| closed.health(at, Health::Unhealthy));
    closed.look();
    assert_eq!((closed.weights(), closed.fail_open()), (vec![0, 0], None));
}

#[test]
fn a_threshold_opens_while_some_are_left() {
    let half = FailOpenSpec { threshold: 500_000 };
    let run = Run::new(ServiceSpec {
        fail_open: Some(half),
        ..spec(4)
    });
    run.health(0, Health::Unhealthy);
    run.health(1, Health::Unhealthy);
    assert_eq!(run.weights(), [0, 0, FULL, FULL]);
    run.health(2, Health::Unhealthy);
    assert_eq!(run.fail_open(), Some(FailOpen::TooFew));
    assert_eq!(run.weights(), [FULL; 4]);
    // Of those that are wanted at all, half is left.
    run.admin(0, AdminState::Disabled);
    run.admin(1, AdminState::Draining);
    assert_eq!(run.fail_open(), None);
    assert_eq!(run.weights(), [0, 0, 0, FULL]);
}

#[test]
fn who_joins_starts_slowly_and_who_was_there_does_not() {
    let slow = |count| ServiceSpec {
        slow_start: Some(SlowStartSpec::default()),
        ..spec(count)
    };
    let mut run = Run::new(slow(2));
    assert_eq!(run.weights(), [FULL; 2]);
    configure(&run.registry, vec![slow(3)]);
    assert_eq!(run.weights(), [FULL, FULL, FULL / 10]);
    run.look();
    run.pass(15);
    assert_eq!(run.weights(), [FULL, FULL, FULL / 2]);
    // What keeps it from traffic sets it back.
    run.admin(2, AdminState::Draining);
    run.pass(5);
    run.admin(2, AdminState::Enabled);
    run.pass(1);
    assert_eq!(run.weights()[2], FULL / 10);
    run.pass(30);
    assert_eq!(run.weights(), [FULL; 3]);
    assert_eq!(status(&run.registry, 2).ramp, None);
    // A reload that adds nobody starts nobody.
    configure(&run.registry, vec![slow(3)]);
    assert_eq!(run.weights(), [FULL; 3]);
    configure(&run.registry, vec![slow(4)]);
    run.look();
    run.fail(3);
    assert_eq!(
        status(&run.registry, 3).ramp,
        None,
        "its recovery takes over"
    );
    run.pass(34);
    assert_eq!(run.weights()[3], FULL / 10);
}

#[tokio::test]
async fn the_failure_itself_calls_the_control_plane() {
    let run = Run::new(spec(3));
    let clock = Clock::real();
    let task = tokio::spawn(outlier::run(Arc::clone(&run.registry), clock.clone()));
    let mut changes = run.registry.subscribe();
    // The first look is over, and the next that time asks for is a second away.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..5 {
        let instance = run.instance(1);
        let mut request = instance.begin(Algorithm::RoundRobin, 0, &clock);
        request.judge(Outcome::Failure);
    }
    tokio::time::timeout(Duration::from_millis(500), changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(run.weights(), [FULL, 0, FULL]);
    task.abort();
}
