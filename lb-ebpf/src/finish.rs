//! What is left to do with a packet that is rewritten, and rarely has to be done: the MSS of one
//! that begins a connection, the tag of one that leaves for another VLAN than it came from.

use lb_common::translates;

use crate::{Packet, Scratch, Tables, Verdict, clamp, parse::TCP_SYN, rewrite::tag, way::Way};

/// Finishes a packet that leaves by the way of [`crate::step::Handover::out`].
#[inline(always)]
pub fn finish<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Verdict {
    if scratch.handover.tcp_flags & TCP_SYN != 0 && translates(scratch.handover.forward) {
        clamp::clamp(packet, tables, scratch, interface);
    }
    // As long as it is without tags, as others are counted.
    let way = Way::of(packet, &scratch.handover);
    let to = (scratch.handover.out, scratch.handover.hop_flags);
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(scratch.handover.l3 as usize);
    match tag::rewrite(packet, tables, l3, to, interface) {
        Ok(out) => way.forwarded(tables, out, interface),
        Err(reason) => way.refused(tables, reason),
    }
}
