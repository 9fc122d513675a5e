//! Choosing an instance: one algorithm a file behind one trait.
//!
//! A [`Balancer`] is built from the members of a snapshot, off the request path, and then asked
//! once a request, from every worker at once. It sees live load through the members (in-flight,
//! latency), because an algorithm that can only see its own history can not balance by load.
//! Failover is "pick again with the last one among the tried".

use std::{cell::Cell, fmt, sync::Arc};

use crate::model::{Algorithm, Exclusion, Instance, InstanceId, Member, Timestamp};

mod adaptive;
mod consistent_hash;
mod cost;
mod gate;
mod health_aware;
mod least_connections;
mod least_response_time;
pub mod maglev;
mod moves;
mod odds;
pub mod order;
mod quota;
mod round_robin;
mod turns;
mod weighted_round_robin;

pub use moves::{Moves, moves};
pub use odds::odds;
use turns::Turns;

/// An algorithm at work on the members of one snapshot.
pub trait Balancer: fmt::Debug + Send + Sync {
    /// The position in `members` of the instance to use; `None` when there is an [`exclusion`] for
    /// every member.
    ///
    /// `members` is the same slice that the balancer was built from.
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize>;
}

/// What a choice may depend on beside the members.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Hash of the request's key, for consistent hashing.
    pub key: u64,
    /// Number of the thread that asks, from 0.
    pub worker: usize,
    /// When.
    pub now: Timestamp,
    /// Chance.
    pub random: &'a Random,
    /// Instances that this request has failed on.
    pub tried: &'a Tried,
}

/// A seeded source of chance for one thread: xorshift64* (Vigna 2016), a few instructions a draw.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// A source whose draws follow from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(Cell::new(if seed == 0 {
            0x9e37_79b9_7f4a_7c15
        } else {
            seed
        }))
    }

    /// 64 random bits.
    pub fn bits(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }
}

/// The instances that a request has been sent to in vain: a handful at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    ids: [Option<InstanceId>; Self::MOST],
    only_well: bool,
}

impl Tried {
    /// The most instances that one request may try and remember.
    pub const MOST: usize = 4;

    /// Whether `id` was tried.
    #[must_use]
    pub fn contains(&self, id: InstanceId) -> bool {
        self.ids.contains(&Some(id))
    }

    /// Whether none was tried: the common case, in which no pick needs to look.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids[0].is_none()
    }

    /// Remembers `id`; beyond [`Tried::MOST`] nothing is added.
    pub fn insert(&mut self, id: InstanceId) {
        if let Some(free) = self.ids.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(id);
        }
    }

    /// Whether the next one is not to be one that has failed its last request either. No matter
    /// while none was tried.
    pub const fn set_only_well(&mut self, only_well: bool) {
        self.only_well = only_well;
    }

    /// Whether it rules `instance` out.
    fn rules_out(&self, instance: &Instance) -> bool {
        self.contains(instance.id) || self.only_well && instance.failures_in_a_row() > 0
    }
}

/// Why `member` may not be picked, if so. What is true for the moment is asked of the instance
/// itself, so every worker sees it at once.
#[must_use]
pub fn exclusion(member: &Member, choice: &Choice<'_>) -> Option<Exclusion> {
    if member.weight == 0 {
        return Some(Exclusion::Weightless);
    }
    obstacle(member, choice)
}

/// The same for a member whose weight does not matter, for a session is pinned to it.
#[must_use]
pub fn obstacle(member: &Member, choice: &Choice<'_>) -> Option<Exclusion> {
    if let Some(why) = member.instance.exclusion(choice.now) {
        return Some(why);
    }
    if member.is_full() {
        return Some(Exclusion::Full);
    }
    if member.is_out_of_connections() {
        return Some(Exclusion::NoConnection);
    }
    let tried = !choice.tried.is_empty() && choice.tried.rules_out(&member.instance);
    tried.then_some(Exclusion::Tried)
}

/// Whether `member` may be picked.
fn eligible(member: &Member, choice: &Choice<'_>) -> bool {
    exclusion(member, choice).is_none()
}

/// Random eligible members beside one that is a candidate already, as likely as their weights.
/// Ends after a bounded number of draws: excluded members may own most of the turns.
#[derive(Debug)]
struct Draw<'a> {
    turns: &'a Turns,
    members: &'a [Member],
    choice: &'a Choice<'a>,
    beside: usize,
    left: usize,
}

impl<'a> Draw<'a> {
    const MOST: usize = 16;

    const fn new(
        turns: &'a Turns,
        members: &'a [Member],
        choice: &'a Choice<'a>,
        beside: usize,
    ) -> Self {
        Self {
            turns,
            members,
            choice,
            beside,
            left: Self::MOST,
        }
    }
}

impl Iterator for Draw<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.left > 0 {
            self.left -= 1;
            let drawn = self.turns.any(self.choice)?;
            if drawn != self.beside && eligible(&self.members[drawn], self.choice) {
                return Some(drawn);
            }
        }
        None
    }
}

/// Builds the balancer of a service for `workers` threads, without a bound on hashed load.
#[must_use]
pub fn build(algorithm: Algorithm, members: &[Member], workers: usize) -> Arc<dyn Balancer> {
    build_bounded(algorithm, members, workers, None)
}

/// Builds the balancer of a service for `workers` threads. `hash_bound` is what an instance may
/// have in flight under consistent hashing, in percent of its share.
#[must_use]
pub fn build_bounded(
    algorithm: Algorithm,
    members: &[Member],
    workers: usize,
    hash_bound: Option<u16>,
) -> Arc<dyn Balancer> {
    if gate::is_needed(algorithm, members) {
        return Arc::new(gate::Gate::new(algorithm, members, workers));
    }
    plain(algorithm, members, workers, hash_bound)
}

/// The bare algorithm.
fn plain(
    algorithm: Algorithm,
    members: &[Member],
    workers: usize,
    hash_bound: Option<u16>,
) -> Arc<dyn Balancer> {
    match algorithm {
        Algorithm::RoundRobin => Arc::new(round_robin::RoundRobin::new(members, workers)),
        Algorithm::WeightedRoundRobin => Arc::new(weighted_round_robin::WeightedRoundRobin::new(
            members, workers,
        )),
        Algorithm::LeastConnections => {
            Arc::new(least_connections::LeastConnections::new(members, workers))
        }
        Algorithm::LeastResponseTime => Arc::new(least_response_time::LeastResponseTime::new(
            members, workers,
        )),
        Algorithm::HealthAware => Arc::new(health_aware::HealthAware::new(members, workers)),
        Algorithm::ConsistentHash => {
            Arc::new(consistent_hash::ConsistentHash::new(members, hash_bound))
        }
        Algorithm::Adaptive => Arc::new(adaptive::Adaptive::new(members, workers)),
    }
}

#[cfg(test)]
mod tests;
