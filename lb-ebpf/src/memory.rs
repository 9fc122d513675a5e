//! The packet path without a kernel: packets in byte slices, maps in the standard library.
//!
//! [`MemoryTables`] behaves as the BPF maps do where it matters: index 0 of the instances is
//! nobody, connection inserts refuse existing keys and a full table, an entry that was removed
//! while somebody holds it stays readable. Clock and random numbers are given from outside. It is
//! safe to share between threads; each operation is atomic by itself, as in the kernel.

mod frame;
mod host;
mod prefix;

pub use frame::Frame;
pub use host::MemoryHost;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, CLIENT_HOPS, ClientHop, ClientKey, ClientPin,
    CookieKeys, Counter, Counters, FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, MAX_VIPS,
    NextHop, PREFIX_DENIED, PortRanges, PrefixKey, SLOTS, SOURCE_SETS, Settings, Slot, SourceSet,
    Splice, Table, Traffic, Vip, VipKey, most_opening,
};

use crate::{
    Flow, Insert, Route, Tables,
    acl::Judged,
    budget::Budget,
    fragment::{FRAGMENTS, FragmentKey, Note},
    hash,
    recent::{self, Moment, RECENT, Recent},
    settled::{self, RecentVip},
};

/// Source ports for `nat` that make the limit of connections that are opening, whatever the settings say:
/// as by default.
const NAT_PORTS: u32 = 22_528;

/// Clients whose instance may be remembered: few, so that tests can find the room filled.
pub const CLIENTS: usize = 16;

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
    fn new(entry: &FlowEntry) -> Arc<Self> {
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

/// The maps, the clock, the random source and the route table of one imagined machine with one
/// processor.
#[derive(Debug)]
pub struct MemoryTables {
    settings: Mutex<Option<Settings>>,
    vips: Mutex<HashMap<VipKey, Vip>>,
    vip_addresses: Mutex<HashMap<Address, PortRanges>>,
    vip_epoch: AtomicU64,
    recent_vips: Mutex<HashMap<usize, RecentVip>>,
    filter: Mutex<AddressFilter>,
    acl: Mutex<Option<Box<Acl>>>,
    prefixes: Mutex<HashMap<PrefixKey, u32>>,
    judged: Mutex<HashMap<u32, Judged>>,
    affinities: Mutex<HashMap<u32, Affinity>>,
    services: Mutex<HashMap<u16, u64>>,
    clients: Mutex<HashMap<ClientKey, ClientPin>>,
    arrivals: Mutex<HashMap<u32, Arrivals>>,
    buckets: Mutex<HashMap<u32, u64>>,
    cookie_keys: Mutex<CookieKeys>,
    sources: Mutex<HashMap<u32, SourceSet>>,
    tables: Mutex<HashMap<u32, Arc<Table>>>,
    instances: Mutex<Vec<InstanceEntry>>,
    flows: Mutex<HashMap<FlowKey, Arc<MemoryFlow>>>,
    notes: Mutex<HashMap<FragmentKey, Note>>,
    recent: Mutex<HashMap<u32, Recent>>,
    epochs: Mutex<HashMap<u32, u64>>,
    openings: Mutex<VecDeque<FlowKey>>,
    capacity: usize,
    turns: Mutex<HashMap<u32, u32>>,
    random: Mutex<u64>,
    live: Vec<AtomicU64>,
    expired: Vec<AtomicU64>,
    ceilings: Vec<AtomicU64>,
    instance_hops: Mutex<HashMap<u16, NextHop>>,
    client_hops: Mutex<HashMap<u32, ClientHop>>,
    routes: Mutex<HashMap<Address, Route>>,
    default_route: Mutex<Route>,
    now: AtomicU64,
    budget: Mutex<Budget>,
    echoes: Mutex<Budget>,
    counters: Mutex<Counters>,
    vip_traffic: Mutex<HashMap<u32, Traffic>>,
    vip_drops: Mutex<HashMap<u32, Counters>>,
    instance_traffic: Mutex<HashMap<u16, Traffic>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half changed by a panic: each change is one assignment or one map operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryTables {
    /// Empty maps with room for `capacity` connection entries; random numbers follow from `seed`.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let zeros = || (0..MAX_INSTANCES).map(|_| AtomicU64::new(0)).collect();
        Self {
            settings: Mutex::default(),
            vips: Mutex::default(),
            vip_addresses: Mutex::default(),
            vip_epoch: AtomicU64::new(0),
            recent_vips: Mutex::default(),
            filter: Mutex::default(),
            acl: Mutex::default(),
            prefixes: Mutex::default(),
            judged: Mutex::default(),
            affinities: Mutex::default(),
            services: Mutex::default(),
            clients: Mutex::default(),
            arrivals: Mutex::default(),
            buckets: Mutex::default(),
            cookie_keys: Mutex::default(),
            sources: Mutex::default(),
            tables: Mutex::default(),
            instances: Mutex::new(vec![InstanceEntry::default(); MAX_INSTANCES as usize]),
            flows: Mutex::default(),
            notes: Mutex::default(),
            recent: Mutex::default(),
            epochs: Mutex::default(),
            openings: Mutex::default(),
            capacity,
            turns: Mutex::default(),
            random: Mutex::new(seed),
            live: zeros(),
            expired: zeros(),
            ceilings: zeros(),
            instance_hops: Mutex::default(),
            client_hops: Mutex::default(),
            routes: Mutex::default(),
            default_route: Mutex::new(Route::NoRoute),
            now: AtomicU64::new(1),
            budget: Mutex::default(),
            echoes: Mutex::default(),
            counters: Mutex::default(),
            vip_traffic: Mutex::default(),
            vip_drops: Mutex::default(),
            instance_traffic: Mutex::default(),
        }
    }

    /// Writes the settings.
    pub fn set_settings(&self, settings: Settings) {
        *lock(&self.settings) = Some(settings);
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now(&self, now: u64) {
        self.now.store(now, Relaxed);
    }

    /// Inserts or replaces a VIP.
    pub fn set_vip(&self, key: VipKey, vip: Vip) {
        lock(&self.vips).insert(key, vip);
        self.vip_epoch.fetch_add(1, Relaxed);
    }

    /// Removes a VIP.
    pub fn remove_vip(&self, key: &VipKey) {
        lock(&self.vips).remove(key);
        self.vip_epoch.fetch_add(1, Relaxed);
    }

    /// Notes that VIPs have this address, some of them several ports.
    pub fn set_vip_address(&self, address: Address, ranges: PortRanges) {
        lock(&self.vip_addresses).insert(address, ranges);
        self.vip_epoch.fetch_add(1, Relaxed);
    }

    /// Notes that no VIP has this address any more.
    pub fn remove_vip_address(&self, address: &Address) {
        lock(&self.vip_addresses).remove(address);
        self.vip_epoch.fetch_add(1, Relaxed);
    }

    /// Writes the filter in front of connections and VIPs.
    pub fn set_address_filter(&self, filter: &AddressFilter) {
        *lock(&self.filter) = *filter;
    }

    /// Writes what is known of all rules of the ACL together.
    pub fn set_acl(&self, acl: Box<Acl>) {
        *lock(&self.acl) = Some(acl);
    }

    /// What was written last of it.
    #[must_use]
    pub fn acl(&self) -> Option<Box<Acl>> {
        lock(&self.acl).clone()
    }

    /// Inserts or replaces a rule of the ACL, or with `None` removes it.
    pub fn set_prefix(&self, key: PrefixKey, rule: Option<u32>) {
        let mut prefixes = lock(&self.prefixes);
        match rule {
            Some(rule) => drop(prefixes.insert(key, rule)),
            None => drop(prefixes.remove(&key)),
        }
    }

    /// Sets how fast new connections of a VIP may begin; `None` for any number.
    pub fn set_arrivals(&self, vip: u32, limit: Option<Arrivals>) {
        let mut arrivals = lock(&self.arrivals);
        match limit {
            Some(limit) => drop(arrivals.insert(vip, limit)),
            None => drop(arrivals.remove(&vip)),
        }
    }

    /// Sets how the clients of a VIP stay.
    pub fn set_affinity(&self, vip: u32, affinity: Affinity) {
        lock(&self.affinities).insert(vip, affinity);
    }

    /// Sets the service of an instance whose clients stay.
    pub fn set_service_of(&self, index: u16, service: u64) {
        lock(&self.services).insert(index, service);
    }

    /// The instances of clients that are remembered.
    #[must_use]
    pub fn clients(&self) -> Vec<(ClientKey, ClientPin)> {
        let clients = lock(&self.clients);
        clients.iter().map(|(key, pin)| (*key, *pin)).collect()
    }

    /// Forgets the instance of a client; whether it was remembered.
    pub fn remove_client(&self, key: &ClientKey) -> bool {
        lock(&self.clients).remove(key).is_some()
    }

    /// Sets the keys of SYN cookies.
    pub fn set_cookie_keys(&self, keys: CookieKeys) {
        *lock(&self.cookie_keys) = keys;
    }

    /// The keys of SYN cookies.
    #[must_use]
    pub fn cookie_keys(&self) -> CookieKeys {
        *lock(&self.cookie_keys)
    }

    /// The rules of the ACL.
    #[must_use]
    pub fn prefixes(&self) -> HashMap<PrefixKey, u32> {
        lock(&self.prefixes).clone()
    }

    /// The addresses of VIPs.
    #[must_use]
    pub fn vip_addresses(&self) -> Vec<(Address, PortRanges)> {
        lock(&self.vip_addresses)
            .iter()
            .map(|(address, ranges)| (*address, *ranges))
            .collect()
    }

    /// All VIPs.
    #[must_use]
    pub fn vips(&self) -> Vec<(VipKey, Vip)> {
        lock(&self.vips)
            .iter()
            .map(|(key, vip)| (*key, *vip))
            .collect()
    }

    /// Writes a table.
    pub fn set_table(&self, index: u32, table: Arc<Table>) {
        lock(&self.tables).insert(index, table);
    }

    /// Writes an instance; an index that is out of range is ignored.
    pub fn set_instance(&self, index: u16, instance: InstanceEntry) {
        if let Some(place) = lock(&self.instances).get_mut(index as usize) {
            *place = instance;
        }
    }

    /// Sets what the route table says of `destination`.
    pub fn set_route(&self, destination: Address, route: Route) {
        lock(&self.routes).insert(destination, route);
    }

    /// Sets what the route table says of all other destinations; [`Route::NoRoute`] at first.
    pub fn set_default_route(&self, route: Route) {
        *lock(&self.default_route) = route;
    }

    /// Copies of all connection entries.
    #[must_use]
    pub fn flows(&self) -> Vec<(FlowKey, FlowEntry)> {
        lock(&self.flows)
            .iter()
            .map(|(key, flow)| (*key, flow.entry()))
            .collect()
    }

    /// Counts a connection as ended by the daemon, which has removed its entries.
    pub fn expire(&self, index: u16) {
        if let Some(expired) = self.expired.get(index as usize) {
            expired.fetch_add(1, Relaxed);
        }
    }

    /// Sets how many live connections an index may have; `None` for any number.
    pub fn set_ceiling(&self, index: u16, most: Option<u64>) {
        if let Some(ceiling) = self.ceilings.get(index as usize) {
            ceiling.store(most.map_or(0, |most| most.saturating_add(1)), Relaxed);
        }
    }

    /// Makes the live connections of an index zero, for an instance that takes it over.
    pub fn reset_live(&self, index: u16) {
        if let (Some(live), Some(expired)) = (
            self.live.get(index as usize),
            self.expired.get(index as usize),
        ) {
            expired.store(live.load(Relaxed), Relaxed);
        }
    }

    /// All counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    /// Traffic of a VIP.
    #[must_use]
    pub fn traffic_of_vip(&self, vip: u32) -> Traffic {
        lock(&self.vip_traffic)
            .get(&vip)
            .copied()
            .unwrap_or_default()
    }

    /// Packets of a VIP that were not forwarded, by their reasons.
    #[must_use]
    pub fn drops_of_vip(&self, vip: u32) -> Counters {
        lock(&self.vip_drops).get(&vip).copied().unwrap_or_default()
    }

    /// Forgets what was counted of a VIP.
    pub fn reset_vip(&self, vip: u32) {
        lock(&self.vip_traffic).remove(&vip);
        lock(&self.vip_drops).remove(&vip);
    }

    /// Traffic of an instance.
    #[must_use]
    pub fn traffic_of_instance(&self, index: u16) -> Traffic {
        lock(&self.instance_traffic)
            .get(&index)
            .copied()
            .unwrap_or_default()
    }
}

impl Tables for MemoryTables {
    type Flow = Arc<MemoryFlow>;

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

    fn recent_vip(&self, key: &FlowKey, now: u64) -> Option<Vip> {
        let place = settled::place(&key.destination, key.destination_port);
        let copy = lock(&self.recent_vips).get(&place).copied()?;
        (copy.holds(key, self.vip_epoch(), now)).then_some(copy.vip)
    }

    fn keep_vip(&self, key: &VipKey, vip: &Vip, epoch: u64, now: u64) {
        let place = settled::place(&key.address, key.port);
        let copy = RecentVip::new(key, vip, epoch, now);
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
        openings.push_back(*key);
        let is_full = openings.len() > most_opening(self.capacity as u32, NAT_PORTS) as usize;
        let oldest = is_full.then(|| openings.pop_front()).flatten();
        *key = oldest.unwrap_or_default();
    }

    fn epoch(&self, place: u32) -> u64 {
        debug_assert!(place < RECENT);
        lock(&self.epochs).get(&place).copied().unwrap_or(0)
    }

    fn recent_flow(&self, key: &FlowKey, moment: Moment) -> Option<Arc<MemoryFlow>> {
        let recent = lock(&self.recent).get(&moment.place).copied()?;
        recent
            .holds(key, moment)
            .then(|| MemoryFlow::new(&recent.entry))
    }

    fn keep_recent(&self, key: &FlowKey, moment: Moment, flow: &Arc<MemoryFlow>, until: u64) {
        let mut places = lock(&self.recent);
        let recent = places.entry(moment.place).or_default();
        if recent.is_over(moment) {
            *recent = Recent {
                key: *key,
                entry: flow.entry(),
                until,
                epoch: moment.epoch,
            };
        }
    }

    fn without_entry(&self, entry: &FlowEntry) -> Arc<MemoryFlow> {
        MemoryFlow::new(entry)
    }

    fn remove_flow(&self, key: &FlowKey) {
        lock(&self.flows).remove(key);
        *lock(&self.epochs).entry(recent::place(key)).or_default() += 1;
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

    fn instance_hop(&self, index: u16) -> Option<NextHop> {
        let hops = lock(&self.instance_hops);
        (u32::from(index) < MAX_INSTANCES).then(|| hops.get(&index).copied().unwrap_or_default())
    }

    fn cache_instance_hop(&self, index: u16, hop: &NextHop) {
        lock(&self.instance_hops).insert(index, *hop);
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
