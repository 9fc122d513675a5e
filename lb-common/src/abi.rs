//! The values in the maps, one file a concept.

mod acl;
mod affinity;
mod arrivals;
mod cookie;
mod counter;
mod decap;
mod filter;
mod flow;
mod instance;
mod path_mtu;
mod ports;
mod record;
mod settings;
mod steer;
mod table;
mod traffic;
mod vip;

pub use acl::{
    ACL_ON, ACL_WIDE_V6, Acl, FAR_WORDS, MAX_PREFIXES, NEAR_WORDS, PREFIX_ALLOWED, PREFIX_DENIED,
    PrefixKey, marks,
};
pub use affinity::{Affinity, ClientKey, ClientPin};
pub use arrivals::{
    Arrivals, BUCKETS, COOKIE_PACES, COOKIE_TIMES, SOURCE_SETS, SOURCE_UNIT_NS, SOURCE_WAYS,
    SourceSet,
};
pub use cookie::CookieKeys;
pub use counter::{COUNTER_COUNT, Counter, CounterKind, Counters, DROP_COUNT, Drops};
pub use decap::{DecapCounter, DecapSettings, MAX_FRIENDS, MAX_LOCAL};
pub use filter::{AddressFilter, FILTER_WORDS, REPLY_WORDS, filter_bit};
pub use flow::{
    FLOW_FORWARD, FLOW_REPLY, FlowEntry, FlowKey, STATE_CLOSED, STATE_FIN_CLIENT,
    STATE_FIN_INSTANCE, STATE_OPEN, STATE_OPENING, STATE_OPENING_AT, STATE_REMOVED, STATE_STAYS,
    STATE_STRAY, Splice, most_opening, same_flow,
};
pub use instance::{
    CLIENT_HOPS, ClientHop, HOP_ACTIVE, HOP_GATEWAY, HOP_PATH, HOP_TAGGED, HOP_VLAN,
    INSTANCE_ABSENT, INSTANCE_ACTIVE, INSTANCE_DOWN, INSTANCE_DRAINING, INSTANCE_FAILED,
    InstanceEntry, MAX_INSTANCES, MAX_SUBINTERFACES, NextHop, Subinterface, TAG_CUSTOMER,
    TAG_SERVICE, names_subinterface, tag,
};
pub use path_mtu::{PATH_MTU_HOLDS, PathMtu};
pub use ports::{MAX_RANGES, PortRange, PortRanges};
pub use record::{
    EVENT_BYTES, EVENT_NEW, EVENTS_PER_SECOND, FOLLOW_ALL_VIPS, FOLLOW_NEW, FlowEvent, Follower,
    Followers, MAX_FOLLOWERS,
};
pub use settings::Settings;
pub use steer::{MAX_STEER_RANGES, MAX_STEERED, STEER_V4, STEER_V6, SteerCounts, SteerPorts};
pub use table::{SLOTS, Slot, Table};
pub use traffic::Traffic;
pub use vip::{
    FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, FORWARD_SPLICED,
    FORWARD_WAITING, HASH_FLOW, HASH_SOURCE, MAX_VIPS, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_HASH,
    SELECT_LEAST_CONNECTIONS, SELECT_TURN, VIP_COOKIES, VIP_KEEPS_PORT, VIP_LIMITED, VIP_OF_PORT,
    VIP_OF_PORTS, VIP_OWNED, VIP_OWNED_BY_SOURCE, VIP_REFUSES, VIP_SETTLES, VIP_STAYS, Vip, VipKey,
    encapsulates, forward_of, leaves_by_stage, translates,
};

/// An address of either family in 16 bytes; IPv4 as IPv4-mapped IPv6.
pub type Address = [u8; 16];

/// The first 12 bytes of every IPv4-mapped address.
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The two halves of an address, the first bytes lowest.
///
/// Everything that is done with addresses for each packet is done with these. Not with one `u128`:
/// the compiler may pass what it has read as an argument, and such an argument takes two of the
/// five registers that a BPF function gets its arguments in.
#[inline(always)]
#[must_use]
pub const fn halves(address: &Address) -> [u64; 2] {
    // In chunks, not byte by byte: only so does the compiler load eight bytes at once.
    match address.as_chunks::<8>().0 {
        [first, second] => [u64::from_le_bytes(*first), u64::from_le_bytes(*second)],
        _ => [0, 0],
    }
}

/// The address with these halves.
#[inline(always)]
#[must_use]
pub const fn from_halves([first, second]: [u64; 2]) -> Address {
    let (a, b) = (first.to_le_bytes(), second.to_le_bytes());
    [
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6],
        b[7],
    ]
}

/// Whether `address` is IPv4-mapped.
#[inline(always)]
#[must_use]
pub const fn is_v4(address: &Address) -> bool {
    let [high, low] = halves(address);
    high == 0 && low as u32 == 0xffff_0000
}

/// Whether two addresses are equal, as a comparison of words: that of slices calls a function.
#[inline(always)]
#[must_use]
pub const fn same_address(one: &Address, other: &Address) -> bool {
    let ([a, b], [c, d]) = (halves(one), halves(other));
    a == c && b == d
}

/// Maps an IPv4 address into the 16-byte form.
#[inline(always)]
#[must_use]
pub const fn from_v4(v4: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

#[cfg(feature = "user")]
mod pod {
    use super::{
        Acl, AddressFilter, Affinity, Arrivals, ClientHop, ClientKey, ClientPin, CookieKeys,
        Counters, DecapSettings, Drops, FlowEntry, FlowKey, Followers, InstanceEntry, NextHop,
        PathMtu, PortRanges, Settings, SteerCounts, SteerPorts, Subinterface, Table, Traffic, Vip,
        VipKey,
    };

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => { $(
            // SAFETY: `#[repr(C)]`, built of integers and byte arrays only, every padding byte is
            // a named field (asserted by the size checks beside each type), any bytes are valid.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        Acl,
        AddressFilter,
        Affinity,
        Arrivals,
        ClientHop,
        ClientKey,
        ClientPin,
        CookieKeys,
        Counters,
        DecapSettings,
        Drops,
        FlowEntry,
        FlowKey,
        Followers,
        InstanceEntry,
        NextHop,
        PathMtu,
        PortRanges,
        Settings,
        SteerCounts,
        SteerPorts,
        Subinterface,
        Table,
        Traffic,
        Vip,
        VipKey
    );
}
