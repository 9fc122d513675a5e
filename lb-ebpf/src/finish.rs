//! What is left to do with a packet that is rewritten and counted, and rarely has to be done: the MSS of one
//! that begins a connection, the tag of one that leaves for another VLAN than it came from.

use lb_common::{Counter, translates};

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
    let (out, flags) = (scratch.handover.out, scratch.handover.hop_flags);
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(scratch.handover.l3 as usize);
    if tag::changes(packet, l3, flags, out != interface)
        && tag::rewrite(packet, l3, flags).is_none()
    {
        return Verdict::Drop(Counter::DropHeadroom);
    }
    if out == interface {
        Verdict::Transmit
    } else {
        Verdict::Redirect(out)
    }
}
