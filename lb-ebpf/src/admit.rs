//! Packets that somebody may object to: those of sources that the ACL may hold, and those that begin a
//! connection where it matters how fast connections begin, or may show the cookie that they were given. And those
//! of settled slots of whose instance nothing is kept, which then is looked at ([`crate::settled`]).
//!
//! They are few, and what is asked of them (a trie, buckets that all processors share) would make
//! the first stage larger for all others. So they get here by a tail call, with what their headers say,
//! and go on from here as all others do.

use lb_common::Counter;

use crate::{Packet, Scratch, Step, Tables, Verdict, acl, process::steer};

/// Decides over a packet that was handed on before anything was done with it; its tuple is
/// [`Scratch::key`].
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    if acl::refuses(tables, scratch) {
        return Step::Done(Verdict::Drop(Counter::DropDenied));
    }
    let mut layout = scratch.layout;
    // What comes from memory has no limit that the verifier would know.
    layout.l3 = packet.blur(layout.l3);
    layout.l4 = packet.blur(layout.l4);
    steer::<P, T, true>(packet, tables, scratch, interface, &layout)
}
