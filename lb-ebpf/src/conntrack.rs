//! The life of a connection in the table: remembered, kept, closed, forgotten.
//!
//! A `nat` connection has two entries. The reply entry is inserted first, because it is the one
//! that decides whether a source port is free; a processor that then loses the race for the forward
//! entry removes its own reply entry and joins the winner, so a pair is never half of one choice
//! and half of another.
//!
//! The live count of an instance goes up when a connection is remembered and down once, by
//! whoever sets [`STATE_CLOSED`] first.

use lb_common::{
    Address, Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_L2DSR, FORWARD_NAT, FlowEntry, FlowKey,
    INSTANCE_ABSENT, InstanceEntry, SELECT_HASH, STATE_CLOSED, STATE_FIN_CLIENT,
    STATE_FIN_INSTANCE, STATE_OPEN, Settings, Vip, is_v4, same_address,
};

use crate::{
    Flow, Insert, Tables, Verdict, hash,
    parse::{Layout, TCP_RST},
    select,
};

/// Source ports that `nat` tries before it gives up. With nine ports in ten in use towards one
/// instance, one connection in five fails to find a free one in sixteen tries.
pub const MAX_PORT_TRIES: u32 = 16;

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
    /// The connection is over and the client begins another from the same port.
    Renew,
    /// The instance is gone, or no longer the one that the connection began with.
    Move,
}

/// Judges a packet from a client by the entry of its connection and the instance's state now.
#[inline(always)]
#[must_use]
pub fn judge(layout: &Layout, entry: &FlowEntry, instance: &InstanceEntry) -> Judgement {
    if !instance.keeps(entry.generation) {
        Judgement::Move
    } else if layout.is_opening() && entry.state & STATE_CLOSED != 0 {
        Judgement::Renew
    } else {
        Judgement::Keep
    }
}

/// Finds the connection of a packet.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, key: &FlowKey, layout: &Layout) -> Known<T::Flow> {
    let Some(flow) = tables.flow(key) else {
        return Known::No;
    };
    let entry = flow.entry();
    if layout.fragment {
        tables.vip_traffic(u32::from(entry.vip), |traffic| traffic.dropped += 1);
        return Known::Decided(Verdict::Drop(Counter::DropFragment));
    }
    let Some(instance) = tables.instance(entry.instance) else {
        return Known::No;
    };
    if entry.direction == FLOW_REPLY {
        // The replies of an instance that is down are still replies; those of an instance that is
        // gone belong to nobody.
        if instance.state == INSTANCE_ABSENT || instance.generation != entry.generation {
            tables.remove_flow(key);
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
    }
    let now = tables.now();
    if now.wrapping_sub(entry.last_seen) > TOUCH_AFTER {
        flow.touch(now);
    }
    Known::Flow(flow, now)
}

/// Removes both entries of a connection, given its forward one.
#[inline(never)]
pub fn forget<T: Tables>(tables: &T, flow: &T::Flow, key: &FlowKey) {
    let before = flow.set_state(STATE_CLOSED);
    let entry = flow.entry();
    // The count of another generation of the instance is not this connection's to change.
    let live = tables
        .instance(entry.instance)
        .is_some_and(|instance| instance.generation == entry.generation);
    if before & STATE_CLOSED == 0 && live {
        tables.live_end(entry.instance);
    }
    tables.remove_flow(key);
    if entry.forward == FORWARD_NAT {
        tables.remove_flow(&key.partner(&entry));
    }
}

/// Notes the end of a connection, when the packet that has just been forwarded has the FIN or RST
/// flag. `key` is the packet's, `flow` its entry.
///
/// An RST from either side ends a connection, as do FINs from both. `l2dsr` sees the client only,
/// whose FIN must do; its entry stays, so what follows the FIN still finds its instance.
#[inline(never)]
pub fn note_end<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8, flow: &T::Flow) {
    let entry = flow.entry();
    if entry.direction == FLOW_FORWARD {
        note_end_forward(tables, flow, tcp_flags, entry.forward, STATE_FIN_CLIENT);
    } else if let Some(forward) = tables.flow(&key.partner(&entry)) {
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
    let over = reset || (flow.set_state(fin) | fin) & both == both || forward == FORWARD_L2DSR;
    if over && flow.set_state(STATE_CLOSED) & STATE_CLOSED == 0 {
        tables.live_end(flow.entry().instance);
        tables.count(Counter::ConnectionsClosed);
    }
}

/// What became of the attempt to begin a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is in the table, by this processor or by another.
    Remembered,
    /// The table is full, but the connection works without an entry.
    Unremembered {
        /// [`Vip::id`].
        vip: u16,
        /// Index of the instance.
        index: u16,
    },
    /// The packet's way ends here.
    Decided(Verdict),
}

/// Begins a connection for a packet that belongs to none.
///
/// Out of line: it has large values of its own, and the packets that need it are few.
#[inline(never)]
pub fn begin<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8, fragment: bool) -> Begun {
    let Some(vip) = tables.vip(&key.vip()) else {
        let reply = tables
            .settings()
            .is_some_and(|settings| is_reply_tuple(&settings, key));
        return Begun::Decided(Verdict::Pass(if reply {
            Counter::PassedNoConnection
        } else {
            Counter::PassedNotVip
        }));
    };
    let begun = if fragment {
        Err(Counter::DropFragment)
    } else if tcp_flags & TCP_RST != 0 {
        Err(Counter::DropStrayReset)
    } else {
        begin_at(tables, key, &vip)
    };
    begun.unwrap_or_else(|reason| {
        tables.vip_traffic(vip.id, |traffic| traffic.dropped += 1);
        Begun::Decided(Verdict::Drop(reason))
    })
}

#[inline(always)]
fn begin_at<T: Tables>(tables: &T, key: &FlowKey, vip: &Vip) -> Result<Begun, Counter> {
    let hash = hash::flow(key);
    let (index, instance) =
        select::select(tables, vip, key, hash).ok_or(Counter::DropNoInstance)?;
    let now = tables.now();
    let new = New {
        key,
        hash,
        vip,
        index,
        instance: &instance,
        now,
    };
    let inserted = if vip.forward == FORWARD_NAT {
        new.nat(tables)?
    } else {
        new.l2dsr(tables)
    };
    match inserted {
        Insert::Done => {
            tables.live_begin(index);
            tables.count(Counter::ConnectionsOpened);
            tables.vip_traffic(vip.id, |traffic| traffic.connections += 1);
            tables.instance_traffic(index, |traffic| traffic.connections += 1);
            Ok(Begun::Remembered)
        }
        // Another processor was first; its choice counts.
        Insert::Exists => Ok(Begun::Remembered),
        // An `l2dsr` connection whose instance follows from its hash works without an entry for as
        // long as the VIP's table stays the same. One that was chosen by turn or by load does not,
        // and one by `nat` has nowhere else to keep its source port.
        Insert::Full if vip.forward == FORWARD_L2DSR && vip.select == SELECT_HASH => {
            tables.count(Counter::ConnectionsUnremembered);
            Ok(Begun::Unremembered {
                vip: vip.id as u16,
                index,
            })
        }
        Insert::Full => Err(Counter::DropTableFull),
    }
}

/// A new connection, before it is remembered.
struct New<'a> {
    /// The client's tuple.
    key: &'a FlowKey,
    /// [`crate::hash::flow`] of it.
    hash: u64,
    vip: &'a Vip,
    /// Index of the selected instance.
    index: u16,
    instance: &'a InstanceEntry,
    /// `CLOCK_MONOTONIC` nanoseconds.
    now: u64,
}

impl New<'_> {
    #[inline(always)]
    const fn entry(&self, direction: u8, forward: u8) -> FlowEntry {
        FlowEntry {
            last_seen: self.now,
            source: [0; 16],
            destination: [0; 16],
            source_port: [0; 2],
            destination_port: [0; 2],
            instance: self.index,
            generation: self.instance.generation,
            state: STATE_OPEN,
            vip: self.vip.id as u16,
            direction,
            forward,
        }
    }

    /// Remembers an `l2dsr` connection.
    #[inline(always)]
    fn l2dsr<T: Tables>(&self, tables: &T) -> Insert {
        tables.insert_flow(self.key, &self.entry(FLOW_FORWARD, FORWARD_L2DSR))
    }

    /// Finds a free source port for a `nat` connection and remembers both its directions.
    #[inline(always)]
    fn nat<T: Tables>(&self, tables: &T) -> Result<Insert, Counter> {
        let v4 = is_v4(&self.key.source);
        if v4 != is_v4(&self.instance.address) {
            return Err(Counter::DropFamily);
        }
        let settings = tables.settings().ok_or(Counter::DropNoNatSource)?;
        let source = *nat_source(&settings, v4);
        let first = u32::from(settings.nat_port_first);
        let ports = (u32::from(settings.nat_port_last) + 1).saturating_sub(first);
        if same_address(&source, &[0; 16]) || ports == 0 {
            return Err(Counter::DropNoNatSource);
        }
        let mut reply_key = FlowKey {
            source: self.instance.address,
            destination: source,
            source_port: self.instance.port,
            destination_port: [0; 2],
            protocol: self.key.protocol,
            pad: [0; 3],
        };
        match self.insert_reply(tables, &mut reply_key, first, ports) {
            Insert::Done => {}
            Insert::Exists => return Err(Counter::DropNatPorts),
            Insert::Full => return Ok(Insert::Full),
        }
        let mut entry = self.entry(FLOW_FORWARD, FORWARD_NAT);
        entry.source = source;
        entry.source_port = reply_key.destination_port;
        entry.destination = self.instance.address;
        entry.destination_port = self.instance.port;
        let inserted = tables.insert_flow(self.key, &entry);
        if inserted != Insert::Done {
            tables.remove_flow(&reply_key);
        }
        Ok(inserted)
    }

    /// Inserts the reply entry under the first source port that is free, which it writes into
    /// `reply_key`.
    #[inline(always)]
    fn insert_reply<T: Tables>(
        &self,
        tables: &T,
        reply_key: &mut FlowKey,
        first: u32,
        ports: u32,
    ) -> Insert {
        let mut reply = self.entry(FLOW_REPLY, FORWARD_NAT);
        reply.source = self.key.destination;
        reply.source_port = self.key.destination_port;
        reply.destination = self.key.source;
        reply.destination_port = self.key.source_port;
        let start = self.hash as u32 % ports;
        for attempt in 0..MAX_PORT_TRIES {
            // `first + ports` is at most 65536, so the sum fits 16 bits.
            let port = first + (start + attempt) % ports;
            reply_key.destination_port = (port as u16).to_be_bytes();
            match tables.insert_flow(reply_key, &reply) {
                Insert::Exists => tables.count(Counter::NatPortRetries),
                decided => return decided,
            }
        }
        Insert::Exists
    }
}

/// lb's source address of a family.
#[inline(always)]
#[must_use]
pub const fn nat_source(settings: &Settings, v4: bool) -> &Address {
    if v4 {
        &settings.nat_source_v4
    } else {
        &settings.nat_source_v6
    }
}

/// Whether a packet with this key could be a reply to a `nat` connection: it is for lb's source
/// address and in the range of its ports.
#[inline(always)]
#[must_use]
pub fn is_reply_tuple(settings: &Settings, key: &FlowKey) -> bool {
    let port = u16::from_be_bytes(key.destination_port);
    let source = nat_source(settings, is_v4(&key.destination));
    settings.nat_port_first <= port
        && port <= settings.nat_port_last
        && same_address(source, &key.destination)
}
