//! Tables of VIPs whose flows need not be remembered: they follow on one another, see
//! [`super::super::owners`].

use lb_common::{
    HASH_SOURCE, INSTANCE_ACTIVE, INSTANCE_DRAINING, VIP_COOKIES, VIP_OWNED, VIP_OWNED_BY_SOURCE,
    VIP_SETTLES, Vip,
};

use super::{Datapath, DatapathError, Pass, Place, Plan, Recipe, Reconciler, VipPlan};
use crate::{
    l4::{
        owners::{Before, Memory, Owners},
        recipe::empty_table,
        tables::{EMPTY, Made, Tenant},
    },
    model::Timestamp,
};

/// A table that was made in this pass out of another one; VIPs that share the one share the other.
#[derive(Debug)]
pub(super) struct Derived {
    from: u32,
    /// How flows were treated under that, and how they are under this one.
    before: Memory,
    memory: Memory,
    recipe: Recipe,
    to: u32,
}

/// How the flows of a VIP in the maps are treated.
pub(super) const fn memory_of(vip: &Vip) -> Memory {
    if vip.flags & VIP_SETTLES != 0 {
        Memory::Unsettled
    } else if vip.flags & VIP_OWNED != 0 {
        Memory::AllFromNowOn
    } else {
        Memory::All
    }
}

const fn by_source(vip: &Vip) -> bool {
    vip.flags & VIP_OWNED_BY_SOURCE != 0
}

/// How the flows of a VIP are to be treated from now on.
///
/// Owners are found by a hash, and their flows forwarded as they were. When another part of the packet is to
/// be hashed, or new flows are forwarded otherwise, what was not remembered so far keeps the former way, so
/// everything is remembered until that is over.
pub(super) fn wanted_memory(present: Option<&Vip>, wanted: &VipPlan) -> Memory {
    let is_found = present.is_none_or(|vip| {
        vip.flags & VIP_OWNED == 0
            || by_source(vip) == (wanted.hash_of == HASH_SOURCE)
                && vip.forward_of_owners() == wanted.forward()
    });
    match (wanted.settles, present) {
        (true, _) if is_found => Memory::Unsettled,
        (_, Some(vip)) if vip.flags & VIP_OWNED != 0 => Memory::AllFromNowOn,
        _ => Memory::All,
    }
}

impl Pass<'_> {
    /// The flags of a VIP that points to `table`, and [`Vip::owned_forward`].
    pub(super) fn flags(&self, present: Option<&Vip>, wanted: &VipPlan, table: u32) -> (u8, u8) {
        let owned = match wanted_memory(present, wanted) {
            Memory::Unsettled if wanted.hash_of == HASH_SOURCE => {
                VIP_OWNED | VIP_SETTLES | VIP_OWNED_BY_SOURCE
            }
            Memory::Unsettled => VIP_OWNED | VIP_SETTLES,
            Memory::AllFromNowOn if self.state.tables.has_owners(table) => {
                VIP_OWNED | present.map_or(0, |vip| vip.flags & VIP_OWNED_BY_SOURCE)
            }
            Memory::All | Memory::AllFromNowOn => 0,
        };
        let flags = owned | wanted.flags();
        let is_former = owned & (VIP_OWNED | VIP_SETTLES) == VIP_OWNED;
        let former = present.filter(|_| is_former).map(Vip::forward_of_owners);
        match former {
            // What answers to a cookie would be an owner's.
            Some(former) if former != wanted.forward() => (flags & !VIP_COOKIES, former),
            _ => (flags, 0),
        }
    }

    /// Where the table of a VIP is or goes that has owners; what has to be written is written.
    pub(super) fn place_owned(
        &mut self,
        plan: &Plan,
        present: Option<Vip>,
        memory: Memory,
        recipe: &Recipe,
    ) -> Result<Place, DatapathError> {
        let Some(vip) = present else {
            // Nobody has flows here.
            let place = self.place_plain(recipe);
            return self.write_plain(place, recipe);
        };
        let is_same = |made: &Made| made.recipe == *recipe && memory_of(&vip) == memory;
        if let Some(made) = self.state.tables.made(vip.table)
            && is_same(made)
            && made.owners.as_ref().is_none_or(|owners| {
                owners.memory() == memory && owners.owners().iter().all(|i| self.keeps(plan, *i))
            })
        {
            return Ok(Place::Ready(vip.table));
        }
        let shared = |derived: &&Derived| {
            (derived.from, derived.before, derived.memory) == (vip.table, memory_of(&vip), memory)
                && derived.recipe == *recipe
        };
        if let Some(derived) = self.derived.iter().find(shared) {
            return Ok(Place::Ready(derived.to));
        }
        let place = self.follow(plan, &vip, memory, recipe)?;
        if let Place::Ready(to) = place {
            self.derived.push(Derived {
                from: vip.table,
                before: memory_of(&vip),
                memory,
                recipe: recipe.clone(),
                to,
            });
        }
        Ok(place)
    }

    /// Makes the table of `recipe` that follows on the one that a VIP points to.
    fn follow(
        &mut self,
        plan: &Plan,
        vip: &Vip,
        memory: Memory,
        recipe: &Recipe,
    ) -> Result<Place, DatapathError> {
        let tables = &self.state.tables;
        let made = tables.made(vip.table).filter(|_| vip.table != EMPTY);
        let before = match made {
            Some(made) => made.recipe.table(),
            None if vip.table == EMPTY => empty_table(),
            None => self.datapath.read_table(vip.table)?,
        };
        let plain = Before {
            table: &before,
            since: None,
            memory: memory_of(vip),
        };
        let before = match made.and_then(|made| made.owners.as_ref()) {
            // Of a table that is shared with a VIP that remembers everything, this one asks no owners.
            Some(owners) if plain.memory != Memory::All => owners.before(),
            _ => plain,
        };
        let keeps = |index| self.keeps(plan, index);
        let owners = Owners::follow(before, &recipe.table(), memory, keeps, self.now);
        // After a restart nearly always.
        let is_there = made.is_none() && vip.table != EMPTY && *before.table == *owners.table();
        let made = Made::new(recipe.clone(), owners, |index| self.state.tenant(index));
        if is_there {
            self.state.tables.hold(vip.table, made);
            return Ok(Place::Ready(vip.table));
        }
        let Some(owners) = &made.owners else {
            let place = self.place_plain(recipe);
            return self.write_plain(place, recipe);
        };
        let to = match self.state.tables.spare(self.now) {
            Place::Write(index) => index,
            other => return Ok(other),
        };
        self.datapath.write_table(to, owners.table())?;
        self.outcome.writes += 1;
        self.state.tables.hold(to, made);
        Ok(Place::Ready(to))
    }

    /// Where a table is or goes whose slots are all clear.
    fn place_plain(&self, recipe: &Recipe) -> Place {
        if recipe.is_empty() {
            return Place::Ready(EMPTY);
        }
        let fits = |made: &Made| made.recipe == *recipe && made.is_clear();
        self.state.tables.place(fits, self.now)
    }

    /// Whether an instance keeps the connections that it has.
    fn keeps(&self, plan: &Plan, index: u16) -> bool {
        let present = self.state.instances.get(&index);
        let tenant = |entry: &lb_common::InstanceEntry| (entry.generation, entry.identity);
        plan.instances.get(&index).is_some_and(|wanted| {
            matches!(wanted.state, INSTANCE_ACTIVE | INSTANCE_DRAINING)
                && present.map(tenant) == Some(tenant(wanted))
        })
    }
}

impl Reconciler {
    fn tenant(&self, index: u16) -> Option<Tenant> {
        let entry = self.instances.get(&index)?;
        Some((index, entry.generation, entry.identity))
    }

    /// Notes that a walk over the connection table begins.
    pub(crate) fn begin_walk(&mut self, now: Timestamp) {
        let grace = self.tables.grace();
        for (_, owners) in self.tables.owners() {
            owners.begin_walk(now, grace);
        }
    }

    /// Notes that there were flows which could not be remembered: whose slots they are is not to be
    /// decided by silence.
    pub(crate) fn prolong(&mut self, now: Timestamp) {
        self.tables
            .owners()
            .for_each(|(_, owners)| owners.prolong(now));
    }

    /// Gives slots to their current instances when the flows of their owners have been silent for
    /// `silence` or are remembered, after a walk over the connection table. Says how much was written.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn advance(
        &mut self,
        silence: std::time::Duration,
        datapath: &mut dyn Datapath,
        now: Timestamp,
    ) -> Result<u64, DatapathError> {
        let next = |(index, owners): (u32, &mut Owners)| {
            owners.advance(silence, now).map(|next| (index, next))
        };
        let next: Vec<(u32, Owners)> = self.tables.owners().filter_map(next).collect();
        let mut writes = 0;
        for (index, owners) in next {
            let Some(recipe) = self.tables.made(index).map(|made| made.recipe.clone()) else {
                continue;
            };
            let next = Made::new(recipe, owners, |index| self.tenant(index));
            let known =
                |made: &Made| next.is_clear() && made.recipe == next.recipe && made.is_clear();
            let to = match self.tables.place(known, now) {
                Place::Ready(to) => to,
                Place::Write(to) => {
                    match &next.owners {
                        Some(owners) => datapath.write_table(to, owners.table())?,
                        None => datapath.write_table(to, &next.recipe.table())?,
                    }
                    writes += 1;
                    self.tables.hold(to, next);
                    to
                }
                // Another walk will come.
                Place::None(_) => continue,
            };
            self.tables.keep(to);
            writes += self.move_vips(index, to, datapath)?;
        }
        self.rest_tables(now);
        Ok(writes)
    }

    /// Makes all VIPs that point to one table point to another one with the same recipe.
    fn move_vips(
        &mut self,
        from: u32,
        to: u32,
        datapath: &mut dyn Datapath,
    ) -> Result<u64, DatapathError> {
        let mut writes = 0;
        let has_owners = self.tables.has_owners(to);
        for (key, vip) in self.vips.iter_mut().filter(|(_, vip)| vip.table == from) {
            let mut next = Vip {
                table: to,
                generation: vip.generation.wrapping_add(1),
                ..*vip
            };
            if next.flags & VIP_SETTLES == 0 && !has_owners {
                next.flags &= !(VIP_OWNED | VIP_OWNED_BY_SOURCE);
                next.owned_forward = 0;
            }
            datapath.put_vip(key, &next)?;
            *vip = next;
            writes += 1;
        }
        Ok(writes)
    }
}
