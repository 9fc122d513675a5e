//! The way of a packet.
//!
//! The connection table is asked before the VIPs, although a VIP comes first in thought: the entry
//! of a known connection says all that the VIP would have said, so the packets that are by far the
//! most numerous cost one hash look-up instead of two, and a reply from an instance, which is for
//! no VIP, is found by the same look-up. Removing a VIP therefore means removing its connections
//! too, which the daemon does.

use lb_common::{
    Counter, FLOW_REPLY, FlowEntry, FlowKey, NextHop, encapsulates, leaves_by_stage, translates,
};

use crate::{
    Flow, Hop as _, Packet, Scratch, Stage, Step, Tables, Verdict, affinity,
    begin::{self, Begun},
    conntrack::{self, Known},
    handshake::Shown,
    hop, opening,
    parse::{self, Layout},
    rewrite::{self, tag},
    settled,
    step::Handover,
    way::Way,
};

/// Decides over a packet, or says who else is to.
#[inline(always)]
pub(crate) fn decide<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    scratch.key = FlowKey::default();
    scratch.opened = 0;
    let layout = match parse::parse(packet, &mut scratch.key) {
        Ok(layout) => layout,
        Err(Counter::PassedOtherProtocol) => return Step::Next(Stage::Icmp),
        Err(Counter::PassedFragment) => return Step::Next(Stage::Fragment),
        Err(reason) => return Step::Done(Verdict::Pass(reason)),
    };
    dispatch(packet, tables, scratch, interface, &layout)
}

/// Decides over a packet whose tuple is [`Scratch::key`], if it may be for lb at all and nobody objects,
/// or says who else is to.
#[inline(always)]
pub(crate) fn dispatch<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
    layout: &Layout,
) -> Step {
    if !tables.expects(&scratch.key) {
        return Step::Done(Verdict::Pass(Counter::PassedNotVip));
    }
    if tables.is_suspect(&scratch.key.source) {
        return to_admit(scratch, layout);
    }
    steer::<P, T, false>(packet, tables, scratch, interface, layout)
}

/// Decides over a packet whose tuple is [`Scratch::key`], or says who else is to. `ADMITS`: whether
/// this is where limits of new connections are looked at.
#[inline(always)]
pub(crate) fn steer<P: Packet, T: Tables, const ADMITS: bool>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
    layout: &Layout,
) -> Step {
    let mut hop = None;
    let known = match settled::find::<T, ADMITS>(tables, &scratch.key, layout) {
        settled::Found::Flow(flow, now, to) => {
            hop = to;
            Known::Flow(flow, now)
        }
        settled::Found::Later if !ADMITS => return to_admit(scratch, layout),
        settled::Found::Later | settled::Found::No => conntrack::find(tables, &scratch.key, layout),
    };
    let (flow, now) = match known {
        Known::Flow(flow, now) => (flow, now),
        Known::Decided(verdict) => return Step::Done(verdict),
        Known::No => match begin::<T, ADMITS>(tables, scratch, layout) {
            Begun::Decided(reason) => return Step::Done(begin::verdict(reason)),
            Begun::Limited => return to_admit(scratch, layout),
            Begun::Asked => {
                return hand_over(scratch, layout, &FlowEntry::default(), 0, Stage::Cookie);
            }
            Begun::Refused => {
                if !ADMITS {
                    // What is there is of another packet.
                    scratch.shown = Shown::NONE;
                }
                return hand_over(scratch, layout, &FlowEntry::default(), 0, Stage::Refuse);
            }
            // Rare, and what follows is another copy of what follows for all others: not here.
            Begun::Unremembered => {
                let entry = scratch.entry;
                return hand_over(scratch, layout, &entry, 0, Stage::Encapsulate);
            }
            // What is noted of an end has to be noted in the table.
            Begun::Entered if !layout.has(parse::TCP_FIN | parse::TCP_RST) => {
                (tables.without_entry(&scratch.entry), tables.now())
            }
            Begun::Entered | Begun::Remembered => match tables.flow(&scratch.key) {
                Some(flow) => {
                    if ADMITS && scratch.opened == 0 {
                        affinity::remember(tables, &scratch.key, &flow);
                    }
                    (flow, tables.now())
                }
                // Removed again by another processor.
                None => return Step::Done(Verdict::Drop(Counter::DropTableFull)),
            },
        },
    };
    let entry = flow.entry();
    if leaves_by_stage(entry.forward) {
        let stage = if encapsulates(entry.forward) {
            Stage::Encapsulate
        } else {
            Stage::Splice
        };
        return hand_over(scratch, layout, &entry, 0, stage);
    }
    let way = Way::new(packet, entry.vip, entry.instance, entry.direction);
    let known = (&flow, hop);
    match forward(
        packet,
        tables,
        (interface, now),
        &scratch.key,
        layout,
        known,
    ) {
        Ok((out, flags)) => {
            let retag = tag::changes(packet, layout.l3, flags, out != interface);
            if retag || layout.has(parse::TCP_SYN | parse::TCP_FIN | parse::TCP_RST) {
                if layout.has(parse::TCP_FIN | parse::TCP_RST) {
                    conntrack::note_end(tables, &scratch.key, layout.tcp_flags, &flow);
                }
                if retag || layout.has(parse::TCP_SYN) && translates(entry.forward) {
                    let step = hand_over(scratch, layout, &entry, 0, Stage::Finish);
                    scratch.handover.out = out;
                    scratch.handover.hop_flags = flags;
                    return step;
                }
            }
            Step::Done(way.forwarded(tables, out, interface))
        }
        Err(Refusal::TooBig(mtu)) => hand_over(scratch, layout, &entry, mtu, Stage::TooBig),
        Err(Refusal::Other(reason)) => Step::Done(way.refused(tables, reason)),
    }
}

/// Begins a connection. Noted at once where it has to be noted: whatever becomes of its packet, nobody may
/// fill the table with it.
#[inline(always)]
fn begin<T: Tables, const ADMITS: bool>(
    tables: &T,
    scratch: &mut Scratch,
    layout: &Layout,
) -> Begun {
    let begun = begin::begin::<T, ADMITS>(tables, scratch, layout.tcp_flags);
    if scratch.opened != 0 {
        opening::note(tables, scratch);
    }
    begun
}

/// Hands a packet on before anything was done with it.
#[inline(always)]
pub(crate) const fn to_admit(scratch: &mut Scratch, layout: &Layout) -> Step {
    scratch.layout = *layout;
    scratch.shown = Shown::NONE;
    Step::Next(Stage::Admit)
}

/// Tells the next stage what is known.
#[inline(always)]
fn hand_over(
    scratch: &mut Scratch,
    layout: &Layout,
    entry: &FlowEntry,
    mtu: u32,
    stage: Stage,
) -> Step {
    scratch.handover = Handover {
        l3: layout.l3 as u32,
        l4: layout.l4 as u32,
        ip_length: layout.ip_length,
        mtu,
        out: 0,
        vip: entry.vip,
        index: entry.instance,
        generation: entry.generation,
        forward: entry.forward,
        v4: u8::from(layout.v4),
        tcp_flags: layout.tcp_flags,
        direction: entry.direction,
        is_unsummed: u8::from(layout.fragment),
        is_unanswered: 0,
        hop_flags: 0,
        pad: [0; 2],
    };
    Step::Next(stage)
}

/// Why a packet does not go its way.
enum Refusal {
    /// It is larger than this.
    TooBig(u32),
    /// This.
    Other(Counter),
}

impl From<Counter> for Refusal {
    #[inline(always)]
    fn from(reason: Counter) -> Self {
        Self::Other(reason)
    }
}

/// Finds the way of a packet that came in by this interface at this time, unless it was found with its flow, and
/// rewrites it; returns the way's interface and flags. On an error the packet is as it was.
///
/// The entry is read anew wherever it is needed. A copy that lives across calls of helpers would
/// have to lie on the stack.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    (interface, now): (u32, u64),
    key: &FlowKey,
    layout: &Layout,
    (flow, known): (&T::Flow, Option<T::Hop>),
) -> Result<(u32, u16), Refusal> {
    let entry = flow.entry();
    let translated = translates(entry.forward);
    let hop = if let Some(known) = known {
        let hop = known.get();
        hop::suits(&hop, entry.forward)?;
        hop
    } else if entry.direction == FLOW_REPLY {
        hop::to_client(tables, interface, now, flow)?
    } else {
        hop::to_instance(
            tables,
            interface,
            entry.instance,
            entry.generation,
            now,
            entry.forward,
        )?
    };
    check(packet, &hop, key.protocol, layout)?;
    if translated {
        rewrite::nat::rewrite_packed(packet, key, layout.packed(), flow)?;
    }
    rewrite::l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    Ok((hop.interface, hop.flags))
}

/// Whether a packet may go this way as it is.
#[inline(always)]
fn check<P: Packet>(
    packet: &P,
    hop: &NextHop,
    protocol: u8,
    layout: &Layout,
) -> Result<(), Refusal> {
    let length = packet.largest(layout.ip_length, layout.l3, layout.l4, protocol);
    if hop.mtu() != 0 && length > hop.mtu() {
        return Err(Refusal::TooBig(hop.mtu()));
    }
    Ok(())
}
