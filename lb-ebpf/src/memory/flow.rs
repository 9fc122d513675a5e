//! An entry of the connection table in memory, that stays readable for who holds it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use lb_common::{FlowEntry, Splice};

use crate::Flow;

/// An entry of the connection table.
#[derive(Debug)]
pub struct MemoryFlow {
    /// As inserted; what changes is beside it.
    entry: FlowEntry,
    last_seen: AtomicU64,
    /// From the state on, whose lower half it is: see [`Splice`].
    rest: AtomicU64,
}

impl MemoryFlow {
    pub(super) fn new(entry: &FlowEntry) -> Arc<Self> {
        Arc::new(Self {
            entry: *entry,
            last_seen: AtomicU64::new(entry.last_seen),
            rest: AtomicU64::new(Splice::of(entry).0),
        })
    }
}

impl Flow for Arc<MemoryFlow> {
    fn entry(&self) -> FlowEntry {
        let mut entry = FlowEntry {
            last_seen: self.last_seen.load(Relaxed),
            ..self.entry
        };
        self.splice().write(&mut entry);
        entry
    }

    fn touch(&self, now: u64) {
        self.last_seen.store(now, Relaxed);
    }

    fn set_state(&self, bits: u32) -> u32 {
        self.rest.fetch_or(bits.into(), Relaxed) as u32
    }

    fn clear_state(&self, bits: u32) {
        self.rest.fetch_and(!u64::from(bits), Relaxed);
    }

    fn splice(&self) -> Splice {
        Splice(self.rest.load(Relaxed))
    }

    fn change_splice(&self, old: Splice, new: Splice) -> bool {
        let changed = self.rest.compare_exchange(old.0, new.0, Relaxed, Relaxed);
        changed.is_ok()
    }
}
