//! `consistent_hash`: the same key to the same instance, as long as that has room.
//!
//! The Maglev table of the members' effective weights, the same one that the kernel gets for its
//! flows. A key has a home, the member at the slot of its hash, and after it a sequence of further
//! choices, each found by hashing once more: the keys of an instance that failed or is full spread
//! over all others by weight. Walking to the next slot, or the next neighbour on a ring, would
//! hand most of them to one, which would be full next (Chen, Coleman and Shrivastava, "Revisiting
//! Consistent Hashing with Bounded Loads", arXiv 1908.08762, whose jumps these are). The sequence
//! depends on key and table alone, so the second choice of a key is as stable as its home.
//!
//! # The bound
//!
//! A hot key makes its home hot. With a bound `c`, a member with weight `w` of `W` takes no request
//! beyond `⌈c · (m + 1) · w / W⌉` in flight, `m` being those of the whole service (Mirrokni, Thorup
//! and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018, arXiv 1608.01350). It is
//! never below 1. There is always room somewhere, for the bounds add up to more than what there
//! is; when all of it belongs to members that are excluded for the moment, the bound gives way, and
//! of those that a key's hashes lead to the one with the least in flight is taken.
//!
//! Keys return as soon as their home has room again. A member that recovers has the bound of the
//! weight it is held down to, and takes its own keys only: what overflows goes to the others as
//! long as one of them has room, or its share would be a matter of their load.

use lb_common::SLOTS;

use super::{
    Balancer, Choice, eligible,
    maglev::{mix, table},
};
use crate::model::Member;

/// Hashes that are tried before the members are gone through one by one: those that are excluded
/// may own most of the table, and with a bound of 1.25 as much as 0.8 of it may be full, of which
/// 32 hashes in a row hit nothing else once in a thousand times.
const HASHES: usize = 32;

#[derive(Debug)]
pub(super) struct ConsistentHash {
    table: Box<[u16]>,
    bound: Option<Bound>,
}

/// How much of a service's requests in flight one member may have.
#[derive(Clone, Copy, Debug)]
struct Bound {
    percent: u16,
    /// Sum of all weights.
    weights: u64,
}

impl Bound {
    /// Whether `member` may take one more of a service that has `total` in flight: `n < ⌈x⌉` is
    /// `n < x` for whole `n`.
    fn has_room(self, member: &Member, total: u64) -> bool {
        let in_flight = u128::from(member.instance.in_flight());
        in_flight * u128::from(self.weights) * 100
            < u128::from(self.percent) * (u128::from(total) + 1) * u128::from(member.weight)
    }
}

impl ConsistentHash {
    /// `bound` is in percent of a member's share; `None` is no bound.
    pub(super) fn new(members: &[Member], bound: Option<u16>) -> Self {
        let keyed: Vec<(u64, u32)> = members
            .iter()
            .map(|member| (member.instance.identity, member.weight))
            .collect();
        Self {
            table: table(&keyed, SLOTS).into(),
            bound: bound.map(|percent| Bound {
                percent,
                weights: members.iter().map(|m| u64::from(m.weight)).sum(),
            }),
        }
    }

    /// Positions by the hashes of a key, the first one its home; a member may be among them
    /// several times.
    fn hashes(&self, key: u64) -> impl Iterator<Item = usize> {
        // Keys need not be well mixed; the product's upper half is uniform when this is.
        std::iter::successors(Some(mix(key)), |hash| Some(mix(*hash)))
            .take(HASHES)
            .filter_map(|hash| {
                let slot = (u128::from(hash) * self.table.len() as u128) >> 64;
                self.table.get(slot as usize).copied().map(usize::from)
            })
    }

    /// Where a key goes whose home is full.
    fn overflow(&self, bound: Bound, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let total = members.first()?.instance.load.total();
        let has_room = |position: &usize| {
            let member = &members[*position];
            eligible(member, choice) && bound.has_room(member, total)
        };
        let takes = |position: &usize| !members[*position].recovering && has_room(position);
        self.hashes(choice.key)
            .find(takes)
            .or_else(|| around(members, choice.key).find(takes))
            .or_else(|| around(members, choice.key).find(has_room))
            .or_else(|| self.least_loaded(members, choice))
    }

    /// The member with the least in flight for its weight among those that a key's hashes lead to.
    fn least_loaded(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let load = |position: &usize| {
            let member = &members[*position];
            f64::from(member.instance.in_flight()) / f64::from(member.weight.max(1))
        };
        self.hashes(choice.key)
            .filter(|position| eligible(&members[*position], choice))
            .min_by(|one, other| load(one).total_cmp(&load(other)))
    }
}

impl Balancer for ConsistentHash {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let may_take = |position: &usize| eligible(&members[*position], choice);
        let home = self
            .hashes(choice.key)
            .find(may_take)
            .or_else(|| around(members, choice.key).find(may_take))?;
        let Some(bound) = self.bound else {
            return Some(home);
        };
        let member = &members[home];
        // An idle member has room whatever the service's load is.
        if member.instance.in_flight() == 0 || bound.has_room(member, member.instance.load.total())
        {
            return Some(home);
        }
        self.overflow(bound, members, choice).or(Some(home))
    }
}

/// All positions, beginning with one that the key decides.
fn around(members: &[Member], key: u64) -> impl Iterator<Item = usize> {
    let start = (mix(!key) % members.len().max(1) as u64) as usize;
    (start..members.len()).chain(0..start)
}

#[cfg(test)]
mod tests;
