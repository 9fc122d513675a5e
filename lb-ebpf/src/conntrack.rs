//! The life of a connection that is in the table: kept, moved, closed, forgotten. How it gets there
//! is in [`crate::begin`].
//!
//! The live count of an instance goes up when a connection is remembered and down once, by
//! whoever sets [`STATE_CLOSED`] first.

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_DNAT, FORWARD_NAT, FORWARD_SPLICED, FlowEntry,
    FlowKey, INSTANCE_ABSENT, InstanceEntry, STATE_CLOSED, STATE_FIN_CLIENT, STATE_FIN_INSTANCE,
    STATE_REMOVED, STATE_STRAY, forward_of, same_address, translates,
};

use crate::{
    Flow, Tables, Verdict, opening,
    parse::{Layout, TCP_RST},
    recent::{self, Moment},
};

/// Nanoseconds for which [`FlowEntry::last_seen`] is left alone. Rewriting it for each packet would
/// send the entry's cache line from processor to processor.
pub const TOUCH_AFTER: u64 = 1_000_000_000;

/// What the table knows of a packet.
#[derive(Debug)]
pub enum Known<F> {
    /// The connection goes on; its entry, and the time.
    Flow(F, u64),
    /// Nothing, or nothing any more.
    No,
    /// The packet's way ends here.
    Decided(Verdict),
}

/// What to do with a packet of a known connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The connection goes on.
    Keep,
    /// The connection is over, or a stray packet's, and the client begins another from the same port.
    Renew,
    /// The instance is gone, or no longer the one that the connection began with.
    Move,
}

/// Judges a packet from a client by the entry of its connection and the instance's state now.
#[inline(always)]
#[must_use]
pub fn judge(layout: &Layout, entry: &FlowEntry, instance: &InstanceEntry) -> Judgement {
    if !instance.keeps_flow(entry) {
        Judgement::Move
    } else if layout.is_opening() && entry.state & (STATE_CLOSED | STATE_STRAY) != 0 {
        Judgement::Renew
    } else {
        Judgement::Keep
    }
}

/// Finds the connection of a packet.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, key: &FlowKey, layout: &Layout) -> Known<T::Flow> {
    let spot = recent::spot(key);
    let moment = Moment::new(spot, tables.epoch(spot.place), tables.now());
    if layout.is_steady()
        && let Some(flow) = tables.recent_flow(key, moment)
    {
        let entry = flow.entry();
        if let Some(instance) = tables.instance(entry.instance)
            && instance.keeps(entry.generation)
        {
            return Known::Flow(flow, moment.now);
        }
    }
    find_in_table(tables, key, layout, moment)
}

#[inline(always)]
fn find_in_table<T: Tables>(
    tables: &T,
    key: &FlowKey,
    layout: &Layout,
    moment: Moment,
) -> Known<T::Flow> {
    let Some(flow) = tables.flow(key) else {
        return Known::No;
    };
    let entry = flow.entry();
    let Some(instance) = tables.instance(entry.instance) else {
        return Known::No;
    };
    if entry.direction == FLOW_REPLY {
        // The replies of an instance that is down are still replies; those of an instance that is
        // gone belong to nobody.
        if instance.state == INSTANCE_ABSENT || instance.generation != entry.generation {
            forget_reply(tables, key, &flow);
            return Known::Decided(Verdict::Pass(Counter::PassedNoConnection));
        }
    } else {
        let judgement = judge(layout, &entry, &instance);
        if judgement != Judgement::Keep {
            forget(tables, &flow, key);
            if judgement == Judgement::Move {
                tables.count(Counter::ConnectionsMoved);
            }
            return Known::No;
        }
        if layout.is_opening() && entry.forward & FORWARD_SPLICED != 0 {
            // See `crate::splice`.
            flow.set_state(STATE_STRAY);
        }
    }
    opening::heard(tables, key, &flow, &entry, layout.tcp_flags);
    let now = moment.now;
    let mut seen = entry.last_seen;
    if now.wrapping_sub(seen) > TOUCH_AFTER {
        flow.touch(now);
        seen = now;
    }
    if layout.is_steady() {
        tables.keep_recent(key, moment, &flow, seen + TOUCH_AFTER);
    }
    Known::Flow(flow, now)
}

/// Removes both entries of a connection, given its forward one, unless another processor is at it.
#[inline(never)]
pub fn forget<T: Tables>(tables: &T, flow: &T::Flow, key: &FlowKey) {
    let before = flow.set_state(STATE_CLOSED | STATE_REMOVED);
    if before & STATE_REMOVED != 0 {
        return;
    }
    let entry = flow.entry();
    // The count of another generation of the instance is not this connection's to change.
    let live = tables
        .instance(entry.instance)
        .is_some_and(|instance| instance.generation == entry.generation);
    if before & STATE_CLOSED == 0 && live {
        tables.live_end(entry.instance);
    }
    // Whoever begins a `dnat` connection anew takes the reply entry over that he finds, and finds
    // out that it has gone before he is done only if it goes first.
    if forward_of(entry.forward) == FORWARD_DNAT {
        forget_partner(tables, key, &entry);
    }
    tables.remove_flow(key);
    if forward_of(entry.forward) == FORWARD_NAT {
        forget_partner(tables, key, &entry);
    }
}

#[inline(always)]
fn forget_partner<T: Tables>(tables: &T, key: &FlowKey, entry: &FlowEntry) {
    let partner = key.partner(entry);
    if paired(tables, &partner, key).is_some() {
        tables.remove_flow(&partner);
    }
}

/// Removes both entries of a connection whose instance is gone, given its reply one.
#[inline(never)]
fn forget_reply<T: Tables>(tables: &T, key: &FlowKey, flow: &T::Flow) {
    let forward_key = key.partner(&flow.entry());
    match paired(tables, &forward_key, key) {
        Some(forward) => {
            forget(tables, &forward, &forward_key);
            tables.count(Counter::ConnectionsMoved);
        }
        None => tables.remove_flow(key),
    }
}

/// The connection with this key, if what it becomes is answered by `partner`. Entries come and go
/// in pairs, but one look-up and the next are two moments: in between, the tuple may have begun to
/// belong to another connection, whose entries are not to be touched.
#[inline(always)]
fn paired<T: Tables>(tables: &T, key: &FlowKey, partner: &FlowKey) -> Option<T::Flow> {
    let flow = tables.flow(key)?;
    let answered = key.partner(&flow.entry());
    let same = same_address(&answered.source, &partner.source)
        && same_address(&answered.destination, &partner.destination)
        && answered.source_port == partner.source_port
        && answered.destination_port == partner.destination_port;
    same.then_some(flow)
}

/// Notes the end of a connection, when the packet that has just been forwarded has the FIN or RST
/// flag. `key` is the packet's, `flow` its entry.
///
/// An RST from either side ends a connection, as do FINs from both. Where replies go straight to the
/// client lb sees the client only, whose FIN must do; its entry stays, so what follows the FIN still finds its instance.
#[inline(never)]
pub fn note_end<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8, flow: &T::Flow) {
    let entry = flow.entry();
    if entry.direction == FLOW_FORWARD {
        note_end_forward(tables, flow, tcp_flags, entry.forward, STATE_FIN_CLIENT);
    } else if let Some(forward) = paired(tables, &key.partner(&entry), key) {
        note_end_forward(
            tables,
            &forward,
            tcp_flags,
            entry.forward,
            STATE_FIN_INSTANCE,
        );
    }
}

#[inline(always)]
fn note_end_forward<T: Tables>(tables: &T, flow: &T::Flow, tcp_flags: u8, forward: u8, fin: u32) {
    let reset = tcp_flags & TCP_RST != 0;
    let both = STATE_FIN_CLIENT | STATE_FIN_INSTANCE;
    let over = reset || (flow.set_state(fin) | fin) & both == both || !translates(forward);
    if over && flow.set_state(STATE_CLOSED) & STATE_CLOSED == 0 {
        tables.live_end(flow.entry().instance);
        tables.count(Counter::ConnectionsClosed);
    }
}
