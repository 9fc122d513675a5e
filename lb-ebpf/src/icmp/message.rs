//! Messages of ICMP and what they quote.

use lb_common::{FLOW_FORWARD, FlowEntry, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, from_v4};
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};

use crate::{Packet, parse, step::Handover};

/// Bytes of an ICMP error before the quote.
pub(crate) const HEADER: usize = 8;
/// Bytes of the header of a fragment of IPv6.
const FRAGMENT: usize = 8;

/// An ICMP message.
pub(crate) struct Message {
    /// Where the IP header is.
    pub(crate) l3: usize,
    /// Where the ICMP header is.
    pub(crate) l4: usize,
    /// Whether it is an error; only those have a quote.
    pub(super) is_error: bool,
    /// Where the quoted IP header is.
    pub(super) quote: usize,
    /// Where the quoted TCP or UDP header is.
    pub(super) quoted_l4: usize,
    ip_length: u32,
    /// Whether the IP header is of version 4.
    pub(crate) v4: bool,
}

impl Message {
    /// Reads an ICMP message down to its type. `None` when it is none, or not whole.
    #[inline(always)]
    pub(super) fn read<P: Packet>(packet: &mut P) -> Option<Self> {
        let (l3, ether_type) = parse::link(packet)?;
        let mut message = if ether_type == EtherType::Ipv4 as u16 {
            Self::read_v4(packet, l3)?
        } else if ether_type == EtherType::Ipv6 as u16 {
            Self::read_v6(packet, l3)?
        } else {
            return None;
        };
        if l3 + message.ip_length as usize > packet.length() {
            return None;
        }
        message.l4 = packet.blur(message.l4);
        let [kind, _code]: [u8; 2] = packet.read(message.l4)?;
        // Destination unreachable, time exceeded, parameter problem; of ICMPv6 also packet too big.
        message.is_error = if message.v4 {
            kind == 3 || kind == 11 || kind == 12
        } else {
            (1..=4).contains(&kind)
        };
        Some(message)
    }

    /// Reads what an error quotes; the tuple of packets that go the other way than the quoted one
    /// goes into `key`, which must be all zero. `None` when it is not about TCP or UDP.
    #[inline(always)]
    pub(super) fn read_quote<P: Packet>(
        &mut self,
        packet: &mut P,
        key: &mut FlowKey,
    ) -> Option<()> {
        self.quote = packet.blur(self.l4 + HEADER);
        let header = if self.v4 {
            quoted_v4(packet, self.quote, key)?
        } else {
            quoted_v6(packet, self.quote, key)?
        };
        if key.protocol != PROTOCOL_TCP && key.protocol != PROTOCOL_UDP {
            return None;
        }
        self.quoted_l4 = packet.blur(self.quote + header);
        let ports: [u8; 4] = packet.read(self.quoted_l4)?;
        key.destination_port = [ports[0], ports[1]];
        key.source_port = [ports[2], ports[3]];
        Some(())
    }

    #[inline(always)]
    fn read_v4<P: Packet>(packet: &P, l3: usize) -> Option<Self> {
        let ip: Ipv4Hdr = packet.read(l3)?;
        let header = ((ip.vihl & 0x0f) as usize) << 2;
        let is_whole = u16::from_be_bytes(ip.frags) & 0x3fff == 0;
        let is_message = ip.vihl >> 4 == 4
            && header >= Ipv4Hdr::LEN
            && ip.proto == IpProto::Icmp as u8
            && is_whole;
        is_message.then_some(Self {
            l3,
            l4: l3 + header,
            is_error: false,
            quote: 0,
            quoted_l4: 0,
            ip_length: u32::from(u16::from_be_bytes(ip.tot_len)),
            v4: true,
        })
    }

    #[inline(always)]
    fn read_v6<P: Packet>(packet: &P, l3: usize) -> Option<Self> {
        let ip: Ipv6Hdr = packet.read(l3)?;
        let is_message = ip.vcf[0] >> 4 == 6 && ip.next_hdr == IpProto::Ipv6Icmp as u8;
        is_message.then_some(Self {
            l3,
            l4: l3 + Ipv6Hdr::LEN,
            is_error: false,
            quote: 0,
            quoted_l4: 0,
            ip_length: u32::from(u16::from_be_bytes(ip.payload_len)) + Ipv6Hdr::LEN as u32,
            v4: false,
        })
    }

    #[inline(always)]
    pub(super) fn handover(&self, entry: &FlowEntry) -> Handover {
        Handover {
            l3: self.l3 as u32,
            l4: self.l4 as u32,
            ip_length: self.ip_length,
            vip: entry.vip,
            index: entry.instance,
            generation: entry.generation,
            forward: entry.forward,
            v4: u8::from(self.v4),
            direction: FLOW_FORWARD,
            is_unsummed: 1,
            is_unanswered: 1,
            ..Handover::default()
        }
    }
}

/// Reads a quoted IPv4 header and returns its length.
#[inline(always)]
fn quoted_v4<P: Packet>(packet: &P, at: usize, key: &mut FlowKey) -> Option<usize> {
    let ip: Ipv4Hdr = packet.read(at)?;
    let header = ((ip.vihl & 0x0f) as usize) << 2;
    // Only the first fragment has ports.
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN || u16::from_be_bytes(ip.frags) & 0x1fff != 0 {
        return None;
    }
    key.source = from_v4(ip.dst_addr);
    key.destination = from_v4(ip.src_addr);
    key.protocol = ip.proto;
    Some(header)
}

/// Reads a quoted IPv6 header and returns its length, with that of the header of a first fragment: answers
/// that were too big in one piece are too big in several where a link on the way is narrow. Other
/// extension headers are not walked.
#[inline(always)]
fn quoted_v6<P: Packet>(packet: &P, at: usize, key: &mut FlowKey) -> Option<usize> {
    let ip: Ipv6Hdr = packet.read(at)?;
    if ip.vcf[0] >> 4 != 6 {
        return None;
    }
    key.source = ip.dst_addr;
    key.destination = ip.src_addr;
    key.protocol = ip.next_hdr;
    if ip.next_hdr != IpProto::Ipv6Frag as u8 {
        return Some(Ipv6Hdr::LEN);
    }
    let [next, _, high, low, ..]: [u8; FRAGMENT] = packet.read(at + Ipv6Hdr::LEN)?;
    key.protocol = next;
    // Only the first one has ports.
    (u16::from_be_bytes([high, low]) >> 3 == 0).then_some(Ipv6Hdr::LEN + FRAGMENT)
}
