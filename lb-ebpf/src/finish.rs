//! What is left to do with a packet that is rewritten and counted, and rarely has to be done: the MSS of one
//! that begins a connection, the tag of one that leaves for another VLAN than it came from.

use lb_common::translates;

use crate::{Packet, Scratch, Tables, Verdict, clamp, parse::TCP_SYN, rewrite::tag};

/// Finishes a packet that leaves by [`crate::step::Handover::out`].
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
    let way = (scratch.handover.out, scratch.handover.hop_flags);
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(scratch.handover.l3 as usize);
    match tag::rewrite(packet, tables, l3, way, interface) {
        Ok(out) if out == interface => Verdict::Transmit,
        Ok(out) => Verdict::Redirect(out),
        Err(reason) => Verdict::Drop(reason),
    }
}
