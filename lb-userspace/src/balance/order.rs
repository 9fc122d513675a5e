//! The smooth weighted order: who is served in which turn.
//!
//! A cycle of turns in which each member appears as often as its weight says, spread as evenly as
//! whole turns allow: after any number of turns, no member is a whole turn ahead of its share or
//! behind it. That is the strongest promise that can be kept for all weights at once, and more
//! than the well-known "smooth weighted round robin" of nginx keeps.
//!
//! The method is the one of proportionate fairness (Baruah, Cohen, Plaxton and Varvel,
//! "Proportionate Progress", Algorithmica 1996): the k-th turn (from 0) of a member with quota
//! `q` of `n` turns must fall into the window from `⌊k·n/q⌋` to `⌈(k+1)·n/q⌉`. All windows can be
//! kept together, and giving each turn to the open window that closes first keeps them (earliest
//! deadline first is optimal for unit jobs on one machine).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use super::quota::quotas;

/// Builds a cycle of `turns` positions in `members`, each given by its stable key and its weight.
/// Empty when no member weighs anything or `turns` is 0.
///
/// In the first `t` turns a member with quota `q` appears `⌊t·q/turns⌋` or `⌈t·q/turns⌉` times;
/// the quota is less than one turn off the exact share, and at least one for any weight (see
/// [`super::quota`] for weights that are worth less). The same members give the same order,
/// whatever their order in the list. Members beyond the first 65,536 cannot be named and get
/// nothing.
#[must_use]
pub fn order(members: &[(u64, u32)], turns: usize) -> Vec<u16> {
    let ranked = ranked(members);
    let weights: Vec<u32> = ranked.iter().map(|p| members[usize::from(*p)].1).collect();
    let n = turns as u64;
    let mut jobs: Vec<Job> = quotas(&weights, turns as u32)
        .into_iter()
        .map(|quota| Job {
            quota: u64::from(quota),
            done: 0,
        })
        .collect();
    let mut order = Vec::with_capacity(turns);
    // Windows that are open, first to close in front; those yet to open, first to open in front.
    let mut open = BinaryHeap::with_capacity(jobs.len());
    let mut shut = BinaryHeap::with_capacity(jobs.len());
    for (rank, job) in jobs.iter().enumerate().filter(|(_, job)| job.quota > 0) {
        open.push((Reverse(job.closes(n)), Reverse(rank)));
    }
    for turn in 0..n {
        while let Some(next) = shut.peek_mut() {
            let (Reverse(opens), Reverse(rank)) = *next;
            if opens > turn {
                break;
            }
            PeekMut::pop(next);
            let job: &Job = &jobs[rank];
            open.push((Reverse(job.closes(n)), Reverse(rank)));
        }
        // Windows add up to the cycle, so one is open in every turn unless there is none at all.
        let Some((_, Reverse(rank))) = open.pop() else {
            break;
        };
        order.push(ranked[rank]);
        let job = &mut jobs[rank];
        job.done += 1;
        if job.done < job.quota {
            shut.push((Reverse(job.opens(n)), Reverse(rank)));
        }
    }
    order
}

/// The positions of `members` in the order of their keys, which is the same in every process.
pub(super) fn ranked(members: &[(u64, u32)]) -> Vec<u16> {
    let mut ranked: Vec<u16> = (0..=u16::MAX).take(members.len()).collect();
    ranked.sort_by_key(|position| members[usize::from(*position)]);
    ranked
}

/// A member's turns: how many it must get, and how many it has got.
struct Job {
    quota: u64,
    done: u64,
}

impl Job {
    /// The turn from which on the next one may be given.
    const fn opens(&self, turns: u64) -> u64 {
        self.done * turns / self.quota
    }

    /// The turn before which the next one must be given.
    const fn closes(&self, turns: u64) -> u64 {
        ((self.done + 1) * turns).div_ceil(self.quota)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn interleaves() {
        let keyed = |weights: &[u32]| -> Vec<(u64, u32)> { (0..).zip(weights.to_vec()).collect() };
        assert_eq!(order(&keyed(&[1, 1, 1]), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(&keyed(&[5, 1, 1]), 7), [0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(order(&keyed(&[0, 2]), 3), [1, 1, 1]);
        assert_eq!(order(&keyed(&[0]), 3), [0; 0]);
        assert_eq!(order(&[], 3), [0; 0]);
        assert_eq!(order(&keyed(&[1]), 0), [0; 0]);
    }

    proptest! {
        #[test]
        fn nobody_is_ever_a_turn_ahead_or_behind(
            weights in prop::collection::vec(0u32..=1_048_560, 1..40),
            turns in 40usize..2000,
        ) {
            let members: Vec<(u64, u32)> = (7..).zip(weights.clone()).collect();
            let quotas = quotas(&weights, turns as u32);
            let order = order(&members, turns);
            prop_assert_eq!(order.len(), if weights.iter().all(|w| *w == 0) { 0 } else { turns });
            let mut served = vec![0u64; weights.len()];
            for (turn, position) in (1u64..).zip(&order) {
                served[usize::from(*position)] += 1;
                for (served, quota) in served.iter().zip(&quotas) {
                    let exact = turn * u64::from(*quota);
                    prop_assert!(*served >= exact / turns as u64);
                    prop_assert!(*served <= exact.div_ceil(turns as u64));
                }
            }
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(
            weights in prop::collection::vec(0u32..100, 1..40),
            rotation in 0usize..40,
        ) {
            let members: Vec<(u64, u32)> = (7..).zip(weights).collect();
            let mut turned = members.clone();
            turned.rotate_left(rotation % members.len());
            let keys = |of: &[(u64, u32)]| -> Vec<u64> {
                order(of, 500).iter().map(|p| of[usize::from(*p)].0).collect()
            };
            prop_assert_eq!(keys(&members), keys(&turned));
        }
    }
}
