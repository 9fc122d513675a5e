//! Network address translation.
//!
//! Both directions are the same operation: the entry of the connection table says what addresses
//! and ports become (see [`lb_common::FlowEntry`]). A packet is forwarded as a router forwards it,
//! so its TTL or hop limit goes down by one.

use core::mem::offset_of;

use lb_common::{Counter, FlowEntry, FlowKey, PROTOCOL_TCP};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{Flow, Packet, checksum::Difference, parse::Layout};

/// What it does to a sum over an IPv6 header when the hop limit goes down by one. That of IPv4 has a checksum
/// that makes up for it.
pub(crate) const HOP: Difference = Difference::none().word([0, 1], [0, 0]);

/// The TTL or hop limit of a packet, or `None` when the packet ends before it.
#[inline(always)]
fn ttl<P: Packet>(packet: &P, layout: &Layout) -> Option<u8> {
    if layout.v4 {
        let [ttl, _protocol]: [u8; 2] = packet.read(layout.l3 + offset_of!(Ipv4Hdr, ttl))?;
        Some(ttl)
    } else {
        let [_next, limit]: [u8; 2] = packet.read(layout.l3 + offset_of!(Ipv6Hdr, next_hdr))?;
        Some(limit)
    }
}

/// Gives the packet the addresses and ports of its connection's entry, a TTL that is one less, and
/// the checksums that go with them.
///
/// Out of line: it works with many values at once, for which `l2dsr` should not pay.
///
/// # Errors
///
/// The drop reason. Everything is read before anything is written, so the packet is as it was.
#[inline(never)]
pub fn rewrite<P: Packet, F: Flow>(
    packet: &mut P,
    key: &FlowKey,
    layout: &Layout,
    flow: &F,
) -> Result<(), Counter> {
    rewrite_as(packet, key, layout, flow)
}

/// As [`rewrite`], with a [packed](Layout::packed) layout, for which its caller has to keep no memory.
///
/// # Errors
///
/// As [`rewrite`].
#[inline(never)]
pub fn rewrite_packed<P: Packet, F: Flow>(
    packet: &mut P,
    key: &FlowKey,
    layout: u64,
    flow: &F,
) -> Result<(), Counter> {
    rewrite_as(packet, key, &Layout::unpacked(layout), flow)
}

#[inline(always)]
fn rewrite_as<P: Packet, F: Flow>(
    packet: &mut P,
    key: &FlowKey,
    layout: &Layout,
    flow: &F,
) -> Result<(), Counter> {
    // A packet must not be forwarded with a TTL of zero (RFC 1812, 5.3.1).
    if ttl(packet, layout).is_none_or(|ttl| ttl <= 1) {
        return Err(Counter::DropTtl);
    }
    translate(packet, key, layout, &flow.entry()).ok_or(Counter::DropRewrite)
}

/// As [`rewrite`], for a later fragment of a packet, which has neither ports nor a checksum over
/// addresses.
///
/// # Errors
///
/// As [`rewrite`].
#[inline(never)]
pub fn rewrite_addresses<P: Packet>(
    packet: &mut P,
    key: &FlowKey,
    layout: &Layout,
    entry: &FlowEntry,
) -> Result<(), Counter> {
    if ttl(packet, layout).is_none_or(|ttl| ttl <= 1) {
        return Err(Counter::DropTtl);
    }
    let addresses = Difference::none()
        .address(&key.source, &entry.source)
        .address(&key.destination, &entry.destination);
    let rewritten = if layout.v4 {
        rewrite_v4(packet, layout.l3, addresses, entry)
    } else {
        packet.resum(addresses);
        rewrite_v6(packet, layout.l3, entry)
    };
    rewritten.ok_or(Counter::DropRewrite)
}

#[inline(always)]
fn translate<P: Packet>(
    packet: &mut P,
    key: &FlowKey,
    layout: &Layout,
    entry: &FlowEntry,
) -> Option<()> {
    let addresses = Difference::none()
        .address(&key.source, &entry.source)
        .address(&key.destination, &entry.destination);
    let ports = Difference::none()
        .word(key.source_port, entry.source_port)
        .word(key.destination_port, entry.destination_port);

    let tcp = key.protocol == PROTOCOL_TCP;
    let check_at = layout.l4
        + if tcp {
            offset_of!(TcpHdr, check)
        } else {
            offset_of!(UdpHdr, check)
        };
    packet.change_checksum(check_at, addresses, ports, (key.protocol, layout.v4))?;
    if layout.v4 {
        rewrite_v4(packet, layout.l3, addresses, entry)?;
    } else {
        rewrite_v6(packet, layout.l3, entry)?;
    }
    let (s, d) = (entry.source_port, entry.destination_port);
    // TCP and UDP both begin with the source port and the destination port.
    packet.write(layout.l4, [s[0], s[1], d[0], d[1]])
}

#[inline(always)]
fn rewrite_v4<P: Packet>(
    packet: &mut P,
    l3: usize,
    addresses: Difference,
    entry: &FlowEntry,
) -> Option<()> {
    let mut ip: Ipv4Hdr = packet.read(l3)?;
    let ttl = ip.ttl.wrapping_sub(1);
    ip.check = addresses
        .word([ip.ttl, ip.proto], [ttl, ip.proto])
        .apply(ip.check);
    ip.ttl = ttl;
    let (s, d) = (&entry.source, &entry.destination);
    ip.src_addr = [s[12], s[13], s[14], s[15]];
    ip.dst_addr = [d[12], d[13], d[14], d[15]];
    packet.write(l3, ip)
}

#[inline(always)]
fn rewrite_v6<P: Packet>(packet: &mut P, l3: usize, entry: &FlowEntry) -> Option<()> {
    packet.resum(HOP);
    let mut ip: Ipv6Hdr = packet.read(l3)?;
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    ip.src_addr = entry.source;
    ip.dst_addr = entry.destination;
    packet.write(l3, ip)
}
