//! Handing out instance ids.
//!
//! An id must mean the same instance to the maps of a running kernel program and to a daemon that
//! was started after it, so the kernel's entries carry a fingerprint of service and endpoint, and
//! a new daemon is told which ids are taken by whom. A freed index is reused last, with the next
//! generation, so that whatever still names the old tenant is stale rather than wrong.

use std::collections::{HashMap, HashSet, VecDeque};

use lb_common::MAX_INSTANCES;

use crate::model::{Endpoint, InstanceId, ServiceName, identity};

/// An id that the kernel's maps already hold, and what they know of its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownId {
    /// The id.
    pub id: InstanceId,
    /// Fingerprint of service and endpoint, see [`identity`]; 0 when the index is free and the
    /// generation is its last tenant's.
    pub identity: u64,
    /// Whether the instance was down when the last daemon ended. With active checks it stays
    /// unhealthy until they pass: a restart must not send traffic to what is known to be dead.
    pub is_down: bool,
}

/// The id that an instance got, and whether the kernel knows it as down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: InstanceId,
    pub(super) is_down: bool,
}

/// No index is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {} instances in all services together", MAX_INSTANCES - 1)]
pub struct IdError;

/// Hands out ids.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    known: HashMap<u64, Taken>,
    /// Index and generation of ids that are free, the one to use next in front.
    free: VecDeque<InstanceId>,
}

impl Ids {
    pub(super) fn new(known: impl IntoIterator<Item = KnownId>) -> Self {
        let (free, known): (Vec<KnownId>, Vec<KnownId>) =
            known.into_iter().partition(|known| known.identity == 0);
        let taken: HashSet<u16> = known.iter().map(|known| known.id.index).collect();
        let last: HashMap<u16, u16> = free
            .iter()
            .map(|known| (known.id.index, known.id.generation))
            .collect();
        let known = known
            .into_iter()
            .map(
                |KnownId {
                     id,
                     identity,
                     is_down,
                 }| (identity, Taken { id, is_down }),
            )
            .collect();
        let free = (1..MAX_INSTANCES as u16)
            .filter(|index| !taken.contains(index))
            .map(|index| InstanceId {
                index,
                // Connections of the last tenant may still be in the kernel's table.
                generation: last.get(&index).map_or(0, |last| last.wrapping_add(1)),
            })
            .collect();
        Self { known, free }
    }

    /// The id of an instance: the one that the kernel knows it by, else a free one.
    pub(super) fn take(&mut self, s: &ServiceName, e: &Endpoint) -> Result<Taken, IdError> {
        let fresh = |id| Taken { id, is_down: false };
        self.known
            .remove(&identity(s, e))
            .or_else(|| self.free.pop_front().map(fresh))
            .ok_or(IdError)
    }

    /// Gives an id back. The next tenant gets another generation.
    pub(super) fn free(&mut self, id: InstanceId) {
        let generation = id.generation.wrapping_add(1);
        self.free.push_back(InstanceId { generation, ..id });
    }

    /// Frees the known ids that nobody has claimed: their instances are gone from the
    /// configuration. Called once the first configuration is applied.
    pub(super) fn free_unclaimed(&mut self) {
        let mut unclaimed: Vec<_> = self.known.drain().map(|(_, taken)| taken.id).collect();
        unclaimed.sort_unstable();
        for id in unclaimed {
            self.free(id);
        }
    }
}
