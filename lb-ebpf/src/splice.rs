//! Connections that were begun by a SYN cookie: two handshakes, made one.
//!
//! lb has shaken hands with the client and numbered bytes from the cookie; the instance shakes hands
//! afterwards and numbers them from a number of its own. What both have in common is everything else:
//! the client's numbers are its own all the way, its window counts for the instance and the instance's
//! for it, and neither was promised anything that the other one did not hear of. So the two are one
//! connection as soon as the difference of the two numbers is known: it is added to what the instance
//! numbers, and taken from what the client acknowledges.
//!
//! The reply entry has all that has to be remembered ([`Splice`]): at first the cookie, as long as the
//! instance has not answered, then the difference. It is changed at once and read at once, from the table
//! and not from a copy, whichever way a packet goes.
//!
//! **The instance's SYN-ACK** becomes what tells the client that the window is open now, and makes it say
//! something: a segment with the number before the one that is expected, and one byte of nothing, which
//! is what a keep-alive probe looks like (RFC 1122, 4.2.3.6). A client that has something to say says it; one
//! that has not acknowledges, as it has to when it gets what it has had already. Either is what the
//! instance's handshake waits for. So there is no need to make two packets of one, and should any of
//! these be lost, the instance sends its SYN-ACK again and all of it is done again.
//!
//! **Before that** everything that the client sends is a SYN for the instance, if it shows the cookie still
//! ([`crate::handshake`]), but for a reset. What the instance sends and is no answer belongs to an older
//! connection of the same addresses and ports that it has not forgotten. A client that gets that resets it
//! and begins again; here lb does, and the client's next packet is a SYN again.
//!
//! **A client's SYN** has no place in such a connection: it is late, or of another connection whose client
//! knows nothing of this one. So it makes the connection a stray, and a second one begins anew, unless the
//! client has sent something else in between.

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_SPLICED, FlowKey, PROTOCOL_TCP, STATE_STRAY, Splice,
};

use crate::{
    Flow, Packet, Scratch, Stage, Step, Tables, Verdict,
    checksum::Difference,
    conntrack, hop,
    parse::{Layout, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, is_opening},
    rewrite::{
        l2, nat,
        outer::Outer,
        segment::{Bound, CHECK, Segment, Tail},
        tag,
    },
    way::Way,
};

/// Where the numbers are in a TCP header.
const NUMBER: usize = 4;
const ACKNOWLEDGED: usize = 8;

/// What has to be done with a packet before it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    Nothing,
    /// The number of its first byte grows by this.
    Number(u32),
    /// What it acknowledges grows by this.
    Acknowledged(u32),
    /// It becomes what tells the client that it may go on; the instance's numbers grow by this.
    Open(u32),
    /// It becomes a SYN, if it shows the cookie.
    Again,
    /// It goes back as a reset.
    Reset,
    /// It has no place in its connection.
    None,
}

/// What has to be done with a packet from the client.
#[inline(always)]
pub(crate) const fn from_client(splice: Splice, tcp_flags: u8) -> Turn {
    let acknowledges = tcp_flags & TCP_ACK != 0;
    if splice.is_waiting() {
        if is_opening(tcp_flags) || tcp_flags & TCP_RST != 0 {
            Turn::Nothing
        } else if acknowledges {
            Turn::Again
        } else {
            Turn::None
        }
    } else if acknowledges {
        Turn::Acknowledged(0_u32.wrapping_sub(splice.number()))
    } else {
        Turn::Nothing
    }
}

/// What has to be done with a packet from the instance that has this number, and what the entry says
/// afterwards.
#[inline(always)]
pub(crate) const fn from_instance(splice: Splice, tcp_flags: u8, number: u32) -> (Turn, Splice) {
    const BOTH: u8 = TCP_SYN | TCP_ACK;
    let is_reset = tcp_flags & TCP_RST != 0;
    if tcp_flags & BOTH == BOTH && !is_reset {
        let known = if splice.is_waiting() {
            splice.answered(number)
        } else {
            splice
        };
        return (Turn::Open(known.number()), known);
    }
    let turn = if !splice.is_waiting() {
        Turn::Number(splice.number())
    } else if is_reset {
        // The client has got the cookie, and expects what follows it.
        let expected = splice.number().wrapping_add(1);
        Turn::Number(expected.wrapping_sub(number))
    } else if tcp_flags & TCP_ACK != 0 {
        Turn::Reset
    } else {
        Turn::None
    };
    (turn, splice)
}

/// Sends a packet of a spliced connection on its way.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    let way = Way::of(packet, &scratch.handover);
    let lost = Step::Done(Verdict::Drop(Counter::DropUnspliced));
    let mut layout = layout(packet, scratch);
    let Some(flow) = tables.flow(&scratch.key) else {
        way.lost(tables, Counter::DropUnspliced);
        return lost;
    };
    let turn = match turn(packet, tables, scratch, &layout, &flow) {
        Turn::Again => return Step::Next(Stage::Cookie),
        Turn::Reset => {
            let verdict = match reset(packet, &scratch.key, &layout) {
                Some(()) => Verdict::Answer(Counter::AnsweredStale),
                None => Verdict::Drop(Counter::DropUnspliced),
            };
            way.lost(tables, verdict.counter());
            return Step::Done(verdict);
        }
        Turn::None => {
            way.lost(tables, Counter::DropUnspliced);
            return lost;
        }
        turn => turn,
    };
    match send(
        packet,
        tables,
        scratch,
        interface,
        &mut layout,
        (&flow, turn),
    ) {
        Ok((out, flags)) => {
            if layout.has(TCP_FIN | TCP_RST) {
                conntrack::note_end(tables, &scratch.key, layout.tcp_flags, &flow);
            }
            if layout.has(TCP_SYN) || tag::changes(packet, layout.l3, flags, out != interface) {
                scratch.handover.tcp_flags = layout.tcp_flags;
                scratch.handover.out = out;
                scratch.handover.hop_flags = flags;
                return Step::Next(Stage::Finish);
            }
            let way = Way::of(packet, &scratch.handover);
            Step::Done(way.forwarded(tables, out, interface))
        }
        Err(Counter::AnsweredTooBig) => Step::Next(Stage::TooBig),
        Err(reason) => Step::Done(way.refused(tables, reason)),
    }
}

/// Where the headers are.
#[inline(always)]
fn layout<P: Packet>(packet: &mut P, scratch: &Scratch) -> Layout {
    let handover = &scratch.handover;
    // What comes from memory has no limit that the verifier would know.
    Layout {
        l3: packet.blur(handover.l3 as usize),
        l4: packet.blur(handover.l4 as usize),
        ip_length: handover.ip_length,
        v4: handover.v4 != 0,
        fragment: handover.is_unsummed != 0,
        tcp_flags: handover.tcp_flags,
    }
}

/// What has to be done with the packet; notes what it says.
#[inline(always)]
fn turn<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scratch: &mut Scratch,
    layout: &Layout,
    flow: &T::Flow,
) -> Turn {
    // In memory: on the stack there is no room for it.
    scratch.entry = flow.entry();
    if scratch.entry.forward & FORWARD_SPLICED == 0 {
        // Another connection by now.
        return Turn::None;
    }
    if scratch.entry.direction == FLOW_FORWARD {
        if scratch.entry.state & STATE_STRAY != 0 && !is_opening(layout.tcp_flags) {
            flow.clear_state(STATE_STRAY);
        }
        return match splice_of_client(tables, scratch) {
            Some(splice) => from_client(splice, layout.tcp_flags),
            None => Turn::None,
        };
    }
    let Some(number) = packet.read(layout.l4 + NUMBER).map(u32::from_be_bytes) else {
        return Turn::None;
    };
    let splice = flow.splice();
    let (turn, known) = from_instance(splice, layout.tcp_flags, number);
    if matches!(turn, Turn::Open(_)) && !is_plain(layout) {
        return Turn::None;
    }
    if known != splice && !flow.change_splice(splice, known) {
        // Another processor has seen the same answer, which comes again if it was none.
        return Turn::None;
    }
    turn
}

/// What the reply entry says of the connection that has the entry [`Scratch::entry`] for packets with the
/// key [`Scratch::key`].
#[inline(always)]
fn splice_of_client<T: Tables>(tables: &T, scratch: &mut Scratch) -> Option<Splice> {
    scratch.partner = scratch.key.partner(&scratch.entry);
    let splice = tables.flow(&scratch.partner)?.splice();
    splice.is_spliced().then_some(splice)
}

/// What has to be added to the client's numbers to make them the instance's, of the packets of a
/// connection that has this entry for packets from the client; 0 while that is not known.
#[inline(never)]
pub(crate) fn to_instance<T: Tables>(tables: &T, scratch: &mut Scratch) -> u32 {
    match splice_of_client(tables, scratch) {
        Some(splice) if !splice.is_waiting() => 0_u32.wrapping_sub(splice.number()),
        _ => 0,
    }
}

#[inline(always)]
const fn is_plain(layout: &Layout) -> bool {
    layout.l4.wrapping_sub(layout.l3) == Outer::length(layout.v4) && !layout.fragment
}

/// Sends the packet: returns the way's interface and flags. On an error it is as it was, or not to be
/// sent.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
    layout: &mut Layout,
    (flow, turn): (&T::Flow, Turn),
) -> Result<(u32, u16), Counter> {
    let now = tables.now();
    let handover = &scratch.handover;
    let hop = if handover.direction == FLOW_REPLY {
        hop::to_client(tables, interface, now, flow)?
    } else {
        let (index, generation) = (handover.index, handover.generation);
        hop::to_instance(tables, interface, index, generation, now, 0)?
    };
    let length = packet.largest(layout.ip_length, layout.l3, layout.l4, PROTOCOL_TCP);
    if hop.mtu() != 0 && length > hop.mtu() {
        scratch.handover.mtu = hop.mtu();
        return Err(Counter::AnsweredTooBig);
    }
    let turned = match turn {
        Turn::Number(by) => shift(packet, layout.l4, NUMBER, by),
        Turn::Acknowledged(by) => shift(packet, layout.l4, ACKNOWLEDGED, by),
        Turn::Open(by) => open(packet, &scratch.key, layout, by),
        Turn::Nothing | Turn::Again | Turn::Reset | Turn::None => Some(()),
    };
    turned.ok_or(Counter::DropRewrite)?;
    nat::rewrite(packet, &scratch.key, layout, flow)?;
    l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    Ok((hop.interface, hop.flags))
}

/// Adds something to a number in a TCP header, and changes the checksum that covers it.
#[inline(always)]
pub(crate) fn shift<P: Packet>(packet: &mut P, l4: usize, field: usize, by: u32) -> Option<()> {
    let old: [u8; 4] = packet.read(l4 + field)?;
    let new = added(old, by);
    packet.write(l4 + field, new)?;
    let of = (PROTOCOL_TCP, false);
    packet.change_checksum(l4 + CHECK, Difference::none(), changed(old, new), of)
}

/// A number in network byte order, and something more.
#[inline(always)]
pub(crate) const fn added(number: [u8; 4], by: u32) -> [u8; 4] {
    u32::from_be_bytes(number).wrapping_add(by).to_be_bytes()
}

/// What it does to a checksum when four bytes change.
#[inline(always)]
pub(crate) const fn changed(old: [u8; 4], new: [u8; 4]) -> Difference {
    Difference::none()
        .word([old[0], old[1]], [new[0], new[1]])
        .word([old[2], old[3]], [new[2], new[3]])
}

/// Makes what opens the client's window of the instance's SYN-ACK. Out of line, as is the other one that
/// writes a segment anew, for the stack of those that do not.
#[inline(never)]
fn open<P: Packet>(packet: &mut P, key: &FlowKey, layout: &mut Layout, by: u32) -> Option<()> {
    let numbers: [u8; 8] = packet.read(layout.l4 + NUMBER)?;
    let [a, b, c, d, e, f, g, h] = numbers;
    let segment = Segment {
        number: u32::from_be_bytes([a, b, c, d]).wrapping_add(by),
        acknowledged: u32::from_be_bytes([e, f, g, h]),
        flags: TCP_ACK,
        window: u16::from_be_bytes(packet.read(layout.l4 + 14)?),
        tail: Tail::Byte,
    };
    let place = (layout.l3, layout.v4);
    segment.replace(packet, key, place, Bound::On)?;
    layout.ip_length = (Outer::length(layout.v4) + segment.length()) as u32;
    layout.tcp_flags = TCP_ACK;
    Some(())
}

/// Tells the instance that what it acknowledges is over.
#[inline(never)]
fn reset<P: Packet>(packet: &mut P, key: &FlowKey, layout: &Layout) -> Option<()> {
    let reset = Segment {
        number: u32::from_be_bytes(packet.read(layout.l4 + ACKNOWLEDGED)?),
        acknowledged: 0,
        flags: TCP_RST,
        window: 0,
        tail: Tail::Nothing,
    };
    if !is_plain(layout) {
        return None;
    }
    reset.replace(packet, key, (layout.l3, layout.v4), Bound::Back)
}

#[cfg(test)]
mod tests;
