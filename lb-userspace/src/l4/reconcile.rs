//! Brings the maps to what a plan says, with the fewest writes and in an order in which every
//! packet, at every moment, finds something whole.
//!
//! Publishing goes instances, table, VIP: what is pointed to is there before the pointer. Taking
//! away goes the other way. The reconciler remembers what it has written, write by write, so that a
//! failure leaves it knowing what is in the maps, and the next attempt goes on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    Address, INSTANCE_ABSENT, INSTANCE_DOWN, InstanceEntry, MAX_SUBINTERFACES, MAX_VIPS,
    PortRanges, Settings, Slot, Subinterface, VIP_OWNED, Vip, VipKey,
};

use self::slots::Derived;
use super::{
    datapath::{Datapath, DatapathError},
    owners::Memory,
    plan::{Plan, VipPlan},
    recipe::{Recipe, Share},
    tables::{Contents, EMPTY, Made, Place, Tables},
};
use crate::model::Timestamp;

mod slots;

/// How long a table that no VIP points to any more is left alone. The packets that may still read
/// it are those being worked on: microseconds, and a preempted interrupt thread some milliseconds.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// How many tables' memory is given back at a time. Each makes the kernel wait until all packets are
/// done that may read it.
const MOST_GIVEN_BACK: usize = 4;

/// How long no table must have changed before memory of tables is given back: what one change has
/// needed the next one needs again.
const QUIET: Duration = Duration::from_secs(60);

/// Why a plan did not get into the maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// The packet path refused.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// More different tables are needed than there are.
    #[error(
        "expected at most {capacity} services with VIPs (datapath.max_tables, less the empty one), \
         found no table left for VIP {vip}"
    )]
    Tables {
        /// The VIP that goes without its table.
        vip: String,
        /// Tables that can hold something.
        capacity: usize,
    },
}

/// What a pass has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Values written to or removed from maps.
    pub(crate) writes: u64,
    /// When to try again, because something had to wait for a table to rest.
    pub(crate) later: Option<Timestamp>,
    /// Whether VIPs or instances were taken away, whose connections are to be forgotten.
    pub(crate) withdrew: bool,
}

/// What a walk over the connection table looks things up in.
#[derive(Debug)]
pub(crate) struct Walked<'a> {
    /// Instances as they are in the maps.
    pub(crate) instances: &'a BTreeMap<u16, InstanceEntry>,
    /// VIPs as they are in the maps.
    pub(crate) vips: &'a BTreeMap<VipKey, Vip>,
    /// Tables as they are in the maps.
    pub(crate) tables: &'a mut Tables,
}

/// What is in the maps.
#[derive(Debug)]
pub(crate) struct Reconciler {
    settings: Option<Settings>,
    instances: BTreeMap<u16, InstanceEntry>,
    vips: BTreeMap<VipKey, Vip>,
    /// Addresses of VIPs. Every program begins with none.
    addresses: BTreeMap<Address, PortRanges>,
    /// Interfaces that are VLANs of others. Every program begins with none.
    vlans: BTreeMap<u32, Subinterface>,
    tables: Tables,
    /// When a table was laid to rest at last.
    changed: Timestamp,
    /// Whether the program works on these maps.
    active: bool,
    /// Whether it must not begin to.
    is_held_back: bool,
}

impl Reconciler {
    /// Reads what is in the maps.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(crate) fn adopt(datapath: &dyn Datapath, grace: Duration) -> Result<Self, DatapathError> {
        let found = datapath.adopted()?;
        let instances: BTreeMap<u16, InstanceEntry> = found.instances.into_iter().collect();
        let vips: BTreeMap<VipKey, Vip> = found.vips.into_iter().collect();
        let mut tables = Tables::new(datapath.limits().tables, grace);
        for index in vips.values().map(|vip| vip.table).collect::<BTreeSet<_>>() {
            if index != EMPTY {
                let table = datapath.read_table(index)?;
                let slots = table.slots.iter().map(|slot| Slot(*slot).index());
                let named: BTreeSet<u16> = slots.chain(table.owners).collect();
                let named = named.into_iter().filter_map(|index| {
                    let entry = instances.get(&index)?;
                    Some((index, entry.generation, entry.identity))
                });
                tables.adopt(index, Contents::Found(named.collect()));
            }
        }
        Ok(Self {
            settings: found.settings,
            instances,
            vips,
            addresses: BTreeMap::new(),
            vlans: BTreeMap::new(),
            tables,
            changed: Timestamp::default(),
            active: false,
            is_held_back: false,
        })
    }

    /// Whether the program works on these maps.
    pub(crate) const fn is_active(&self) -> bool {
        self.active
    }

    /// Says whether the program must not begin to work on these maps, if it has not yet.
    pub(crate) const fn hold_back(&mut self, is_held_back: bool) {
        self.is_held_back = is_held_back;
    }

    /// Settings as they are in the maps.
    pub(crate) const fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// VIPs as they are in the maps.
    pub(crate) const fn vips(&self) -> &BTreeMap<VipKey, Vip> {
        &self.vips
    }

    /// Instances as they are in the maps.
    pub(crate) const fn instances(&self) -> &BTreeMap<u16, InstanceEntry> {
        &self.instances
    }

    /// What the walk over the connection table looks things up in.
    pub(crate) const fn walked(&mut self) -> Walked<'_> {
        Walked {
            instances: &self.instances,
            vips: &self.vips,
            tables: &mut self.tables,
        }
    }

    /// Whether an instance has flows that are known by slots alone.
    pub(crate) fn owns(&self, index: u16) -> bool {
        let mut vips = self.vips.values().filter(|vip| vip.flags & VIP_OWNED != 0);
        vips.any(|vip| self.tables.owns(vip.table, index))
    }

    /// Tables that packets may read.
    pub(crate) fn tables_in_use(&self) -> usize {
        self.tables.in_use()
    }

    /// Lays tables to rest that no VIP points to any more.
    fn rest_tables(&mut self, now: Timestamp) {
        let used: BTreeSet<u32> = self.vips.values().map(|vip| vip.table).collect();
        self.tables.rest(&used, now);
    }

    /// Brings the maps to what `plan` says.
    ///
    /// # Errors
    /// When a map cannot be written, or tables run out. Everything that does not depend on what
    /// failed for want of a table has been done nevertheless.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        datapath: &mut dyn Datapath,
        now: Timestamp,
    ) -> Result<Outcome, ReconcileError> {
        let mut pass = Pass {
            state: self,
            datapath,
            now,
            outcome: Outcome::default(),
            shortage: None,
            derived: Vec::new(),
        };
        pass.state.tables.wake(now);
        pass.settings(&plan.settings)?;
        pass.vlans(plan.vlans.as_ref())?;
        pass.remove_vips(plan)?;
        pass.put_instances(plan)?;
        pass.make_room(plan)?;
        pass.put_vips(plan)?;
        pass.addresses()?;
        pass.activate()?;
        pass.state.rest_tables(now);
        pass.remove_instances(plan)?;
        let Pass {
            outcome, shortage, ..
        } = pass;
        shortage.map_or(Ok(outcome), Err)
    }

    /// Makes room for the tables of the next changes, and gives back some of what the last ones have
    /// left, when there is time for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn tidy(
        &mut self,
        datapath: &mut dyn Datapath,
        now: Timestamp,
    ) -> Result<(), DatapathError> {
        let room = self.tables.room_at_rest();
        datapath.make_room(&room)?;
        if self.tables.rests() {
            self.changed = now;
        }
        if now - self.changed < QUIET {
            return Ok(());
        }
        for _ in 0..MOST_GIVEN_BACK {
            if !datapath.give_room_back(&room)? {
                break;
            }
        }
        Ok(())
    }
}

/// One pass over the maps.
struct Pass<'a> {
    state: &'a mut Reconciler,
    datapath: &'a mut dyn Datapath,
    now: Timestamp,
    outcome: Outcome,
    shortage: Option<ReconcileError>,
    derived: Vec<Derived>,
}

impl Pass<'_> {
    fn settings(&mut self, wanted: &Settings) -> Result<(), DatapathError> {
        if self.state.settings.as_ref() != Some(wanted) {
            self.datapath.put_settings(wanted)?;
            self.state.settings = Some(*wanted);
            self.outcome.writes += 1;
        }
        Ok(())
    }

    fn put_instances(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        for (index, wanted) in &plan.instances {
            let present = self.state.instances.get(index);
            if present == Some(wanted) {
                continue;
            }
            let is_same_tenant = present.is_some_and(|present| {
                present.state != INSTANCE_ABSENT
                    && (present.identity, present.generation)
                        == (wanted.identity, wanted.generation)
            });
            if is_same_tenant {
                self.put_instance(*index, *wanted)?;
            } else if self
                .state
                .tables
                .names_other(*index, wanted.generation, wanted.identity)
            {
                // A table that packets may read still means the index's last tenant by it, and
                // would send one service's packets to an instance of another.
                if let Some(present) = present.copied() {
                    self.put_instance(*index, tombstone(&present))?;
                }
                self.wait_for_rest();
            } else {
                self.datapath.reset_instance(*index)?;
                self.put_instance(*index, *wanted)?;
            }
        }
        Ok(())
    }

    fn put_instance(&mut self, index: u16, entry: InstanceEntry) -> Result<(), DatapathError> {
        if self.state.instances.get(&index) != Some(&entry) {
            self.datapath.put_instance(index, &entry)?;
            self.state.instances.insert(index, entry);
            self.outcome.writes += 1;
        }
        Ok(())
    }

    /// `recipe` without members whose index does not hold them yet: a VIP is served without its
    /// newest member rather than with another service's.
    fn placed(&self, recipe: &Arc<Recipe>) -> Arc<Recipe> {
        let is_placed = |share: &Share| {
            self.state.instances.get(&share.index).is_some_and(|entry| {
                (entry.identity, entry.generation) == (share.identity, share.generation)
            })
        };
        if recipe.shares().iter().all(is_placed) {
            Arc::clone(recipe)
        } else {
            Arc::new(recipe.only(is_placed))
        }
    }

    /// Makes room for all tables that are to be written, at once: for each alone the kernel would have
    /// to be waited for.
    fn make_room(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        let mut missing: Vec<&Recipe> = Vec::new();
        for vip in plan.vips.values() {
            let recipe = vip.recipe.as_ref();
            if !self.state.tables.has(recipe) && !missing.contains(&recipe) {
                missing.push(recipe);
            }
        }
        let room = self.state.tables.room(missing.len());
        self.datapath.make_room(&room)
    }

    /// Tables whose slots have owners come first: VIPs that need none can share them.
    fn put_vips(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        let mut vips: Vec<(&VipKey, &VipPlan, Memory)> = plan
            .vips
            .iter()
            .map(|(key, wanted)| {
                let memory = slots::wanted_memory(self.state.vips.get(key), wanted);
                (key, wanted, memory)
            })
            .collect();
        vips.sort_by_key(|(.., memory)| *memory == Memory::All);
        for (key, wanted, memory) in vips {
            let recipe = self.placed(&wanted.recipe);
            let present = self.state.vips.get(key).copied();
            let place = if memory == Memory::All {
                self.place(present, &recipe)?
            } else {
                self.place_owned(plan, present, memory, &recipe)?
            };
            match place {
                Place::Ready(index) => self.put_vip(key, wanted, index)?,
                Place::Write(_) | Place::None(Some(_)) => self.wait_for_rest(),
                Place::None(None) => self.run_short(wanted),
            }
        }
        Ok(())
    }

    /// Where the table of a VIP is. The table that an earlier daemon left is looked at before another
    /// is written: after a restart it is nearly always the right one.
    fn place(&mut self, present: Option<Vip>, recipe: &Recipe) -> Result<Place, DatapathError> {
        if let Some(vip) = present
            && self.state.tables.is_found(vip.table)
            && *self.datapath.read_table(vip.table)? == *recipe.table()
        {
            let made = Made::plain(recipe.clone());
            self.state.tables.hold(vip.table, made);
        }
        let place = self.state.tables.place_recipe(recipe, self.now);
        self.write_plain(place, recipe)
    }

    /// Writes the table of a recipe if it has a place but is not there yet.
    fn write_plain(&mut self, place: Place, recipe: &Recipe) -> Result<Place, DatapathError> {
        match place {
            Place::Write(index) => {
                self.datapath.write_table(index, &recipe.table())?;
                self.outcome.writes += 1;
                let made = Made::plain(recipe.clone());
                self.state.tables.hold(index, made);
                Ok(Place::Ready(index))
            }
            other => Ok(other),
        }
    }

    fn put_vip(&mut self, key: &VipKey, plan: &VipPlan, table: u32) -> Result<(), DatapathError> {
        self.state.tables.keep(table);
        let present = self.state.vips.get(key).copied();
        let (flags, owned_forward) = self.flags(present.as_ref(), plan, table);
        let way = (table, plan.select, plan.hash_of, flags);
        let id = match present {
            Some(vip) => vip.id,
            None => self.take_id()?,
        };
        let flips = present.map_or(0, |vip| {
            let is_same = (vip.table, vip.select, vip.hash_of, vip.flags) == way;
            vip.generation.wrapping_add(u32::from(!is_same))
        });
        let wanted = Vip {
            id,
            table,
            generation: flips,
            forward: plan.forward(),
            select: plan.select,
            hash_of: plan.hash_of,
            flags,
            owned_forward,
            pad: [0; 3],
        };
        if present != Some(wanted) {
            self.datapath.put_vip(key, &wanted)?;
            self.state.vips.insert(*key, wanted);
            self.outcome.writes += 1;
        }
        Ok(())
    }

    /// A VIP id that nobody has, with its counters at zero. There is one, because a plan holds no
    /// more VIPs than there are ids and the VIPs that are in no plan have been removed before.
    fn take_id(&mut self) -> Result<u32, DatapathError> {
        let taken: BTreeSet<u32> = self.state.vips.values().map(|vip| vip.id).collect();
        let id = (0..MAX_VIPS).find(|id| !taken.contains(id)).unwrap_or(0);
        self.datapath.reset_vip(id)?;
        Ok(id)
    }

    fn activate(&mut self) -> Result<(), DatapathError> {
        if !self.state.active && !self.state.is_held_back {
            self.datapath.activate()?;
            self.state.active = true;
        }
        Ok(())
    }

    fn remove_vips(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        let gone: Vec<VipKey> = self
            .state
            .vips
            .keys()
            .filter(|key| !plan.vips.contains_key(*key))
            .copied()
            .collect();
        for key in gone {
            self.datapath.remove_vip(&key)?;
            self.state.vips.remove(&key);
            self.outcome.writes += 1;
            self.outcome.withdrew = true;
        }
        Ok(())
    }

    /// Says which addresses are those of VIPs, and of which ports. Not among the writes: each program has to be told, also
    /// by a daemon that finds everything else as it should be.
    fn addresses(&mut self) -> Result<(), DatapathError> {
        let mut wanted: BTreeMap<Address, Vec<_>> = BTreeMap::new();
        for key in self.state.vips.keys() {
            wanted.entry(key.address).or_default().extend(key.range());
        }
        let present = self.state.addresses.keys().copied();
        let gone: Vec<Address> = present.filter(|a| !wanted.contains_key(a)).collect();
        // Those that go make room first.
        for address in gone {
            self.datapath.remove_vip_address(&address)?;
            self.state.addresses.remove(&address);
        }
        for (address, ranges) in wanted {
            let ranges = PortRanges::new(ranges);
            if self.state.addresses.get(&address) != Some(&ranges) {
                self.datapath.put_vip_address(&address, &ranges)?;
                self.state.addresses.insert(address, ranges);
            }
        }
        Ok(())
    }

    /// Says which interfaces are VLANs of others. Not among the writes, as [`Self::addresses`]. While that is not
    /// known no program begins, which would send what is for them elsewhere.
    fn vlans(&mut self, wanted: Option<&BTreeMap<u32, Subinterface>>) -> Result<(), DatapathError> {
        let wanted = wanted.ok_or_else(|| DatapathError::Read {
            what: "which interfaces are VLANs".to_owned(),
            why: "the kernel has not told so far".to_owned(),
        })?;
        let present = self.state.vlans.keys().copied();
        let gone: Vec<u32> = present
            .filter(|index| !wanted.contains_key(index))
            .collect();
        for index in gone {
            self.datapath.remove_subinterface(index)?;
            self.state.vlans.remove(&index);
        }
        for (index, of) in wanted.iter().take(MAX_SUBINTERFACES as usize) {
            if self.state.vlans.get(index) != Some(of) {
                self.datapath.put_subinterface(*index, of)?;
                self.state.vlans.insert(*index, *of);
            }
        }
        Ok(())
    }

    fn remove_instances(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        let gone: Vec<(u16, InstanceEntry)> = self
            .state
            .instances
            .iter()
            .filter(|(index, entry)| {
                !plan.instances.contains_key(*index) && entry.state != INSTANCE_ABSENT
            })
            .map(|(index, entry)| (*index, *entry))
            .collect();
        for (index, entry) in gone {
            if self.state.tables.names(index) {
                // Its table could not be replaced yet: it must not get packets, but the slots that
                // name it still find an entry that says so.
                let down = InstanceEntry {
                    state: INSTANCE_DOWN,
                    ..entry
                };
                self.put_instance(index, down)?;
                self.wait_for_rest();
            } else {
                self.put_instance(index, tombstone(&entry))?;
                self.outcome.withdrew = true;
            }
        }
        Ok(())
    }

    fn wait_for_rest(&mut self) {
        // Tables that are laid to rest in this very pass have rested by then as well.
        let latest = self.now + self.state.tables.grace();
        let at = self.state.tables.next_free().unwrap_or(latest).min(latest);
        self.outcome.later = Some(self.outcome.later.map_or(at, |other| other.min(at)));
    }

    fn run_short(&mut self, vip: &VipPlan) {
        self.shortage.get_or_insert_with(|| ReconcileError::Tables {
            vip: vip.spec.to_string(),
            capacity: self.state.tables.capacity(),
        });
    }
}

/// What stays of an instance: the generation, which the next tenant must not have, and the identity,
/// which tells an entry that was used from one that never was.
fn tombstone(entry: &InstanceEntry) -> InstanceEntry {
    InstanceEntry {
        generation: entry.generation,
        identity: entry.identity,
        state: INSTANCE_ABSENT,
        ..InstanceEntry::default()
    }
}

#[cfg(test)]
mod tests;
