//! What holds for every algorithm, and what each one promises.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::model::{Clock, Endpoint, GateState, Instance, Outcome, ServiceLoad, ServiceName};

/// Members without history, with weights in units of one.
pub(super) fn members(weights: &[u32]) -> Vec<Member> {
    let service = ServiceName::new("test").unwrap();
    let load = Arc::new(ServiceLoad::new(2));
    (1u16..)
        .zip(weights)
        .map(|(index, &weight)| {
            let id = InstanceId {
                index,
                generation: 0,
            };
            let address = ([10, 0, (index >> 8) as u8, index as u8], 80).into();
            let endpoint = Endpoint::from_address(address);
            Member {
                instance: Arc::new(Instance::new(
                    id,
                    service.clone(),
                    endpoint,
                    Arc::clone(&load),
                )),
                weight,
                recovering: false,
                base: weight,
                most: crate::model::UNLIMITED,
                most_connections: crate::model::MostConnections::UNLIMITED,
            }
        })
        .collect()
}

/// What a pick is made with, to be changed at will.
pub(super) struct Asker {
    random: Random,
    pub(super) tried: Tried,
    now: Timestamp,
}

impl Asker {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            tried: Tried::default(),
            now: Timestamp(60_000_000),
        }
    }

    pub(super) fn pick(
        &self,
        balancer: &dyn Balancer,
        members: &[Member],
        key: u64,
    ) -> Option<usize> {
        balancer.pick(members, &self.choice(key))
    }

    pub(super) const fn choice(&self, key: u64) -> Choice<'_> {
        Choice {
            key,
            worker: 0,
            now: self.now,
            random: &self.random,
            tried: &self.tried,
        }
    }

    /// How often each member is picked, by keys 0, 1, 2, …
    pub(super) fn counts(
        &self,
        balancer: &dyn Balancer,
        members: &[Member],
        picks: u64,
    ) -> Vec<u32> {
        let mut counts = vec![0; members.len()];
        for key in 0..picks {
            counts[self.pick(balancer, members, key).unwrap()] += 1;
        }
        counts
    }
}

/// Keeps `count` requests in flight at `member` as long as the guards live.
pub(super) fn occupy(member: &Member, count: u32) -> Vec<crate::model::InFlight> {
    let clock = Clock::manual(Timestamp(59_000_000));
    (0..count)
        .map(|_| member.instance.begin(Algorithm::RoundRobin, 0, &clock))
        .collect()
}

/// Records an answer after `latency`, at the time that askers start with.
pub(super) fn answer(member: &Member, latency: Duration, outcome: Outcome) {
    let clock = Clock::manual(Timestamp(60_000_000 - latency.as_micros() as u64));
    let mut request = member.instance.begin(Algorithm::RoundRobin, 0, &clock);
    clock.advance(latency);
    request.judge(outcome);
}

/// What a breaker may say around the time that askers start with.
fn gate_state() -> impl Strategy<Value = GateState> {
    let since = Timestamp(0);
    let around = (59_000u64..61_000).prop_map(|ms| Timestamp(ms * 1000));
    prop_oneof![
        4 => (0u16..9).prop_map(move |run| GateState::Closed { run, since }),
        2 => around.prop_map(|until| GateState::Open { until, trips: 1 }),
        2 => (0u8..2).prop_map(move |free| GateState::HalfOpen {
            free, passed: 0, trips: 1, since,
        }),
        1 => Just(GateState::HeldOpen),
        1 => Just(GateState::HeldClosed),
    ]
}

proptest! {
    #[test]
    fn only_eligible_members_and_always_one_when_there_is_one(
        loads in prop::collection::vec((0u32..4, 0u32..6, 0u64..50, gate_state()), 0..40),
        recovering in any::<u64>(),
        tried in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        keys in prop::collection::vec(any::<u64>(), 1..20),
        seed in any::<u64>(),
    ) {
        let mut members = members(&loads.iter().map(|(weight, ..)| *weight).collect::<Vec<_>>());
        for (position, member) in members.iter_mut().enumerate() {
            // One time in four there is one, so that the bare algorithms are asked as well.
            member.recovering = recovering % 4 == 0 && recovering >> (position + 2) & 1 == 1;
        }
        let mut guards = Vec::new();
        for (member, (_, busy, latency, state)) in members.iter().zip(&loads) {
            member.instance.gate.update(|_| Some(*state));
            answer(member, Duration::from_millis(*latency), Outcome::Success);
            guards.extend(occupy(member, *busy));
        }
        let mut asker = Asker::new(seed);
        for index in tried.iter().filter(|_| !members.is_empty()) {
            asker.tried.insert(members[index.index(members.len())].instance.id);
        }
        let any = members.iter().any(|member| eligible(member, &asker.choice(0)));
        for algorithm in Algorithm::ALL {
            let balancer = build(algorithm, &members, 2);
            for key in &keys {
                let picked = asker.pick(&*balancer, &members, *key);
                prop_assert_eq!(picked.is_some(), any, "{}", algorithm);
                if let Some(position) = picked {
                    prop_assert!(eligible(&members[position], &asker.choice(*key)), "{}", algorithm);
                }
            }
        }
    }

    #[test]
    fn turns_follow_weights_exactly_over_a_cycle_from_any_start(
        weights in prop::collection::vec(0u32..20, 1..30),
        seed in any::<u64>(),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let members = members(&weights);
        let cycle = Turns::new(&members, 1, |member| member.weight).len() as u64;
        let sum: u32 = weights.iter().sum();
        for algorithm in [
            Algorithm::RoundRobin, Algorithm::WeightedRoundRobin, Algorithm::HealthAware,
        ] {
            let balancer = build(algorithm, &members, 1);
            let counts = Asker::new(seed).counts(&*balancer, &members, cycle);
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(u64::from(*count) * u64::from(sum), u64::from(*weight) * cycle);
            }
        }
    }

    #[test]
    fn idle_members_take_weighted_turns_under_algorithms_that_compare_loads(
        weights in prop::collection::vec(1u32..20, 1..30),
    ) {
        let members = members(&weights);
        for member in &members {
            answer(member, Duration::from_millis(5), Outcome::Success);
        }
        let sum = u64::from(weights.iter().sum::<u32>());
        let expected: Vec<u32> = weights.iter().map(|weight| weight * 3).collect();
        for algorithm in [
            Algorithm::LeastConnections, Algorithm::LeastResponseTime, Algorithm::Adaptive,
        ] {
            let balancer = build(algorithm, &members, 1);
            let counts = Asker::new(1).counts(&*balancer, &members, sum * 3);
            prop_assert_eq!(&counts, &expected, "{}", algorithm);
        }
    }

    #[test]
    fn least_connections_finds_the_least_for_the_weight(
        loads in prop::collection::vec((1u32..20, 1u32..50), 2..=16),
    ) {
        let members = members(&loads.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        let _guards: Vec<_> =
            members.iter().zip(&loads).map(|(member, (_, busy))| occupy(member, *busy)).collect();
        let balancer = build(Algorithm::LeastConnections, &members, 1);
        let picked = Asker::new(3).pick(&*balancer, &members, 0).unwrap();
        let load = |(weight, busy): (u32, u32)| f64::from(2 * busy + 1) / f64::from(weight);
        for other in &loads {
            prop_assert!(load(loads[picked]) <= load(*other) * (1.0 + f64::EPSILON));
        }
    }
}

#[test]
fn weights_beyond_the_longest_cycle_are_followed_closely_and_starve_nobody() {
    let members = members(&[1, 65_535 * 16, 30_011]);
    let balancer = build(Algorithm::WeightedRoundRobin, &members, 1);
    let counts = Asker::new(1).counts(&*balancer, &members, 8192);
    assert_eq!(counts, [1, 7963, 228]);
}

#[test]
fn workers_do_not_march_in_step() {
    let members = members(&[1; 100]);
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections] {
        let balancer = build(algorithm, &members, 8);
        let tried = Tried::default();
        let mut first: Vec<usize> = (0..8)
            .map(|worker| {
                let random = Random::new(worker as u64 + 1);
                let choice = Choice {
                    key: 0,
                    worker,
                    now: Timestamp(1),
                    random: &random,
                    tried: &tried,
                };
                balancer.pick(&members, &choice).unwrap()
            })
            .collect();
        first.sort_unstable();
        first.dedup();
        assert!(first.len() >= 6, "{algorithm}: {first:?}");
    }
}

#[test]
fn a_tried_member_with_nearly_all_turns_is_passed_over() {
    let members = members(&[8000, 1, 1]);
    for algorithm in Algorithm::ALL {
        let balancer = build(algorithm, &members, 1);
        let mut asker = Asker::new(5);
        asker.tried.insert(members[0].instance.id);
        let counts = asker.counts(&*balancer, &members, 1000);
        assert_eq!(counts[0], 0, "{algorithm}");
        assert!(
            counts[1] > 100 && counts[2] > 100,
            "{algorithm}: {counts:?}"
        );
    }
}

#[test]
fn an_open_breaker_is_seen_at_once_and_until_its_time_is_over() {
    let members = members(&[8000, 1, 1]);
    for algorithm in Algorithm::ALL {
        let balancer = build(algorithm, &members, 1);
        let mut asker = Asker::new(5);
        let until = asker.now + Duration::from_millis(100);
        let gate = &members[0].instance.gate;
        gate.update(|_| Some(GateState::Open { until, trips: 1 }));
        let counts = asker.counts(&*balancer, &members, 1000);
        assert_eq!(counts[0], 0, "{algorithm}");
        asker.now = until;
        assert!(
            asker.counts(&*balancer, &members, 1000)[0] > 0,
            "{algorithm}"
        );
    }
}

#[test]
fn every_exclusion_of_a_pick_has_its_name() {
    let members = members(&[0, 1, 1, 1, 1]);
    let mut asker = Asker::new(1);
    let (until, since) = (asker.now + Duration::from_secs(1), Timestamp(0));
    let open = GateState::Open { until, trips: 1 };
    members[1].instance.gate.update(|_| Some(open));
    let (free, passed, trips) = (0, 0, 1);
    let busy = GateState::HalfOpen {
        free,
        passed,
        trips,
        since,
    };
    members[2].instance.gate.update(|_| Some(busy));
    asker.tried.insert(members[3].instance.id);
    let found: Vec<_> = members
        .iter()
        .map(|member| exclusion(member, &asker.choice(0)))
        .collect();
    let expected = [
        Some(Exclusion::Weightless),
        Some(Exclusion::BreakerOpen),
        Some(Exclusion::ProbeBusy),
        Some(Exclusion::Tried),
        None,
    ];
    assert_eq!(found, expected);
}

#[test]
fn two_choices_avoid_a_busy_member_of_a_large_set() {
    let members = members(&[1; 100]);
    let _all: Vec<_> = members.iter().map(|member| occupy(member, 1)).collect();
    let _busy = occupy(&members[50], 100);
    let balancer = build(Algorithm::LeastConnections, &members, 1);
    let counts = Asker::new(5).counts(&*balancer, &members, 10_000);
    // It wins only against nobody: when no other was drawn in sixteen draws.
    assert_eq!(counts[50], 0);
    assert!(counts.iter().filter(|count| **count > 0).count() == 99);
}

#[test]
fn latency_algorithms_prefer_the_fast_one() {
    for algorithm in [Algorithm::LeastResponseTime, Algorithm::Adaptive] {
        for n in [3, 30] {
            let members = members(&vec![1; n]);
            for (i, member) in members.iter().enumerate() {
                let ms = if i == 0 { 100 } else { 1 };
                answer(member, Duration::from_millis(ms), Outcome::Success);
            }
            let balancer = build(algorithm, &members, 1);
            let counts = Asker::new(2).counts(&*balancer, &members, 1000);
            assert_eq!(counts[0], 0, "{algorithm} {counts:?}");
        }
    }
}

#[test]
fn an_idle_member_is_asked_again_after_five_seconds() {
    for algorithm in [Algorithm::LeastResponseTime, Algorithm::Adaptive] {
        let members = members(&[1, 1, 1]);
        for (member, ms) in members.iter().zip([1000, 1, 1]) {
            for _ in 0..20 {
                answer(member, Duration::from_millis(ms), Outcome::Success);
            }
        }
        let balancer = build(algorithm, &members, 1);
        let mut asker = Asker::new(2);
        // Asked at 59 s, answered at 60 s.
        asker.now = asker.now + Duration::from_millis(3900);
        assert_eq!(asker.counts(&*balancer, &members, 100)[0], 0, "{algorithm}");
        asker.now = asker.now + Duration::from_millis(200);
        assert!(asker.counts(&*balancer, &members, 3)[0] > 0, "{algorithm}");
    }
}

#[test]
fn failing_fast_is_not_being_fast() {
    for algorithm in [Algorithm::LeastResponseTime, Algorithm::Adaptive] {
        let members = members(&[1, 1, 1]);
        for member in &members[1..] {
            answer(member, Duration::from_millis(50), Outcome::Success);
        }
        answer(&members[0], Duration::from_millis(1), Outcome::Failure);
        members[0].instance.measured.set_success(0.0);
        let balancer = build(algorithm, &members, 1);
        let counts = Asker::new(2).counts(&*balancer, &members, 1000);
        assert_eq!(counts[0], 0, "{algorithm} {counts:?}");
    }
}

#[test]
fn five_failures_in_a_row_are_enough_and_one_success_ends_it() {
    for algorithm in [
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::HealthAware,
        Algorithm::Adaptive,
    ] {
        for n in [3, 30] {
            let members = members(&vec![1; n]);
            let balancer = build(algorithm, &members, 1);
            let share = || Asker::new(2).counts(&*balancer, &members, 1000)[0];
            let latency = Duration::from_millis(1);
            (0..4).for_each(|_| answer(&members[0], latency, Outcome::Failure));
            assert!(share() > 0, "{algorithm} of {n}");
            answer(&members[0], latency, Outcome::Failure);
            assert_eq!(share(), 0, "{algorithm} of {n}");
            answer(&members[0], latency, Outcome::Success);
            assert!(share() > 0, "{algorithm} of {n}");
        }
    }
}

#[test]
fn instances_that_are_not_known_to_differ_take_turns() {
    // Latencies that differ by chance, as those of instances that are alike do.
    for algorithm in [Algorithm::LeastResponseTime, Algorithm::Adaptive] {
        let members = members(&[1, 1, 1]);
        let random = Random::new(4);
        for member in &members {
            for _ in 0..30 {
                let uniform = (random.below(1000) as f64 + 0.5) / 1000.0;
                let latency = Duration::from_micros((-uniform.ln() * 5000.0) as u64);
                answer(member, latency, Outcome::Success);
            }
        }
        let balancer = build(algorithm, &members, 1);
        let counts = Asker::new(2).counts(&*balancer, &members, 999);
        assert_eq!(counts, [333; 3], "{algorithm}");
    }
}

#[test]
fn a_key_stays_where_it_is_until_its_instance_is_lost() {
    let mut members = members(&[1; 10]);
    let before = build(Algorithm::ConsistentHash, &members, 1);
    let mut asker = Asker::new(1);
    let homes: Vec<usize> = (0..1000)
        .map(|key| asker.pick(&*before, &members, key).unwrap())
        .collect();
    let lost = homes[0];
    members[lost].weight = 0;
    let after = build(Algorithm::ConsistentHash, &members, 1);
    let moved = (0..1000u64)
        .filter(|key| {
            let home = homes[*key as usize];
            home != lost && asker.pick(&*after, &members, *key) != Some(home)
        })
        .count();
    assert!(moved <= 20, "{moved} of 1000 keys moved without need");
    // Failing over within a request spreads the keys of the failed one over the others.
    members[lost].weight = 1;
    asker.tried.insert(members[lost].instance.id);
    let mut takers = vec![0; members.len()];
    for key in (0..1000u64).filter(|key| homes[*key as usize] == lost) {
        takers[asker.pick(&*before, &members, key).unwrap()] += 1;
    }
    assert_eq!(
        takers.iter().filter(|count| **count > 0).count(),
        9,
        "{takers:?}"
    );
}
