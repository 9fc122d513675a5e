//! Which table index holds what.
//!
//! A table in use is never written: a change writes a spare one and flips the VIP's entry, which is
//! one atomic map update. A packet that was being worked on may still read the old table for some
//! microseconds, so an index rests for a grace time before it is written again. Index 0 is never
//! written: it stays empty, and every VIP without an instance points there.

use std::{collections::BTreeSet, time::Duration};

use super::recipe::{Recipe, Share};
use crate::model::Timestamp;

/// The table whose slots all name none.
pub(crate) const EMPTY: u32 = 0;

/// What is known of the contents of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Contents {
    /// Written by this daemon.
    Made(Recipe),
    /// Written by an earlier one; the instances it names, by index, generation and identity.
    Found(BTreeSet<(u16, u16, u64)>),
}

impl Contents {
    /// Whether the table names `index` as another instance than the given one.
    fn names_other(&self, index: u16, generation: u16, identity: u64) -> bool {
        match self {
            Self::Made(recipe) => recipe.shares().iter().any(|share: &Share| {
                share.index == index && (share.generation, share.identity) != (generation, identity)
            }),
            Self::Found(named) => named
                .iter()
                .any(|(found, g, i)| *found == index && (*g, *i) != (generation, identity)),
        }
    }

    /// Whether the table names `index` at all.
    fn names(&self, index: u16) -> bool {
        match self {
            Self::Made(recipe) => recipe.shares().iter().any(|share| share.index == index),
            Self::Found(named) => named.iter().any(|(found, ..)| *found == index),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Slot {
    /// May be written.
    Free,
    /// A VIP points here, or will in a moment.
    Used(Contents),
    /// No VIP points here any more; may be written from the given time on.
    Resting(Contents, Timestamp),
}

/// Where a recipe has found a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The table is there already.
    Ready(u32),
    /// The table at this index is to be written.
    Write(u32),
    /// Every table is in use or rests; one is free again at the given time, if ever.
    None(Option<Timestamp>),
}

/// The tables.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    slots: Vec<Slot>,
    grace: Duration,
}

impl Tables {
    /// `count` tables, of which all but the first can hold something.
    pub(crate) fn new(count: u32, grace: Duration) -> Self {
        Self {
            slots: vec![Slot::Free; count as usize],
            grace,
        }
    }

    /// How many tables can hold something.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len().saturating_sub(1)
    }

    /// How many tables hold something that packets may read.
    pub(crate) fn in_use(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Used(_)))
            .count()
    }

    /// How long a table rests.
    pub(crate) const fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether the table at `index` was written by an earlier daemon.
    pub(crate) fn is_found(&self, index: u32) -> bool {
        let slot = self.slots.get(index as usize);
        matches!(slot, Some(Slot::Used(Contents::Found(_))))
    }

    /// Notes what is at `index` already.
    pub(crate) fn adopt(&mut self, index: u32, contents: Contents) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && index != EMPTY
        {
            *slot = Slot::Used(contents);
        }
    }

    /// Finds a place for `recipe`.
    pub(crate) fn place(&self, recipe: &Recipe, now: Timestamp) -> Place {
        if recipe.is_empty() {
            return Place::Ready(EMPTY);
        }
        let holds = |slot: &Slot| match slot {
            Slot::Used(Contents::Made(made)) | Slot::Resting(Contents::Made(made), _) => {
                made == recipe
            }
            _ => false,
        };
        if let Some(index) = self.slots.iter().position(holds) {
            return Place::Ready(index as u32);
        }
        let writable = |slot: &Slot| match slot {
            Slot::Free => true,
            Slot::Resting(_, until) => *until <= now,
            Slot::Used(_) => false,
        };
        let found = self.slots.iter().skip(1).position(writable);
        found.map_or_else(
            || Place::None(self.next_free()),
            |index| Place::Write(index as u32 + 1),
        )
    }

    /// When the next table can be written; `None` when none rests.
    pub(crate) fn next_free(&self) -> Option<Timestamp> {
        self.slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Resting(_, until) => Some(*until),
                _ => None,
            })
            .min()
    }

    /// Notes that the table at `index` holds `recipe` and that a VIP will point to it.
    pub(crate) fn hold(&mut self, index: u32, recipe: &Recipe) {
        self.adopt(index, Contents::Made(recipe.clone()));
    }

    /// Lays to rest what no VIP points to. `used` are the indices that VIPs point to.
    pub(crate) fn rest(&mut self, used: &BTreeSet<u32>, now: Timestamp) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let is_used = used.contains(&(index as u32));
            *slot = match std::mem::replace(slot, Slot::Free) {
                Slot::Used(contents) if !is_used => Slot::Resting(contents, now + self.grace),
                Slot::Resting(contents, _) if is_used => Slot::Used(contents),
                other => other,
            };
        }
    }

    /// Forgets what has rested.
    pub(crate) fn wake(&mut self, now: Timestamp) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Resting(_, until) if *until <= now) {
                *slot = Slot::Free;
            }
        }
    }

    /// Whether a packet may still find `index` in a table as another instance than this one.
    pub(crate) fn names_other(&self, index: u16, generation: u16, identity: u64) -> bool {
        self.slots.iter().any(|slot| match slot {
            Slot::Used(contents) | Slot::Resting(contents, _) => {
                contents.names_other(index, generation, identity)
            }
            Slot::Free => false,
        })
    }

    /// Whether a table that VIPs point to names `index`.
    pub(crate) fn names(&self, index: u16) -> bool {
        self.slots
            .iter()
            .any(|slot| matches!(slot, Slot::Used(contents) if contents.names(index)))
    }
}
