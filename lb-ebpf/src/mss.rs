//! The largest segment that a TCP sender may send, as an answer says it (RFC 9293, 3.7.1).
//!
//! An instance behind a tunnel answers the client itself, and tells it what fits its own link. What
//! the client then sends goes through the tunnel, where that much and the outer headers do not fit
//! any more. Each such packet would be dropped and its sender told, until it has learned; clients
//! that never hear of it (because somebody filters ICMP) hang. So the answer is made to say what
//! fits through the tunnel.

use lb_common::{Address, DecapCounter, PROTOCOL_TCP, from_v4};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    Packet,
    decap::Host,
    parse::{self, TCP_SYN},
};

/// Options that are walked. A SYN has five or six.
const MAX_OPTIONS: usize = 12;

/// Option kinds of RFC 9293, 3.1.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;

/// No answer is made to say less (RFC 9293, 3.7.1: what everybody must take over IPv4).
pub const LEAST: u16 = 536;

/// A change of the MSS in a packet; whoever makes it sees to the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Where the MSS is.
    pub at: usize,
    /// Where the checksum is that covers it.
    pub check_at: usize,
    /// What is there, network byte order.
    pub old: [u8; 2],
    /// What must be there instead, network byte order.
    pub new: [u8; 2],
    /// Whether the MSS begins at an odd place of the segment, where its two bytes belong to two
    /// words of the checksum.
    pub is_odd: bool,
}

/// What has to be changed in a packet that leaves this host: the MSS of a SYN from an address that
/// packets come to in tunnels, if it is too large.
#[inline(always)]
pub fn clamp<P: Packet, H: Host>(packet: &mut P, host: &H) -> Option<Clamp> {
    let mtu = host.settings()?.mtu;
    if mtu == 0 {
        return None;
    }
    let segment = Segment::read(packet)?;
    let overhead = host.overhead(&segment.source);
    if overhead == 0 {
        return None;
    }
    let most = u32::from(mtu)
        .saturating_sub(overhead + segment.headers)
        .max(u32::from(LEAST)) as u16;
    let (at, old) = segment.mss(packet)?;
    if u16::from_be_bytes(old) <= most {
        return None;
    }
    host.count(DecapCounter::Clamped);
    Some(Clamp {
        at,
        check_at: segment.at + core::mem::offset_of!(TcpHdr, check),
        old,
        new: most.to_be_bytes(),
        is_odd: (at - segment.at) & 1 != 0,
    })
}

/// A TCP segment that begins a connection.
struct Segment {
    source: Address,
    at: usize,
    /// Where its options end.
    end: usize,
    /// Bytes of the headers of IP and TCP without options, which the MSS does not count.
    headers: u32,
}

impl Segment {
    #[inline(always)]
    fn read<P: Packet>(packet: &mut P) -> Option<Self> {
        let (l3, ether_type) = parse::link(packet)?;
        let (source, at, headers) = if ether_type == EtherType::Ipv4 as u16 {
            let ip: Ipv4Hdr = packet.read(l3)?;
            let header = ((ip.vihl & 0x0f) as usize) << 2;
            if ip.proto != PROTOCOL_TCP || u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
                return None;
            }
            (from_v4(ip.src_addr), l3 + header, Ipv4Hdr::LEN)
        } else if ether_type == EtherType::Ipv6 as u16 {
            let ip: Ipv6Hdr = packet.read(l3)?;
            if ip.next_hdr != PROTOCOL_TCP {
                return None;
            }
            (ip.src_addr, l3 + Ipv6Hdr::LEN, Ipv6Hdr::LEN)
        } else {
            return None;
        };
        let at = packet.blur(at);
        let [offset, flags]: [u8; 2] = packet.read(at + 12)?;
        if flags & TCP_SYN == 0 {
            return None;
        }
        Some(Self {
            source,
            at,
            end: at + (((offset >> 4) as usize) << 2),
            headers: (headers + TcpHdr::LEN) as u32,
        })
    }

    /// Where the MSS is, and what.
    #[inline(always)]
    fn mss<P: Packet>(&self, packet: &P) -> Option<(usize, [u8; 2])> {
        let mut at = self.at + TcpHdr::LEN;
        for _ in 0..MAX_OPTIONS {
            if at + usize::from(MSS_LENGTH) > self.end {
                return None;
            }
            let [kind, length]: [u8; 2] = packet.read(at)?;
            if kind == END {
                return None;
            }
            if kind == NO_OPERATION {
                at += 1;
                continue;
            }
            if kind == MSS && length == MSS_LENGTH {
                return Some((at + 2, packet.read(at + 2)?));
            }
            if length < 2 {
                return None;
            }
            at += length as usize;
        }
        None
    }
}
