//! Connections that have hardly begun.
//!
//! A packet costs its sender nothing, not even an address of its own, and where connections are
//! remembered the first one costs an entry, with `nat` two of them and a source port. So a new entry is
//! marked until its client sends something else, as whoever has got the answer does, and there are only so
//! many of those: each processor has a ring of the keys that it has inserted last, and what falls out
//! of it is forgotten if it is still marked. A flood therefore pushes out its own, the oldest first; who
//! opens a connection needs a round trip, in which a ring does not go round. Established connections are
//! in nobody's way and nobody is in theirs.
//!
//! A first packet that is no SYN belongs to a connection that was forgotten, or to none. It gets an entry as
//! well, so that an instance tells its sender that it knows nothing of it, but limits and cookies are not
//! for it. So the entry is also marked as a stray, and a SYN that finds it begins anew, like any other.
//!
//! An entry that is marked says where in the ring its key is, so that whoever takes the mark off can take out the
//! key as well, on the same processor: what falls out of the ring would have to be looked up otherwise, which
//! long after its SYN is two places in memory that no cache has any more.

use lb_common::{
    Counter, FLOW_FORWARD, FlowEntry, FlowKey, PROTOCOL_TCP, STATE_OPEN, STATE_OPENING,
    STATE_OPENING_AT, STATE_STRAY, same_flow,
};

use crate::{Flow, Scratch, Tables, affinity, conntrack, parse::is_opening};

/// The state of a new entry, which is [noted](note) before the next one.
#[inline(always)]
#[must_use]
pub(crate) fn state<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8) -> u32 {
    if key.protocol != PROTOCOL_TCP {
        return STATE_OPEN;
    }
    let stray = if is_opening(tcp_flags) {
        0
    } else {
        STATE_STRAY
    };
    STATE_OPENING | stray | tables.opening() << STATE_OPENING_AT
}

/// Whether nothing but one packet, or SYNs, was heard of an entry's client.
#[inline(always)]
const fn is_marked(entry: &FlowEntry) -> bool {
    entry.direction == FLOW_FORWARD && entry.state & STATE_OPENING != 0
}

/// Notes that the connection with the key [`Scratch::key`] was inserted and is marked, and forgets the one
/// that falls out of the ring. What is in [`Scratch::partner`] is lost.
#[inline(never)]
pub(crate) fn note<T: Tables>(tables: &T, scratch: &mut Scratch) {
    scratch.partner = scratch.key;
    tables.swap_opening(&mut scratch.partner);
    // A connection that has begun anew since is younger than its place says, and this one is the youngest.
    if scratch.partner.protocol == PROTOCOL_TCP && !same_flow(&scratch.partner, &scratch.key) {
        forget(tables, &scratch.partner);
    }
}

/// Forgets a connection, if it is still marked.
#[inline(always)]
fn forget<T: Tables>(tables: &T, key: &FlowKey) {
    if let Some(flow) = tables.flow(key)
        && is_marked(&flow.entry())
    {
        conntrack::forget(tables, &flow, key);
        tables.count(Counter::OpeningsForgotten);
    }
}

/// Notes that a client has sent more than its first packet.
#[inline(always)]
pub(crate) fn heard<T: Tables>(
    tables: &T,
    key: &FlowKey,
    flow: &T::Flow,
    entry: &FlowEntry,
    tcp_flags: u8,
) {
    if is_marked(entry) && !is_opening(tcp_flags) {
        flow.clear_state(STATE_OPENING);
        tables.remove_opening(entry.state >> STATE_OPENING_AT, key);
        affinity::remember(tables, key, flow);
    }
}
