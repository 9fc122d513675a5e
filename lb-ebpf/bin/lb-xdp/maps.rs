//! The maps. Names and types are the contract of `lb_common`; the sizes of [`TABLES`],
//! [`CONNECTIONS`] and [`OPENINGS`] are defaults that the loader replaces.
//!
//! What only some configurations need lies in maps of their own, to which an array of one element leads:
//! while nobody needs them they are not there, and take no memory.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
};
use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, BUCKETS as BUCKET_COUNT,
    CLIENT_HOPS as CLIENT_HOP_COUNT, ClientHop, ClientKey, ClientPin, CookieKeys, Counters, Drops,
    FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, MAX_PREFIXES, MAX_SUBINTERFACES, MAX_VIPS,
    NextHop, PathMtu, PortRanges, SOURCE_SETS as SET_COUNT, Settings, SourceSet, Subinterface,
    Table, Traffic, Vip, VipKey, names,
};
use lb_ebpf::{
    Scratch,
    acl::{JUDGED as JUDGED_COUNT, Judged},
    budget::Budget,
    fragment::{FRAGMENTS as FRAGMENT_COUNT, FragmentKey, Note},
    recent::{Mark, RECENT as RECENT_COUNT, Recent},
    record::Whose,
    settled::{RECENT_VIPS, RecentVip},
};

#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static VIPS: HashMap<VipKey, Vip> =
    HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static SUBINTERFACES: HashMap<u32, Subinterface> =
    HashMap::with_max_entries(MAX_SUBINTERFACES, BPF_F_NO_PREALLOC);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static VIP_ADDRESSES: HashMap<Address, PortRanges> =
    HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);

/// The daemon maps it into its memory.
#[map]
pub(crate) static VIP_EPOCH: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One table each, so that memory follows how many there are; the loader says how many there may be.
#[btf_map]
pub(crate) static TABLES: btf_maps::ArrayOfMaps<btf_maps::Array<Table, 1>, 64> =
    btf_maps::ArrayOfMaps::new();

#[map]
pub(crate) static INSTANCES: Array<InstanceEntry> = Array::with_max_entries(MAX_INSTANCES, 0);

/// Not an LRU map: that evicts single entries, also of connections in use and well below its
/// limit, and half a `nat` pair is worse than none. Not preallocated: memory follows the number of
/// connections, which lies far below the limit nearly always.
#[map]
pub(crate) static CONNECTIONS: HashMap<FlowKey, FlowEntry> =
    HashMap::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::with_max_entries(MAX_INSTANCES, 0);

#[map]
pub(crate) static CLIENT_HOPS: PerCpuArray<ClientHop> =
    PerCpuArray::with_max_entries(CLIENT_HOP_COUNT, 0);

/// What a processor needs for itself alone; not pinned, since it lives for a packet or a tick.
#[map]
pub(crate) static WORKPLACE: PerCpuArray<Workplace> = PerCpuArray::with_max_entries(1, 0);

/// An element of [`WORKPLACE`].
#[repr(C)]
pub(crate) struct Workplace {
    /// Large values of the packet at hand.
    pub(crate) scratch: Scratch,
    /// The kernel's tick counter when the clock was last read.
    pub(crate) ticks: u64,
    /// What it said: `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) now: u64,
    /// Messages of lb's own.
    pub(crate) budget: Budget,
    /// Answers to echo requests.
    pub(crate) echoes: Budget,
    /// Flow events.
    pub(crate) events: Budget,
    /// Whose the packet at hand is.
    pub(crate) whose: Whose,
    /// The place in [`OPENINGS`] that is written next.
    pub(crate) opening: u32,
    /// Always zero.
    pub(crate) pad: u32,
    /// Not 0 once a VIP was kept below.
    pub(crate) keeps: u64,
    /// An entry that is in no table.
    pub(crate) entry: FlowEntry,
    /// Copies of VIPs, by [`lb_ebpf::settled::place`].
    pub(crate) vips: [RecentVip; RECENT_VIPS],
    /// What is known of the copies in [`RECENT`], by place.
    pub(crate) marks: [Mark; RECENT_COUNT as usize],
}

// What the kernel lets an element of such a map have.
const _: () = assert!(size_of::<Workplace>() <= 1 << 15);

/// The later stages, by [`lb_ebpf::Stage`].
#[map]
pub(crate) static STAGES: ProgramArray =
    ProgramArray::with_max_entries(names::STAGES.len() as u32, 0);

/// Notes of datagrams in fragments. Evicting is all the sweeping that they need: nothing depends on one
/// for longer than a datagram is under way.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Note> =
    LruHashMap::with_max_entries(FRAGMENT_COUNT, 0);

/// Copies of entries of [`CONNECTIONS`]. They are this program's alone, as are their epochs: another
/// program begins with none.
#[map]
pub(crate) static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(RECENT_COUNT, 0);

/// By place; changed atomically.
#[map]
pub(crate) static EPOCHS: Array<u64> = Array::with_max_entries(RECENT_COUNT, 0);

#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static VIP_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_VIPS, 0);

#[map]
pub(crate) static VIP_DROPS: PerCpuArray<Drops> = PerCpuArray::with_max_entries(MAX_VIPS, 0);

#[map]
pub(crate) static INSTANCE_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(MAX_INSTANCES, 0);

#[map]
pub(crate) static LIVE: Array<u64> = Array::with_max_entries(MAX_INSTANCES, 0);

#[map]
pub(crate) static EXPIRED: Array<u64> = Array::with_max_entries(MAX_INSTANCES, 0);

/// Not pinned: it is this program's alone, and the daemon fills it before it attaches the program.
#[map]
pub(crate) static CEILINGS: Array<u64> = Array::with_max_entries(MAX_INSTANCES, 0);

#[map]
pub(crate) static TURNS: PerCpuArray<u32> = PerCpuArray::with_max_entries(MAX_VIPS, 0);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static ADDRESS_FILTER: Array<AddressFilter> = Array::with_max_entries(1, 0);

/// Not pinned, as [`CEILINGS`]. There as soon as there are tunnels.
#[btf_map]
pub(crate) static PATH_MTUS: btf_maps::ArrayOfMaps<PathMtuMap, 1> = btf_maps::ArrayOfMaps::new();

type PathMtuMap = btf_maps::HashMap<Address, PathMtu, 1, { BPF_F_NO_PREALLOC as usize }>;

/// Not pinned, as [`CEILINGS`]. There as soon as there are rules.
#[btf_map]
pub(crate) static ACL: btf_maps::ArrayOfMaps<btf_maps::Array<Acl, 1>, 1> =
    btf_maps::ArrayOfMaps::new();

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static PREFIXES: LpmTrie<[u32; 4], u32> =
    LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);

/// What [`PREFIXES`] has said, by [`lb_ebpf::acl::place`]. This program's alone: another one begins
/// with nothing.
#[map]
pub(crate) static JUDGED: PerCpuArray<Judged> = PerCpuArray::with_max_entries(JUDGED_COUNT, 0);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static ARRIVALS: Array<Arrivals> = Array::with_max_entries(MAX_VIPS, 0);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static AFFINITIES: Array<Affinity> = Array::with_max_entries(MAX_VIPS, 0);

/// Not pinned, as [`CEILINGS`].
#[map]
pub(crate) static SERVICES: Array<u64> = Array::with_max_entries(MAX_INSTANCES, 0);

/// There as soon as clients of a VIP stay with their instance; the daemon gives it its size. Not an LRU map,
/// as [`CONNECTIONS`], and because who is remembered has earned it: the daemon takes out those whose time
/// is over.
#[btf_map]
pub(crate) static CLIENTS: btf_maps::ArrayOfMaps<ClientMap, 1> = btf_maps::ArrayOfMaps::new();

type ClientMap = btf_maps::HashMap<ClientKey, ClientPin, 1, { BPF_F_NO_PREALLOC as usize }>;

/// By [`Arrivals::bucket`], in three parts; changed atomically. Every program begins with full ones.
#[map]
pub(crate) static BUCKETS: Array<u64> = Array::with_max_entries(BUCKET_COUNT, 0);

/// Pinned apart from the maps that outlive the daemon.
#[map]
pub(crate) static COOKIE_KEYS: Array<CookieKeys> = Array::with_max_entries(1, 0);

/// Buckets of sources; each word is changed atomically. Every program begins with full ones, which are there
/// as soon as sources of a VIP are limited.
#[btf_map]
pub(crate) static SOURCES: btf_maps::ArrayOfMaps<
    btf_maps::Array<SourceSet, { SET_COUNT as usize }>,
    1,
> = btf_maps::ArrayOfMaps::new();

/// Keys of connections of which nothing but one packet was heard, in the order of these, each processor's
/// apart. The loader gives all of them together as many places as [`lb_common::most_opening`] says.
#[map]
pub(crate) static OPENINGS: PerCpuArray<FlowKey> = PerCpuArray::with_max_entries(1 << 14, 0);
