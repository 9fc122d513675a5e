//! Tunnels: `ipip` and `gue`.
//!
//! The packet travels to its instance whole, inside of another IP packet from lb's own address, so
//! an instance may be anywhere that IP reaches, and answers the client itself. The instance takes
//! the outer header off (`lb decap`, or the kernel's own tunnel devices).
//!
//! * `ipip` puts an IP header in front (RFC 2003 for IPv4 in IPv4, RFC 2473 in IPv6, RFC 4213 for
//!   IPv6 in IPv4): the outer header follows the instance's address family, the inner one the VIP's.
//! * `gue` puts UDP in between, in variant 1 of Generic UDP Encapsulation, "direct IP
//!   encapsulation", which has no header of its own: the first four bits of the UDP payload are the
//!   inner packet's version. Its source port follows from the flow, so that routers and network
//!   cards, which hash UDP ports, spread an instance's flows; the flow label of an outer IPv6 header
//!   does the same for both (RFC 6438).
//!
//! The outer header has the inner one's DSCP and ECN (RFC 6040's normal mode, RFC 2983's uniform
//! model) and forbids fragments. The inner packet is not changed at all, its TTL neither: it was
//! sent to the VIP, for which lb stands, and has arrived.
//!
//! Packets of `l2dsr` connections for which the connection table has no room are sent from here as
//! well, as they are.

use lb_common::{
    Counter, FORWARD_GUE, FlowKey, InstanceEntry, NextHop, Settings, encapsulates, is_v4,
    same_address,
};
use network_types::{ip::IpProto, udp::UdpHdr};

use crate::{
    Packet, Scratch, Stage, Step, Tables,
    checksum::Sum,
    conntrack, hash, hop,
    parse::{TCP_FIN, TCP_RST},
    path_mtu,
    rewrite::{
        l2,
        link::Link,
        outer::{Outer, TTL},
        tag,
    },
    step::Handover,
    way::Way,
};

/// Source ports of `gue` are this and the 16383 above it, the ephemeral ports (RFC 6335), as RFC
/// 8086 asks of tunnels in UDP.
const FIRST_PORT: u16 = 0xc000;

/// No IP packet is longer.
const MAX_LENGTH: u32 = u16::MAX as u32;

/// Sends a packet to the instance that [`Scratch::handover`] names, in a tunnel if it says so.
#[inline(always)]
pub fn encapsulate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    let way = Way::of(packet, &scratch.handover);
    match send(packet, tables, scratch, interface) {
        Ok(out) => {
            let flags = scratch.handover.tcp_flags;
            if flags & (TCP_FIN | TCP_RST) != 0
                && let Some(flow) = tables.flow(&scratch.key)
            {
                conntrack::note_end(tables, &scratch.key, flags, &flow);
            }
            Step::Done(way.forwarded(tables, out, interface))
        }
        Err(Counter::DropTooBig) if scratch.handover.is_unanswered == 0 => {
            Step::Next(Stage::TooBig)
        }
        Err(reason) => Step::Done(way.refused(tables, reason)),
    }
}

/// On an error the packet is as it was, or not to be sent.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Result<u32, Counter> {
    let (handover, now) = (&scratch.handover, tables.now());
    let mut hop = hop::to_instance(
        tables,
        interface,
        handover.index,
        handover.generation,
        now,
        handover.forward,
    )?;
    if encapsulates(handover.forward) {
        path_mtu::heed(tables, handover.index, now, &mut hop);
        wrap(packet, tables, scratch, &hop)?;
    } else if hop.mtu() != 0 && largest(packet, &scratch.key, handover) > hop.mtu() {
        scratch.handover.mtu = hop.mtu();
        return Err(Counter::DropTooBig);
    } else {
        l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    }
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(scratch.handover.l3 as usize);
    let way = (hop.interface, hop.flags);
    tag::rewrite(packet, tables, l3, way, interface)
}

/// What has to fit the way.
#[inline(always)]
fn largest<P: Packet>(packet: &P, key: &FlowKey, handover: &Handover) -> u32 {
    let (l3, l4) = (handover.l3 as usize, handover.l4 as usize);
    packet.largest(handover.ip_length, l3, l4, key.protocol)
}

/// Puts the outer headers in front. Out of line, because asking for a way takes as much stack.
#[inline(never)]
fn wrap<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    hop: &NextHop,
) -> Result<(), Counter> {
    let Scratch { key, handover, .. } = scratch;
    let instance = (tables.instance(handover.index)).ok_or(Counter::DropNoInstance)?;
    let settings = tables.settings().ok_or(Counter::DropNoTunnelSource)?;
    let tunnel = Tunnel::new(&settings, &instance, handover, hash::flow(key))?;
    let overhead = tunnel.overhead() as u32;
    let most = if hop.mtu() == 0 {
        MAX_LENGTH
    } else {
        hop.mtu()
    };
    if largest(packet, key, handover) + overhead > most {
        handover.mtu = most.saturating_sub(overhead);
        return Err(Counter::DropTooBig);
    }
    let link = Link::read(packet, handover.l3 as usize).ok_or(Counter::DropRewrite)?;
    let inner = Inner::read(packet, key, handover).ok_or(Counter::DropRewrite)?;
    packet
        .wrap(tunnel.overhead(), tunnel.v4, tunnel.gue)
        .ok_or(Counter::DropHeadroom)?;
    tunnel
        .write(packet, &link, hop, &inner, handover)
        .ok_or(Counter::DropRewrite)
}

/// What the outer headers say.
struct Tunnel {
    source: lb_common::Address,
    destination: lb_common::Address,
    v4: bool,
    gue: bool,
    port: [u8; 2],
    hash: u64,
}

impl Tunnel {
    #[inline(always)]
    fn new(
        settings: &Settings,
        instance: &InstanceEntry,
        handover: &Handover,
        hash: u64,
    ) -> Result<Self, Counter> {
        let v4 = is_v4(&instance.address);
        let source = settings.nat_source(v4);
        if same_address(&source, &[0; 16]) {
            return Err(Counter::DropNoTunnelSource);
        }
        Ok(Self {
            source,
            destination: instance.address,
            v4,
            gue: handover.forward == FORWARD_GUE,
            port: settings.gue_port,
            hash,
        })
    }

    #[inline(always)]
    fn overhead(&self) -> usize {
        Outer::length(self.v4) + if self.gue { UdpHdr::LEN } else { 0 }
    }

    #[inline(always)]
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        link: &Link,
        hop: &NextHop,
        inner: &Inner,
        handover: &Handover,
    ) -> Option<()> {
        link.write(packet, hop.macs, self.v4)?;
        let l3 = handover.l3 as usize;
        let mut payload = handover.ip_length as u16;
        let mut protocol = if handover.v4 != 0 {
            IpProto::Ipv4 as u8
        } else {
            IpProto::Ipv6 as u8
        };
        if self.gue {
            payload = payload.wrapping_add(UdpHdr::LEN as u16);
            protocol = IpProto::Udp as u8;
            self.write_udp(packet, l3 + Outer::length(self.v4), payload, inner)?;
        }
        let outer = Outer {
            source: self.source,
            destination: self.destination,
            protocol,
            class: inner.class,
            ttl: TTL,
            label: self.hash as u32,
            payload,
        };
        if self.v4 {
            outer.write_v4(packet, l3)
        } else {
            outer.write_v6(packet, l3)
        }
    }

    /// Over IPv4 UDP needs no checksum; over IPv6 receivers may insist on one, even for tunnels (RFC
    /// 6935), so there is one wherever it can be known without reading the whole packet, and the packet is
    /// one: of several each would have another, which nobody makes.
    #[inline(always)]
    fn write_udp<P: Packet>(
        &self,
        packet: &mut P,
        at: usize,
        length: u16,
        inner: &Inner,
    ) -> Option<()> {
        let source = (FIRST_PORT | (self.hash >> 32) as u16).to_be_bytes();
        let length = length.to_be_bytes();
        let check = match inner.sum {
            Some(sum) if !self.v4 && !packet.is_several() => sum
                .address(&self.source)
                .address(&self.destination)
                .word([0, IpProto::Udp as u8])
                .word(length)
                .word(length)
                .word(source)
                .word(self.port)
                .checksum_udp(),
            _ => [0; 2],
        };
        packet.write(
            at,
            [
                source[0],
                source[1],
                self.port[0],
                self.port[1],
                length[0],
                length[1],
                check[0],
                check[1],
            ],
        )
    }
}

/// What the outer headers take from the packet.
struct Inner {
    /// Type of service or traffic class.
    class: u8,
    /// The one's complement sum of the whole packet, where it follows from the packet's own
    /// checksums: the sum of an IPv4 header is zero, and that of a segment is zero with its
    /// pseudo-header. Not known for UDP without a checksum, behind extension headers, and where the
    /// checksum covers other bytes than these: of fragments and ICMP messages.
    sum: Option<Sum>,
}

impl Inner {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, key: &FlowKey, handover: &Handover) -> Option<Self> {
        let (l3, l4) = (handover.l3 as usize, handover.l4 as usize);
        let first: [u8; 8] = packet.read(l3)?;
        let summed = handover.is_unsummed == 0 && {
            let check: [u8; 2] = packet.read(l4 + 6)?;
            key.protocol != lb_common::PROTOCOL_UDP || u16::from_ne_bytes(check) != 0
        };
        if handover.v4 != 0 {
            let segment = handover
                .ip_length
                .wrapping_sub(handover.l4.wrapping_sub(handover.l3));
            let sum = Sum::none()
                .less_address(&key.source)
                .less_address(&key.destination)
                .less([0, key.protocol])
                .less((segment as u16).to_be_bytes());
            return Some(Self {
                class: first[1],
                sum: summed.then_some(sum),
            });
        }
        // The addresses and the length are in the header and in the pseudo-header, and take each
        // other away.
        let plain = l4 == l3 + Outer::length(false);
        let sum = Sum::none()
            .words([first[0], first[1], first[2], first[3]])
            .word([first[6], first[7]])
            .less([0, key.protocol]);
        Some(Self {
            class: first[0] << 4 | first[1] >> 4,
            sum: (summed && plain).then_some(sum),
        })
    }
}
