//! Instances as the packet path sees them.

use super::Address;

/// Elements of the instance arrays. An instance index is from 1 to `MAX_INSTANCES - 1`; 0 means
/// none, so that a zeroed slot or value can never name an instance.
pub const MAX_INSTANCES: u32 = 4096;

/// [`InstanceEntry::state`]: the index is not in use.
pub const INSTANCE_ABSENT: u8 = 0;
/// [`InstanceEntry::state`]: takes new and old connections.
pub const INSTANCE_ACTIVE: u8 = 1;
/// [`InstanceEntry::state`]: keeps its connections, gets no new ones.
pub const INSTANCE_DRAINING: u8 = 2;
/// [`InstanceEntry::state`]: disabled or unhealthy; its connections go to others at once.
pub const INSTANCE_DOWN: u8 = 3;

/// One instance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceEntry {
    /// Where the instance listens.
    pub address: Address,
    /// Fingerprint of service and endpoint, from which a restarted daemon finds the index again.
    pub identity: u64,
    /// Port in network byte order.
    pub port: [u8; 2],
    /// Changes with each reuse of the index; a flow that names another generation is stale.
    pub generation: u16,
    /// Configured weight, 0 to 65535: what live connections are divided by.
    pub weight: u16,
    /// One of the `INSTANCE_*` states.
    pub state: u8,
    /// Always zero.
    pub pad: u8,
}

/// Where to send a packet for an instance; a cache of the kernel's route and neighbour tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// `CLOCK_MONOTONIC` nanoseconds until which the entry is fresh; 0: never filled.
    pub fresh_until: u64,
    /// Interface to leave by.
    pub interface: u32,
    /// Generation of the instance that the entry was made for.
    pub generation: u16,
    /// MAC address of the next hop.
    pub destination: [u8; 6],
    /// MAC address of the outgoing interface.
    pub source: [u8; 6],
    /// Always zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<InstanceEntry>() == 32 && align_of::<InstanceEntry>() == 8);
const _: () = assert!(size_of::<NextHop>() == 32 && align_of::<NextHop>() == 8);
