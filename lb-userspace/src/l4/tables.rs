//! Which table index holds what.
//!
//! A table in use is never written: a change writes a spare one and flips the VIP's entry, which is
//! one atomic map update. A packet that was being worked on may still read the old table for some
//! microseconds, so an index rests for a grace time before it is written again. Index 0 is never
//! written: it stays empty, and every VIP without an instance points there.

use std::{collections::BTreeSet, time::Duration};

use super::{
    owners::Owners,
    recipe::{Recipe, Share},
};
use crate::model::Timestamp;

/// The table whose slots all name none.
pub(crate) const EMPTY: u32 = 0;

/// How many tables there is memory for beyond those that VIPs point to, resting ones included: enough
/// for changes that come one by one, so that none has to wait for memory.
const SPARE: usize = 2;

/// What is known of the contents of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Contents {
    /// Written by this daemon.
    Made(Made),
    /// Written by an earlier one; the instances it names, by index, generation and identity.
    Found(BTreeSet<Tenant>),
}

/// An instance that has an index: index, generation and identity.
pub(crate) type Tenant = (u16, u16, u64);

/// What this daemon has written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    /// What the slots follow from.
    pub(crate) recipe: Recipe,
    /// Their owners, unless all slots are clear.
    pub(crate) owners: Option<Box<Owners>>,
    /// Who the owners are.
    pub(crate) tenants: BTreeSet<Tenant>,
}

impl Made {
    /// A table that follows from a recipe alone.
    pub(crate) const fn plain(recipe: Recipe) -> Self {
        Self {
            recipe,
            owners: None,
            tenants: BTreeSet::new(),
        }
    }

    /// A table with these owners; `tenant` says who has an index.
    pub(crate) fn new(
        recipe: Recipe,
        owners: Owners,
        tenant: impl Fn(u16) -> Option<Tenant>,
    ) -> Self {
        if owners.is_clear() {
            return Self::plain(recipe);
        }
        let indices = owners.owners().iter();
        Self {
            tenants: indices.filter_map(|index| tenant(*index)).collect(),
            recipe,
            owners: Some(Box::new(owners)),
        }
    }

    /// Whether nothing has to be known of the table but its slots.
    pub(crate) const fn is_clear(&self) -> bool {
        self.owners.is_none()
    }

    fn tenants(&self) -> impl Iterator<Item = Tenant> {
        let share = |share: &Share| (share.index, share.generation, share.identity);
        let shares = self.recipe.shares().iter().map(share);
        shares.chain(self.tenants.iter().copied())
    }
}

impl Contents {
    /// Whether the table names `index` as another instance than the given one.
    fn names_other(&self, index: u16, generation: u16, identity: u64) -> bool {
        let is_other = |(found, g, i): Tenant| found == index && (g, i) != (generation, identity);
        match self {
            Self::Made(made) => made.tenants().any(is_other),
            Self::Found(named) => named.iter().copied().any(is_other),
        }
    }

    /// Whether the table names `index` at all.
    fn names(&self, index: u16) -> bool {
        match self {
            Self::Made(made) => made.tenants().any(|(found, ..)| found == index),
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

    /// What this daemon has written at `index`.
    pub(crate) fn made(&self, index: u32) -> Option<&Made> {
        match self.slots.get(index as usize)? {
            Slot::Used(Contents::Made(made)) | Slot::Resting(Contents::Made(made), _) => Some(made),
            _ => None,
        }
    }

    /// Whether slots of the table at `index` have owners, or flows that are remembered.
    pub(crate) fn has_owners(&self, index: u32) -> bool {
        self.made(index).is_some_and(|made| made.owners.is_some())
    }

    /// Finds a place for a table that `fits` says is the wanted one.
    pub(crate) fn place(&self, fits: impl Fn(&Made) -> bool, now: Timestamp) -> Place {
        let all = 0..self.slots.len() as u32;
        let found = all.into_iter().find(|at| self.made(*at).is_some_and(&fits));
        found.map_or_else(|| self.spare(now), Place::Ready)
    }

    /// Whether there is a table of `recipe`, whoever its slots belong to.
    pub(crate) fn has(&self, recipe: &Recipe) -> bool {
        let all = 0..self.slots.len() as u32;
        recipe.is_empty()
            || all
                .into_iter()
                .any(|at| self.made(at).is_some_and(|made| made.recipe == *recipe))
    }

    /// Finds a place for `recipe`, for a VIP that has no use for owners.
    pub(crate) fn place_recipe(&self, recipe: &Recipe, now: Timestamp) -> Place {
        if recipe.is_empty() {
            return Place::Ready(EMPTY);
        }
        // Owners are no concern of such a VIP: its slots are the same with them and without.
        self.place(|made| made.recipe == *recipe, now)
    }

    /// Finds a table that can be written.
    pub(crate) fn spare(&self, now: Timestamp) -> Place {
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

    /// The indices that are to have memory when `more` tables are to be written: of everything that
    /// packets may read, and of the tables that [`Tables::spare`] will find.
    pub(crate) fn room(&self, more: usize) -> BTreeSet<u32> {
        let indices = |is_wanted: fn(&Slot) -> bool| {
            let all = (0..).zip(&self.slots).skip(1);
            all.filter(move |(_, slot)| is_wanted(slot))
                .map(|(index, _)| index)
        };
        let free = indices(|slot| *slot == Slot::Free).take(more);
        indices(|slot| *slot != Slot::Free).chain(free).collect()
    }

    /// Whether a table rests.
    pub(crate) fn rests(&self) -> bool {
        self.next_free().is_some()
    }

    /// The indices that are to have memory while nothing changes.
    pub(crate) fn room_at_rest(&self) -> BTreeSet<u32> {
        let held = self.slots.iter().filter(|slot| **slot != Slot::Free);
        let (held, used) = (held.count(), self.in_use());
        if held == 0 {
            return BTreeSet::new();
        }
        // What rests may not be written yet.
        self.room(SPARE.saturating_sub(held - used).max(1))
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

    /// Notes that this has been written at `index` and that a VIP will point to it.
    pub(crate) fn hold(&mut self, index: u32, made: Made) {
        self.adopt(index, Contents::Made(made));
    }

    /// Notes that a VIP will point to what is at `index`.
    pub(crate) fn keep(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = match std::mem::replace(slot, Slot::Free) {
                Slot::Resting(contents, _) => Slot::Used(contents),
                other => other,
            };
        }
    }

    /// The owners in tables that VIPs point to, each with the table's index.
    pub(crate) fn owners(&mut self) -> impl Iterator<Item = (u32, &mut Owners)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| {
            if let Slot::Used(Contents::Made(made)) = slot {
                made.owners.as_deref_mut().map(|owners| (index, owners))
            } else {
                None
            }
        })
    }

    /// Notes an entry of the connection table for a flow of a slot whose flows need not be remembered;
    /// whether it is not needed. It leads to `instance` as the VIP's do, or with `None` otherwise.
    pub(crate) fn meet(&mut self, index: u32, at: u32, instance: Option<u16>) -> bool {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Used(Contents::Made(made))) => match &mut made.owners {
                Some(owners) => owners.meet(at, instance),
                None => false,
            },
            _ => false,
        }
    }

    /// Whether flows of an instance are known by slots of the table at `index` alone, for a VIP that
    /// does not remember them.
    pub(crate) fn owns(&self, index: u32, instance: u16) -> bool {
        self.made(index).is_some_and(|made| match &made.owners {
            Some(owners) => owners.owners().contains(&instance),
            None => made.recipe.shares().iter().any(|s| s.index == instance),
        })
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
