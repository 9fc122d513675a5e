//! The maps of the program, typed, and what shape each must have.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError, MapInfo, PerCpuArray},
};
use lb_common::{
    Address, AddressFilter, Arrivals, CLIENT_HOPS, ClientHop, CookieKeys, Counters, Drops,
    FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, MAX_SUBINTERFACES, MAX_VIPS, NextHop,
    PortRanges, SOURCE_SETS, Settings, SourceSet, Subinterface, Traffic, Vip, VipKey, names,
};

use super::{
    epoch::Epoch,
    former::{Foreign, Former, layout_in},
    layout::Layouts,
    on_demand::OnDemand,
    processors, still, sum, syscall,
    tables::TableMaps,
};
use crate::{
    l4::{L4Error, datapath::Limits},
    model::DatapathSpec,
};

/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`.
pub(super) const NO_PREALLOC: u32 = 1;

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// Key size, value size and number of entries of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) entries: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            key,
            value,
            entries,
        } = self;
        write!(f, "{entries} entries of {key} + {value} bytes")
    }
}

pub(super) const fn shape<K, V>(entries: u32) -> Shape {
    Shape {
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

/// The shape that the map `name` must have.
fn expected(name: &str, spec: &DatapathSpec) -> Shape {
    match name {
        names::MAP_SETTINGS => shape::<u32, Settings>(1),
        names::MAP_INSTANCES => shape::<u32, InstanceEntry>(MAX_INSTANCES),
        // One more than asked for: the first stays empty.
        names::MAP_TABLES => shape::<u32, u32>(tables(spec)),
        names::MAP_VIP_EPOCH => shape::<u32, u64>(1),
        names::MAP_VIPS => shape::<VipKey, Vip>(MAX_VIPS),
        names::MAP_CONNECTIONS => shape::<FlowKey, FlowEntry>(spec.max_connections),
        names::MAP_NEXT_HOPS => shape::<u32, NextHop>(MAX_INSTANCES),
        names::MAP_COUNTERS => shape::<u32, Counters>(1),
        names::MAP_VIP_DROPS => shape::<u32, Drops>(MAX_VIPS),
        names::MAP_VIP_TRAFFIC => shape::<u32, Traffic>(MAX_VIPS),
        names::MAP_INSTANCE_TRAFFIC => shape::<u32, Traffic>(MAX_INSTANCES),
        names::MAP_CLIENT_HOPS => shape::<u32, ClientHop>(CLIENT_HOPS),
        names::MAP_LIVE | names::MAP_EXPIRED => shape::<u32, u64>(MAX_INSTANCES),
        names::MAP_TURNS => shape::<u32, u32>(MAX_VIPS),
        _ => shape::<(), ()>(0),
    }
}

/// Tables in the kernel for `spec`, the empty one included.
pub(super) const fn tables(spec: &DatapathSpec) -> u32 {
    spec.max_tables.saturating_add(1)
}

pub(super) fn found(info: &MapInfo) -> Shape {
    Shape {
        key: info.key_size() as usize,
        value: info.value_size() as usize,
        entries: info.max_entries(),
    }
}

/// Whether the pinned maps in `folder` are all there, have our layout and the shapes that `spec` asks for,
/// and take their memory when it says.
pub(super) fn fits(folder: &Path, spec: &DatapathSpec) -> bool {
    let has_our_layout = layout_in(folder).is_ok_and(|layouts| layouts == Layouts::ours());
    has_our_layout
        && names::PINNED_MAPS.iter().all(|name| {
            MapInfo::from_pin(folder.join(name)).is_ok_and(|info| {
                let is_as_asked = match *name {
                    names::MAP_CONNECTIONS => is_preallocated(&info) == spec.preallocate,
                    names::MAP_VIP_EPOCH => info.map_flags() & MMAPABLE != 0,
                    _ => true,
                };
                found(&info) == expected(name, spec) && is_as_asked
            })
        })
}

/// The epoch of VIPs and instances, in this process's memory.
fn epoch(array: Array<MapData, u64>) -> Result<Epoch, L4Error> {
    Epoch::of(array).map_err(|error| L4Error::Mismatch {
        map: names::MAP_VIP_EPOCH,
        expected: "an array that can be mapped".to_owned(),
        found: error.to_string(),
    })
}

const fn is_preallocated(info: &MapInfo) -> bool {
    info.map_flags() & NO_PREALLOC == 0
}

/// Makes a connection table that has memory for all of its entries, where the loader will find it: what the
/// object describes is one that takes memory as they come.
pub(super) fn preallocate(folder: &Path, spec: &DatapathSpec) -> Result<(), L4Error> {
    let name = names::MAP_CONNECTIONS;
    let connections = spec.max_connections;
    // A hundred million bytes take the kernel a quarter of a second.
    tracing::info!(connections, "taking memory for all connections");
    let make = || -> Result<(), MapError> {
        let table = HashMap::<MapData, FlowKey, FlowEntry>::create(connections, 0)?;
        let pinned = table.map().pin(folder.join(name));
        pinned.map_err(|error| MapError::PinError {
            name: Some(name.to_owned()),
            error,
        })
    };
    make().map_err(|error| L4Error::Load {
        why: format!(
            "no memory for {connections} connections could be taken: {}",
            super::chain(&error)
        ),
    })
}

/// Takes a map that is one program's alone, and therefore not pinned, out of that program.
pub(super) fn take_own<T: TryFrom<Map, Error = MapError>>(
    program: &mut Ebpf,
    name: &'static str,
    expected: Shape,
) -> Result<T, L4Error> {
    let mismatch = |found: String| L4Error::Mismatch {
        map: name,
        expected: expected.to_string(),
        found,
    };
    let map = program
        .take_map(name)
        .ok_or_else(|| mismatch("none".to_owned()))?;
    T::try_from(map).map_err(|error| mismatch(error.to_string()))
}

/// The addresses of VIPs. Not pinned: it is one program's alone.
pub(super) struct AddressMap(HashMap<MapData, Address, PortRanges>);

impl std::fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressMap").finish_non_exhaustive()
    }
}

impl AddressMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<Address, PortRanges>(MAX_VIPS);
        take_own(program, names::MAP_VIP_ADDRESSES, shape).map(Self)
    }

    /// Adds an address, or replaces its ranges.
    pub(super) fn put(&mut self, address: &Address, ranges: &PortRanges) -> Result<(), MapError> {
        self.0.insert(address, ranges, 0)
    }

    /// Removes an address.
    pub(super) fn remove(&mut self, address: &Address) -> Result<(), MapError> {
        self.0.remove(address)
    }
}

/// Interfaces that are VLANs of others. Not pinned: it is one program's alone.
pub(super) struct VlanMap(HashMap<MapData, u32, Subinterface>);

impl std::fmt::Debug for VlanMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VlanMap").finish_non_exhaustive()
    }
}

impl VlanMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<u32, Subinterface>(MAX_SUBINTERFACES);
        take_own(program, names::MAP_SUBINTERFACES, shape).map(Self)
    }

    /// Adds an interface, or replaces what is said of it.
    pub(super) fn put(&mut self, index: u32, of: &Subinterface) -> Result<(), MapError> {
        self.0.insert(index, of, 0)
    }

    /// Removes an interface.
    pub(super) fn remove(&mut self, index: u32) -> Result<(), MapError> {
        self.0.remove(&index)
    }
}

/// How fast new connections of VIPs may begin, and the buckets of their sources. Not pinned: they are one
/// program's alone.
pub(super) struct ArrivalMaps {
    limits: Array<MapData, Arrivals>,
    sources: OnDemand<Array<MapData, SourceSet>>,
}

impl std::fmt::Debug for ArrivalMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrivalMaps").finish_non_exhaustive()
    }
}

impl ArrivalMaps {
    /// Takes the maps out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<u32, Arrivals>(MAX_VIPS);
        Ok(Self {
            limits: take_own(program, names::MAP_ARRIVALS, shape)?,
            sources: OnDemand::take(program, names::MAP_SOURCES)?,
        })
    }

    /// Sets the limit of a VIP.
    pub(super) fn set(&mut self, vip: u32, limit: &Arrivals) -> Result<(), MapError> {
        if limit.source_interval != 0 {
            self.sources.need(sources)?;
        }
        self.limits.set(vip, limit, 0)
    }
}

/// Buckets of sources, all of them full.
pub(super) fn sources() -> Result<Array<MapData, SourceSet>, MapError> {
    Array::create(SOURCE_SETS, 0)
}

/// Which addresses packets for lb have. Not pinned: it is one program's alone.
pub(super) struct FilterMap(Array<MapData, AddressFilter>);

impl std::fmt::Debug for FilterMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterMap").finish_non_exhaustive()
    }
}

impl FilterMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<u32, AddressFilter>(1);
        take_own(program, names::MAP_ADDRESS_FILTER, shape).map(Self)
    }

    /// Replaces the filter.
    pub(super) fn set(&mut self, filter: &AddressFilter) -> Result<(), MapError> {
        self.0.set(0, filter, 0)
    }
}

/// The keys of SYN cookies. Pinned beside the maps that outlive the daemon, but none of those: a set of
/// maps without it is as good as any, for a program that makes no cookies.
pub(super) struct CookieMap(Array<MapData, CookieKeys>);

impl std::fmt::Debug for CookieMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieMap").finish_non_exhaustive()
    }
}

impl CookieMap {
    /// Takes the map out of a loaded program. Where it has no keys those of `former` are taken over, if
    /// there are any: cookies that are under way are to be good.
    pub(super) fn take(program: &mut Ebpf, former: Option<&Former>) -> Result<Self, L4Error> {
        let shape = shape::<u32, CookieKeys>(1);
        let mut map: Array<MapData, CookieKeys> = take_own(program, names::MAP_COOKIE_KEYS, shape)?;
        let has_keys = map.get(&0, 0).is_ok_and(|keys| keys.is_set());
        let former = former.filter(|_| !has_keys).and_then(|former| {
            let name = names::MAP_COOKIE_KEYS;
            let keys = Foreign::<u32, CookieKeys>::open(&former.path, name, &former.layouts);
            keys.ok()?.get(0).ok()?.filter(CookieKeys::is_set)
        });
        if let Some(keys) = former
            && let Err(error) = map.set(0, keys, 0)
        {
            tracing::warn!(%error, "SYN cookies that are under way will not be accepted");
        }
        Ok(Self(map))
    }

    /// The keys.
    pub(super) fn get(&self) -> Result<CookieKeys, MapError> {
        self.0.get(&0, 0)
    }

    /// Sets the keys.
    pub(super) fn set(&mut self, keys: &CookieKeys) -> Result<(), MapError> {
        self.0.set(0, keys, 0)
    }
}

/// How many connections instances may have. Not pinned: it is one program's alone.
pub(super) struct CeilingMap(Array<MapData, u64>);

impl std::fmt::Debug for CeilingMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CeilingMap").finish_non_exhaustive()
    }
}

impl CeilingMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<u32, u64>(MAX_INSTANCES);
        take_own(program, names::MAP_CEILINGS, shape).map(Self)
    }

    /// Sets an element.
    pub(super) fn set(&mut self, index: u32, ceiling: u64) -> Result<(), MapError> {
        self.0.set(index, ceiling, 0)
    }
}

/// The maps that outlive the daemon.
pub(super) struct Maps {
    pub(super) settings: Array<MapData, Settings>,
    pub(super) instances: Array<MapData, InstanceEntry>,
    pub(super) tables: TableMaps,
    pub(super) vips: HashMap<MapData, VipKey, Vip>,
    pub(super) vip_epoch: Epoch,
    pub(super) connections: HashMap<MapData, FlowKey, FlowEntry>,
    pub(super) counters: PerCpuArray<MapData, Counters>,
    pub(super) vip_traffic: PerCpuArray<MapData, Traffic>,
    pub(super) vip_drops: PerCpuArray<MapData, Drops>,
    pub(super) instance_traffic: PerCpuArray<MapData, Traffic>,
    pub(super) live: Array<MapData, u64>,
    pub(super) expired: Array<MapData, u64>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps")
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

impl Maps {
    /// Takes the maps out of a loaded program, after a look at their shapes.
    pub(super) fn take(
        program: &mut Ebpf,
        spec: &DatapathSpec,
        folder: &Path,
    ) -> Result<Self, L4Error> {
        for name in names::PINNED_MAPS {
            let expected = expected(name, spec);
            let mismatch = |found: String| L4Error::Mismatch {
                map: name,
                expected: expected.to_string(),
                found,
            };
            let map = program
                .map(name)
                .ok_or_else(|| mismatch("none".to_owned()))?;
            let info = data(map).and_then(|data| data.info().ok());
            match info.map(|info| found(&info)) {
                Some(found) if found == expected => {}
                Some(found) => return Err(mismatch(found.to_string())),
                None => return Err(mismatch("a map of another type".to_owned())),
            }
        }
        let mut get = |name: &'static str| {
            program.take_map(name).ok_or(MapError::InvalidName {
                name: name.to_owned(),
            })
        };
        fn mismatch(map: &'static str) -> impl Fn(MapError) -> L4Error {
            move |error| L4Error::Mismatch {
                map,
                expected: "a map of this daemon's type".to_owned(),
                found: error.to_string(),
            }
        }
        fn typed<T: TryFrom<Map, Error = MapError>>(
            name: &'static str,
            get: &mut impl FnMut(&'static str) -> Result<Map, MapError>,
        ) -> Result<T, L4Error> {
            get(name).and_then(T::try_from).map_err(mismatch(name))
        }
        let get = &mut get;
        let tables = get(names::MAP_TABLES).map_err(mismatch(names::MAP_TABLES))?;
        let vip_epoch = epoch(typed(names::MAP_VIP_EPOCH, get)?)?;
        // Whoever was here before may have died between a change and this.
        vip_epoch.move_on();
        Ok(Self {
            settings: typed(names::MAP_SETTINGS, get)?,
            instances: typed(names::MAP_INSTANCES, get)?,
            tables: TableMaps::open(tables, folder)?,
            vips: typed(names::MAP_VIPS, get)?,
            vip_epoch,
            connections: typed(names::MAP_CONNECTIONS, get)?,
            counters: typed(names::MAP_COUNTERS, get)?,
            vip_traffic: typed(names::MAP_VIP_TRAFFIC, get)?,
            vip_drops: typed(names::MAP_VIP_DROPS, get)?,
            instance_traffic: typed(names::MAP_INSTANCE_TRAFFIC, get)?,
            live: typed(names::MAP_LIVE, get)?,
            expired: typed(names::MAP_EXPIRED, get)?,
        })
    }

    /// Traffic and live connections of the instance indices up to `last`: three calls, where one by one
    /// they would be three for each.
    pub(super) fn all_instances(&self, last: u16) -> io::Result<Vec<(Traffic, u64)>> {
        let count = usize::from(last) + 1;
        let processors = processors::possible()?;
        let array = |map: &Array<MapData, u64>| {
            let map = map.map().fd().as_fd();
            syscall::lookup_array::<u64>(map, count, 1)
        };
        let traffic = self.instance_traffic.map().fd().as_fd();
        let traffic = syscall::lookup_array::<Traffic>(traffic, count, processors)?;
        let live = array(&self.live)?.into_iter().zip(array(&self.expired)?);
        let traffic = traffic.chunks_exact(processors).map(sum);
        Ok(traffic
            .zip(live.map(|(begun, expired)| still(begun, expired)))
            .collect())
    }

    /// How large the maps are.
    pub(super) fn limits(&self) -> Limits {
        let connections = self.connections.map().info();
        Limits {
            tables: self.tables.len(),
            connections: connections.map_or(0, |info| info.max_entries()),
            clients: 0,
        }
    }
}

/// The map beneath the types that are in use here.
pub(super) const fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::ArrayOfMaps(data) => Some(data),
        _ => None,
    }
}
