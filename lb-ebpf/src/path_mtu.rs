//! Paths to instances that are narrower somewhere than this host's routes say.
//!
//! The outer packet of a tunnel is lb's own. A router that it is too big for says so to lb, not to the client, and
//! the kernel, which has no tunnel there, makes nothing of it: packets of that size would vanish as long as there
//! is the connection ("black hole"). So the program remembers what the router has said. The way to the
//! instance takes no more from then on, and the next client that sends too much is told what fits its
//! packets, as if the link next to lb were the narrow one.
//!
//! Anybody can send such a message who can reach lb's own address, so it must not do much harm. It has to have come to
//! that address, about a packet from there to an instance behind a tunnel; nothing below what tunnels for IPv6 need is
//! believed, nothing for longer than ten minutes, and nothing of it concerns other ways of forwarding, where the
//! client is told by the router itself.

use lb_common::{
    Address, Counter, HOP_ACTIVE, HOP_PATH, NextHop, PATH_MTU_HOLDS, PROTOCOL_UDP, PathMtu,
    from_v4, is_v4, same_address,
};
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};

use crate::{Packet, Scratch, Tables, Verdict, icmp::HEADER, too_big::MIN_MTU_V6};

/// What is believed at least: below that a tunnel for a VIP of IPv6 could not take what its senders do not go below
/// (1280 bytes, and 48 of outer headers), and nobody who sends a message is to have that much say.
const LEAST: u32 = MIN_MTU_V6 + 48;
/// Nanoseconds for which a tunnel's way is kept at most: what a router says of its path is to be heeded soon.
const WAY_HOLDS: u64 = 10_000_000_000;

/// Remembers what an ICMP error says, if it is about the outer packet of a tunnel. The message itself is the
/// host's.
#[inline(always)]
pub fn learn<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let l4 = packet.blur(scratch.handover.l4 as usize);
    if let Some(quoted) = Quoted::read(packet, l4, scratch.handover.v4 != 0)
        && same_address(&scratch.partner.destination, &quoted.source)
        && quoted.is_of_tunnel(tables)
    {
        quoted.note(tables);
    }
    Verdict::Pass(Counter::PassedOtherProtocol)
}

/// The way to an instance behind a tunnel, lowered to what is known of the path; `hop` is what was found.
#[inline(always)]
pub(crate) fn heed<T: Tables>(tables: &T, index: u16, now: u64, hop: &mut NextHop) {
    if hop.flags & HOP_PATH == 0 {
        look_up(tables, index, now);
        if let Some(found) = tables.instance_hop(index) {
            *hop = found;
        }
    }
}

/// Out of line: it happens once each time that the way was looked up.
#[inline(never)]
fn look_up<T: Tables>(tables: &T, index: u16, now: u64) {
    let Some(mut hop) = tables.instance_hop(index) else {
        return;
    };
    let Some(instance) = tables.instance(index) else {
        return;
    };
    // What was noted of the instance has its time in the lowest bits of the other.
    hop.flags = hop.flags & !HOP_ACTIVE | HOP_PATH;
    hop.fresh_until = hop.fresh_until.min(now + WAY_HOLDS);
    hop.narrow(of(tables, &instance.address, now));
    tables.cache_instance_hop(index, &hop);
}

/// The MTU of the path to an instance, if a router has said one; 0: none has.
#[inline(always)]
fn of<T: Tables>(tables: &T, instance: &Address, now: u64) -> u32 {
    match tables.path_mtu(instance) {
        Some(known) if now < known.until => known.mtu,
        _ => 0,
    }
}

/// A packet that was too big.
struct Quoted {
    source: Address,
    destination: Address,
    /// What is in it.
    protocol: u8,
    /// If that is UDP.
    destination_port: [u8; 2],
    length: u32,
    /// What would not have been.
    mtu: u32,
}

impl Quoted {
    /// What the message at `l4` quotes; `None` when it says something else.
    #[inline(always)]
    fn read<P: Packet>(packet: &mut P, l4: usize, v4: bool) -> Option<Self> {
        let [kind, code, _, _, told @ ..]: [u8; 8] = packet.read(l4)?;
        let told = u32::from_be_bytes(told);
        let quote = packet.blur(l4 + HEADER);
        match (v4, kind, code) {
            (true, 3, 4) => Self::read_v4(packet, quote, told & 0xffff),
            (false, 2, _) => Self::read_v6(packet, quote, told),
            _ => None,
        }
    }

    #[inline(always)]
    fn read_v4<P: Packet>(packet: &P, at: usize, told: u32) -> Option<Self> {
        let ip: Ipv4Hdr = packet.read(at)?;
        let [_, _, high, low]: [u8; 4] = packet.read(at + Ipv4Hdr::LEN)?;
        // Those of tunnels have no options.
        (ip.vihl == 0x45 && told >= LEAST).then_some(Self {
            source: from_v4(ip.src_addr),
            destination: from_v4(ip.dst_addr),
            protocol: ip.proto,
            destination_port: [high, low],
            length: u32::from(u16::from_be_bytes(ip.tot_len)),
            mtu: told,
        })
    }

    #[inline(always)]
    fn read_v6<P: Packet>(packet: &P, at: usize, told: u32) -> Option<Self> {
        let ip: Ipv6Hdr = packet.read(at)?;
        let [_, _, high, low]: [u8; 4] = packet.read(at + Ipv6Hdr::LEN)?;
        (ip.vcf[0] >> 4 == 6 && told >= LEAST).then_some(Self {
            source: ip.src_addr,
            destination: ip.dst_addr,
            protocol: ip.next_hdr,
            destination_port: [high, low],
            length: u32::from(u16::from_be_bytes(ip.payload_len)) + Ipv6Hdr::LEN as u32,
            mtu: told,
        })
    }

    /// Whether it is one that lb has put another into.
    #[inline(always)]
    fn is_of_tunnel<T: Tables>(&self, tables: &T) -> bool {
        let Some(settings) = tables.settings() else {
            return false;
        };
        let is_outer = self.protocol == IpProto::Ipv4 as u8
            || self.protocol == IpProto::Ipv6 as u8
            || self.protocol == PROTOCOL_UDP && self.destination_port == settings.gue_port;
        // Where lb has no address of a family its settings are zero, and so may be what anybody writes.
        is_outer
            && same_address(&self.source, &settings.nat_source(is_v4(&self.source)))
            && !same_address(&self.source, &[0; 16])
    }

    #[inline(always)]
    fn note<T: Tables>(&self, tables: &T) {
        let (instance, mtu, now) = (&self.destination, self.mtu, tables.now());
        // What is on its way while another router speaks may say more.
        let known = of(tables, instance, now);
        if mtu < self.length && (known == 0 || mtu <= known) {
            let until = now + PATH_MTU_HOLDS;
            if tables.note_path_mtu(instance, &PathMtu { until, mtu, pad: 0 }) {
                tables.count(Counter::PathMtusLearned);
            }
        }
    }
}
