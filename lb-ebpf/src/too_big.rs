//! Packets that are too large for their way.
//!
//! lb does not fragment. It says what fits, in an ICMP "fragmentation needed" (RFC 1191) or an
//! ICMPv6 "packet too big" (RFC 4443, 3.2), which goes back where the packet came from; a sender
//! that discovers its path's MTU sends smaller packets from then on. The message comes from the
//! address that the packet was for: that is who the sender talks to, and whose word a firewall on
//! the way lets through.
//!
//! The message is made of the packet itself: its end is cut off and headers are put in front.

use core::mem::offset_of;

use lb_common::{Address, Counter, PROTOCOL_TCP};
use network_types::{
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    Packet, Scratch, Tables, Verdict,
    checksum::Sum,
    echo::is_one_host,
    opaque,
    rewrite::{
        link::Link,
        outer::{Outer, TTL},
    },
    way::Way,
};

/// Bytes of the header of an ICMP message.
const ICMP: usize = 8;
/// What a message quotes of an IPv4 packet: as much as fits into 576 bytes (RFC 1812, 4.3.2.3).
pub const QUOTE_V4: usize = 576 - Ipv4Hdr::LEN - ICMP;
/// What a message quotes of an IPv6 packet: as much as fits into 1280 bytes (RFC 4443, 2.4 c).
pub const QUOTE_V6: usize = 1280 - Ipv6Hdr::LEN - ICMP;

/// No link of IPv6 takes less (RFC 8200, 5).
pub(crate) const MIN_MTU_V6: u32 = 1280;
/// DSCP of network control (RFC 1812, 4.3.2.5, in today's words class selector 6).
const CLASS: u8 = 0xc0;

const _: () = assert!(QUOTE_V4.is_multiple_of(4) && QUOTE_V6.is_multiple_of(4));
const _: () = assert!(22 + QUOTE_V6 <= crate::packet::MAX_OFFSET);

/// Turns a packet into the message that it is too large, unless too many were told so in this
/// second or the packet is one that nobody may answer.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let way = Way::of(packet, &scratch.handover);
    let verdict = try_answer(packet, tables, scratch);
    way.lost(tables, verdict.counter());
    verdict
}

#[inline(always)]
fn try_answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let handover = &scratch.handover;
    let v4 = handover.v4 != 0;
    let (source, destination) = (&scratch.key.destination, &scratch.key.source);
    let quote = if v4 { QUOTE_V4 } else { QUOTE_V6 };
    // A packet that is shorter than what is quoted is too large for a link that is hardly one.
    let allowed = is_one_host(destination) && handover.ip_length as usize >= quote && {
        let rate = tables.settings().map_or(0, |settings| settings.icmp_rate);
        tables.may_answer(tables.now(), rate)
    };
    if !allowed {
        return Verdict::Drop(Counter::DropTooBig);
    }
    let mtu = if v4 {
        handover.mtu
    } else {
        handover.mtu.max(MIN_MTU_V6)
    };
    let message = Message {
        v4,
        source: *source,
        destination: *destination,
        mtu,
        quote,
    };
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(handover.l3 as usize);
    let l4 = packet.blur(handover.l4 as usize);
    match message.write(packet, (scratch.key.protocol, l3, l4)) {
        Some(()) => Verdict::Answer(Counter::AnsweredTooBig),
        None => Verdict::Drop(Counter::DropRewrite),
    }
}

struct Message {
    v4: bool,
    source: Address,
    destination: Address,
    mtu: u32,
    quote: usize,
}

impl Message {
    #[inline(always)]
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        (protocol, l3, l4): (u8, usize, usize),
    ) -> Option<()> {
        let link = Link::read(packet, l3)?;
        let macs: [u8; 12] = packet.read(0)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
        packet.resize(l3 + self.quote)?;
        let quoted = match unfinished(packet, protocol, l4) {
            Some(to_be) => {
                let [head, segment] = self.sums(packet, l3, l4.wrapping_sub(l3))?;
                let last = packet.blur(l3 + self.quote - 2);
                settle(packet, last, segment, to_be)?;
                head.plus(to_be)
            }
            None => {
                let [all, _] = self.sums(packet, l3, self.quote)?;
                all
            }
        };
        packet.grow(Outer::length(self.v4) + ICMP)?;
        link.write(packet, [g, h, i, j, k, l, a, b, c, d, e, f], self.v4)?;
        let payload = (ICMP + self.quote) as u16;
        let outer = Outer {
            source: self.source,
            destination: self.destination,
            protocol: if self.v4 {
                IpProto::Icmp as u8
            } else {
                IpProto::Ipv6Icmp as u8
            },
            class: CLASS,
            ttl: TTL,
            label: 0,
            payload,
        };
        if self.v4 {
            outer.write_v4(packet, l3)?;
        } else {
            outer.write_v6(packet, l3)?;
        }
        let [m0, m1, m2, m3] = self.mtu.to_be_bytes();
        // Type and code: destination unreachable, fragmentation needed; packet too big.
        let head = if self.v4 { [3, 4] } else { [2, 0] };
        let sum = quoted.word(head).words([m0, m1, m2, m3]);
        let check = if self.v4 {
            sum
        } else {
            // Only ICMPv6 has a pseudo-header.
            sum.address(&self.source)
                .address(&self.destination)
                .word([0, IpProto::Ipv6Icmp as u8])
                .word(payload.to_be_bytes())
        };
        let [c0, c1] = check.checksum();
        packet.write(
            l3 + Outer::length(self.v4),
            [head[0], head[1], c0, c1, m0, m1, m2, m3],
        )
    }

    /// The sums of what is quoted: of its first `header` bytes, and of the others.
    #[inline(always)]
    fn sums<P: Packet>(&self, packet: &P, l3: usize, header: usize) -> Option<[Sum; 2]> {
        let (mut head, mut rest) = (Sum::none(), Sum::none());
        for word in 0..QUOTE_V6 / 4 {
            if 4 * word >= self.quote {
                break;
            }
            let four: [u8; 4] = packet.read(l3 + 4 * word)?;
            // By a mask: a branch for each would be as many ways to the verifier.
            let mask = opaque(((4 * word).wrapping_sub(header) as u64) >> 63).wrapping_neg() as u32;
            let four = u32::from_ne_bytes(four);
            head = head.words((four & mask).to_ne_bytes());
            rest = rest.words((four & !mask).to_ne_bytes());
        }
        Some([head, rest])
    }
}

/// Makes a quoted segment have the sum that it is to have once its checksum is made, by the word at `at`, which is
/// payload that nobody reads: not all cards find the segment in a message that quotes it, and those that do put there
/// what is there already. `segment` is its sum up to now.
#[inline(always)]
fn settle<P: Packet>(packet: &mut P, at: usize, segment: Sum, to_be: Sum) -> Option<()> {
    let word: [u8; 2] = packet.read(at)?;
    let others = segment.less(word);
    packet.write(at, to_be.without(others).folded())
}

/// What a quoted segment of `protocol` at `l4`, which ends where the packet does, sums up to once its checksum is
/// made, if that is still to be done: the complement of what is in its place so far, since what is made of all is such
/// that all and the pseudo-header, whose sum that is, come to nothing.
#[inline(always)]
pub(crate) fn unfinished<P: Packet>(packet: &mut P, protocol: u8, l4: usize) -> Option<Sum> {
    let check_at = l4
        + if protocol == PROTOCOL_TCP {
            offset_of!(TcpHdr, check)
        } else {
            offset_of!(UdpHdr, check)
        };
    if !packet.is_unfinished(check_at) {
        return None;
    }
    Some(Sum::none().less(packet.read(check_at)?))
}
