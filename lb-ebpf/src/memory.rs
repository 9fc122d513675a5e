//! The packet path without a kernel: packets in byte slices, maps in the standard library.
//!
//! [`MemoryTables`] behaves as the BPF maps do where it matters: index 0 of the instances is
//! nobody, connection inserts refuse existing keys and a full table, an entry that was removed
//! while somebody holds it stays readable. Clock and random numbers are given from outside. It is
//! safe to share between threads; each operation is atomic by itself, as in the kernel.

mod flow;
mod frame;
mod host;
mod prefix;
mod tables;

pub use flow::MemoryFlow;
pub use frame::Frame;
pub use host::MemoryHost;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, ClientHop, ClientKey, ClientPin, CookieKeys,
    Counters, FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, NextHop, PathMtu, PortRanges,
    PrefixKey, Settings, SourceSet, Subinterface, Table, Traffic, Vip, VipKey, most_opening,
};

use crate::{
    Flow as _, Route,
    acl::Judged,
    budget::Budget,
    fragment::{FragmentKey, Note},
    recent::{Mark, Recent},
    settled::RecentVip,
};

/// Source ports for `nat` that make the limit of connections that are opening, whatever the settings say:
/// as by default.
const NAT_PORTS: u32 = 22_528;

/// Clients whose instance may be remembered: few, so that tests can find the room filled.
pub const CLIENTS: usize = 16;

/// Keys in the order of their SYNs, as a ring.
#[derive(Debug, Default)]
struct Openings {
    keys: Vec<FlowKey>,
    /// The place that is written next.
    next: usize,
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
    recent: Mutex<HashMap<u32, (Mark, Recent)>>,
    epochs: Mutex<HashMap<u32, u64>>,
    openings: Mutex<Openings>,
    opening_places: u32,
    capacity: usize,
    turns: Mutex<HashMap<u32, u32>>,
    random: Mutex<u64>,
    live: Vec<AtomicU64>,
    expired: Vec<AtomicU64>,
    ceilings: Vec<AtomicU64>,
    instance_hops: Mutex<HashMap<u16, NextHop>>,
    client_hops: Mutex<HashMap<u32, ClientHop>>,
    path_mtus: Mutex<HashMap<Address, PathMtu>>,
    subinterfaces: Mutex<HashMap<u32, Subinterface>>,
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
            vip_epoch: AtomicU64::new(2),
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
            opening_places: most_opening(capacity as u32, NAT_PORTS),
            capacity,
            turns: Mutex::default(),
            random: Mutex::new(seed),
            live: zeros(),
            expired: zeros(),
            ceilings: zeros(),
            instance_hops: Mutex::default(),
            client_hops: Mutex::default(),
            path_mtus: Mutex::default(),
            subinterfaces: Mutex::default(),
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

    /// With so many places for connections that are opening, instead of those of all processors
    /// together.
    #[must_use]
    pub fn with_opening_places(self, opening_places: u32) -> Self {
        Self {
            opening_places,
            ..self
        }
    }

    /// The place in the ring of connections that are opening that is `next`, once round.
    const fn opening_at(&self, next: usize) -> usize {
        let most = self.opening_places as usize;
        if next < most { next } else { 0 }
    }

    /// Writes the settings.
    pub fn set_settings(&self, settings: Settings) {
        *lock(&self.settings) = Some(settings);
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_now(&self, now: u64) {
        self.now.store(now, Relaxed);
    }

    /// Changes a VIP or an instance: all that `write` does is one change for whoever keeps copies of them.
    fn change<T>(&self, write: impl FnOnce() -> T) {
        self.vip_epoch.fetch_add(1, Relaxed);
        write();
        self.vip_epoch.fetch_add(1, Relaxed);
    }

    /// Inserts or replaces a VIP.
    pub fn set_vip(&self, key: VipKey, vip: Vip) {
        self.change(|| lock(&self.vips).insert(key, vip));
    }

    /// Removes a VIP.
    pub fn remove_vip(&self, key: &VipKey) {
        self.change(|| lock(&self.vips).remove(key));
    }

    /// Notes that VIPs have this address, some of them several ports.
    pub fn set_vip_address(&self, address: Address, ranges: PortRanges) {
        self.change(|| lock(&self.vip_addresses).insert(address, ranges));
    }

    /// Notes that no VIP has this address any more.
    pub fn remove_vip_address(&self, address: &Address) {
        self.change(|| lock(&self.vip_addresses).remove(address));
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
        self.change(|| {
            if let Some(place) = lock(&self.instances).get_mut(index as usize) {
                *place = instance;
            }
        });
    }

    /// Sets what the route table says of `destination`.
    pub fn set_route(&self, destination: Address, route: Route) {
        lock(&self.routes).insert(destination, route);
    }

    /// Sets what is known of an interface that is a VLAN; `None`: it is none.
    pub fn set_subinterface(&self, index: u32, of: Option<Subinterface>) {
        let mut known = lock(&self.subinterfaces);
        match of {
            Some(of) => known.insert(index, of),
            None => known.remove(&index),
        };
    }

    /// Instances behind tunnels, and what is noted of the paths to them.
    #[must_use]
    pub fn path_mtus(&self) -> Vec<(Address, PathMtu)> {
        let paths = lock(&self.path_mtus);
        paths
            .iter()
            .map(|(address, path)| (*address, *path))
            .collect()
    }

    /// Sets what is noted of the path to an instance behind a tunnel; `None`: it is none.
    pub fn set_path_mtu(&self, instance: &Address, path: Option<PathMtu>) {
        let mut paths = lock(&self.path_mtus);
        match path {
            Some(path) => paths.insert(*instance, path),
            None => paths.remove(instance),
        };
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
