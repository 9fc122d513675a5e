//! Packets of the most frequent shape: TCP or UDP over IP, without VLAN tags, options of IPv4, extension
//! headers of IPv6 or fragments.
//!
//! All that has to be known of such a packet lies at fixed places, and one comparison with the packet's
//! end is enough for all of it. That is a third of the work of [`crate::parse`], which takes what is left, and
//! what is not in order.

use lb_common::{Address, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, from_halves};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{Packet, opaque, parse::Layout};

/// What the header behind IP's begins with.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct L4 {
    /// Of TCP or UDP.
    ports: [[u8; 2]; 2],
    /// What follows is of TCP.
    numbers: [u8; 8],
    offset: u8,
    flags: u8,
}

/// All headers over IPv4.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct OverV4 {
    ethernet: EthHdr,
    ip: Ipv4Hdr,
    l4: L4,
}

/// All headers over IPv6.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct OverV6 {
    ethernet: EthHdr,
    ip: Ipv6Hdr,
    l4: L4,
}

/// Reads a packet of such a shape. Of all others, also of those that are not in order, it says nothing.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, key: &mut FlowKey) -> Option<Layout> {
    let ethernet: EthHdr = packet.read(0)?;
    if ethernet.ether_type == EtherType::Ipv4 as u16 {
        over_v4(packet, key)
    } else if ethernet.ether_type == EtherType::Ipv6 as u16 {
        over_v6(packet, key)
    } else {
        None
    }
}

#[inline(always)]
fn over_v4<P: Packet>(packet: &P, key: &mut FlowKey) -> Option<Layout> {
    let headers: OverV4 = packet.read(0)?;
    let ip = headers.ip;
    let is_whole = u16::from_ne_bytes(ip.frags) & 0x3fff_u16.to_be() == 0;
    if ip.vihl != 0x45 || !is_whole {
        return None;
    }
    let length = u16::from_be_bytes(ip.tot_len) as usize;
    let flags = flags(packet, ip.proto, &headers.l4, (Ipv4Hdr::LEN, length))?;
    let l4 = headers.l4;
    *key = FlowKey {
        source: mapped(ip.src_addr),
        destination: mapped(ip.dst_addr),
        source_port: l4.ports[0],
        destination_port: l4.ports[1],
        protocol: ip.proto,
        ..FlowKey::default()
    };
    Some(layout(Ipv4Hdr::LEN, length, flags))
}

#[inline(always)]
fn over_v6<P: Packet>(packet: &P, key: &mut FlowKey) -> Option<Layout> {
    let headers: OverV6 = packet.read(0)?;
    let ip = headers.ip;
    if ip.vcf[0] >> 4 != 6 {
        return None;
    }
    let length = u16::from_be_bytes(ip.payload_len) as usize + Ipv6Hdr::LEN;
    let flags = flags(packet, ip.next_hdr, &headers.l4, (Ipv6Hdr::LEN, length))?;
    let l4 = headers.l4;
    *key = FlowKey {
        source: ip.src_addr,
        destination: ip.dst_addr,
        source_port: l4.ports[0],
        destination_port: l4.ports[1],
        protocol: ip.next_hdr,
        ..FlowKey::default()
    };
    Some(layout(Ipv6Hdr::LEN, length, flags))
}

/// The flags of TCP, 0 for UDP; `None` for other protocols, and when the IP packet of `length` bytes does not
/// hold the header behind its own of `header` bytes, or is not there as a whole.
#[inline(always)]
fn flags<P: Packet>(
    packet: &P,
    protocol: u8,
    l4: &L4,
    (header, length): (usize, usize),
) -> Option<u8> {
    if EthHdr::LEN + length > packet.length() {
        return None;
    }
    if protocol == PROTOCOL_TCP {
        let is_whole = length >= header + TcpHdr::LEN && l4.offset >> 4 >= 5;
        is_whole.then_some(l4.flags)
    } else {
        let is_whole = protocol == PROTOCOL_UDP && length >= header + UdpHdr::LEN;
        is_whole.then_some(0)
    }
}

#[inline(always)]
const fn layout(header: usize, length: usize, tcp_flags: u8) -> Layout {
    Layout {
        l3: EthHdr::LEN,
        l4: EthHdr::LEN + header,
        ip_length: length as u32,
        v4: header == Ipv4Hdr::LEN,
        fragment: false,
        tcp_flags,
    }
}

/// Maps an IPv4 address into the 16-byte form, in two words: were it written in pieces, as the compiler does
/// with what it knows to be of pieces, a word that is read a moment later would have to wait until all of them
/// have reached the cache.
#[inline(always)]
fn mapped(v4: [u8; 4]) -> Address {
    from_halves([
        0,
        opaque(0xffff_0000 | u64::from(u32::from_le_bytes(v4)) << 32),
    ])
}
