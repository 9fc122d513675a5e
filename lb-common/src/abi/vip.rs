//! VIPs: the addresses that the kernel balances.

use super::Address;

/// The most VIPs that one daemon serves in the kernel.
pub const MAX_VIPS: u32 = 512;

/// IANA protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// [`Vip::forward`]: source and destination are rewritten, replies come back through lb.
pub const FORWARD_NAT: u8 = 1;
/// [`Vip::forward`]: the destination is rewritten, replies come back through lb, which is the
/// instances' way to their clients.
pub const FORWARD_DNAT: u8 = 3;
/// [`Vip::forward`]: only the MAC addresses are rewritten, replies go straight to the client.
pub const FORWARD_L2DSR: u8 = 2;
/// [`Vip::forward`]: the packet travels whole in another IP packet, replies go straight to the client.
pub const FORWARD_IPIP: u8 = 4;
/// [`Vip::forward`]: as [`FORWARD_IPIP`], with a UDP header in between.
pub const FORWARD_GUE: u8 = 6;

/// Whether packets get other addresses: bit 0 of the `FORWARD_*` numbers.
#[inline(always)]
#[must_use]
pub const fn translates(forward: u8) -> bool {
    forward & 1 != 0
}

/// Whether packets get an outer header: bit 2 of the `FORWARD_*` numbers.
#[inline(always)]
#[must_use]
pub const fn encapsulates(forward: u8) -> bool {
    forward & 4 != 0
}

/// [`Vip::select`]: the slot is the hash of the flow (the table is a Maglev table).
pub const SELECT_HASH: u8 = 1;
/// [`Vip::select`]: slots are taken in turn, per CPU (the table is in smooth weighted order).
pub const SELECT_TURN: u8 = 2;
/// [`Vip::select`]: two slots by chance, the instance with fewer live connections wins.
pub const SELECT_LEAST_CONNECTIONS: u8 = 3;

/// [`Vip::hash_of`]: the whole flow is hashed.
pub const HASH_FLOW: u8 = 0;
/// [`Vip::hash_of`]: the client's address alone is hashed, so all its connections stay together.
pub const HASH_SOURCE: u8 = 1;

/// What a packet is looked up by.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// Destination address.
    pub address: Address,
    /// Destination port, network byte order.
    pub port: [u8; 2],
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
    /// Always zero; apart from `pad`, since the verifier refuses to write two bytes at an odd place.
    pub pad_end: [u8; 4],
}

impl VipKey {
    /// A key; `port` in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: [u8; 2], protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            pad: 0,
            pad_end: [0; 4],
        }
    }
}

/// How the packets of a VIP are treated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// Index of the VIP's counters, below [`MAX_VIPS`]; stable for the VIP's life.
    pub id: u32,
    /// Index of the table to choose from; replacing a table writes a spare one and flips this.
    pub table: u32,
    /// Grows by one with each flip.
    pub generation: u32,
    /// One of the `FORWARD_*` numbers.
    pub forward: u8,
    /// [`SELECT_HASH`], [`SELECT_TURN`] or [`SELECT_LEAST_CONNECTIONS`].
    pub select: u8,
    /// [`HASH_FLOW`] or [`HASH_SOURCE`]; for [`SELECT_HASH`] only.
    pub hash_of: u8,
    /// Always zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<VipKey>() == 24 && align_of::<VipKey>() == 8);
const _: () = assert!(size_of::<Vip>() == 16 && align_of::<Vip>() == 4);
