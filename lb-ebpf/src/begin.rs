//! The beginning of a connection.
//!
//! A `nat` connection has two entries. The reply entry is inserted first, because it is the one
//! that decides whether a source port is free; a processor that then loses the race for the forward
//! entry removes its own reply entry and joins the winner, so a pair is never half of one choice
//! and half of another.
//!
//! A `dnat` connection has two entries as well, but the client's address and port in the reply entry
//! are the client's own, so there is nothing to choose: whoever else begins the same connection with
//! the same instance has the same reply entry, and shares it.

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_DNAT, FORWARD_NAT, FORWARD_SPLICED, FORWARD_WAITING,
    FlowEntry, FlowKey, InstanceEntry, SELECT_HASH, STATE_OPEN, STATE_OPENING, STATE_STAYS,
    Settings, VIP_COOKIES, VIP_KEEPS_PORT, VIP_LIMITED, VIP_REFUSES, VIP_SETTLES, VIP_STAYS, Vip,
    forward_of, is_v4, same_address, translates,
};

use crate::{
    Flow, Insert, Scratch, Tables, Verdict, affinity, arrivals, handshake, hash, opening,
    owner::{self, Owned},
    parse::{TCP_RST, is_opening},
    select, settled, vips,
};

/// Source ports that `nat` tries before it gives up. With nine ports in ten in use towards one
/// instance, one connection in five fails to find a free one in sixteen tries.
pub const MAX_PORT_TRIES: u32 = 16;

/// What became of the attempt to begin a connection.
///
/// It fits a register, because [`Counter`] has room for the other variants. Were it written to
/// memory, the compiler would write something as the counter of a variant that has none, and that may
/// be a pointer, which the verifier does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is in the table, by this processor or by another.
    Remembered,
    /// It is in the table, and its entry is [`Scratch::entry`]: nobody has to look it up.
    Entered,
    /// It has no entry, and works without. What the entry would have been is in [`Scratch::entry`].
    Unremembered,
    /// Nobody can take it, and its sender is to be told.
    Refused,
    /// It depends on limits that are not looked at here; nothing was done so far.
    Limited,
    /// It is a question for SYN cookies, of the VIP [`Scratch::asked`]; nothing was done so far.
    Asked,
    /// The packet's way ends here, for this reason.
    Decided(Counter),
}

const _: () = assert!(size_of::<Begun>() == 4);

/// The verdict over a packet whose way ends here for a reason.
#[inline(always)]
#[must_use]
pub const fn verdict(reason: Counter) -> Verdict {
    match reason {
        Counter::PassedNoConnection | Counter::PassedNotVip => Verdict::Pass(reason),
        _ => Verdict::Drop(reason),
    }
}

/// Begins a connection for a packet that belongs to none, whose tuple is [`Scratch::key`].
///
/// Out of line: the packets that need it are few, and the others should not pay for its stack.
#[inline(never)]
pub fn begin<T: Tables, const ADMITS: bool>(
    tables: &T,
    scratch: &mut Scratch,
    tcp_flags: u8,
) -> Begun {
    let epoch = tables.vip_epoch();
    let Some(vip) = vips::find(tables, scratch) else {
        let reply = tables
            .settings()
            .is_some_and(|settings| is_reply_tuple(&settings, &scratch.key));
        return Begun::Decided(if reply {
            Counter::PassedNoConnection
        } else {
            Counter::PassedNotVip
        });
    };
    if vip.flags & VIP_SETTLES != 0 && epoch.is_multiple_of(2) {
        // By its very port, also where the VIP has several.
        let key = scratch.key.vip();
        tables.keep_vip(&key, &vip, epoch);
    }
    let owned = owner::of(tables, &vip, &scratch.key);
    scratch.owned_forward = vip.forward_of_owners().into();
    let begun = match owner::keeping(tables, owned.owner) {
        Some(instance) if !is_opening(tcp_flags) => {
            scratch.entry = settled::entry(&vip, owned.owner, instance.generation);
            scratch.entry.forward = scratch.owned_forward as u8;
            Ok(go_on(tables, scratch, owned, tcp_flags))
        }
        _ if tcp_flags & TCP_RST != 0 => Err(Counter::DropStrayReset),
        // Whether it begins one is looked at there: what is known of flags here would be another way for
        // the verifier through all that follows.
        _ if !ADMITS && vip.flags & VIP_LIMITED != 0 => return Begun::Limited,
        _ => {
            let flags = scratch.layout.tcp_flags;
            let may_ask = ADMITS && vip.flags & VIP_COOKIES != 0 && scratch.shown.found == 0;
            if may_ask && handshake::asks(tables, vip.id, flags) {
                scratch.asked = vip;
                return Begun::Asked;
            }
            let is_limited = ADMITS && vip.flags & VIP_LIMITED != 0;
            // One place that begins, for the same reason.
            let admitted = if is_limited && arrivals::counts(&scratch.key, flags, vip.forward) {
                arrivals::take(tables, vip.id, &scratch.key)
            } else {
                Ok(())
            };
            admitted.and_then(|()| begin_at::<T, ADMITS>(tables, scratch, &vip, owned, tcp_flags))
        }
    };
    begun.unwrap_or_else(|reason| {
        tables.vip_dropped(vip.id, reason);
        if vip.flags & VIP_REFUSES != 0 && reason == Counter::DropNoInstance {
            Begun::Refused
        } else {
            Begun::Decided(reason)
        }
    })
}

/// A packet of a flow of the slot's owner, whose entry would be [`Scratch::entry`].
#[inline(always)]
fn go_on<T: Tables>(tables: &T, scratch: &mut Scratch, owned: Owned, tcp_flags: u8) -> Begun {
    if !owned.slot.is_unsettled() {
        tables.count(Counter::PacketsSettled);
        return Begun::Unremembered;
    }
    // What a reset belongs to is over.
    if tcp_flags & TCP_RST != 0 {
        return Begun::Unremembered;
    }
    scratch.entry.state = STATE_OPEN;
    scratch.entry.last_seen = tables.now();
    if !tables.live_begin(owned.owner) {
        tables.count(Counter::ConnectionsUnremembered);
        return Begun::Unremembered;
    }
    let inserted = tables.insert_flow(&scratch.key, &scratch.entry);
    if inserted == Insert::Done {
        tables.count(Counter::ConnectionsFound);
        return Begun::Remembered;
    }
    tables.live_end(owned.owner);
    if inserted == Insert::Exists {
        return Begun::Remembered;
    }
    tables.count(Counter::ConnectionsUnremembered);
    Begun::Unremembered
}

#[inline(always)]
fn begin_at<T: Tables, const ADMITS: bool>(
    tables: &T,
    scratch: &mut Scratch,
    vip: &Vip,
    owned: Owned,
    tcp_flags: u8,
) -> Result<Begun, Counter> {
    let hash = hash::flow(&scratch.key);
    let settles = vip.flags & VIP_SETTLES != 0;
    // Counted before it is remembered: of two processors that find the last place one must see the
    // other. Where flows may go unremembered there are no limits.
    let take = |index| settles || tables.live_begin(index);
    let mut full = false;
    // Where somebody may have affinity, this is where limits are looked at.
    let own = if ADMITS {
        affinity::instance(tables, vip.id, scratch).filter(|(index, _)| take(*index))
    } else {
        None
    };
    if own.is_some() {
        tables.count(Counter::AffinityFollowed);
    }
    let selected = own.or_else(|| select::select(tables, vip, &scratch.key, hash, take, &mut full));
    let (index, instance) = selected.ok_or(if full {
        Counter::DropConnectionLimit
    } else {
        Counter::DropNoInstance
    })?;
    scratch.entry = settled::entry(vip, index, instance.generation);
    if settles {
        if !owned.slot.is_unsettled() && index == owned.owner {
            tables.count(Counter::PacketsSettled);
            settled::note_begin(tables, vip.id, index);
            return Ok(Begun::Unremembered);
        }
        tables.live_begin(index);
    }
    let is_spliced = ADMITS && scratch.shown.is_accepted();
    if is_spliced {
        scratch.entry.forward |= FORWARD_SPLICED;
    }
    scratch.entry.state = if vip.flags & VIP_STAYS != 0 {
        STATE_STAYS
    } else if is_spliced {
        // More was heard of its client.
        STATE_OPEN
    } else {
        opening::state(tables, &scratch.key, tcp_flags)
    };
    scratch.entry.last_seen = tables.now();
    let inserted = if translates(vip.forward) {
        let port = if vip.flags & VIP_KEEPS_PORT != 0 {
            scratch.key.destination_port
        } else {
            instance.port
        };
        insert_pair(tables, scratch, (hash, is_spliced), &instance, port)
    } else {
        Ok(tables.insert_flow(&scratch.key, &scratch.entry))
    };
    if inserted == Ok(Insert::Done) {
        settled::note_begin(tables, vip.id, index);
        scratch.opened = scratch.entry.state & STATE_OPENING;
        // Of `dnat`, the entry may have been another one for a moment ([`keep_reply`]).
        return Ok(if ADMITS || forward_of(vip.forward) == FORWARD_DNAT {
            Begun::Remembered
        } else {
            Begun::Entered
        });
    }
    // It was counted for the place that it has not got.
    tables.live_end(index);
    match inserted? {
        // Another processor was first; its choice counts.
        Insert::Done | Insert::Exists => Ok(Begun::Remembered),
        Insert::Full => without_room(tables, scratch, vip, owned, tcp_flags),
    }
}

/// What becomes of a flow that has no room in the table. [`Scratch::entry`] is what it would have
/// been.
#[inline(always)]
fn without_room<T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    vip: &Vip,
    owned: Owned,
    tcp_flags: u8,
) -> Result<Begun, Counter> {
    scratch.entry.state = settled::UNREMEMBERED;
    if owned.owner != 0 && is_opening(tcp_flags) {
        // Its next packet will be taken for one of the owner's, so it had better be.
        let owner = tables.instance(owned.owner);
        let owner = owner.filter(InstanceEntry::takes_new);
        let owner = owner.ok_or(Counter::DropTableFull)?;
        scratch.entry.instance = owned.owner;
        scratch.entry.generation = owner.generation;
        scratch.entry.direction = FLOW_FORWARD;
        scratch.entry.forward = scratch.owned_forward as u8;
        tables.count(Counter::ConnectionsUnremembered);
        return Ok(Begun::Unremembered);
    }
    // A connection whose packets keep their addresses and whose instance follows from its hash works
    // without an entry for as long as the VIP's table stays the same. One that was chosen by turn, by
    // load or by chance does not, one by `nat` has nowhere else to keep its source port, and one that
    // is not remembered cannot be counted against a limit.
    if !translates(vip.forward)
        && vip.select == SELECT_HASH
        && !tables.is_limited(scratch.entry.instance)
    {
        tables.count(Counter::ConnectionsUnremembered);
        return Ok(Begun::Unremembered);
    }
    Err(Counter::DropTableFull)
}

/// Remembers both directions of a translated connection, to this port of the instance.
/// [`Scratch::entry`] has what they have in common; with a SYN cookie the reply's waits for the
/// instance's answer.
#[inline(always)]
fn insert_pair<T: Tables>(
    tables: &T,
    scratch: &mut Scratch,
    (hash, is_spliced): (u64, bool),
    instance: &InstanceEntry,
    port: [u8; 2],
) -> Result<Insert, Counter> {
    if is_v4(&scratch.key.source) != is_v4(&instance.address) {
        return Err(Counter::DropFamily);
    }
    let Scratch {
        key,
        partner,
        entry,
        shown,
        ..
    } = scratch;
    // A number in any case: the verifier refuses a register without one.
    let cookie = (is_spliced, shown.cookie);
    // What the instance will answer to; `nat` finds another source.
    *partner = FlowKey {
        source: instance.address,
        destination: key.source,
        source_port: port,
        destination_port: key.source_port,
        protocol: key.protocol,
        ..FlowKey::default()
    };
    let (state, forward) = (entry.state, entry.forward);
    write_reply(key, entry, cookie);
    let is_ours = if forward_of(forward) == FORWARD_NAT {
        match insert_reply(tables, partner, entry, hash)? {
            Insert::Done => true,
            Insert::Exists => return Err(Counter::DropNatPorts),
            Insert::Full => return Ok(Insert::Full),
        }
    } else {
        match tables.insert_flow(partner, entry) {
            Insert::Done => true,
            Insert::Exists if is_same_reply(tables, partner, entry) => false,
            Insert::Exists => return Err(Counter::DropReplyTaken),
            Insert::Full => return Ok(Insert::Full),
        }
    };
    entry.direction = FLOW_FORWARD;
    entry.state = state;
    entry.forward = forward;
    entry.source = partner.destination;
    entry.source_port = partner.destination_port;
    entry.destination = partner.source;
    entry.destination_port = partner.source_port;
    let inserted = tables.insert_flow(key, entry);
    if inserted == Insert::Done {
        if !is_ours {
            keep_reply(tables, key, partner, entry, cookie);
        }
    } else if is_ours && !is_answered_by(tables, key, partner) {
        tables.remove_flow(partner);
    }
    Ok(inserted)
}

/// Inserts the reply entry again that was found and shared, should whoever was removing the
/// connection before have taken it away meanwhile. He does that before he removes the forward entry,
/// and that he has done since we could insert ours; so it stays now.
#[inline(always)]
fn keep_reply<T: Tables>(
    tables: &T,
    key: &FlowKey,
    partner: &FlowKey,
    entry: &mut FlowEntry,
    cookie: (bool, u32),
) {
    let (state, forward) = (entry.state, entry.forward);
    write_reply(key, entry, cookie);
    // That it is there, or that there is no room for it, changes nothing.
    let _ = tables.insert_flow(partner, entry);
    // What was inserted for the client's direction is what others look at.
    entry.direction = FLOW_FORWARD;
    entry.state = state;
    entry.forward = forward;
}

/// Makes the entry of the replies to packets with this key of what both directions have in common.
#[inline(always)]
const fn write_reply(key: &FlowKey, entry: &mut FlowEntry, (is_spliced, cookie): (bool, u32)) {
    entry.direction = FLOW_REPLY;
    entry.source = key.destination;
    entry.source_port = key.destination_port;
    entry.destination = key.source;
    entry.destination_port = key.source_port;
    if is_spliced {
        entry.state = cookie;
        entry.forward |= FORWARD_WAITING;
    }
}

/// Whether the entry of a reply is the one that was to be inserted, by another processor or left
/// from the same connection.
#[inline(always)]
fn is_same_reply<T: Tables>(tables: &T, partner: &FlowKey, wanted: &FlowEntry) -> bool {
    tables.flow(partner).is_some_and(|flow| {
        let found = flow.entry();
        same_address(&found.source, &wanted.source)
            && found.source_port == wanted.source_port
            && found.instance == wanted.instance
            && found.generation == wanted.generation
            // Of connections that were begun by cookies, only the same one.
            && found.forward == wanted.forward
            && (wanted.forward & FORWARD_SPLICED == 0 || found.state == wanted.state)
    })
}

/// Whether the connection that another processor has begun with this key is answered by `partner`.
#[inline(always)]
fn is_answered_by<T: Tables>(tables: &T, key: &FlowKey, partner: &FlowKey) -> bool {
    tables.flow(key).is_some_and(|flow| {
        let entry = flow.entry();
        same_address(&entry.destination, &partner.source)
            && entry.destination_port == partner.source_port
            && same_address(&entry.source, &partner.destination)
            && entry.source_port == partner.destination_port
    })
}

/// Finds a free source port of lb's for a `nat` connection and inserts the reply entry under it;
/// address and port are written into `key`.
///
/// Tries are as far apart as the hash says, each connection's otherwise: ports that are in use would be next to
/// each other if the next one was tried, and with half of them in use many connections would find none.
#[inline(always)]
fn insert_reply<T: Tables>(
    tables: &T,
    key: &mut FlowKey,
    entry: &FlowEntry,
    hash: u64,
) -> Result<Insert, Counter> {
    let settings = tables.settings().ok_or(Counter::DropNoNatSource)?;
    key.destination = settings.nat_source(is_v4(&key.source));
    let first = u32::from(settings.nat_port_first);
    let ports = (u32::from(settings.nat_port_last) + 1).saturating_sub(first);
    if same_address(&key.destination, &[0; 16]) || ports == 0 {
        return Err(Counter::DropNoNatSource);
    }
    let mut at = hash as u32 % ports;
    // Below the number of ports, or all tries would be the same one.
    let step = ((hash >> 32) as u32 % (ports - 1).max(1)) | 1;
    for _ in 0..MAX_PORT_TRIES {
        // `first + ports` is at most 65536, so the sum fits 16 bits.
        key.destination_port = ((first + at) as u16).to_be_bytes();
        match tables.insert_flow(key, entry) {
            Insert::Exists => tables.count(Counter::NatPortRetries),
            decided => return Ok(decided),
        }
        at = (at + step) % ports;
    }
    Ok(Insert::Exists)
}

/// Whether a packet with this key could be a reply to a `nat` connection: it is for lb's source
/// address and in the range of its ports.
#[inline(always)]
#[must_use]
pub fn is_reply_tuple(settings: &Settings, key: &FlowKey) -> bool {
    let port = u16::from_be_bytes(key.destination_port);
    let source = settings.nat_source(is_v4(&key.destination));
    settings.nat_port_first <= port
        && port <= settings.nat_port_last
        && same_address(&source, &key.destination)
}
