//! From bytes to a flow.
//!
//! Everything that is not a well-formed TCP or UDP packet is left to the host's stack with a
//! counter that says what it was; the packet path never judges host traffic. Header checksums are
//! not verified: they are changed incrementally, so a packet that arrives damaged leaves damaged
//! in the same way and its receiver finds out.

use core::mem::offset_of;

use lb_common::{Counter, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, from_v4};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{Packet, packet::MAX_OFFSET, plain};

/// VLAN tags that are walked: one, or two for a provider bridge (IEEE 802.1ad).
pub const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers that are walked.
pub const MAX_EXTENSION_HEADERS: usize = 4;
/// Bytes of all extension headers that are walked; also what lets the verifier bound the offset of
/// the header behind them.
pub const MAX_EXTENSION_BYTES: usize = 512;

const _: () = assert!(MAX_OFFSET == (1 << 11) - 1);
const _: () = assert!(
    EthHdr::LEN
        + MAX_VLAN_TAGS * size_of::<VlanHdr>()
        + Ipv6Hdr::LEN
        + MAX_EXTENSION_BYTES
        + TcpHdr::LEN
        <= MAX_OFFSET
);

/// [`Layout::tcp_flags`]: the sender has no more data.
pub const TCP_FIN: u8 = 0x01;
/// [`Layout::tcp_flags`]: a connection begins.
pub const TCP_SYN: u8 = 0x02;
/// [`Layout::tcp_flags`]: a connection is broken off.
pub const TCP_RST: u8 = 0x04;
/// [`Layout::tcp_flags`]: the acknowledgement number counts.
pub const TCP_ACK: u8 = 0x10;

/// Where the headers of a packet lie and what they say beside the tuple. It is apart from the
/// [`FlowKey`], because the key must lie in memory for look-ups and the rest is better kept in
/// registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
    /// Length of the IP packet in bytes, its header included.
    pub ip_length: u32,
    /// Whether the IP header is of version 4.
    pub v4: bool,
    /// Whether this is the first of several fragments; [`parse`] leaves those to
    /// [`crate::fragment`].
    pub fragment: bool,
    /// Flags of the TCP header; 0 for UDP.
    pub tcp_flags: u8,
}

impl Layout {
    /// All of it in one number, which fits a register.
    #[inline(always)]
    #[must_use]
    pub const fn packed(&self) -> u64 {
        self.l3 as u64
            | (self.l4 as u64) << 11
            | (self.ip_length as u64) << 22
            | (self.tcp_flags as u64) << 40
            | (self.v4 as u64) << 48
            | (self.fragment as u64) << 49
    }

    /// What was packed.
    #[inline(always)]
    #[must_use]
    pub const fn unpacked(packed: u64) -> Self {
        Self {
            l3: packed as usize & MAX_OFFSET,
            l4: (packed >> 11) as usize & MAX_OFFSET,
            ip_length: (packed >> 22) as u32 & 0x3_ffff,
            tcp_flags: (packed >> 40) as u8,
            v4: packed >> 48 & 1 != 0,
            fragment: packed >> 49 & 1 != 0,
        }
    }

    /// Whether the packet asks for a new TCP connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        is_opening(self.tcp_flags)
    }

    /// Whether the packet leaves the state of its connection as it is.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0 && !self.fragment
    }

    /// Whether any of these TCP flags is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.tcp_flags & flags != 0
    }
}

/// Whether a packet with these TCP flags asks for a new connection.
#[inline(always)]
#[must_use]
pub const fn is_opening(tcp_flags: u8) -> bool {
    tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
}

/// Reads a packet down to its ports; the tuple goes into `key`, which must be all zero.
///
/// # Errors
///
/// The counter that says why the packet is not for the packet path; of fragments
/// [`Counter::PassedFragment`].
#[inline(always)]
pub fn parse<P: Packet>(packet: &mut P, key: &mut FlowKey) -> Result<Layout, Counter> {
    let layout = match plain::parse(packet, key) {
        Some(layout) => layout,
        None => any(packet, key)?,
    };
    // From here on both are one to the verifier.
    Ok(Layout::unpacked(packet.forget(layout.packed())))
}

/// Reads a packet of any shape.
#[inline(always)]
pub(crate) fn any<P: Packet>(packet: &mut P, key: &mut FlowKey) -> Result<Layout, Counter> {
    let (l3, ether_type) = link(packet).ok_or(Counter::PassedMalformed)?;
    let mut layout = if ether_type == EtherType::Ipv4 as u16 {
        parse_v4(packet, key, l3)?
    } else if ether_type == EtherType::Ipv6 as u16 {
        parse_v6(packet, key, l3)?
    } else {
        return Err(Counter::PassedNotIp);
    };
    if layout.fragment {
        return Err(Counter::PassedFragment);
    }
    layout.l4 = packet.blur(layout.l4);
    layout.tcp_flags = parse_l4(packet, key, &layout)?;
    Ok(layout)
}

/// Where the header behind the link's is, and its ether type, as in memory.
#[inline(always)]
pub fn link<P: Packet>(packet: &mut P) -> Option<(usize, u16)> {
    let ethernet: EthHdr = packet.read(0)?;
    let mut ether_type = ethernet.ether_type;
    let mut l3 = EthHdr::LEN;
    for _ in 0..MAX_VLAN_TAGS {
        if ether_type == EtherType::Ieee8021q as u16 || ether_type == EtherType::Ieee8021ad as u16 {
            let tag: VlanHdr = packet.read(l3)?;
            ether_type = tag.ether_type;
            l3 += size_of::<VlanHdr>();
        }
    }
    Some((packet.blur(l3), ether_type))
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, key: &mut FlowKey, l3: usize) -> Result<Layout, Counter> {
    let ip: Ipv4Hdr = packet.read(l3).ok_or(Counter::PassedMalformed)?;
    let header = ((ip.vihl & 0x0f) as usize) << 2;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Counter::PassedMalformed);
    }
    if ip.proto != PROTOCOL_TCP && ip.proto != PROTOCOL_UDP {
        return Err(Counter::PassedOtherProtocol);
    }
    key.source = from_v4(ip.src_addr);
    key.destination = from_v4(ip.dst_addr);
    key.protocol = ip.proto;
    Ok(Layout {
        l3,
        l4: l3 + header,
        ip_length: u32::from(u16::from_be_bytes(ip.tot_len)),
        v4: true,
        // The offset, and whether more follow.
        fragment: u16::from_be_bytes(ip.frags) & 0x3fff != 0,
        tcp_flags: 0,
    })
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, key: &mut FlowKey, l3: usize) -> Result<Layout, Counter> {
    let ip: Ipv6Hdr = packet.read(l3).ok_or(Counter::PassedMalformed)?;
    if ip.vcf[0] >> 4 != 6 {
        return Err(Counter::PassedMalformed);
    }
    let mut next = ip.next_hdr;
    let mut extension = 0;
    let mut fragment = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
        }
        let header: [u8; 8] = packet
            .read(l3 + Ipv6Hdr::LEN + extension)
            .ok_or(Counter::PassedMalformed)?;
        // RFC 8200: all but the fragment header have their length in units of eight bytes, the
        // first eight not counted.
        if next == IpProto::Ipv6Frag as u8 {
            let place = u16::from_be_bytes([header[2], header[3]]);
            if place & 0xfff8 != 0 {
                return Err(Counter::PassedFragment);
            }
            // An "atomic fragment" (RFC 6946) is whole.
            fragment |= place & 1 != 0;
            extension += 8;
        } else {
            extension += (header[1] as usize + 1) << 3;
        }
        next = header[0];
        if extension > MAX_EXTENSION_BYTES {
            return Err(Counter::PassedExtensionHeaders);
        }
    }
    if is_extension(next) {
        return Err(Counter::PassedExtensionHeaders);
    }
    if next != PROTOCOL_TCP && next != PROTOCOL_UDP {
        return Err(Counter::PassedOtherProtocol);
    }
    key.source = ip.src_addr;
    key.destination = ip.dst_addr;
    key.protocol = next;
    Ok(Layout {
        l3,
        l4: l3 + Ipv6Hdr::LEN + extension,
        ip_length: u32::from(u16::from_be_bytes(ip.payload_len)) + Ipv6Hdr::LEN as u32,
        v4: false,
        fragment,
        tcp_flags: 0,
    })
}

/// Whether `next` is an extension header that is walked: hop-by-hop, routing, fragment or
/// destination options.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    next == IpProto::HopOpt as u8
        || next == IpProto::Ipv6Route as u8
        || next == IpProto::Ipv6Frag as u8
        || next == IpProto::Ipv6Opts as u8
}

/// Reads the ports into `key` and returns the TCP flags.
///
/// # Errors
///
/// As [`parse`].
#[inline(always)]
pub(crate) fn parse_l4<P: Packet>(
    packet: &P,
    key: &mut FlowKey,
    layout: &Layout,
) -> Result<u8, Counter> {
    // What the IP header claims must be there, and must hold the header that follows. A frame may
    // be longer: Ethernet pads short ones.
    let end = layout.l3 + layout.ip_length as usize;
    let tcp = key.protocol == PROTOCOL_TCP;
    let header = if tcp { TcpHdr::LEN } else { UdpHdr::LEN };
    if end > packet.length() || end < layout.l4 + header {
        return Err(Counter::PassedMalformed);
    }
    // Both protocols begin with the ports.
    let ports: [u8; 4] = packet.read(layout.l4).ok_or(Counter::PassedMalformed)?;
    key.source_port = [ports[0], ports[1]];
    key.destination_port = [ports[2], ports[3]];
    if !tcp {
        return Ok(0);
    }
    let [offset, flags]: [u8; 2] = packet
        .read(layout.l4 + offset_of!(TcpHdr, _bitfield_1))
        .ok_or(Counter::PassedMalformed)?;
    if offset >> 4 < 5 {
        return Err(Counter::PassedMalformed);
    }
    Ok(flags)
}
