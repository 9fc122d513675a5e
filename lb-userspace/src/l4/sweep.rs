//! Forgets connections that are over.
//!
//! The program never walks the connection table; it cannot. So the daemon does, a few hundred
//! entries at a time, and each pass over the table also counts what is open, because a live counter
//! that the program keeps with atomic additions can only be wrong for good once it is wrong. What is
//! open of each VIP nobody else counts: a counter would be one more that all processors share.
//!
//! A `nat` connection has two entries, one a direction. They are judged together, by the younger of
//! the two, and the forward one speaks for both: half a connection helps nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{
    Address, FLOW_FORWARD, FORWARD_DNAT, FlowEntry, FlowKey, INSTANCE_ABSENT, InstanceEntry,
    PROTOCOL_TCP, PortRange, STATE_CLOSED, STATE_FIN_CLIENT, STATE_FIN_INSTANCE, STATE_OPENING,
    Traffic, VIP_OF_PORTS, VIP_SETTLES, Vip, VipKey, forward_of, translates,
};
use lb_ebpf::settled::slot_of;

use super::{
    datapath::{Cursor, Datapath, DatapathError},
    filter,
    reconcile::Walked,
};
use crate::model::DatapathSpec;

/// How long a closed connection is remembered, so that a retransmitted last packet still finds its
/// way. A full 2 MSL (RFC 9293, 3.3.2) would fill the table at ten thousand connections a second.
const LINGER: Duration = Duration::from_secs(10);

/// The same while the table is crowded: an old packet that finds no way costs less than a new
/// connection that finds no room.
const CROWDED_LINGER: Duration = Duration::from_secs(1);

/// How long a connection is remembered of which nothing but one packet was heard. Linux offers a client its
/// answer for 63 seconds (`tcp_synack_retries` is 5); who takes it up after that is refused anyway.
const OPENING: Duration = Duration::from_secs(75);

/// Clients that are collected at a time, and the age of connections that they are taken from.
const MOST_CLIENTS: usize = 64;
const YOUNG: Duration = Duration::from_secs(5);

/// Calls for entries in one step.
const CALLS_PER_STEP: usize = 8;

/// After how much silence an entry is forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    open: Duration,
    opening: Duration,
    udp: Duration,
    ending: Duration,
    closed: Duration,
    /// Entries from which on the table is crowded: three quarters of those that fit.
    crowd: u64,
}

impl Limits {
    /// As configured.
    pub(crate) fn new(spec: &DatapathSpec) -> Self {
        Self {
            crowd: u64::from(spec.max_connections) / 4 * 3,
            open: spec.tcp_idle_timeout,
            opening: spec.tcp_idle_timeout.min(OPENING),
            udp: spec.udp_idle_timeout,
            ending: spec.udp_idle_timeout,
            closed: spec.udp_idle_timeout.min(LINGER),
        }
    }

    /// The limits of a crowded table.
    fn crowded(self) -> Self {
        Self {
            closed: self.closed.min(CROWDED_LINGER),
            ..self
        }
    }

    /// The limits of a VIP whose connections have an idle time of their own.
    fn with(self, idle: Option<Duration>) -> Self {
        Self {
            open: idle.unwrap_or(self.open),
            opening: idle.map_or(self.opening, |idle| self.opening.min(idle)),
            udp: idle.unwrap_or(self.udp),
            ..self
        }
    }

    /// For the entry of a client's direction.
    fn of(&self, key: &FlowKey, entry: &FlowEntry) -> Duration {
        if entry.state & STATE_CLOSED != 0 {
            self.closed
        } else if key.protocol != PROTOCOL_TCP {
            self.udp
        } else if entry.state & (STATE_FIN_CLIENT | STATE_FIN_INSTANCE) != 0 {
            self.ending
        } else if entry.state & STATE_OPENING != 0 {
            self.opening
        } else {
            self.open
        }
    }
}

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It stays, and its connection is over or counted elsewhere.
    Keep,
    /// It stays, and is a connection that is open.
    KeepOpen,
    /// It goes.
    Forget,
    /// It goes, and its connection was still counted as live.
    ForgetOpen,
}

/// What became of the instance and the VIP of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// Whether the instance is there and the one that the connection began with.
    pub(crate) has_instance: bool,
    /// Whether the VIP is there.
    pub(crate) has_vip: bool,
}

impl Ends {
    fn of(
        key: &FlowKey,
        entry: &FlowEntry,
        instances: &BTreeMap<u16, InstanceEntry>,
        vips: &BTreeMap<VipKey, Vip>,
    ) -> Self {
        let vip = if entry.direction == FLOW_FORWARD {
            key.vip()
        } else {
            // What a reply is given as its source is what the client has sent to.
            VipKey::new(entry.source, entry.source_port, key.protocol)
        };
        Self {
            has_instance: instances.get(&entry.instance).is_some_and(|instance| {
                instance.state != INSTANCE_ABSENT && instance.generation == entry.generation
            }),
            has_vip: vips.contains_key(&vip) || ranges(&vip, vips).next().is_some(),
        }
    }
}

/// VIPs of several ports that hold the one of `key`.
fn ranges(key: &VipKey, vips: &BTreeMap<VipKey, Vip>) -> impl Iterator<Item = VipKey> {
    let key = *key;
    vips.range(VipKey::new(key.address, [0; 2], 0)..)
        .map(|(other, _)| *other)
        .take_while(move |other| other.address == key.address)
        .filter(move |other| other.kind == VIP_OF_PORTS && holds(other, &key))
}

/// Whether packets to the one port of `key` may be a VIP's.
fn holds(vip: &VipKey, key: &VipKey) -> bool {
    let is_of_range = |range: PortRange| range.holds(key.protocol, u16::from_be_bytes(key.port));
    vip.address == key.address && vip.range().map_or(vip == key, is_of_range)
}

/// The VIP that packets to the one port of `key` are for: that of the port, or of the fewest ports.
fn holder(key: &VipKey, vips: &BTreeMap<VipKey, Vip>) -> Option<VipKey> {
    let width = |range: PortRange| range.last.wrapping_sub(range.first);
    let of_port = vips.contains_key(key).then_some(*key);
    of_port.or_else(|| ranges(key, vips).min_by_key(|vip| vip.range().map(width)))
}

/// Judges an entry by its own age, by the entry of the other direction if there is one, and by what
/// became of its VIP and its instance. `partner` is asked only when the answer depends on it.
///
/// The program asks the connection table before the VIPs, so connections of a VIP that is gone
/// would be forwarded for as long as they last.
pub(crate) fn judge<E>(
    key: &FlowKey,
    entry: &FlowEntry,
    ends: Ends,
    limits: &Limits,
    now: u64,
    partner: impl FnOnce(&FlowKey) -> Result<Option<FlowEntry>, E>,
) -> Result<Judgement, E> {
    let idle = |last_seen: u64| Duration::from_nanos(now.saturating_sub(last_seen));
    if entry.direction != FLOW_FORWARD {
        // The forward entry decides; without one, nothing keeps this.
        if !ends.has_vip || !ends.has_instance {
            return Ok(Judgement::Forget);
        }
        if idle(entry.last_seen) <= limits.closed {
            return Ok(Judgement::Keep);
        }
        let forward = partner(&key.partner(entry))?;
        return Ok(match forward {
            Some(forward) if forward.direction == FLOW_FORWARD => Judgement::Keep,
            _ => Judgement::Forget,
        });
    }
    if !ends.has_instance {
        // The counter was set to zero when the instance's index was taken from it.
        return Ok(Judgement::Forget);
    }
    let is_open = entry.state & STATE_CLOSED == 0;
    if !ends.has_vip {
        return Ok(if is_open {
            Judgement::ForgetOpen
        } else {
            Judgement::Forget
        });
    }
    let limit = limits.of(key, entry);
    let mut silence = idle(entry.last_seen);
    if silence > limit
        && translates(entry.forward)
        && let Some(reply) = partner(&key.partner(entry))?
    {
        silence = silence.min(idle(reply.last_seen));
    }
    Ok(match (silence > limit, is_open) {
        (false, true) => Judgement::KeepOpen,
        (false, false) => Judgement::Keep,
        (true, true) => Judgement::ForgetOpen,
        (true, false) => Judgement::Forget,
    })
}

/// What a whole pass has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Entries that stay.
    pub(crate) entries: u64,
    /// Entries that were forgotten.
    pub(crate) forgotten: u64,
    /// By how much live counters were put right, all instances together.
    pub(crate) corrected: u64,
}

/// What is known of an instance when a pass begins, and what the pass counts.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    live: u64,
    connections: u64,
    open: u64,
}

/// A walk over the connection table, in steps.
#[derive(Debug)]
pub(crate) struct Sweep {
    limits: Limits,
    /// Idle times of connections by the id of their VIP, where they are not those of all.
    idle: BTreeMap<u16, Duration>,
    is_crowded: bool,
    cursor: Option<Cursor>,
    is_under_way: bool,
    tallies: BTreeMap<u16, Tally>,
    /// The VIPs that were there when the pass began, by their ids, and what it has found open of each.
    named: BTreeMap<u16, VipKey>,
    open: BTreeMap<VipKey, u64>,
    /// Open connections of each VIP, as the last whole pass has counted them.
    live: BTreeMap<VipKey, u64>,
    pass: Pass,
    buffer: Vec<(FlowKey, FlowEntry)>,
    /// Addresses that packets of the connections have which stay.
    ends: filter::Ends,
    /// Clients that were heard of lately, when somebody wants to know.
    clients: Option<BTreeSet<Address>>,
}

impl Sweep {
    /// A sweep that has not begun.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            idle: BTreeMap::new(),
            is_crowded: false,
            cursor: None,
            is_under_way: false,
            tallies: BTreeMap::new(),
            named: BTreeMap::new(),
            open: BTreeMap::new(),
            live: BTreeMap::new(),
            pass: Pass {
                entries: 0,
                forgotten: 0,
                corrected: 0,
            },
            buffer: Vec::new(),
            ends: filter::Ends::default(),
            clients: None,
        }
    }

    /// Sets the idle times of connections by the id of their VIP, where they are not those of all.
    pub(crate) fn set_idle(&mut self, idle: BTreeMap<u16, Duration>) {
        self.idle = idle;
    }

    /// Whether the table is short of room, so that the next pass should follow at once.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Whether the next step goes on with a walk.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Notes that the table had no room for a connection.
    pub(crate) const fn note_crowd(&mut self) {
        self.is_crowded = true;
    }

    /// Makes steps collect clients of young `nat` connections until [`Sweep::take_clients`].
    pub(crate) fn collect_clients(&mut self) {
        self.clients.get_or_insert_default();
    }

    /// The clients that were collected, [`MOST_CLIENTS`] at most; none when none were asked for.
    pub(crate) fn take_clients(&mut self) -> BTreeSet<Address> {
        self.clients.take().unwrap_or_default()
    }

    /// Addresses that packets have of the connections which the last whole pass has met.
    pub(crate) fn take_ends(&mut self) -> filter::Ends {
        std::mem::take(&mut self.ends)
    }

    /// How many connections of each VIP the last whole pass has found open. VIPs that were not there
    /// when it began have none to tell of.
    pub(crate) fn take_live(&mut self) -> BTreeMap<VipKey, u64> {
        std::mem::take(&mut self.live)
    }

    /// Takes a step; the result of the pass when that was its last one.
    ///
    /// # Errors
    /// When a map cannot be read or written. The pass begins anew with the next step.
    pub(crate) fn step(
        &mut self,
        datapath: &mut dyn Datapath,
        known: &mut Walked<'_>,
    ) -> Result<Option<Pass>, DatapathError> {
        let result = self.try_step(datapath, known);
        if !matches!(result, Ok(None)) {
            self.restart();
        }
        result
    }

    /// Makes the next step begin a pass.
    pub(crate) const fn restart(&mut self) {
        self.is_under_way = false;
        self.cursor = None;
    }

    fn try_step(
        &mut self,
        datapath: &mut dyn Datapath,
        known: &mut Walked<'_>,
    ) -> Result<Option<Pass>, DatapathError> {
        if !self.is_under_way {
            self.begin(datapath, known)?;
        }
        for _ in 0..CALLS_PER_STEP {
            self.buffer.clear();
            self.cursor = datapath.connections(self.cursor, &mut self.buffer)?;
            let now = datapath.now();
            let entries = std::mem::take(&mut self.buffer);
            for (key, entry) in &entries {
                if let Some(clients) = &mut self.clients
                    && clients.len() < MOST_CLIENTS
                    && entry.direction != FLOW_FORWARD
                    && now.saturating_sub(entry.last_seen) < YOUNG.as_nanos() as u64
                {
                    clients.insert(entry.destination);
                }
                self.visit(datapath, known, key, entry, now)?;
            }
            self.buffer = entries;
            if self.cursor.is_none() {
                self.settle(datapath)?;
                self.is_crowded = self.pass.entries > self.limits.crowd;
                return Ok(Some(self.pass));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, datapath: &dyn Datapath, known: &Walked<'_>) -> Result<(), DatapathError> {
        self.pass = Pass::default();
        self.ends = filter::Ends::default();
        self.named = named(known.vips);
        self.open = known.vips.keys().map(|vip| (*vip, 0)).collect();
        self.tallies.clear();
        let instances = known.instances.iter();
        let present = instances.filter(|(_, entry)| entry.state != INSTANCE_ABSENT);
        let present: Vec<u16> = present.map(|(index, _)| *index).collect();
        let figures = figures(datapath, present.iter().max())?;
        for index in present {
            if let Some((traffic, live)) = figures.get(usize::from(index)) {
                let tally = Tally {
                    live: *live,
                    connections: traffic.connections,
                    open: 0,
                };
                self.tallies.insert(index, tally);
            }
        }
        self.is_under_way = true;
        Ok(())
    }

    fn visit(
        &mut self,
        datapath: &mut dyn Datapath,
        known: &mut Walked<'_>,
        key: &FlowKey,
        entry: &FlowEntry,
        now: u64,
    ) -> Result<(), DatapathError> {
        let ends = Ends::of(key, entry, known.instances, known.vips);
        let limits = if self.is_crowded {
            self.limits.crowded()
        } else {
            self.limits
        };
        let limits = limits.with(self.idle.get(&entry.vip).copied());
        let judgement = judge(key, entry, ends, &limits, now, |key| {
            datapath.connection(key)
        })?;
        let judgement = match judgement {
            Judgement::Keep if is_needless(key, entry, known) => Judgement::Forget,
            Judgement::KeepOpen if is_needless(key, entry, known) => Judgement::ForgetOpen,
            other => other,
        };
        match judgement {
            Judgement::Keep => {
                self.pass.entries += room(entry);
                self.ends.note(key, entry);
            }
            // Of the client's direction, whose VIP is there.
            Judgement::KeepOpen => {
                self.pass.entries += room(entry);
                self.count_open(key, entry, known.vips);
            }
            Judgement::Forget | Judgement::ForgetOpen => {
                let has_partner = entry.direction == FLOW_FORWARD && translates(entry.forward);
                // With `dnat` the reply's goes first, or a connection that begins anew in between
                // would share it and lose it.
                let is_dnat = forward_of(entry.forward) == FORWARD_DNAT;
                if has_partner && is_dnat {
                    let partner = datapath.remove_connection(&key.partner(entry))?;
                    self.pass.forgotten += u64::from(partner);
                }
                let was_there = datapath.remove_connection(key)?;
                self.pass.forgotten += u64::from(was_there);
                if has_partner && !is_dnat {
                    let partner = datapath.remove_connection(&key.partner(entry))?;
                    self.pass.forgotten += u64::from(partner);
                }
                if was_there && judgement == Judgement::ForgetOpen {
                    datapath.adjust_live(entry.instance, -1)?;
                }
            }
        }
        Ok(())
    }

    /// Counts an open connection for its instance and for its VIP, so that the figures of the two go by
    /// one rule.
    fn count_open(&mut self, key: &FlowKey, entry: &FlowEntry, vips: &BTreeMap<VipKey, Vip>) {
        if let Some(tally) = self.tallies.get_mut(&entry.instance) {
            tally.open += 1;
        }
        let key = key.vip();
        let named = self.named.get(&entry.vip).copied();
        // A VIP that was taken away and came back has another id than its connections say, and somebody
        // else may have that one.
        let vip = named.filter(|vip| holds(vip, &key));
        let vip = vip.or_else(|| holder(&key, vips));
        if let Some(open) = vip.and_then(|vip| self.open.get_mut(&vip)) {
            *open += 1;
        }
    }

    /// Compares the live counters with what the pass has counted.
    ///
    /// Connections came and went while the pass went on, so the two need not agree. They can differ
    /// by no more than the number of those that came and of those that went; what is beyond that is
    /// drift, and only that much is corrected. On a quiet table the correction is exact.
    fn settle(&mut self, datapath: &mut dyn Datapath) -> Result<(), DatapathError> {
        let tallies = std::mem::take(&mut self.tallies);
        let figures = figures(datapath, tallies.keys().max())?;
        for (index, tally) in tallies {
            let Some((traffic, live)) = figures.get(usize::from(index)) else {
                continue;
            };
            let by = drift(&tally, *live, traffic.connections);
            if by != 0 {
                datapath.adjust_live(index, by)?;
                self.pass.corrected += by.unsigned_abs();
            }
        }
        self.live = std::mem::take(&mut self.open);
        Ok(())
    }
}

/// Traffic and live connections of all instance indices up to `last`: a few calls, where one by one they would be
/// thousands.
fn figures(
    datapath: &dyn Datapath,
    last: Option<&u16>,
) -> Result<Vec<(Traffic, u64)>, DatapathError> {
    last.map_or(Ok(Vec::new()), |last| datapath.all_instances(*last))
}

/// VIPs by their ids.
fn named(vips: &BTreeMap<VipKey, Vip>) -> BTreeMap<u16, VipKey> {
    // Ids are indices of counters, of which there are far fewer.
    let of = |(key, vip): (&VipKey, &Vip)| Some((u16::try_from(vip.id).ok()?, *key));
    vips.iter().filter_map(of).collect()
}

/// Whether a flow's slot says what its entry says. When it says something else, or not for good, the
/// slot is told that it has such flows.
fn is_needless(key: &FlowKey, entry: &FlowEntry, known: &mut Walked<'_>) -> bool {
    let of_ports = || (known.vips.values()).find(|vip| vip.id == u32::from(entry.vip));
    let vip = known.vips.get(&key.vip()).or_else(of_ports);
    let Some(vip) = vip.filter(|vip| vip.flags & VIP_SETTLES != 0) else {
        return false;
    };
    let way = (entry.forward == vip.forward).then_some(entry.instance);
    entry.direction == FLOW_FORWARD && known.tables.meet(vip.table, slot_of(vip, key), way)
}

/// Entries that a connection takes, counted at its forward one: the reply's may have been passed
/// before the forward one was found to be over.
const fn room(entry: &FlowEntry) -> u64 {
    match (entry.direction, translates(entry.forward)) {
        (FLOW_FORWARD, true) => 2,
        (FLOW_FORWARD, false) => 1,
        _ => 0,
    }
}

/// What has to be added to a live counter.
fn drift(tally: &Tally, live: u64, connections: u64) -> i64 {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let came = connections.saturating_sub(tally.connections);
    let went = signed(tally.live.saturating_add(came)).abs_diff(signed(live));
    let doubt = signed(came.saturating_add(went));
    let off = signed(tally.open).saturating_sub(signed(live));
    if off > 0 {
        (off - doubt).max(0)
    } else {
        (off.saturating_add(doubt)).min(0)
    }
}

#[cfg(test)]
mod tests;
