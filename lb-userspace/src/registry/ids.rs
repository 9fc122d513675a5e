//! Handing out instance ids.
//!
//! An id must mean the same instance to the maps of a running kernel program and to a daemon that
//! was started after it, so the kernel's entries carry a fingerprint of service and endpoint, and
//! a new daemon is told which ids are taken by whom. A freed index is reused last, with the next
//! generation, so that whatever still names the old tenant is stale rather than wrong.

use std::collections::{HashMap, VecDeque};

use lb_common::MAX_INSTANCES;

use crate::model::{Endpoint, InstanceId, ServiceName, identity};

/// An id that the kernel's maps already hold, and the [`identity`] of its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownId {
    /// The id.
    pub id: InstanceId,
    /// Fingerprint of service and endpoint.
    pub identity: u64,
}

/// No index is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {} instances in all services together", MAX_INSTANCES - 1)]
pub struct IdError;

/// Hands out ids.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    known: HashMap<u64, InstanceId>,
    /// Index and generation of ids that are free, the one to use next in front.
    free: VecDeque<InstanceId>,
}

impl Ids {
    pub(super) fn new(known: impl IntoIterator<Item = KnownId>) -> Self {
        let known: HashMap<u64, InstanceId> = known
            .into_iter()
            .map(|known| (known.identity, known.id))
            .collect();
        let taken: Vec<u16> = known.values().map(|id| id.index).collect();
        let free = (1..MAX_INSTANCES as u16)
            .filter(|index| !taken.contains(index))
            .map(|index| InstanceId {
                index,
                generation: 0,
            })
            .collect();
        Self { known, free }
    }

    /// The id of an instance: the one that the kernel knows it by, else a free one.
    pub(super) fn take(&mut self, s: &ServiceName, e: &Endpoint) -> Result<InstanceId, IdError> {
        self.known
            .remove(&identity(s, e))
            .or_else(|| self.free.pop_front())
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
        let mut unclaimed: Vec<_> = self.known.drain().map(|(_, id)| id).collect();
        unclaimed.sort_unstable();
        for id in unclaimed {
            self.free(id);
        }
    }
}
