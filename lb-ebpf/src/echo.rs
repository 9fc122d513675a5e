//! Echo: whoever pings a VIP wants to know whether it is there, and it is.
//!
//! A VIP answers from here (RFC 1122, 3.2.2.6; RFC 4443, 4.2), whether the host holds its address, as
//! it must where somebody has to answer ARP for it, or is merely routed to. Only VIPs do: an echo for
//! any other address is the host's, as everything is that is for no VIP. And only so many in a
//! second, because anybody can ask, and with the address of somebody else; see [`crate::budget`].
//!
//! The answer is the request with its addresses exchanged. Options of IPv4, extension headers and
//! fragments ask for more than that, and are left to the host.

use lb_common::{Address, Counter, from_v4, is_v4};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    Packet, Scratch, Tables, Verdict, checksum::Difference, icmp::Message, rewrite::outer::TTL,
};

/// Type and code of a request, and of its answer.
const V4: ([u8; 2], [u8; 2]) = ([8, 0], [0, 0]);
/// The same of ICMPv6.
const V6: ([u8; 2], [u8; 2]) = ([128, 0], [129, 0]);

/// Turns an echo request for a VIP into its answer. `None`: it is the host's, and is as it was.
#[inline(always)]
pub(crate) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    message: &Message,
) -> Option<Verdict> {
    let rate = tables.settings()?.echo_rate;
    let (request, reply) = if message.v4 { V4 } else { V6 };
    let [kind, code, c0, c1]: [u8; 4] = packet.read(message.l4)?;
    let [to, _]: [u8; 2] = packet.read(0)?;
    // A frame for many has no address that an answer could come from.
    if rate == 0 || [kind, code] != request || to & 1 != 0 {
        return None;
    }
    read_addresses(packet, scratch, message)?;
    if !is_one_host(&scratch.key.source) || !tables.is_vip_address(&scratch.key.destination) {
        return None;
    }
    if !tables.may_echo(tables.now(), u32::from(rate)) {
        return Some(Verdict::Drop(Counter::DropEchoLimit));
    }
    let check = Difference::none().word(request, reply).apply([c0, c1]);
    let [reply, code] = reply;
    let written = exchange(packet, message)
        .and_then(|()| packet.write(message.l4, [reply, code, check[0], check[1]]));
    Some(match written {
        Some(()) => Verdict::Answer(Counter::AnsweredEcho),
        None => Verdict::Drop(Counter::DropRewrite),
    })
}

/// Reads who asks whom; `None` when there is more than the plain header.
#[inline(always)]
fn read_addresses<P: Packet>(packet: &P, scratch: &mut Scratch, message: &Message) -> Option<()> {
    if message.v4 {
        let ip: Ipv4Hdr = packet.read(message.l3)?;
        if ip.vihl != 0x45 {
            return None;
        }
        scratch.key.source = from_v4(ip.src_addr);
        scratch.key.destination = from_v4(ip.dst_addr);
    } else {
        let ip: Ipv6Hdr = packet.read(message.l3)?;
        scratch.key.source = ip.src_addr;
        scratch.key.destination = ip.dst_addr;
    }
    Some(())
}

/// Sends the packet back where it came from, with a TTL or hop limit of its own. No checksum covers
/// which address is the source and which the destination.
#[inline(always)]
fn exchange<P: Packet>(packet: &mut P, message: &Message) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12] = packet.read(0)?;
    if message.v4 {
        let mut ip: Ipv4Hdr = packet.read(message.l3)?;
        ip.check = Difference::none()
            .word([ip.ttl, ip.proto], [TTL, ip.proto])
            .apply(ip.check);
        ip.ttl = TTL;
        (ip.src_addr, ip.dst_addr) = (ip.dst_addr, ip.src_addr);
        packet.write(message.l3, ip)?;
    } else {
        let mut ip: Ipv6Hdr = packet.read(message.l3)?;
        let change = Difference::none().word([ip.next_hdr, ip.hop_limit], [ip.next_hdr, TTL]);
        packet.resum(change);
        ip.hop_limit = TTL;
        (ip.src_addr, ip.dst_addr) = (ip.dst_addr, ip.src_addr);
        packet.write(message.l3, ip)?;
    }
    packet.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Whether an address is one that a message may go to (RFC 1122, 3.2.2): not multicast, broadcast or
/// loopback, not nobody's.
#[inline(always)]
pub(crate) const fn is_one_host(address: &Address) -> bool {
    if is_v4(address) {
        address[12] != 0 && address[12] != 127 && address[12] < 224
    } else {
        // Multicast is ff00::/8; the unspecified address and the loopback begin with zero, as
        // nobody's does.
        address[0] != 0xff && address[0] != 0
    }
}
