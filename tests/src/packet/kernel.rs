//! The real program: loaded, with its maps at hand, run by `BPF_PROG_TEST_RUN`.

use std::collections::{BTreeMap, btree_map::Entry};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{
    Array, ArrayOfMaps, HashMap, InnerMap, IterableMap as _, Map, MapData, PerCpuArray,
    ProgramArray, RingBuf,
};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, util};
use lb_common::{
    ACL_ON, Acl, Address, AddressFilter, Affinity, Arrivals, ClientKey, ClientPin, CookieKeys,
    Counters, Drops, FlowEntry, FlowEvent, FlowKey, Follower, Followers, InstanceEntry,
    MAX_INSTANCES, PathMtu, PortRanges, PrefixKey, SOURCE_SETS, Settings, SourceSet, Subinterface,
    Table, Traffic, Vip, VipKey, names,
};
use lb_ebpf::memory::CLIENTS;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::hook::Hook;
use crate::daemon::mount_bpf;

/// What the program has made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program has answered.
    pub action: u32,
    /// Whether that sends the frame somewhere.
    pub is_sent: bool,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Sizes of maps that are not fixed.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Elements of the connection table.
    pub connections: u32,
    /// Tables of slots.
    pub tables: u32,
}

/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`.
const NO_PREALLOC: u32 = 1;

/// Fewer elements than this are a test's own idea.
const REAL: u32 = 1 << 16;

impl Sizes {
    /// Places of each processor for connections that are opening: as many as the daemon gives it, its share
    /// of those of all that are online. In a table that is small for a test's sake it has all of them, so
    /// that what the test sees does not depend on the machine.
    #[must_use]
    pub fn opening_places(self) -> u32 {
        let all = lb_common::most_opening(self.connections, 22_528);
        let sharing = if self.connections < REAL { 1 } else { online() };
        (all / sharing).max(1)
    }
}

/// Processors that are online.
#[must_use]
pub fn online() -> u32 {
    util::online_cpus().map_or(1, |list| list.len().max(1) as u32)
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            connections: 1 << 16,
            tables: 4,
        }
    }
}

/// The loaded program.
pub struct Kernel {
    hook: Hook,
    object: Ebpf,
    tables: BTreeMap<u32, Array<MapData, Table>>,
    events: RingBuf<MapData>,
    acl: Option<Array<MapData, Acl>>,
    clients: Option<HashMap<MapData, ClientKey, ClientPin>>,
    paths: Option<HashMap<MapData, Address, PathMtu>>,
    has_sources: bool,
    /// Empty as soon as nobody holds it.
    _stages: ProgramArray<MapData>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

/// Keeps the calling thread on one processor: a test run happens where its caller is, and maps
/// per processor are compared afterwards.
///
/// # Errors
/// When the processor is not there.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one processor")
}

impl Kernel {
    /// Loads all programs from the object that `cargo xtask build` makes for a hook.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn load(hook: Hook, sizes: Sizes) -> Result<Self> {
        Self::load_over(hook, sizes, EbpfLoader::new())
    }

    /// As [`Self::load`], with a connection table that has memory for all of its elements.
    ///
    /// # Errors
    /// As [`Self::load`], and when there is no such memory.
    pub fn load_preallocated(hook: Hook, sizes: Sizes) -> Result<Self> {
        mount_bpf()?;
        let pin = PathBuf::from(format!("/sys/fs/bpf/lb-test-connections-{}", process::id()));
        let table = HashMap::<MapData, FlowKey, FlowEntry>::create(sizes.connections, 0)?;
        table.map().pin(&pin)?;
        let mut loader = EbpfLoader::new();
        loader.map_pin_path(names::MAP_CONNECTIONS, &pin);
        let loaded = Self::load_over(hook, sizes, loader);
        fs::remove_file(&pin)?;
        loaded
    }

    /// As [`Self::load`], with a former connection table that is pinned at `former` and has its fields at
    /// these places.
    ///
    /// # Errors
    /// As [`Self::load`], and when there is no such table.
    pub fn load_after(hook: Hook, sizes: Sizes, former: &Path, places: &[u8]) -> Result<Self> {
        ensure!(former.exists(), "nothing is pinned at {}", former.display());
        let mut loader = EbpfLoader::new();
        loader
            .map_pin_path(names::MAP_FORMER, former)
            .override_global(names::HAS_FORMER, &1_u8, true)
            .override_global(names::FORMER_PLACES, places, true);
        Self::load_over(hook, sizes, loader)
    }

    fn load_over(hook: Hook, sizes: Sizes, mut loader: EbpfLoader<'_>) -> Result<Self> {
        let path = hook.object()?;
        let bytes =
            fs::read(&path).with_context(|| format!("expected an object at {}", path.display()))?;
        let mut object = loader
            .map_max_entries(names::MAP_CONNECTIONS, sizes.connections)
            .map_max_entries(names::MAP_TABLES, sizes.tables)
            .map_max_entries(names::MAP_OPENINGS, sizes.opening_places())
            .load(&bytes)
            .with_context(|| format!("cannot load {}", path.display()))?;
        let stages = hook.load(&mut object)?;
        if hook == Hook::Xdp {
            let program = object.program_mut(names::PROGRAM_PASS);
            <&mut Xdp>::try_from(program.context("no program that passes all")?)?.load()?;
        }
        let events = object.take_map(names::MAP_FLOW_EVENTS);
        let events = RingBuf::try_from(events.context("no ring of flow events")?)?;
        Ok(Self {
            hook,
            object,
            tables: BTreeMap::new(),
            events,
            acl: None,
            clients: None,
            paths: None,
            has_sources: false,
            _stages: stages,
        })
    }

    /// Pins a map.
    ///
    /// # Errors
    /// When there is none of that name, or no such place.
    pub fn pin(&self, map: &str, path: &Path) -> Result<()> {
        let Some(Map::HashMap(found)) = self.object.map(map) else {
            anyhow::bail!("no hash map {map}");
        };
        Ok(found.pin(path)?)
    }

    /// Where the programs are called.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        self.hook
    }

    /// One of the programs of XDP.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.object.program_mut(name);
        Ok(program
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }

    /// Runs a frame through the balancing program, as if it had come in by `interface` (of the calling
    /// thread's namespace, which must have an XDP program attached for those of XDP).
    ///
    /// # Errors
    /// When the kernel cannot.
    pub fn run(&self, frame: &[u8], interface: u32) -> Result<Outcome> {
        let program = self.object.program(self.hook.program());
        let program = program.context("no program")?;
        self.hook.run(program, frame, interface)
    }

    /// Runs a frame `repeat` times over and returns the mean time of a run, as the kernel measures
    /// it. Each run finds the frame as the last has left it.
    ///
    /// # Errors
    /// When the kernel cannot.
    pub fn time(
        &mut self,
        name: &str,
        frame: &[u8],
        interface: u32,
        repeat: u32,
    ) -> Result<Duration> {
        let context = self.hook.context(frame.len(), interface);
        let result = self.program(name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(result.duration)
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        let map = self.object.map_mut(name);
        Ok(map.with_context(|| format!("no map {name}"))?.try_into()?)
    }

    fn per_cpu<T: aya::Pod>(&self, name: &str) -> Result<PerCpuArray<&MapData, T>> {
        let map = self.object.map(name);
        Ok(map.with_context(|| format!("no map {name}"))?.try_into()?)
    }

    fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        let map = self.object.map_mut(name);
        Ok(map.with_context(|| format!("no map {name}"))?.try_into()?)
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<()> {
        Ok(self
            .array::<Settings>(names::MAP_SETTINGS)?
            .set(0, settings, 0)?)
    }

    /// Inserts or replaces a VIP.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<()> {
        self.hash::<VipKey, Vip>(names::MAP_VIPS)?
            .insert(key, vip, 0)?;
        self.move_vip_epoch()
    }

    /// Makes the epoch of VIPs and instances what it is while the daemon changes one, until it is told otherwise.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_changing(&mut self, is_changing: bool) -> Result<()> {
        let mut epoch = self.array::<u64>(names::MAP_VIP_EPOCH)?;
        let past = epoch.get(&0, 0)?;
        Ok(epoch.set(0, past / 2 * 2 + if is_changing { 1 } else { 2 }, 0)?)
    }

    fn move_vip_epoch(&mut self) -> Result<()> {
        let epoch = self.array::<u64>(names::MAP_VIP_EPOCH)?.get(&0, 0)?;
        if epoch.is_multiple_of(2) {
            self.set_changing(false)?;
        }
        Ok(())
    }

    /// Says that an interface is a VLAN of another one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_subinterface(&mut self, index: u32, of: &Subinterface) -> Result<()> {
        Ok(self
            .hash::<u32, Subinterface>(names::MAP_SUBINTERFACES)?
            .insert(index, of, 0)?)
    }

    /// Writes the filter in front of connections and VIPs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_address_filter(&mut self, filter: &AddressFilter) -> Result<()> {
        Ok(self
            .array::<AddressFilter>(names::MAP_ADDRESS_FILTER)?
            .set(0, filter, 0)?)
    }

    /// Notes that VIPs have this address, some of them several ports.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_vip_address(&mut self, address: Address, ranges: &PortRanges) -> Result<()> {
        self.hash::<Address, PortRanges>(names::MAP_VIP_ADDRESSES)?
            .insert(address, ranges, 0)?;
        self.move_vip_epoch()
    }

    /// Notes that no VIP has this address any more.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_vip_address(&mut self, address: &Address) -> Result<()> {
        Ok(self
            .hash::<Address, PortRanges>(names::MAP_VIP_ADDRESSES)?
            .remove(address)?)
    }

    /// Removes a VIP.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_vip(&mut self, key: &VipKey) -> Result<()> {
        self.hash::<VipKey, Vip>(names::MAP_VIPS)?.remove(key)?;
        self.move_vip_epoch()
    }

    /// Writes a table.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn set_table(&mut self, index: u32, table: &Table) -> Result<()> {
        let element = match self.tables.entry(index) {
            Entry::Occupied(element) => element.into_mut(),
            Entry::Vacant(place) => {
                let element = Array::create(1, 0)?;
                let array = self.object.map_mut(names::MAP_TABLES);
                let mut array: ArrayOfMaps<_, Array<MapData, Table>> =
                    array.context("no map of tables")?.try_into()?;
                array.set(index, &element, 0)?;
                place.insert(element)
            }
        };
        Ok(element.set(0, table, 0)?)
    }

    /// Sets how fast new connections of a VIP may begin.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_arrivals(&mut self, vip: u32, limit: &Arrivals) -> Result<()> {
        if !self.has_sources && limit.source_interval != 0 {
            let sources = Array::<MapData, SourceSet>::create(SOURCE_SETS, 0)?;
            give(&mut self.object, names::MAP_SOURCES, &sources)?;
            self.has_sources = true;
        }
        Ok(self
            .array::<Arrivals>(names::MAP_ARRIVALS)?
            .set(vip, limit, 0)?)
    }

    /// Sets how the clients of a VIP stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_affinity(&mut self, vip: u32, affinity: &Affinity) -> Result<()> {
        if self.clients.is_none() && affinity.ttl != 0 {
            let map = HashMap::create(CLIENTS as u32, NO_PREALLOC)?;
            give(&mut self.object, names::MAP_CLIENTS, &map)?;
            self.clients = Some(map);
        }
        Ok(self
            .array::<Affinity>(names::MAP_AFFINITIES)?
            .set(vip, affinity, 0)?)
    }

    /// Says that an instance is behind a tunnel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_path(&mut self, instance: &Address) -> Result<()> {
        let mut paths = match self.paths.take() {
            Some(paths) => paths,
            None => {
                let map = HashMap::create(MAX_INSTANCES, NO_PREALLOC)?;
                give(&mut self.object, names::MAP_PATH_MTUS, &map)?;
                map
            }
        };
        paths.insert(instance, PathMtu::default(), 0)?;
        self.paths = Some(paths);
        Ok(())
    }

    /// Sets the service of an instance whose clients stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_service_of(&mut self, index: u16, service: u64) -> Result<()> {
        Ok(self
            .array::<u64>(names::MAP_SERVICES)?
            .set(index.into(), service, 0)?)
    }

    /// The clients whose instance is remembered.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn clients(&self) -> Result<Vec<(ClientKey, ClientPin)>> {
        let clients = self.clients.iter().flat_map(|clients| clients.iter());
        clients.map(|client| Ok(client?)).collect()
    }

    /// Sets the keys of SYN cookies.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_cookie_keys(&mut self, keys: &CookieKeys) -> Result<()> {
        Ok(self
            .array::<CookieKeys>(names::MAP_COOKIE_KEYS)?
            .set(0, keys, 0)?)
    }

    /// Sets how many live connections an instance may have.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_ceiling(&mut self, index: u16, most: u64) -> Result<()> {
        Ok(self
            .array::<u64>(names::MAP_CEILINGS)?
            .set(u32::from(index), most + 1, 0)?)
    }

    /// Inserts or replaces a rule of the source ACL, or with `None` removes it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_prefix(&mut self, key: &PrefixKey, rule: Option<u32>) -> Result<()> {
        let map = self.object.map_mut(names::MAP_PREFIXES);
        let map = map.context("no trie of prefixes")?;
        let mut trie: LpmTrie<&mut MapData, [u32; 4], u32> = map.try_into()?;
        let key = Key::new(key.length, key.address);
        match rule {
            Some(rule) => trie.insert(&key, rule, 0)?,
            None => trie.remove(&key)?,
        }
        Ok(())
    }

    /// Writes what is known of all rules together.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_acl(&mut self, acl: &Acl) -> Result<()> {
        // As the daemon does: there is none before there are rules.
        if self.acl.is_none() && acl.flags & ACL_ON != 0 {
            let map = Array::create(1, 0)?;
            give(&mut self.object, names::MAP_ACL, &map)?;
            self.acl = Some(map);
        }
        match &mut self.acl {
            Some(map) => Ok(map.set(0, acl, 0)?),
            None => Ok(()),
        }
    }

    /// Writes an instance.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn set_instance(&mut self, index: u16, instance: &InstanceEntry) -> Result<()> {
        ensure!(u32::from(index) < MAX_INSTANCES, "no place for {index}");
        self.array::<InstanceEntry>(names::MAP_INSTANCES)?
            .set(u32::from(index), instance, 0)?;
        self.move_vip_epoch()
    }

    /// Says what a follower wants to see.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn set_follower(&mut self, place: u32, follower: &Follower) -> Result<()> {
        let mut map = self.array::<Followers>(names::MAP_FOLLOWERS)?;
        let mut followers = map.get(&0, 0)?;
        let told = followers.places.get_mut(place as usize);
        *told.with_context(|| format!("no place {place}"))? = *follower;
        Ok(map.set(0, followers, 0)?)
    }

    /// Says until when packets are recorded.
    ///
    /// # Errors
    /// When the variable cannot be written.
    pub fn set_followed(&mut self, until: u64) -> Result<()> {
        Ok(self.array::<u64>(names::MAP_FOLLOWED)?.set(0, until, 0)?)
    }

    /// Until when packets are recorded.
    ///
    /// # Errors
    /// When the variable cannot be read.
    pub fn followed(&mut self) -> Result<u64> {
        Ok(self.array::<u64>(names::MAP_FOLLOWED)?.get(&0, 0)?)
    }

    /// The oldest event that was not read so far.
    pub fn event(&mut self) -> Option<FlowEvent> {
        let entry = self.events.next()?;
        FlowEvent::read(&entry)
    }

    /// All counters of all processors.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let values = self.per_cpu::<Counters>(names::MAP_COUNTERS)?.get(&0, 0)?;
        let mut sum = Counters::default();
        for value in values.iter() {
            sum.add(value);
        }
        Ok(sum)
    }

    /// The traffic of a VIP ([`names::MAP_VIP_TRAFFIC`]) or an instance
    /// ([`names::MAP_INSTANCE_TRAFFIC`]).
    ///
    /// # Errors
    /// When there is no such element.
    pub fn traffic(&self, map: &str, index: u32) -> Result<Traffic> {
        let mut sum = Traffic::default();
        for value in self.per_cpu::<Traffic>(map)?.get(&index, 0)?.iter() {
            sum.packets_in += value.packets_in;
            sum.bytes_in += value.bytes_in;
            sum.packets_out += value.packets_out;
            sum.bytes_out += value.bytes_out;
            sum.connections += value.connections;
            sum.dropped += value.dropped;
        }
        Ok(sum)
    }

    /// The packets of a VIP that were not forwarded, by reason.
    ///
    /// # Errors
    /// When there is no such element.
    pub fn drops(&self, vip: u32) -> Result<Counters> {
        let mut sum = Counters::default();
        let drops = self.per_cpu::<Drops>(names::MAP_VIP_DROPS)?.get(&vip, 0)?;
        drops.iter().for_each(|cpu| cpu.add_to(&mut sum));
        Ok(sum)
    }

    /// Live connections of an instance as the program has counted them.
    ///
    /// # Errors
    /// When there is no such element.
    pub fn live(&mut self, index: u16) -> Result<u64> {
        Ok(self
            .array::<u64>(names::MAP_LIVE)?
            .get(&u32::from(index), 0)?)
    }

    /// All entries of the connection table.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&mut self) -> Result<Vec<(FlowKey, FlowEntry)>> {
        let map = self.hash::<FlowKey, FlowEntry>(names::MAP_CONNECTIONS)?;
        map.iter().map(|item| Ok(item?)).collect()
    }
}

/// Gives the program a map that it finds through an array of one.
fn give<M: InnerMap>(object: &mut Ebpf, name: &str, map: &M) -> Result<()> {
    let array = object.map_mut(name);
    let array = array.with_context(|| format!("no map {name}"))?;
    let mut array: ArrayOfMaps<_, M> = array.try_into()?;
    Ok(array.set(0, map, 0)?)
}
