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

/// Added to [`super::FlowEntry::forward`] of a connection that was begun by a SYN cookie.
pub const FORWARD_SPLICED: u8 = 8;
/// Added to it in the reply entry of such a connection as long as the instance has not answered.
pub const FORWARD_WAITING: u8 = 0x10;

/// The `FORWARD_*` number without what may be added to it in an entry.
#[inline(always)]
#[must_use]
pub const fn forward_of(forward: u8) -> u8 {
    forward & 7
}

/// Whether packets with such an entry leave by another stage than the first one: those that get an outer
/// header, and those of spliced connections. One question, because it is asked for every packet.
#[inline(always)]
#[must_use]
pub const fn leaves_by_stage(forward: u8) -> bool {
    forward & (4 | FORWARD_SPLICED) != 0
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

/// [`Vip::flags`]: packets that no instance can take are refused, not dropped.
pub const VIP_REFUSES: u8 = 8;

/// [`Vip::flags`]: [`super::Arrivals`] say how fast new connections may begin.
pub const VIP_LIMITED: u8 = 0x10;

/// [`Vip::flags`]: SYNs may be answered by cookies, as the [`super::Arrivals`] say. Only with TCP,
/// [`FORWARD_NAT`] or [`FORWARD_DNAT`], and together with [`VIP_LIMITED`].
pub const VIP_COOKIES: u8 = 0x20;

/// [`Vip::flags`]: packets keep their destination port, whatever port the instance listens on. So it is
/// where a VIP has more than one port.
pub const VIP_KEEPS_PORT: u8 = 0x80;

/// [`VipKey::kind`]: a VIP of one port. What a packet is looked up by first.
pub const VIP_OF_PORT: u8 = 0;
/// [`VipKey::kind`]: a VIP of several ports. A packet is looked up by it when the address's
/// [`super::PortRanges`] say so.
pub const VIP_OF_PORTS: u8 = 1;

/// What a VIP is known by.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// Destination address.
    pub address: Address,
    /// Destination port, network byte order; the first one, where there are several.
    pub port: [u8; 2],
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// [`VIP_OF_PORT`] or [`VIP_OF_PORTS`].
    pub kind: u8,
    /// The last one of several ports, network byte order; else zero.
    pub last: [u8; 2],
    /// Always zero.
    pub pad: [u8; 2],
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
            kind: VIP_OF_PORT,
            last: [0; 2],
            pad: [0; 2],
        }
    }

    /// The key of a VIP of several ports.
    #[inline(always)]
    #[must_use]
    pub const fn of_ports(address: Address, range: super::PortRange) -> Self {
        Self {
            address,
            port: range.first.to_be_bytes(),
            protocol: range.protocol,
            kind: VIP_OF_PORTS,
            last: range.last.to_be_bytes(),
            pad: [0; 2],
        }
    }

    /// The ports of a VIP of several.
    #[must_use]
    pub const fn range(&self) -> Option<super::PortRange> {
        if self.kind != VIP_OF_PORTS {
            return None;
        }
        Some(super::PortRange {
            first: u16::from_be_bytes(self.port),
            last: u16::from_be_bytes(self.last),
            protocol: self.protocol,
            pad: [0; 3],
        })
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
    /// Bits `VIP_*`.
    pub flags: u8,
    /// With [`VIP_OWNED`]: how flows of owners are forwarded when new ones are forwarded otherwise; else zero. A
    /// service that remembers nothing may get another forwarding, or be stood in for.
    pub owned_forward: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl Vip {
    /// How flows of owners are forwarded.
    #[inline(always)]
    #[must_use]
    pub const fn forward_of_owners(&self) -> u8 {
        match self.owned_forward {
            0 => self.forward,
            other => other,
        }
    }
}

/// [`Vip::flags`]: the slots of the table have owners, whose the packets are that belong to no
/// remembered flow and begin none.
pub const VIP_OWNED: u8 = 1;
/// [`Vip::flags`]: owners are found by the hash of the client's address alone, whatever new flows are
/// selected by.
pub const VIP_OWNED_BY_SOURCE: u8 = 4;
/// [`Vip::flags`]: flows of settled slots are not remembered. Only with [`VIP_OWNED`] and
/// [`SELECT_HASH`], and where nobody counts live connections against a limit.
pub const VIP_SETTLES: u8 = 2;

/// [`Vip::flags`]: flows stay with an instance that fails its checks; see [`super::STATE_STAYS`].
pub const VIP_STAYS: u8 = 0x40;

const _: () = assert!(size_of::<VipKey>() == 24 && align_of::<VipKey>() == 8);
const _: () = assert!(size_of::<Vip>() == 20 && align_of::<Vip>() == 4);
