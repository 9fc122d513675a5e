//! `consistent_hash`: the same key to the same instance.
//!
//! The Maglev table of the members' effective weights, the same one that the kernel gets for its
//! flows. When the instance that a key belongs to was tried in vain, the key is hashed once more:
//! the keys of a failed instance spread over all others instead of falling on one neighbour.

use lb_common::SLOTS;

use super::{
    Balancer, Choice, eligible,
    maglev::{mix, table},
};
use crate::model::Member;

/// Hashes that are tried before the members are gone through one by one: those that are excluded
/// may own most of the table.
const REHASHES: usize = 16;

#[derive(Debug)]
pub(super) struct ConsistentHash {
    table: Box<[u16]>,
}

impl ConsistentHash {
    pub(super) fn new(members: &[Member]) -> Self {
        let keyed: Vec<(u64, u32)> = members
            .iter()
            .map(|member| (member.instance.identity, member.weight))
            .collect();
        Self {
            table: table(&keyed, SLOTS).into(),
        }
    }
}

impl Balancer for ConsistentHash {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let mut hash = choice.key;
        for _ in 0..REHASHES {
            // Keys need not be well mixed; the product's upper half is uniform when this is.
            hash = mix(hash);
            let slot = (u128::from(hash) * self.table.len() as u128) >> 64;
            let position = usize::from(*self.table.get(slot as usize)?);
            if eligible(&members[position], choice) {
                return Some(position);
            }
        }
        let start = (hash % members.len().max(1) as u64) as usize;
        (start..members.len())
            .chain(0..start)
            .find(|position| eligible(&members[*position], choice))
    }
}
