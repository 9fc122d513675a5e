//! Taking turns in a smooth weighted order, without locks.
//!
//! The order is worked out when the snapshot is (see [`super::order`]), so that a pick is an
//! increment and a lookup. Every worker has a turn of its own on a cache line of its own: one
//! shared counter would travel between cores with each request. Workers that all began with the
//! first turn would march in step and send bursts to the same instance, so each begins where
//! chance puts it. That also keeps a service whose weights change more often than it is asked from
//! always asking the instance that comes first in a new order.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Choice, eligible, order};
use crate::model::Member;

/// The longest cycle. Weights whose sum, divided by their greatest common divisor, is above it
/// are followed to one part in as many.
const LONGEST: u32 = 8192;

/// Turns that are passed over one by one for excluded members, before the next eligible
/// member is taken whatever its turn: a heavy member may own thousands of turns.
const SKIPS: usize = 64;

/// A worker that has not asked so far.
const UNSET: u32 = u32::MAX;

/// A cycle of turns and where each worker stands in it.
#[derive(Debug)]
pub(super) struct Turns {
    cycle: Box<[u16]>,
    workers: Box<[Turn]>,
}

/// One worker's turn. Only that worker writes it.
#[derive(Debug)]
#[repr(align(128))]
struct Turn(AtomicU32);

impl Turns {
    /// Turns by `weight` of each member, for `workers` threads.
    pub(super) fn new(members: &[Member], workers: usize, weight: fn(&Member) -> u32) -> Self {
        let keyed: Vec<(u64, u32)> = members
            .iter()
            .map(|member| (member.instance.identity, weight(member)))
            .collect();
        Self {
            cycle: order::order(&keyed, length(&keyed)).into(),
            workers: (0..workers.max(1))
                .map(|_| Turn(AtomicU32::new(UNSET)))
                .collect(),
        }
    }

    /// Turns in a cycle.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cycle.len()
    }

    /// The position of the member whose turn it is. A retry takes a turn by chance and leaves the
    /// others where they are: with two members, one of which fails, every first try would else
    /// come to that one.
    pub(super) fn next(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let len = self.cycle.len();
        if len == 0 {
            return None;
        }
        let kept = &self.workers[choice.worker % self.workers.len()].0;
        let mut turn = match kept.load(Ordering::Relaxed) {
            turn if turn != UNSET && choice.tried.is_empty() => turn as usize,
            _ => choice.random.below(len),
        };
        let mut found = None;
        for _ in 0..SKIPS.min(len) {
            let position = usize::from(self.cycle[turn]);
            turn = if turn + 1 < len { turn + 1 } else { 0 };
            if eligible(&members[position], choice) {
                found = Some(position);
                break;
            }
        }
        if choice.tried.is_empty() {
            kept.store(turn as u32, Ordering::Relaxed);
        }
        found.or_else(|| {
            let start = choice.random.below(members.len());
            (start..members.len())
                .chain(0..start)
                .find(|position| eligible(&members[*position], choice))
        })
    }

    /// The position of a random member, as likely as its weight says; it may not be eligible.
    pub(super) fn any(&self, choice: &Choice<'_>) -> Option<usize> {
        let turn = choice.random.below(self.cycle.len());
        self.cycle.get(turn).copied().map(usize::from)
    }
}

/// The shortest cycle that follows the weights exactly, within bounds.
fn length(members: &[(u64, u32)]) -> usize {
    let weights = || members.iter().map(|(_, weight)| *weight);
    let divisor = weights().fold(0, gcd).max(1);
    let sum: u64 = weights().map(|weight| u64::from(weight / divisor)).sum();
    // Everyone needs a turn, however many there are.
    let heavy = weights().filter(|weight| *weight > 0).count() as u64;
    sum.min(u64::from(LONGEST).max(heavy)) as usize
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
