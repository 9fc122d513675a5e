//! Who owns the slots of a table.
//!
//! Flows of settled slots are in no connection table (see [`lb_ebpf::settled`]), so a slot must not
//! be given to another instance before its flows are over or remembered. What a table is does not
//! follow from the wanted one alone then, but also from the one before it; this module says how.
//! All of it is pure: tables in, tables out.
//!
//! Nothing is kept that would be lost with the daemon but the time since when a slot is unsettled. A
//! daemon that finds a table in the kernel reads owners and slots from it, and begins to wait anew.

use std::{collections::BTreeSet, time::Duration};

use lb_common::{SLOTS, Slot, Table};

use super::recipe::empty_table;
use crate::model::Timestamp;

/// How the flows of a VIP are treated; the flags of the VIP's entry say the same to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// All are remembered, and always were.
    All,
    /// All are remembered by now, but some that began before were not: unsettled slots have owners.
    AllFromNowOn,
    /// Those of settled slots are not.
    Unsettled,
}

/// What a table follows on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before<'a> {
    /// As the kernel has it.
    pub(crate) table: &'a Table,
    /// Since when unsettled slots are that; `None`: since now.
    pub(crate) since: Option<&'a [Timestamp]>,
    /// How flows were treated.
    pub(crate) memory: Memory,
}

/// A table whose slots have owners, or flows that are remembered.
#[derive(Clone, PartialEq)]
pub(crate) struct Owners {
    table: Box<Table>,
    since: Box<[Timestamp]>,
    memory: Memory,
    /// Whose flows there are without an entry. For [`Memory::AllFromNowOn`] those of unsettled slots,
    /// else those of all.
    owners: BTreeSet<u16>,
    /// Slots that the walk at hand has met flows of that the slot does not say the same of.
    met: Box<[bool]>,
    /// When VIPs began to point to the table.
    since_when: Timestamp,
    /// Whether the walk at hand began when no packet could read the table before any more.
    is_walked: bool,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners")
            .field("memory", &self.memory)
            .field("owners", &self.owners)
            .finish_non_exhaustive()
    }
}

impl Owners {
    /// The table that has the slots of `wanted` and follows on `before`, at `now`; `keeps` says which
    /// instances keep their connections. An instance that does not has lost them, and the slots with
    /// them.
    pub(crate) fn follow(
        before: Before<'_>,
        wanted: &Table,
        memory: Memory,
        keeps: impl Fn(u16) -> bool,
        now: Timestamp,
    ) -> Self {
        let mut table = empty_table();
        let mut since = vec![now; SLOTS].into_boxed_slice();
        for at in 0..SLOTS {
            let (former, owner) = before.owned(at);
            let owner = Some(owner).filter(|owner| *owner != 0 && keeps(*owner));
            let current = Slot(wanted.slots[at]).index();
            let slot = match (memory, owner) {
                (Memory::Unsettled, Some(owner)) if owner == current => {
                    if former.is_clear() {
                        Slot::clear(current)
                    } else {
                        Slot::settled(current)
                    }
                }
                (_, Some(owner)) => {
                    table.owners[at] = owner;
                    if former.is_unsettled()
                        && let Some(times) = before.since
                    {
                        since[at] = times[at];
                    }
                    Slot::unsettled(current)
                }
                (Memory::Unsettled, None) => Slot::settled(current),
                (_, None) => Slot::clear(current),
            };
            table.slots[at] = slot.0;
        }
        Self::of(table, since, memory, now)
    }

    fn of(table: Box<Table>, since: Box<[Timestamp]>, memory: Memory, now: Timestamp) -> Self {
        let mut owners = BTreeSet::new();
        for (slot, owner) in table.slots.iter().zip(&table.owners) {
            if Slot(*slot).is_unsettled() {
                owners.insert(*owner);
            } else if memory == Memory::Unsettled {
                owners.insert(Slot(*slot).index());
            }
        }
        owners.remove(&0);
        Self {
            table,
            since,
            memory,
            owners,
            met: vec![false; SLOTS].into_boxed_slice(),
            since_when: now,
            is_walked: false,
        }
    }

    /// The table.
    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }

    /// How flows are treated.
    pub(crate) const fn memory(&self) -> Memory {
        self.memory
    }

    /// What a table that follows on this one has to know of it.
    pub(crate) fn before(&self) -> Before<'_> {
        Before {
            table: &self.table,
            since: Some(&self.since),
            memory: self.memory,
        }
    }

    /// Instances that have flows which are not remembered.
    pub(crate) const fn owners(&self) -> &BTreeSet<u16> {
        &self.owners
    }

    /// Whether nothing has to be known of the table but its slots.
    pub(crate) fn is_clear(&self) -> bool {
        self.table.slots.iter().all(|slot| Slot(*slot).is_clear())
    }

    /// Notes that a walk over the connection table begins; `grace` is how long a packet may still read
    /// a table that was replaced.
    pub(crate) fn begin_walk(&mut self, now: Timestamp, grace: Duration) {
        self.is_walked = now >= self.since_when + grace;
        self.met.fill(false);
    }

    /// Notes an entry of the connection table for a flow of the slot at `at`, which leads to `instance` as the
    /// VIP's do, or with `None` otherwise; whether the slot says the same, so that the entry is not needed.
    pub(crate) fn meet(&mut self, at: u32, instance: Option<u16>) -> bool {
        let slot = Slot(self.table.slots[at as usize]);
        let is_same = self.memory == Memory::Unsettled
            && !slot.is_unsettled()
            && Some(slot.index()) == instance;
        if !is_same {
            self.met[at as usize] = true;
        }
        is_same
    }

    /// Begins to wait anew: there were flows that could not be remembered.
    pub(crate) fn prolong(&mut self, now: Timestamp) {
        self.since.fill(now);
    }

    /// What becomes of the table once a walk is over: slots that have been unsettled for `silence` go
    /// to their current instances, and those whose flows are not remembered any more are clear. `None`
    /// when nothing has changed.
    pub(crate) fn advance(&self, silence: Duration, now: Timestamp) -> Option<Self> {
        let mut table = self.table.clone();
        for at in 0..SLOTS {
            let slot = Slot(table.slots[at]);
            if slot.is_unsettled() {
                if now >= self.since[at] + silence {
                    table.owners[at] = 0;
                    table.slots[at] = match self.memory {
                        Memory::Unsettled => Slot::settled(slot.index()).0,
                        Memory::All | Memory::AllFromNowOn => Slot::clear(slot.index()).0,
                    };
                }
            } else if self.is_walked && !self.met[at] {
                table.slots[at] = Slot::clear(slot.index()).0;
            }
        }
        (*table != *self.table).then(|| Self::of(table, self.since.clone(), self.memory, now))
    }
}

impl Before<'_> {
    /// A slot, and the index of who has the flows of it that are not remembered.
    fn owned(&self, at: usize) -> (Slot, u16) {
        let slot = Slot(self.table.slots[at]);
        let owner = match self.memory {
            Memory::AllFromNowOn | Memory::Unsettled if slot.is_unsettled() => {
                self.table.owners[at]
            }
            Memory::Unsettled => slot.index(),
            Memory::All | Memory::AllFromNowOn => 0,
        };
        (slot, owner)
    }
}

#[cfg(test)]
mod tests;
