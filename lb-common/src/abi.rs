//! The values in the maps, one file a concept.

mod counter;
mod flow;
mod instance;
mod settings;
mod table;
mod traffic;
mod vip;

pub use counter::{COUNTER_COUNT, Counter, CounterKind, Counters};
pub use flow::{
    FLOW_FORWARD, FLOW_REPLY, FlowEntry, FlowKey, STATE_CLOSED, STATE_FIN_CLIENT,
    STATE_FIN_INSTANCE, STATE_OPEN,
};
pub use instance::{
    CLIENT_HOPS, ClientHop, HOP_GATEWAY, INSTANCE_ABSENT, INSTANCE_ACTIVE, INSTANCE_DOWN,
    INSTANCE_DRAINING, InstanceEntry, MAX_INSTANCES, NextHop,
};
pub use settings::{SETTING_LOG, Settings};
pub use table::{SLOTS, Table};
pub use traffic::Traffic;
pub use vip::{
    FORWARD_L2DSR, FORWARD_NAT, HASH_FLOW, HASH_SOURCE, MAX_VIPS, PROTOCOL_TCP, PROTOCOL_UDP,
    SELECT_HASH, SELECT_LEAST_CONNECTIONS, SELECT_TURN, Vip, VipKey,
};

/// An address of either family in 16 bytes; IPv4 as IPv4-mapped IPv6.
pub type Address = [u8; 16];

/// The first 12 bytes of every IPv4-mapped address.
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Whether `address` is IPv4-mapped.
#[inline(always)]
#[must_use]
pub const fn is_v4(address: &Address) -> bool {
    // Two words of eight bytes, not a loop over bytes: this runs for each packet.
    let words = u128::from_be_bytes(*address);
    words >> 32 == 0xffff
}

/// Whether two addresses are equal, as a comparison of words: that of slices calls a function.
#[inline(always)]
#[must_use]
pub const fn same_address(one: &Address, other: &Address) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
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
        ClientHop, Counters, FlowEntry, FlowKey, InstanceEntry, NextHop, Settings, Table, Traffic,
        Vip, VipKey,
    };

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => { $(
            // SAFETY: `#[repr(C)]`, built of integers and byte arrays only, every padding byte is
            // a named field (asserted by the size checks beside each type), any bytes are valid.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        ClientHop,
        Counters,
        FlowEntry,
        FlowKey,
        InstanceEntry,
        NextHop,
        Settings,
        Table,
        Traffic,
        Vip,
        VipKey
    );
}
