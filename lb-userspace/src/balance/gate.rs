//! The quota of an instance that recovers, for algorithms that choose by load or latency.
//!
//! Whoever takes turns or hashes gives a member what its weight says, and a held-down weight is all
//! that a recovery needs. An algorithm that compares loads does not: a weight in its cost makes an
//! instance that comes back dearer, but an idle one with the lowest latency of all may be the
//! cheapest even so, and gets everybody at once; or nobody, as long as the others are quick. And one
//! whose weights follow scores would count what took the instance out once more, against its quota.
//!
//! So the quota stands in front of the algorithm. Every pick takes a turn in the weighted order of
//! all members. A turn that falls on a recovering member is its own, whatever its load, which makes
//! its share exact over a cycle; any other turn is a pick by the algorithm among the members that
//! do not recover. Turns go by the weight without the measured factor, which for these algorithms
//! is the kernel's way to know latencies and no part of the quota.
//!
//! While all members recover, turns are all there is.

use std::sync::Arc;

use super::{Balancer, Choice, plain, turns::Turns};
use crate::model::{Algorithm, Member};

/// Whether `algorithm` needs a gate for `members`.
pub(super) fn is_needed(algorithm: Algorithm, members: &[Member]) -> bool {
    algorithm.goes_by_measures() && members.iter().any(|m| m.recovering && m.weight > 0)
}

/// Turns in front of an algorithm.
#[derive(Debug)]
pub(super) struct Gate {
    turns: Turns,
    /// All members in their places; those that recover weigh nothing here.
    settled: Box<[Member]>,
    inner: Arc<dyn Balancer>,
}

impl Gate {
    pub(super) fn new(algorithm: Algorithm, members: &[Member], workers: usize) -> Self {
        let settled: Box<[Member]> = members
            .iter()
            .map(|member| match member.recovering {
                true => Member {
                    weight: 0,
                    base: 0,
                    ..member.clone()
                },
                false => member.clone(),
            })
            .collect();
        Self {
            turns: Turns::new(members, workers, |member| member.base),
            inner: plain(algorithm, &settled, workers, None),
            settled,
        }
    }
}

impl Balancer for Gate {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let turn = self.turns.next(members, choice)?;
        if members[turn].recovering {
            return Some(turn);
        }
        self.inner.pick(&self.settled, choice).or(Some(turn))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{
        build,
        tests::{Asker, answer, members, occupy},
    };
    use super::*;
    use crate::model::Outcome;

    const BY_LOAD: [Algorithm; 3] = [
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::Adaptive,
    ];

    /// Three members of which the first has `share` percent of its weight.
    fn recovering(share: u32) -> Vec<Member> {
        let mut members = members(&[share, 100, 100]);
        members[0].recovering = true;
        members
    }

    #[test]
    fn the_share_is_exact_under_every_algorithm_however_good_the_instance_looks() {
        for share in [10, 20, 50, 90] {
            for algorithm in Algorithm::ALL {
                // Quick and idle among slow and busy ones, and the other way round.
                for (own, others, busy) in [(1, 100, 1), (100, 1, 0)] {
                    let members = recovering(share);
                    answer(&members[0], Duration::from_millis(own), Outcome::Success);
                    for other in &members[1..] {
                        answer(other, Duration::from_millis(others), Outcome::Success);
                    }
                    let _guards = occupy(&members[busy], 50);
                    let balancer = build(algorithm, &members, 1);
                    let picks = 50 * (200 + u64::from(share));
                    let counts = Asker::new(1).counts(&*balancer, &members, picks);
                    let exact = f64::from(share) / f64::from(200 + share);
                    let got = f64::from(counts[0]) / picks as f64;
                    // Keys of hashes are a sample; turns are not.
                    let off = if algorithm == Algorithm::ConsistentHash {
                        0.015
                    } else {
                        1e-9
                    };
                    assert!(
                        (got - exact).abs() <= off,
                        "{algorithm} {share}: {got} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_was_measured_is_no_part_of_the_quota() {
        for algorithm in BY_LOAD.into_iter().chain([Algorithm::HealthAware]) {
            let mut members = recovering(60);
            // What took it out still speaks against it: a quarter of its weight by its score.
            members[0].weight = 15;
            members[1].weight = 50;
            let counts = Asker::new(1).counts(&*build(algorithm, &members, 1), &members, 2600);
            assert_eq!(counts[0], 600, "{algorithm}: {counts:?}");
        }
    }

    #[test]
    fn the_others_are_chosen_by_the_algorithm() {
        for algorithm in BY_LOAD {
            let members = recovering(10);
            for member in &members {
                answer(member, Duration::from_millis(10), Outcome::Success);
            }
            let _busy = occupy(&members[1], 50);
            let _guard = occupy(&members[2], 1);
            let counts = Asker::new(1).counts(&*build(algorithm, &members, 1), &members, 2100);
            assert_eq!(counts[0], 100, "{algorithm}: {counts:?}");
            // least_connections takes turns among the idle only; nobody is idle here.
            assert_eq!(counts[1], 0, "{algorithm}: {counts:?}");
        }
    }

    #[test]
    fn all_may_recover_and_a_tried_one_is_passed_over() {
        for algorithm in BY_LOAD {
            let mut members = recovering(10);
            members.iter_mut().for_each(|m| m.recovering = true);
            let balancer = build(algorithm, &members, 1);
            let counts = Asker::new(1).counts(&*balancer, &members, 210);
            assert_eq!(counts, [10, 100, 100], "{algorithm}");
            let mut asker = Asker::new(1);
            asker.tried.insert(members[0].instance.id);
            assert_eq!(asker.counts(&*balancer, &members, 210)[0], 0, "{algorithm}");
            let members = recovering(10);
            let balancer = build(algorithm, &members, 1);
            asker.tried.insert(members[1].instance.id);
            asker.tried.insert(members[2].instance.id);
            assert_eq!(asker.pick(&*balancer, &members, 1), None);
        }
    }
}
