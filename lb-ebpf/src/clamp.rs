//! The MSS of connections whose packets come through lb in both directions: `nat` and `dnat`.
//!
//! Client and instance tell each other in SYN and SYN-ACK what fits their own links. Where a way
//! from lb to one of them takes less, what the other one sends is too large there, and each such
//! packet is dropped and its sender told until it has learned; a sender that never hears of it,
//! because somebody filters ICMP, hangs. So each is told what fits both ways.
//!
//! Instances that answer by themselves are not heard here: `lb decap` does it for them.

use lb_common::{Counter, FLOW_REPLY, PROTOCOL_TCP};

use crate::{
    Flow, Packet, Scratch, Tables,
    checksum::Difference,
    hop,
    mss::{LEAST, Segment},
};

/// Lowers the MSS of a packet that begins a connection, and is rewritten already.
#[inline(always)]
pub(crate) fn clamp<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) {
    let mtu = least_mtu(tables, scratch, interface);
    if mtu > u32::from(LEAST) && lower(packet, scratch, mtu).is_some() {
        tables.count(Counter::MssClamped);
    }
}

/// The largest packet that the ways to the client and to the instance both take; 0 when nothing is
/// known of either.
#[inline(always)]
fn least_mtu<T: Tables>(tables: &T, scratch: &mut Scratch, interface: u32) -> u32 {
    let instance = mtu_to_instance(tables, scratch, interface);
    let client = mtu_to_client(tables, scratch, interface);
    match (instance, client) {
        (0, mtu) | (mtu, 0) => mtu,
        (one, other) => one.min(other),
    }
}

/// What the way to the instance takes; 0 when that is not known. The packet at hand is on its way, so
/// that nothing is known of the other one is no reason to refuse it.
///
/// Out of line, as is the next one: merged with the other cases, what is not known becomes a register
/// without a value, which the verifier refuses to see copied.
#[inline(never)]
fn mtu_to_instance<T: Tables>(tables: &T, scratch: &Scratch, interface: u32) -> u32 {
    let handover = &scratch.handover;
    let hop = hop::to_instance(
        tables,
        interface,
        handover.index,
        handover.generation,
        tables.now(),
        handover.forward,
    );
    hop.map_or(0, |hop| hop.mtu())
}

/// What the way to the client takes; 0 when that is not known.
#[inline(never)]
fn mtu_to_client<T: Tables>(tables: &T, scratch: &mut Scratch, interface: u32) -> u32 {
    let Scratch { key, partner, .. } = scratch;
    // From the VIP to the client, whoever it is that says something.
    if scratch.handover.direction != FLOW_REPLY {
        (partner.source, partner.destination) = (key.destination, key.source);
    } else if let Some(flow) = tables.flow(key) {
        let entry = flow.entry();
        (partner.source, partner.destination) = (entry.source, entry.destination);
    } else {
        return 0;
    }
    let (vip, client) = (&partner.source, &partner.destination);
    let hop = hop::to_address(tables, interface, tables.now(), vip, client);
    hop.map_or(0, |hop| hop.mtu())
}

#[inline(always)]
fn lower<P: Packet>(packet: &mut P, scratch: &Scratch, mtu: u32) -> Option<()> {
    // What comes from memory has no limit that the verifier would know.
    let l4 = packet.blur(scratch.handover.l4 as usize);
    let clamp = Segment::at(packet, l4, scratch.handover.v4 != 0)?.clamp(packet, mtu)?;
    packet.write(clamp.at, clamp.new)?;
    let change = clamp.difference();
    let of = (PROTOCOL_TCP, scratch.handover.v4 != 0);
    packet.change_checksum(clamp.check_at, Difference::none(), change, of)
}
