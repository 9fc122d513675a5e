//! Saying no.
//!
//! A packet for a VIP that no instance can take is dropped, or refused if its service says so: a
//! client that is told fails at once, and one that is not waits for its own patience to end. TCP is
//! told by a reset, which is what a host without a listener would send (RFC 9293, 3.5.2); everything
//! else by an ICMP "port unreachable" (RFC 1122, 4.1.3.1; RFC 4443, 3.1). Anybody can ask for these,
//! and with the address of somebody else, so there are only so many in a second; see
//! [`crate::budget`].
//!
//! The answer is made of the packet itself, from the address that it was for. What has options or
//! extension headers is dropped: nobody begins a connection with them.

use lb_common::{Counter, FlowKey, PROTOCOL_TCP};
use network_types::ip::{IpProto, Ipv6Hdr};

use crate::{
    Packet, Scratch, Tables, Verdict,
    checksum::Sum,
    echo::is_one_host,
    handshake::Shown,
    parse::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    rewrite::{
        link::Link,
        outer::{Outer, TTL},
        segment::{Bound, Segment, Tail, pseudo},
    },
    step::Handover,
    too_big::unfinished,
};

/// Bytes of the header of an ICMP message.
const ICMP: usize = 8;
/// What a message quotes behind the IP header, and what it has to quote at least (RFC 792).
const QUOTED: usize = 8;

/// Turns a packet into the answer that nobody is there, unless it is one that nobody may answer or
/// too much was said in this second.
#[inline(always)]
pub fn refuse<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let (key, handover) = (&scratch.key, &scratch.handover);
    let header = Outer::length(handover.v4 != 0) as u32;
    let plain = handover.l4.wrapping_sub(handover.l3) == header && handover.is_unsummed == 0;
    let has_frame = packet.read(0).is_some_and(|[to, _]: [u8; 2]| to & 1 == 0);
    let allowed = plain
        && has_frame
        && handover.tcp_flags & TCP_RST == 0
        && is_one_host(&key.source)
        && tables.may_answer(
            tables.now(),
            tables.settings().map_or(0, |settings| settings.icmp_rate),
        );
    if !allowed {
        return Verdict::Drop(Counter::DropNoInstance);
    }
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(handover.l3 as usize);
    let written = if key.protocol == PROTOCOL_TCP {
        reset(packet, key, (handover, scratch.shown), l3)
    } else {
        unreachable(packet, key, handover, l3)
    };
    match written {
        Some(()) => Verdict::Answer(Counter::AnsweredRefused),
        None => Verdict::Drop(Counter::DropRewrite),
    }
}

/// Writes the headers of a message that goes back.
#[inline(always)]
fn turn<P: Packet>(
    packet: &mut P,
    key: &FlowKey,
    v4: bool,
    l3: usize,
    (link, macs): (&Link, [u8; 12]),
    (protocol, payload): (u8, usize),
) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    link.write(packet, [g, h, i, j, k, l, a, b, c, d, e, f], v4)?;
    let outer = Outer {
        source: key.destination,
        destination: key.source,
        protocol,
        // DSCP of network control (RFC 1812, 4.3.2.5).
        class: 0xc0,
        ttl: TTL,
        label: 0,
        payload: payload as u16,
    };
    if v4 {
        outer.write_v4(packet, l3)
    } else {
        outer.write_v6(packet, l3)
    }
}

/// Makes a reset of a segment. It is acceptable to its receiver if it has the number that is expected
/// next, or, where the segment does not say which that is, acknowledges all of it. Whoever has shown a cookie
/// expects the number behind it, whatever has become of the segment.
#[inline(always)]
fn reset<P: Packet>(
    packet: &mut P,
    key: &FlowKey,
    (handover, shown): (&Handover, Shown),
    l3: usize,
) -> Option<()> {
    let v4 = handover.v4 != 0;
    let header = Outer::length(v4);
    let [s0, s1, s2, s3, n0, n1, n2, n3, offset, _]: [u8; 10] = packet.read(l3 + header + 4)?;
    let flags = handover.tcp_flags;
    let ends = u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
    let data = handover
        .ip_length
        .wrapping_sub(header as u32 + (u32::from(offset >> 4) << 2));
    let next = u32::from_be_bytes([s0, s1, s2, s3])
        .wrapping_add(data)
        .wrapping_add(ends);
    let (number, acknowledged, flags) = if shown.is_accepted() {
        (shown.cookie.wrapping_add(1), 0, TCP_RST)
    } else if flags & TCP_ACK != 0 {
        (u32::from_be_bytes([n0, n1, n2, n3]), 0, TCP_RST)
    } else {
        (0, next, TCP_RST | TCP_ACK)
    };
    let reset = Segment {
        number,
        acknowledged,
        flags,
        window: 0,
        tail: Tail::Nothing,
    };
    reset.replace(packet, key, (l3, v4), Bound::Back)
}

/// Makes the message that a port is unreachable.
#[inline(always)]
fn unreachable<P: Packet>(
    packet: &mut P,
    key: &FlowKey,
    handover: &Handover,
    l3: usize,
) -> Option<()> {
    let v4 = handover.v4 != 0;
    let header = Outer::length(v4);
    let link = Link::read(packet, l3)?;
    let macs: [u8; 12] = packet.read(0)?;
    let l4 = packet.blur(l3 + header);
    packet.resize(l3 + header + QUOTED)?;
    let unfinished = unfinished(packet, key.protocol, l4);
    let quoted = sum(packet, l3, v4, unfinished)?;
    packet.grow(header + ICMP)?;
    let payload = ICMP + header + QUOTED;
    let protocol = if v4 {
        IpProto::Icmp as u8
    } else {
        IpProto::Ipv6Icmp as u8
    };
    turn(packet, key, v4, l3, (&link, macs), (protocol, payload))?;
    // Type and code: destination unreachable, port unreachable.
    let head = if v4 { [3, 3] } else { [1, 4] };
    let check = if v4 {
        quoted.word(head)
    } else {
        // Only ICMPv6 has a pseudo-header.
        pseudo(key, protocol, payload).plus(quoted).word(head)
    };
    let [c0, c1] = check.checksum();
    packet.write(l3 + header, [head[0], head[1], c0, c1, 0, 0, 0, 0])
}

/// The sum of what is quoted.
#[inline(always)]
fn sum<P: Packet>(packet: &P, l3: usize, v4: bool, unfinished: Option<Sum>) -> Option<Sum> {
    const MOST: usize = (Ipv6Hdr::LEN + QUOTED) / 4;
    let header = Outer::length(v4);
    let (end, rest) = match unfinished {
        Some(segment) => (header, segment),
        None => (header + QUOTED, Sum::none()),
    };
    let mut sum = rest;
    for word in 0..MOST {
        if 4 * word >= end {
            break;
        }
        sum = sum.words(packet.read(l3 + 4 * word)?);
    }
    Some(sum)
}
