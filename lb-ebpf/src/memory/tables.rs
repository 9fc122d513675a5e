//! The maps in memory, as the packet path sees them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use lb_common::{
    Address, Affinity, Arrivals, CLIENT_HOPS, ClientHop, ClientKey, ClientPin, Counter, FlowEntry,
    FlowKey, InstanceEntry, MAX_INSTANCES, MAX_VIPS, NextHop, PREFIX_DENIED, PathMtu, PrefixKey,
    SLOTS, SOURCE_SETS, Settings, Slot, SourceSet, Subinterface, Traffic, Vip, VipKey,
};

use super::{CLIENTS, MemoryFlow, MemoryTables, lock, prefix};
use crate::{
    Flow as _, Insert, Route, Tables,
    acl::Judged,
    fragment::{FRAGMENTS, FragmentKey, Note},
    hash,
    recent::{self, Mark, Moment, RECENT, Recent},
    settled::{self, RecentVip},
};

impl Tables for MemoryTables {
    type Flow = Arc<MemoryFlow>;
    type Hop = NextHop;

    fn settings(&self) -> Option<Settings> {
        *lock(&self.settings)
    }

    fn vip(&self, key: &VipKey) -> Option<Vip> {
        lock(&self.vips).get(key).copied()
    }

    fn is_vip_address(&self, address: &Address) -> bool {
        lock(&self.vip_addresses).contains_key(address)
    }

    fn widen(&self, key: &mut VipKey) -> bool {
        let addresses = lock(&self.vip_addresses);
        let port = u16::from_be_bytes(key.port);
        let mut ranges = addresses
            .get(&key.address)
            .into_iter()
            .flat_map(|r| &r.ranges);
        let found = ranges.find(|range| range.holds(key.protocol, port));
        if let Some(range) = found {
            *key = VipKey::of_ports(key.address, *range);
        }
        found.is_some()
    }

    fn instance(&self, index: u16) -> Option<InstanceEntry> {
        lock(&self.instances).get(index as usize).copied()
    }

    fn slot(&self, table: u32, slot: u32) -> Slot {
        debug_assert!((slot as usize) < SLOTS);
        let tables = lock(&self.tables);
        let table = tables.get(&table);
        Slot(table.map_or(0, |table| table.slots[slot as usize]))
    }

    fn owner(&self, table: u32, slot: u32) -> u16 {
        let tables = lock(&self.tables);
        let table = tables.get(&table);
        table.map_or(0, |table| table.owners[slot as usize])
    }

    fn vip_epoch(&self) -> u64 {
        self.vip_epoch.load(Relaxed)
    }

    fn has_recent_vips(&self) -> bool {
        !lock(&self.recent_vips).is_empty()
    }

    fn recent_vip(&self, key: &FlowKey, epoch: u64) -> Option<Vip> {
        let place = settled::place(&key.destination, key.destination_port);
        let copy = lock(&self.recent_vips).get(&place).copied()?;
        copy.holds(key, epoch).then_some(copy.vip)
    }

    fn keep_vip(&self, key: &VipKey, vip: &Vip, epoch: u64) {
        let place = settled::place(&key.address, key.port);
        let copy = RecentVip::new(key, vip, epoch);
        lock(&self.recent_vips).insert(place, copy);
    }

    fn expects(&self, key: &FlowKey) -> bool {
        lock(&self.filter).expects(key)
    }

    fn is_suspect(&self, source: &Address) -> bool {
        let acl = lock(&self.acl);
        acl.as_ref().is_some_and(|acl| acl.suspects(source))
    }

    fn acl_epoch(&self) -> u64 {
        lock(&self.acl).as_ref().map_or(0, |acl| acl.epoch)
    }

    fn denies(&self, key: &PrefixKey) -> bool {
        let prefixes = lock(&self.prefixes);
        let holding = prefixes
            .iter()
            .filter(|(prefix, _)| prefix::holds(prefix, key));
        let longest = holding.max_by_key(|(prefix, _)| prefix.length);
        longest.is_some_and(|(_, rule)| *rule == PREFIX_DENIED)
    }

    fn judged(&self, place: u32) -> Judged {
        lock(&self.judged).get(&place).copied().unwrap_or_default()
    }

    fn keep_judged(&self, place: u32, judged: &Judged) {
        lock(&self.judged).insert(place, *judged);
    }

    fn affinity(&self, vip: u32) -> Affinity {
        lock(&self.affinities)
            .get(&vip)
            .copied()
            .unwrap_or_default()
    }

    fn service_of(&self, index: u16) -> u64 {
        lock(&self.services)
            .get(&index)
            .copied()
            .unwrap_or_default()
    }

    fn client(&self, key: &ClientKey) -> Option<ClientPin> {
        lock(&self.clients).get(key).copied()
    }

    fn pin_client(&self, key: &ClientKey, pin: &ClientPin) -> Insert {
        let mut clients = lock(&self.clients);
        if clients.len() >= CLIENTS && !clients.contains_key(key) {
            return Insert::Full;
        }
        clients.insert(*key, *pin);
        Insert::Done
    }

    fn arrivals(&self, vip: u32) -> Arrivals {
        lock(&self.arrivals).get(&vip).copied().unwrap_or_default()
    }

    fn bucket(&self, place: u32) -> u64 {
        lock(&self.buckets).get(&place).copied().unwrap_or(0)
    }

    fn change_bucket(&self, place: u32, old: u64, new: u64) -> bool {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.entry(place).or_default();
        let is_old = *bucket == old;
        if is_old {
            *bucket = new;
        }
        is_old
    }

    fn cookie_key_in_use(&self) -> u32 {
        lock(&self.cookie_keys).current as u32 & 1
    }

    fn cookie_time(&self) -> u64 {
        self.now().wrapping_sub(lock(&self.cookie_keys).origin)
    }

    fn cookie_key(&self, which: u32) -> [u64; 2] {
        lock(&self.cookie_keys).keys[which as usize & 1]
    }

    fn source_set(&self, set: u32) -> SourceSet {
        debug_assert!(set < SOURCE_SETS);
        lock(&self.sources).get(&set).copied().unwrap_or_default()
    }

    fn change_source(&self, set: u32, way: usize, old: u64, new: u64) -> bool {
        let mut sources = lock(&self.sources);
        let word = &mut sources.entry(set).or_default()[way];
        let is_old = *word == old;
        if is_old {
            *word = new;
        }
        is_old
    }

    fn flow(&self, key: &FlowKey) -> Option<Arc<MemoryFlow>> {
        lock(&self.flows).get(key).cloned()
    }

    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> Insert {
        let mut flows = lock(&self.flows);
        if flows.contains_key(key) {
            Insert::Exists
        } else if flows.len() >= self.capacity {
            Insert::Full
        } else {
            flows.insert(*key, MemoryFlow::new(entry));
            Insert::Done
        }
    }

    fn swap_opening(&self, key: &mut FlowKey) {
        let mut openings = lock(&self.openings);
        let place = self.opening_at(openings.next);
        openings.next = place + 1;
        let most = self.opening_places as usize;
        openings.keys.resize(most, FlowKey::default());
        if let Some(found) = openings.keys.get_mut(place) {
            std::mem::swap(found, key);
        }
    }

    fn opening(&self) -> u32 {
        self.opening_at(lock(&self.openings).next) as u32
    }

    fn remove_opening(&self, place: u32, key: &FlowKey) {
        let mut openings = lock(&self.openings);
        let found = openings.keys.get_mut(place as usize);
        if let Some(found) = found.filter(|found| **found == *key) {
            *found = FlowKey::default();
        }
    }

    fn epoch(&self, place: u32) -> u64 {
        debug_assert!(place < RECENT);
        lock(&self.epochs).get(&place).copied().unwrap_or(0)
    }

    fn recent_flow(&self, key: &FlowKey, moment: Moment) -> Option<Arc<MemoryFlow>> {
        let (mark, recent) = lock(&self.recent).get(&moment.place).copied()?;
        let holds = mark.holds(moment) && recent.key == *key;
        holds.then(|| MemoryFlow::new(&recent.entry))
    }

    fn keep_recent(&self, key: &FlowKey, moment: Moment, flow: &Arc<MemoryFlow>, until: u64) {
        let mut places = lock(&self.recent);
        let (mark, recent) = places.entry(moment.place).or_default();
        if mark.is_over(moment) {
            *mark = Mark::new(moment, until);
            *recent = Recent {
                key: *key,
                entry: flow.entry(),
            };
        }
    }

    fn without_entry(&self, entry: &FlowEntry) -> Arc<MemoryFlow> {
        MemoryFlow::new(entry)
    }

    fn remove_flow(&self, key: &FlowKey) {
        lock(&self.flows).remove(key);
        *lock(&self.epochs)
            .entry(recent::spot(key).place)
            .or_default() += 1;
    }

    fn noted(&self, key: &FragmentKey) -> Option<Note> {
        lock(&self.notes).get(key).copied()
    }

    fn note(&self, key: &FragmentKey, note: &Note) {
        let mut notes = lock(&self.notes);
        if notes.len() >= FRAGMENTS as usize && !notes.contains_key(key) {
            let oldest = notes.iter().min_by_key(|(_, note)| note.seen);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                notes.remove(&oldest);
            }
        }
        notes.insert(*key, *note);
    }

    fn turn(&self, vip: u32) -> u32 {
        debug_assert!(vip < MAX_VIPS);
        let mut turns = lock(&self.turns);
        let turn = turns.entry(vip).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    }

    fn random(&self) -> u32 {
        let mut state = lock(&self.random);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::finish(*state) as u32
    }

    fn live(&self, index: u16) -> u64 {
        let (Some(live), Some(expired)) = (
            self.live.get(index as usize),
            self.expired.get(index as usize),
        ) else {
            return 0;
        };
        let live = live.load(Relaxed).wrapping_sub(expired.load(Relaxed));
        (live as i64).max(0) as u64
    }

    fn live_begin(&self, index: u16) -> bool {
        let (Some(live), Some(ceiling)) = (
            self.live.get(index as usize),
            self.ceilings.get(index as usize),
        ) else {
            return true;
        };
        live.fetch_add(1, Relaxed);
        let ceiling = ceiling.load(Relaxed);
        let fits = ceiling == 0 || self.live(index) < ceiling;
        if !fits {
            live.fetch_sub(1, Relaxed);
        }
        fits
    }

    fn is_limited(&self, index: u16) -> bool {
        let ceiling = self.ceilings.get(index as usize);
        ceiling.is_some_and(|ceiling| ceiling.load(Relaxed) != 0)
    }

    fn live_end(&self, index: u16) {
        if let Some(live) = self.live.get(index as usize) {
            live.fetch_sub(1, Relaxed);
        }
    }

    fn hop_in_place(&self, index: u16) -> Option<NextHop> {
        let hops = lock(&self.instance_hops);
        (u32::from(index) < MAX_INSTANCES).then(|| hops.get(&index).copied().unwrap_or_default())
    }

    fn cache_instance_hop(&self, index: u16, hop: &NextHop) {
        lock(&self.instance_hops).insert(index, *hop);
    }

    fn subinterface(&self, index: u32) -> Option<Subinterface> {
        lock(&self.subinterfaces).get(&index).copied()
    }

    fn path_mtu(&self, instance: &Address) -> Option<PathMtu> {
        lock(&self.path_mtus).get(instance).copied()
    }

    fn note_path_mtu(&self, instance: &Address, path: &PathMtu) -> bool {
        let mut paths = lock(&self.path_mtus);
        let known = paths.get_mut(instance);
        known.map(|known| *known = *path).is_some()
    }

    fn client_hop(&self, place: u32) -> Option<ClientHop> {
        let hops = lock(&self.client_hops);
        (place < CLIENT_HOPS).then(|| hops.get(&place).copied().unwrap_or_default())
    }

    fn cache_client_hop(&self, place: u32, hop: &ClientHop) {
        lock(&self.client_hops).insert(place, *hop);
    }

    fn route(&self, _source: &Address, destination: &Address, _interface: u32) -> Route {
        let known = lock(&self.routes).get(destination).copied();
        known.unwrap_or_else(|| *lock(&self.default_route))
    }

    fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    fn may_answer(&self, now: u64, per_second: u32) -> bool {
        lock(&self.budget).spend(now, per_second)
    }

    fn may_echo(&self, now: u64, per_second: u32) -> bool {
        lock(&self.echoes).spend(now, per_second)
    }

    fn count(&self, counter: Counter) {
        let value = &mut lock(&self.counters).values[counter as usize];
        *value = value.wrapping_add(1);
    }

    /// Nobody follows packets here.
    fn note_begun(&self) {}

    fn vip_traffic(&self, vip: u32, change: impl FnOnce(&mut Traffic)) {
        change(lock(&self.vip_traffic).entry(vip).or_default());
    }

    fn vip_dropped(&self, vip: u32, reason: Counter) {
        self.vip_traffic(vip, |traffic| traffic.dropped += 1);
        lock(&self.vip_drops).entry(vip).or_default().values[reason as usize] += 1;
    }

    fn instance_traffic(&self, index: u16, change: impl FnOnce(&mut Traffic)) {
        change(lock(&self.instance_traffic).entry(index).or_default());
    }
}
