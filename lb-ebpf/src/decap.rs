//! The far end of a tunnel, on an instance.
//!
//! What lb has packed into `ipip` or `gue` ([`crate::encapsulate`]) is unpacked before the network
//! stack sees it, so an instance needs no tunnel devices, and a kernel that has none will do.
//!
//! A host that unpacks whatever it gets is a way around the filters on the way to it, and could be
//! made to send packets to others. So a tunnel must be for an address of this host, come from where
//! tunnels may come from, and hold a packet that is for an address of this host as well.

use lb_common::{Address, DecapCounter, DecapSettings, from_v4};
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{Packet, checksum::Difference, parse, rewrite::link::Link};

/// ECN: congestion experienced (RFC 3168, 5).
const CE: u8 = 3;
/// ECN's other two marks of a transport that understands it.
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;

/// What the far end knows of its host.
pub trait Host {
    /// The settings; `None` until the daemon has written them.
    fn settings(&self) -> Option<DecapSettings>;
    /// Whether `address` is this host's.
    fn is_local(&self, address: &Address) -> bool;
    /// Notes how many bytes a tunnel has added to a packet for an address of this host.
    fn note_overhead(&self, address: &Address, bytes: u32);
    /// How many bytes a tunnel adds to packets for `address`; 0 when none was seen.
    fn overhead(&self, address: &Address) -> u32;
    /// Whether tunnels may come from `address`.
    fn is_friend(&self, address: &Address) -> bool;
    /// Counts a packet or an event.
    fn count(&self, counter: DecapCounter);
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To the stack, unpacked or as it is.
    Pass(DecapCounter),
    /// Refused.
    Drop(DecapCounter),
}

impl Fate {
    const fn counter(self) -> DecapCounter {
        match self {
            Self::Pass(counter) | Self::Drop(counter) => counter,
        }
    }
}

/// Unpacks a packet if it is in a tunnel to this host, and counts it.
#[inline(always)]
pub fn unpack<P: Packet, H: Host>(packet: &mut P, host: &H) -> Fate {
    host.count(DecapCounter::Received);
    let fate = decide(packet, host);
    host.count(fate.counter());
    fate
}

#[inline(always)]
fn decide<P: Packet, H: Host>(packet: &mut P, host: &H) -> Fate {
    let Some(settings) = host.settings() else {
        return Fate::Pass(DecapCounter::PassedPlain);
    };
    let tunnel = match Tunnel::find(packet, &settings) {
        Ok(tunnel) => tunnel,
        Err(fate) => return fate,
    };
    if !host.is_local(&tunnel.destination) {
        return Fate::Pass(DecapCounter::PassedNotOurs);
    }
    if settings.from_anywhere == 0 && !host.is_friend(&tunnel.source) {
        return Fate::Drop(DecapCounter::DropStranger);
    }
    let Some(inner) = Inner::read(packet, &tunnel) else {
        return Fate::Drop(DecapCounter::DropMalformed);
    };
    if !host.is_local(&inner.destination) {
        return Fate::Drop(DecapCounter::DropInnerNotOurs);
    }
    let overhead = tunnel.inner - tunnel.l3;
    let Some(class) = combined(tunnel.class, inner.class) else {
        return Fate::Drop(DecapCounter::DropCongestion);
    };
    if inner.set_class(packet, &tunnel, class).is_none()
        || strip(packet, &tunnel, &inner, overhead).is_none()
    {
        return Fate::Drop(DecapCounter::DropRewrite);
    }
    host.note_overhead(&inner.destination, overhead as u32);
    Fate::Pass(if tunnel.gue {
        DecapCounter::UnpackedGue
    } else {
        DecapCounter::UnpackedIpip
    })
}

/// The outer headers.
struct Tunnel {
    l3: usize,
    /// Where what is inside begins.
    inner: usize,
    /// Where it ends at most.
    end: usize,
    source: Address,
    destination: Address,
    class: u8,
    /// What the outer header says that is inside: true for IPv4; in `gue` the inner header says it.
    v4: Option<bool>,
    gue: bool,
}

impl Tunnel {
    #[inline(always)]
    fn find<P: Packet>(packet: &mut P, settings: &DecapSettings) -> Result<Self, Fate> {
        const PLAIN: Fate = Fate::Pass(DecapCounter::PassedPlain);
        let (l3, ether_type) = parse::link(packet).ok_or(PLAIN)?;
        let (mut tunnel, protocol, fragment) = if ether_type == EtherType::Ipv4 as u16 {
            Self::v4(packet, l3).ok_or(PLAIN)?
        } else if ether_type == EtherType::Ipv6 as u16 {
            Self::v6(packet, l3).ok_or(PLAIN)?
        } else {
            return Err(PLAIN);
        };
        tunnel.inner = packet.blur(tunnel.inner);
        if protocol == IpProto::Ipv4 as u8 || protocol == IpProto::Ipv6 as u8 {
            tunnel.v4 = Some(protocol == IpProto::Ipv4 as u8);
        } else if protocol == IpProto::Udp as u8 {
            tunnel.gue = true;
        } else {
            return Err(PLAIN);
        }
        if fragment {
            return Err(Fate::Pass(DecapCounter::PassedFragment));
        }
        if tunnel.gue {
            let ports: [u8; 4] = packet.read(tunnel.inner).ok_or(PLAIN)?;
            if u16::from_ne_bytes([ports[2], ports[3]]) != u16::from_ne_bytes(settings.gue_port) {
                return Err(PLAIN);
            }
            tunnel.inner += UdpHdr::LEN;
        }
        Ok(tunnel)
    }

    /// The tunnel, what is in it, and whether this is a fragment.
    #[inline(always)]
    fn v4<P: Packet>(packet: &P, l3: usize) -> Option<(Self, u8, bool)> {
        let ip: Ipv4Hdr = packet.read(l3)?;
        let header = ((ip.vihl & 0x0f) as usize) << 2;
        if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
            return None;
        }
        let fragment = u16::from_be_bytes(ip.frags) & 0x3fff != 0;
        let tunnel = Self {
            l3,
            inner: l3 + header,
            end: l3 + u16::from_be_bytes(ip.tot_len) as usize,
            source: from_v4(ip.src_addr),
            destination: from_v4(ip.dst_addr),
            class: ip.tos,
            v4: None,
            gue: false,
        };
        Some((tunnel, ip.proto, fragment))
    }

    /// Extension headers are not walked: lb sends none.
    #[inline(always)]
    fn v6<P: Packet>(packet: &P, l3: usize) -> Option<(Self, u8, bool)> {
        let ip: Ipv6Hdr = packet.read(l3)?;
        if ip.vcf[0] >> 4 != 6 {
            return None;
        }
        let tunnel = Self {
            l3,
            inner: l3 + Ipv6Hdr::LEN,
            end: l3 + Ipv6Hdr::LEN + u16::from_be_bytes(ip.payload_len) as usize,
            source: ip.src_addr,
            destination: ip.dst_addr,
            class: ip.vcf[0] << 4 | ip.vcf[1] >> 4,
            v4: None,
            gue: false,
        };
        Some((tunnel, ip.next_hdr, false))
    }
}

/// What is inside.
struct Inner {
    v4: bool,
    class: u8,
    destination: Address,
}

impl Inner {
    /// `None` when it is no whole IP packet of the version that it should be.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, tunnel: &Tunnel) -> Option<Self> {
        if tunnel.end > packet.length() {
            return None;
        }
        let first: [u8; 8] = packet.read(tunnel.inner)?;
        let v4 = first[0] >> 4 == 4;
        if !v4 && first[0] >> 4 != 6 || tunnel.v4.is_some_and(|expected| expected != v4) {
            return None;
        }
        let (inner, length) = if v4 {
            let ip: Ipv4Hdr = packet.read(tunnel.inner)?;
            let inner = Self {
                v4,
                class: ip.tos,
                destination: from_v4(ip.dst_addr),
            };
            let length = u16::from_be_bytes(ip.tot_len) as usize;
            if length < Ipv4Hdr::LEN {
                return None;
            }
            (inner, length)
        } else {
            let ip: Ipv6Hdr = packet.read(tunnel.inner)?;
            let inner = Self {
                v4,
                class: ip.vcf[0] << 4 | ip.vcf[1] >> 4,
                destination: ip.dst_addr,
            };
            let length = u16::from_be_bytes(ip.payload_len) as usize;
            (inner, length + Ipv6Hdr::LEN)
        };
        (tunnel.inner + length <= tunnel.end).then_some(inner)
    }

    #[inline(always)]
    fn set_class<P: Packet>(&self, packet: &mut P, tunnel: &Tunnel, class: u8) -> Option<()> {
        if class == self.class {
            return Some(());
        }
        let at = tunnel.inner;
        if self.v4 {
            let mut ip: Ipv4Hdr = packet.read(at)?;
            ip.check = Difference::none()
                .word([ip.vihl, ip.tos], [ip.vihl, class])
                .apply(ip.check);
            ip.tos = class;
            packet.write(at, ip)
        } else {
            let old @ [first, second]: [u8; 2] = packet.read(at)?;
            let new = [first, second & 0x0f | class << 4];
            packet.resum(Difference::none().word(old, new));
            packet.write(at, new)
        }
    }
}

/// The class that an unpacked packet gets, by RFC 6040, 4.2: the sender's DSCP, and what routers on
/// the way have said of congestion. `None` when that must be said by a loss.
#[inline(always)]
const fn combined(outer: u8, inner: u8) -> Option<u8> {
    match (outer & 3, inner & 3) {
        (CE, 0) => None,
        (CE, _) => Some(inner | CE),
        (ECT_1, ECT_0) => Some(inner & !3 | ECT_1),
        _ => Some(inner),
    }
}

/// Takes the outer headers away and puts the link's in front of what was inside.
#[inline(always)]
fn strip<P: Packet>(packet: &mut P, tunnel: &Tunnel, inner: &Inner, overhead: usize) -> Option<()> {
    let link = Link::read(packet, tunnel.l3)?;
    let macs: [u8; 12] = packet.read(0)?;
    packet.unwrap(overhead, inner.v4)?;
    link.write(packet, macs, inner.v4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_on_the_way_is_said_as_the_standard_says() {
        // RFC 6040, figure 4, with a DSCP of 46 inside and another outside.
        let (inner, outer) = (46 << 2, 10 << 2);
        for (arriving, marks) in [
            (0, [Some(0), Some(0), Some(0), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ] {
            for (mark, expected) in (0..).zip(marks) {
                let found = combined(outer | mark, inner | arriving);
                assert_eq!(found, expected.map(|ecn| inner | ecn), "{arriving} {mark}");
            }
        }
    }
}
