//! The names of programs and maps: written once, used by both sides and by operators' tools.

/// The balancing program, attached to every configured interface.
pub const PROGRAM: &str = "lb_xdp";
/// Programs that the balancing program hands packets on to, in the order of their places in
/// [`MAP_STAGES`].
pub const STAGES: [&str; 11] = [
    "lb_encapsulate",
    "lb_too_big",
    "lb_icmp",
    "lb_finish",
    "lb_fragment",
    "lb_refuse",
    "lb_admit",
    "lb_cookie",
    "lb_splice",
    "lb_path_mtu",
    "lb_record",
];
/// The balancing program of traffic control; the programs that it hands packets on to are named as those of XDP.
pub const PROGRAM_TC: &str = "lb_tc";
/// The place of the stage that decides nothing: it has the verdict already, writes down what became of the
/// packet for whoever follows, and carries the verdict out.
pub const STAGE_RECORD: u32 = 10;

const _: () = assert!(STAGE_RECORD as usize == STAGES.len() - 1);

/// The far end of tunnels: unpacks, attached to an instance's interface.
pub const PROGRAM_DECAP: &str = "lb_decap";
/// Lowers the MSS of what answers tunnelled connections; a traffic control program.
pub const PROGRAM_CLAMP: &str = "lb_clamp";
/// Hands connections that no socket listens for over to the proxy; a program that the kernel asks when
/// it looks for a connection's socket.
pub const PROGRAM_STEER: &str = "lb_steer";
/// A program that passes every packet: the floor of benchmarks, and the peer that a veth needs.
pub const PROGRAM_PASS: &str = "lb_pass";
/// A program that sends packets for one address to one host, without deciding anything: the floor of
/// benchmarks on the wire. [`REFLECTED`] and [`REFLECTED_TO`] say which.
pub const PROGRAM_REFLECT: &str = "lb_reflect";
/// A constant of the program, four bytes that the loader writes: an IPv4 address.
pub const REFLECTED: &str = "LB_REFLECTED";
/// A constant of the program, eight bytes that the loader writes: a MAC address and two zeros.
pub const REFLECTED_TO: &str = "LB_REFLECTED_TO";

/// [`crate::Settings`], one element.
pub const MAP_SETTINGS: &str = "SETTINGS";
/// [`crate::VipKey`] → [`crate::Vip`].
pub const MAP_VIPS: &str = "VIPS";
/// [`crate::Address`] → [`crate::PortRanges`]: the addresses of VIPs. Each load of the program has its own, as
/// with [`MAP_CEILINGS`].
pub const MAP_VIP_ADDRESSES: &str = "VIP_ADDRESSES";
/// Array of one `u64`: the number of changes of [`MAP_VIPS`] and [`MAP_INSTANCES`], which the daemon adds one to
/// after each, in memory that it shares with the programs. What a program keeps of VIPs and of the state of
/// instances is void as soon as it has moved.
pub const MAP_VIP_EPOCH: &str = "VIP_EPOCH";
/// Array of [`crate::Table`]; [`crate::Vip::table`] is the index.
pub const MAP_TABLES: &str = "TABLES";
/// Array of [`crate::InstanceEntry`] by instance index; index 0 is never an instance.
pub const MAP_INSTANCES: &str = "INSTANCES";
/// [`crate::FlowKey`] → [`crate::FlowEntry`]: the connection table.
pub const MAP_CONNECTIONS: &str = "CONNECTIONS";
/// Per-CPU array of [`crate::NextHop`] by instance index: what the last route look-up said.
pub const MAP_NEXT_HOPS: &str = "NEXT_HOPS";
/// Per-CPU array of [`crate::ClientHop`] by a hash of the client's address.
pub const MAP_CLIENT_HOPS: &str = "CLIENT_HOPS";
/// `u32` → [`crate::Subinterface`]: VLANs, by the index of the interface that the kernel has for them.
/// Each load of the program has its own, as with [`MAP_CEILINGS`].
pub const MAP_SUBINTERFACES: &str = "SUBINTERFACES";
/// Array of one map, [`crate::Address`] → [`crate::PathMtu`]: instances behind tunnels. The daemon says which there are,
/// the program what it has learned of the paths to them. Each load of the program has its own, as with
/// [`MAP_CEILINGS`].
pub const MAP_PATH_MTUS: &str = "PATH_MTUS";
/// Per-CPU array of one [`crate::Counters`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Per-CPU array of [`crate::Traffic`] by [`crate::Vip::id`].
pub const MAP_VIP_TRAFFIC: &str = "VIP_TRAFFIC";
/// Per-CPU array of [`crate::Drops`] by [`crate::Vip::id`]: its packets that were not forwarded, by
/// reason. Their sum is [`crate::Traffic::dropped`].
pub const MAP_VIP_DROPS: &str = "VIP_DROPS";
/// Per-CPU array of [`crate::Traffic`] by instance index.
pub const MAP_INSTANCE_TRAFFIC: &str = "INSTANCE_TRAFFIC";
/// Shared array of `u64`: connections that the program has begun and not ended, by instance index.
/// Only the program writes it, atomically; see [`MAP_EXPIRED`].
pub const MAP_LIVE: &str = "LIVE";
/// Shared array of `u64`: connections that the daemon has ended because they were idle, by instance
/// index. Only the daemon writes it: user space cannot add to an element atomically, so each side
/// owns a counter and live connections are the difference of the two, modulo 2⁶⁴. Reusing an index
/// for another instance means setting this element to the value of the other.
pub const MAP_EXPIRED: &str = "EXPIRED";
/// Array of `u64` by instance index: one more than the live connections that the instance may have, 0
/// when there is no limit. Each load of the program has its own, which lives as long as the program
/// does and is filled before packets reach it.
pub const MAP_CEILINGS: &str = "CEILINGS";
/// LPM trie, [`crate::PrefixKey`] → `u32` (`PREFIX_*`): the source ACL. Each load of the program has its
/// own, as with [`MAP_CEILINGS`].
pub const MAP_PREFIXES: &str = "PREFIXES";
/// Array of one map, which is an array of one [`crate::Acl`]: what is known of all of [`MAP_PREFIXES`].
/// Each load of the program has its own, as with [`MAP_CEILINGS`]; the daemon writes it after each change
/// of those.
pub const MAP_ACL: &str = "ACL";
/// Array of [`crate::Affinity`] by [`crate::Vip::id`]. Each load of the program has its own, as with
/// [`MAP_CEILINGS`].
pub const MAP_AFFINITIES: &str = "AFFINITIES";
/// Array of `u64` by instance index: [`crate::Affinity::service`] of the service whose instance it is; 0
/// where clients do not stay. Each load of the program has its own, as with [`MAP_CEILINGS`].
pub const MAP_SERVICES: &str = "SERVICES";
/// Array of one map, [`crate::ClientKey`] → [`crate::ClientPin`]: clients' instances. That map is pinned
/// under this name beside [`PINNED_MAPS`], once it is needed; the array is each load's own, as with
/// [`MAP_CEILINGS`].
pub const MAP_CLIENTS: &str = "CLIENTS";
/// One [`crate::AddressFilter`]. Each load of the program has its own, as with [`MAP_CEILINGS`].
pub const MAP_ADDRESS_FILTER: &str = "ADDRESS_FILTER";
/// Array of [`crate::Arrivals`] by [`crate::Vip::id`]. Each load of the program has its own, as with
/// [`MAP_CEILINGS`], and with it its own buckets.
pub const MAP_ARRIVALS: &str = "ARRIVALS";
/// Array of one map, which is an array of [`crate::SourceSet`]. Each load of the program has its own, as with
/// [`MAP_CEILINGS`], and with it its own buckets.
pub const MAP_SOURCES: &str = "SOURCES";
/// One [`crate::CookieKeys`]. Not one of [`PINNED_MAPS`], because programs that know of no cookies do without,
/// but pinned beside them: cookies that are under way while a program is replaced are to be accepted by
/// the next one.
pub const MAP_COOKIE_KEYS: &str = "COOKIE_KEYS";
/// LRU hash of datagrams in fragments. Each load of the program has its own, and nobody else looks at it.
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
/// Per-CPU array of [`crate::FlowKey`]: connections of which nothing but one packet was heard, the latest
/// ones of each processor. Not one of [`PINNED_MAPS`], because how many there may be follows from settings that
/// are no reason for other maps, but pinned beside them: the next program of the same maps forgets them in its
/// turn. It begins anywhere in the ring, so a few may be forgotten before their time.
pub const MAP_OPENINGS: &str = "OPENINGS";
/// One [`crate::Followers`]. Each load of the program has its own, as with [`MAP_CEILINGS`].
pub const MAP_FOLLOWERS: &str = "FOLLOWERS";
/// Ring of [`crate::FlowEvent`]. Each load of the program has its own, as with [`MAP_CEILINGS`].
pub const MAP_FLOW_EVENTS: &str = "FLOW_EVENTS";
/// The variables of the program, an array of one `u64`: until when somebody follows packets, as
/// `CLOCK_MONOTONIC` nanoseconds; 0: nobody does. The daemon moves it on while there is a follower; the
/// program sets it back to 0 when the time is over, so that nothing is recorded for a daemon that is gone.
pub const MAP_FOLLOWED: &str = ".bss";
/// Per-CPU array of `u32` by [`crate::Vip::id`]: the turn counter of [`crate::SELECT_TURN`].
pub const MAP_TURNS: &str = "TURNS";
/// [`crate::DecapSettings`], one element.
pub const MAP_DECAP_SETTINGS: &str = "DECAP_SETTINGS";
/// [`crate::Address`] → `u32`: this host's addresses, each with the number of bytes that a tunnel
/// has added to the last packet for it, 0 at first. The daemon writes keys, the program values.
pub const MAP_DECAP_LOCAL: &str = "DECAP_LOCAL";
/// [`crate::Address`] → `u32`: where tunnels may come from.
pub const MAP_DECAP_FRIENDS: &str = "DECAP_FRIENDS";
/// Per-CPU array of one [`crate::Counters`], by [`crate::DecapCounter`].
pub const MAP_DECAP_COUNTERS: &str = "DECAP_COUNTERS";
/// Trie of [`crate::Address`] → [`crate::SteerPorts`]: whose connections are handed over.
pub const MAP_STEER_PORTS: &str = "STEER_PORTS";
/// Sockets that connections are handed to, by [`crate::STEER_V4`] and [`crate::STEER_V6`].
pub const MAP_STEER_SOCKETS: &str = "STEER_SOCKETS";
/// Per-CPU array of one [`crate::SteerCounts`].
pub const MAP_STEER_COUNTS: &str = "STEER_COUNTS";
/// Program array of [`STAGES`]. It belongs to one load of the programs, because what is handed over
/// lies in a map that only those share; pinned beside the maps that outlive the daemon, since the
/// kernel empties a program array that no process and no pin holds.
pub const MAP_STAGES: &str = "STAGES";

/// The connection table of the program before this one, where [`HAS_FORMER`] says so.
pub const MAP_FORMER: &str = "FORMER";
/// A constant of the program, one byte that the loader writes: 1 when it follows a program with another
/// connection table, and goes on with what is in that.
pub const HAS_FORMER: &str = "LB_HAS_FORMER";
/// A constant of the program, the [`crate::layout::Place`]s of what it asks that table for.
pub const FORMER_PLACES: &str = "LB_FORMER_PLACES";
/// What the maps of a set look like, as text; pinned beside them, and no program's.
pub const MAP_LAYOUT: &str = "LAYOUT";

/// Every map that outlives the daemon, in the order in which they are pinned.
pub const PINNED_MAPS: [&str; 15] = [
    MAP_SETTINGS,
    MAP_INSTANCES,
    MAP_TABLES,
    MAP_VIPS,
    MAP_VIP_EPOCH,
    MAP_CONNECTIONS,
    MAP_NEXT_HOPS,
    MAP_CLIENT_HOPS,
    MAP_COUNTERS,
    MAP_VIP_TRAFFIC,
    MAP_VIP_DROPS,
    MAP_INSTANCE_TRAFFIC,
    MAP_LIVE,
    MAP_EXPIRED,
    MAP_TURNS,
];

/// The maps that the program reads and never writes, or not for packets such as are made up. A second load of the
/// program that is asked what the first would do shares these with it, and has all others for itself.
pub const READ_MAPS: [&str; 17] = [
    MAP_SETTINGS,
    MAP_INSTANCES,
    MAP_TABLES,
    MAP_VIPS,
    MAP_VIP_EPOCH,
    MAP_EXPIRED,
    MAP_VIP_ADDRESSES,
    MAP_CEILINGS,
    MAP_SUBINTERFACES,
    MAP_PATH_MTUS,
    MAP_PREFIXES,
    MAP_ACL,
    MAP_ADDRESS_FILTER,
    MAP_AFFINITIES,
    MAP_SERVICES,
    MAP_ARRIVALS,
    MAP_COOKIE_KEYS,
];
