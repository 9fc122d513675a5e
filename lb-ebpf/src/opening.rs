//! Connections that have hardly begun.
//!
//! A SYN costs its sender nothing, not even an address of its own, and where connections are
//! remembered it costs an entry, with `nat` two of them and a source port. So an entry that was made
//! for a SYN is marked until its client sends something else, which only who has got the answer does,
//! and there are only so many of those: each processor has a ring of the keys that it has
//! inserted last, and what falls out of it is forgotten if it is still marked. A flood of SYNs
//! therefore pushes out its own, the oldest first; who opens a connection needs a round trip, in
//! which a ring does not go round. Established connections are in nobody's way and nobody is in theirs.
//!
//! An entry that is marked says where in the ring its key is, so that whoever takes the mark off can take out the
//! key as well, on the same processor: what falls out of the ring would have to be looked up otherwise, which
//! long after its SYN is two places in memory that no cache has any more.

use lb_common::{
    Counter, FLOW_FORWARD, FlowEntry, FlowKey, PROTOCOL_TCP, STATE_OPEN, STATE_OPENING,
    STATE_OPENING_AT, same_flow,
};

use crate::{Flow, Scratch, Tables, affinity, conntrack, parse::is_opening};

/// The state of a new entry, which is [noted](note) before the next one.
#[inline(always)]
#[must_use]
pub(crate) fn state<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8) -> u32 {
    if key.protocol == PROTOCOL_TCP && is_opening(tcp_flags) {
        STATE_OPENING | tables.opening() << STATE_OPENING_AT
    } else {
        STATE_OPEN
    }
}

/// Whether nothing but a SYN was heard of an entry's client.
#[inline(always)]
const fn is_marked(entry: &FlowEntry) -> bool {
    entry.direction == FLOW_FORWARD && entry.state & STATE_OPENING != 0
}

/// Notes that the connection with the key [`Scratch::key`] was inserted for a SYN, and forgets the one
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

/// Forgets a connection, if nothing but a SYN was heard of it.
#[inline(always)]
fn forget<T: Tables>(tables: &T, key: &FlowKey) {
    if let Some(flow) = tables.flow(key)
        && is_marked(&flow.entry())
    {
        conntrack::forget(tables, &flow, key);
        tables.count(Counter::OpeningsForgotten);
    }
}

/// Notes that a client has sent more than a SYN.
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
