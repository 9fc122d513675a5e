//! The largest segment that a TCP sender may send, as an answer says it (RFC 9293, 3.7.1).
//!
//! An instance behind a tunnel answers the client itself, and tells it what fits its own link. What
//! the client then sends goes through the tunnel, where that much and the outer headers do not fit
//! any more. Each such packet would be dropped and its sender told, until it has learned; clients
//! that never hear of it (because somebody filters ICMP) hang. So the answer is made to say what
//! fits through the tunnel.
//!
//! Where the packets of both directions come through lb, [`crate::clamp`] does the same there.

use lb_common::{Address, DecapCounter, PROTOCOL_TCP, from_v4};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    Packet,
    checksum::Difference,
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
    let (source, segment) = Segment::read(packet)?;
    let overhead = host.overhead(&source);
    if overhead == 0 {
        return None;
    }
    let clamp = segment.clamp(packet, u32::from(mtu).saturating_sub(overhead))?;
    host.count(DecapCounter::Clamped);
    Some(clamp)
}

impl Clamp {
    /// What it adds to the checksum.
    #[inline(always)]
    #[must_use]
    pub const fn difference(&self) -> Difference {
        let ([a, b], [c, d]) = (self.old, self.new);
        if self.is_odd {
            Difference::none().word([b, a], [d, c])
        } else {
            Difference::none().word([a, b], [c, d])
        }
    }
}

/// The MSS that a segment says which begins a connection and whose header is at `at`, network byte order.
#[inline(always)]
pub(crate) fn of_syn<P: Packet>(packet: &P, at: usize, v4: bool) -> Option<[u8; 2]> {
    let (_, mss) = Segment::at(packet, at, v4)?.mss(packet)?;
    Some(mss)
}

/// A TCP segment that begins a connection.
pub(crate) struct Segment {
    at: usize,
    /// Where its options end.
    end: usize,
    /// Bytes of the headers of IP and TCP without options, which the MSS does not count.
    headers: u32,
}

impl Segment {
    /// The segment whose header is at `at`, in a packet of IPv4 or of IPv6.
    #[inline(always)]
    pub(crate) fn at<P: Packet>(packet: &P, at: usize, v4: bool) -> Option<Self> {
        let ip = if v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
        let [offset, flags]: [u8; 2] = packet.read(at + 12)?;
        if flags & TCP_SYN == 0 {
            return None;
        }
        Some(Self {
            at,
            end: at + (((offset >> 4) as usize) << 2),
            headers: (ip + TcpHdr::LEN) as u32,
        })
    }

    /// Reads the segment of a packet, and whose it is.
    #[inline(always)]
    fn read<P: Packet>(packet: &mut P) -> Option<(Address, Self)> {
        let (l3, ether_type) = parse::link(packet)?;
        let (source, at, v4) = if ether_type == EtherType::Ipv4 as u16 {
            let ip: Ipv4Hdr = packet.read(l3)?;
            let header = ((ip.vihl & 0x0f) as usize) << 2;
            if ip.proto != PROTOCOL_TCP || u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
                return None;
            }
            (from_v4(ip.src_addr), l3 + header, true)
        } else if ether_type == EtherType::Ipv6 as u16 {
            let ip: Ipv6Hdr = packet.read(l3)?;
            if ip.next_hdr != PROTOCOL_TCP {
                return None;
            }
            (ip.src_addr, l3 + Ipv6Hdr::LEN, false)
        } else {
            return None;
        };
        let at = packet.blur(at);
        Some((source, Self::at(packet, at, v4)?))
    }

    /// What has to be changed for packets to be no larger than `mtu`.
    #[inline(always)]
    pub(crate) fn clamp<P: Packet>(&self, packet: &P, mtu: u32) -> Option<Clamp> {
        let most = mtu.saturating_sub(self.headers).max(u32::from(LEAST));
        let (at, old) = self.mss(packet)?;
        if u32::from(u16::from_be_bytes(old)) <= most {
            return None;
        }
        Some(Clamp {
            at,
            check_at: self.at + core::mem::offset_of!(TcpHdr, check),
            old,
            // Below what is there, so it fits.
            new: (most as u16).to_be_bytes(),
            is_odd: (at - self.at) & 1 != 0,
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
