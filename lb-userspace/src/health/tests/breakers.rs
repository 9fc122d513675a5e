//! Circuit breakers as the registry, and with it the kernel, gets to know them.

use std::time::Duration;

use super::*;
use crate::{
    health::breakers::{follow, run},
    model::{BreakerSpec, BreakerState, Clock, Gate, GateState, Instance, Timestamp},
    resilience::{Hold, UNIT, breaker},
};

const FULL: u32 = 10 * UNIT;

fn with_breakers() -> ServiceSpec {
    let endpoints: Vec<String> = (1..=2).map(|i| format!("10.0.0.{i}:80")).collect();
    let mut spec = service("web", Algorithm::RoundRobin, None, &endpoints);
    spec.algorithm = Algorithm::WeightedRoundRobin;
    spec.breakers.instance = Some(BreakerSpec::default());
    spec.breakers.service = Some(BreakerSpec::of_service());
    spec
}

fn instance(registry: &Registry, at: usize) -> Arc<Instance> {
    Arc::clone(&registry.snapshot().services[0].members[at].instance)
}

fn open(gate: &Gate, until: Timestamp) {
    gate.update(|_| Some(GateState::Open { until, trips: 1 }));
}

/// Weights of requests and of packets.
fn weights(registry: &Registry) -> (Vec<u32>, Vec<u32>) {
    let snapshot = registry.snapshot();
    let service = &snapshot.services[0];
    let requests = service.members.iter().map(|member| member.weight);
    (requests.collect(), service.packet_weights())
}

#[test]
fn packets_follow_and_requests_keep_their_weights() {
    let registry = registry(vec![with_breakers()]);
    let (second, now) = (Duration::from_secs(1), Timestamp(100_000_000));
    let revision = registry.snapshot().revision;
    assert_eq!(follow(&registry, now), None);
    assert_eq!(registry.snapshot().revision, revision);
    open(&instance(&registry, 0).gate, now + second);
    assert_eq!(follow(&registry, now), Some(now + second));
    assert_eq!(status(&registry, 0).breaker, BreakerState::Open);
    assert_eq!(weights(&registry), (vec![FULL; 2], vec![0, FULL]));
    // Somebody has to get the packets.
    open(&instance(&registry, 1).gate, now + 2 * second);
    assert_eq!(follow(&registry, now), Some(now + second));
    assert_eq!(weights(&registry).1, [FULL; 2]);
    // The first waits for a probe from now on, and in vain.
    let expiry = now + second + BreakerSpec::default().max_open;
    assert_eq!(follow(&registry, now + second), Some(now + 2 * second));
    assert_eq!(status(&registry, 0).breaker, BreakerState::HalfOpen);
    assert_eq!(follow(&registry, now + 2 * second), Some(expiry));
    assert_eq!(follow(&registry, expiry), Some(expiry + second));
    assert_eq!(status(&registry, 0).breaker, BreakerState::Closed);
    assert_eq!(weights(&registry).1, [FULL, 0]);
}

#[test]
fn breakers_that_are_switched_off_are_closed_unless_an_operator_holds_them() {
    let registry = registry(vec![with_breakers()]);
    let now = Timestamp(100_000_000);
    open(
        &instance(&registry, 0).gate,
        now + Duration::from_secs(1000),
    );
    breaker::hold(&instance(&registry, 1).gate, Hold::Open, now);
    let guard = Arc::clone(&registry.snapshot().services[0].guard);
    open(&guard.gate, now + Duration::from_secs(1000));
    follow(&registry, now);
    assert_eq!(registry.snapshot().services[0].breaker, BreakerState::Open);
    configure(
        &registry,
        vec![ServiceSpec {
            breakers: crate::model::BreakersSpec::default(),
            ..with_breakers()
        }],
    );
    follow(&registry, now);
    let states = [0, 1].map(|at| status(&registry, at).breaker);
    assert_eq!(states, [BreakerState::Closed, BreakerState::Open]);
    assert!(guard.gate.is_closed());
    let state = registry.snapshot().services[0].breaker;
    assert_eq!(state, BreakerState::Closed);
}

#[test]
fn an_advice_lasts_as_long_as_it_says_and_can_be_taken_back() {
    let registry = registry(vec![with_breakers()]);
    let (now, minute) = (Timestamp(100_000_000), Duration::from_secs(60));
    let guard = Arc::clone(&registry.snapshot().services[0].guard);
    let bad = |now| breaker::advise(&guard, Some(minute), now);
    assert!(bad(now).is_some());
    assert_eq!(bad(now), None);
    // Repeated before its end it is the same advice, and holds from then on.
    let later = now + minute / 2;
    assert_eq!(bad(later), None);
    assert_eq!(follow(&registry, now + minute), Some(later + minute));
    assert!(!guard.gate.is_closed());
    follow(&registry, later + minute);
    assert!(guard.gate.is_closed());
    assert!(bad(later + minute).is_some());
    assert!(breaker::advise(&guard, None, later + minute).is_some());
    assert!(guard.gate.is_closed());
    // It is not heard where the breaker has seen for itself.
    open(&guard.gate, later + 5 * minute);
    assert_eq!(bad(later + 2 * minute), None);
    assert_eq!(breaker::advise(&guard, None, later + 2 * minute), None);
    assert!(!guard.gate.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_registry_knows_within_milliseconds() {
    let registry = registry(vec![with_breakers()]);
    let clock = Clock::manual(Timestamp(100_000_000));
    let task = tokio::spawn(run(Arc::clone(&registry), clock.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    for state in [BreakerState::Open, BreakerState::Closed] {
        let gate = &instance(&registry, 0).gate;
        match state {
            BreakerState::Open => open(gate, clock.now() + Duration::from_secs(5)),
            _ => drop(gate.update(|_| Some(GateState::closed(clock.now())))),
        }
        registry.breakers().notify_one();
        let begun = tokio::time::Instant::now();
        while status(&registry, 0).breaker != state {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(begun.elapsed() < Duration::from_millis(50), "{state:?}");
        }
    }
    task.abort();
}
