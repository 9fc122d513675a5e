//! A second load of the program, to be asked what the first would do.
//!
//! Both have the maps in common that the program only reads ([`names::READ_MAPS`]). The second has
//! all others for itself, filled with what matters for one packet: its own entry of the connection
//! table and that of the other direction, the live connections of instances, whose turn it is. It is
//! loaded anew each time, so nothing of one answer can be in the next; that costs some tenths of a
//! second, which is why one is answered at a time.
//!
//! aya takes over a map by its pin. Those that are pinned anyway are taken from there, the others are
//! pinned for as long as loading takes.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, InnerMap, Map, MapData, MapError, PerCpuArray, ProgramArray,
    },
};
use lb_common::{
    Affinity, ClientHop, ClientKey, ClientPin, Counter, CounterKind, Counters, FLOW_REPLY,
    FlowEntry, FlowKey, HASH_SOURCE, MAX_INSTANCES, MAX_VIPS, NextHop, SELECT_HASH, Subinterface,
    Traffic, VIP_OWNED, Vip, VipKey, names, names_subinterface,
};
use lb_ebpf::{hash, settled};

use super::{
    affinity, chain, events,
    hook::Hook,
    maps::{self, data},
    pins::{MapSet, Pins},
    recorder, stages,
    tables::TableMaps,
};
use crate::{
    l4::{
        L4Error, host,
        plan::forwarding_of,
        rehearsal::{Probe, Rehearsed, Sent, SlotView},
    },
    model::DatapathSpec,
};

/// Entries of a connection table that one packet fills.
const CONNECTIONS: u32 = 16;
/// Bytes that a packet may grow by.
const GROWTH: usize = 256;

/// What the second load needs to know of the first.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    spec: DatapathSpec,
    hook: Hook,
    pins: Pins,
    set: PathBuf,
    /// Maps that the program reads and that are not pinned.
    own: Vec<(&'static str, OwnedFd)>,
    /// One at a time: each takes a processor for a while.
    stage: Mutex<()>,
}

impl Rehearsal {
    /// Notes the maps of `program`, which must still have them.
    pub(super) fn of(
        program: &Ebpf,
        hook: Hook,
        spec: &DatapathSpec,
        pins: &Pins,
        set: &MapSet,
    ) -> Result<Self, L4Error> {
        let own = names::READ_MAPS
            .into_iter()
            .filter(|name| !names::PINNED_MAPS.contains(name))
            .map(|name| {
                let map = program.map(name).and_then(data);
                let map = map.ok_or_else(|| absent(name))?;
                let descriptor = map.fd().as_fd().try_clone_to_owned();
                Ok((name, descriptor.map_err(|error| failed(&error))?))
            });
        Ok(Self {
            spec: spec.clone(),
            hook,
            pins: pins.clone(),
            set: set.path.clone(),
            own: own.collect::<Result<_, L4Error>>()?,
            stage: Mutex::default(),
        })
    }

    /// What the program would do with a packet.
    ///
    /// # Errors
    /// When the interface is not one of lb's, or the kernel refuses something.
    pub(crate) fn run(&self, probe: &Probe) -> Result<Rehearsed, L4Error> {
        let _alone = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let interface = self.interface(probe)?;
        let index = host::interface_index(interface)?;
        let frame = probe.frame();
        let frame = frame.ok_or_else(|| L4Error::Probe {
            expected: "addresses of one family".to_owned(),
            found: format!("{} and {}", probe.source.ip(), probe.destination.ip()),
        })?;
        let (mut program, _stages) = self.load()?;
        let live = Live::open(&self.set)?;
        let known = live.seed(&mut program, &probe.key())?;
        let room = vec![0; frame.len() + GROWTH];
        let sent = self.hook.play(&mut program, &frame, index, room)?;
        let mut told = tell(&mut program, &live, probe, &sent)?;
        interface.clone_into(&mut told.interface);
        told.known = known.map(|entry| (entry, host::monotonic_ns() - entry.last_seen));
        if let Some((entry, _)) = told.known {
            told.made = None;
            told.forwarding = forwarding_of(entry.forward);
        }
        Ok(told)
    }

    fn interface<'a>(&'a self, probe: &'a Probe) -> Result<&'a str, L4Error> {
        let ours = &self.spec.interfaces;
        let wanted = probe.interface.as_ref().or(ours.first());
        let wanted = wanted.filter(|name| ours.contains(name));
        wanted.map(String::as_str).ok_or_else(|| L4Error::Probe {
            expected: format!("an interface that lb is attached to: {}", ours.join(", ")),
            found: probe.interface.clone().unwrap_or_default(),
        })
    }

    /// Loads the program with its stages.
    fn load(&self) -> Result<(Ebpf, ProgramArray<MapData>), L4Error> {
        let object = self.hook.object()?;
        let folder = self.pins.make_rehearsal()?;
        let loaded = self.load_over(object, &folder);
        self.pins.remove_rehearsal()?;
        let mut program = loaded?;
        self.hook.load(&mut program)?;
        let stages = stages::enter(&mut program)?;
        Ok((program, stages))
    }

    fn load_over(&self, object: &[u8], folder: &std::path::Path) -> Result<Ebpf, L4Error> {
        let mut loader = EbpfLoader::new();
        for name in names::READ_MAPS {
            let own = self.own.iter().find(|(own, _)| *own == name);
            let Some((_, descriptor)) = own else {
                loader.map_pin_path(name, self.set.join(name));
                continue;
            };
            let descriptor = descriptor.try_clone().map_err(|error| failed(&error))?;
            let map = MapData::from_fd(descriptor).map_err(|error| failed(&error))?;
            let pin = folder.join(name);
            map.pin(&pin).map_err(|error| failed(&error))?;
            loader.map_pin_path(name, pin);
        }
        events::set_level(&mut loader, false);
        loader.map_max_entries(names::MAP_CONNECTIONS, CONNECTIONS);
        loader.map_max_entries(names::MAP_FLOW_EVENTS, recorder::UNREAD);
        loader.map_max_entries(names::MAP_TABLES, maps::tables(&self.spec));
        loader.load(object).map_err(|error| failed(&error))
    }
}

/// Maps of the program that serves, as far as they matter for one packet.
struct Live {
    connections: HashMap<MapData, FlowKey, FlowEntry>,
    vips: HashMap<MapData, VipKey, Vip>,
    tables: TableMaps,
    live: Array<MapData, u64>,
    turns: PerCpuArray<MapData, u32>,
    /// There are none before somebody needs them.
    clients: Option<HashMap<MapData, ClientKey, ClientPin>>,
}

impl Live {
    fn open(set: &std::path::Path) -> Result<Self, L4Error> {
        fn typed<T: TryFrom<Map, Error = MapError>>(
            set: &std::path::Path,
            name: &'static str,
        ) -> Result<T, L4Error> {
            MapData::from_pin(set.join(name))
                .and_then(Map::from_map_data)
                .and_then(T::try_from)
                .map_err(|error| failed(&error))
        }
        let tables = MapData::from_pin(set.join(names::MAP_TABLES)).and_then(Map::from_map_data);
        let tables = tables.map_err(|error| failed(&error))?;
        Ok(Self {
            connections: typed(set, names::MAP_CONNECTIONS)?,
            vips: typed(set, names::MAP_VIPS)?,
            tables: TableMaps::open(tables, set)?,
            live: typed(set, names::MAP_LIVE)?,
            turns: typed(set, names::MAP_TURNS)?,
            clients: typed(set, names::MAP_CLIENTS).ok(),
        })
    }

    /// Gives `program` what its maps need for a packet with this key. Returns the entry of its
    /// connection.
    fn seed(&self, program: &mut Ebpf, key: &FlowKey) -> Result<Option<FlowEntry>, L4Error> {
        let mut mine: HashMap<_, FlowKey, FlowEntry> = own(program, names::MAP_CONNECTIONS)?;
        let known = self.connections.get(key, 0).ok();
        if let Some(entry) = &known {
            mine.insert(key, entry, 0).map_err(|error| failed(&error))?;
            let partner = key.partner(entry);
            if let Ok(entry) = self.connections.get(&partner, 0) {
                let inserted = mine.insert(partner, entry, 0);
                inserted.map_err(|error| failed(&error))?;
            }
        }
        let mut mine = affinity::clients(CONNECTIONS).map_err(|error| failed(&error))?;
        for (client, pin) in self.clients_at(program, key)? {
            let inserted = mine.insert(client, pin, 0);
            inserted.map_err(|error| failed(&error))?;
        }
        give(program, names::MAP_CLIENTS, &mine)?;
        // Full buckets, as far as they matter for one packet.
        let sources = maps::sources().map_err(|error| failed(&error))?;
        give(program, names::MAP_SOURCES, &sources)?;
        let mut live: Array<_, u64> = own(program, names::MAP_LIVE)?;
        for index in 0..MAX_INSTANCES {
            let value = self.live.get(&index, 0).map_err(|error| failed(&error))?;
            if value != 0 {
                let result = live.set(index, value, 0);
                result.map_err(|error| failed(&error))?;
            }
        }
        let mut turns: PerCpuArray<_, u32> = own(program, names::MAP_TURNS)?;
        for vip in 0..MAX_VIPS {
            let values = self.turns.get(&vip, 0).map_err(|error| failed(&error))?;
            if values.iter().any(|value| *value != 0) {
                let result = turns.set(vip, values, 0);
                result.map_err(|error| failed(&error))?;
            }
        }
        Ok(known)
    }

    /// What is remembered of a packet's source as a client.
    fn clients_at(
        &self,
        program: &mut Ebpf,
        key: &FlowKey,
    ) -> Result<Vec<(ClientKey, ClientPin)>, L4Error> {
        let Some(clients) = &self.clients else {
            return Ok(Vec::new());
        };
        let affinities: Array<_, Affinity> = own(program, names::MAP_AFFINITIES)?;
        let all = affinities.iter().filter_map(Result::ok);
        let services: BTreeSet<u64> = all.filter(|a| a.ttl != 0).map(|a| a.service).collect();
        let of = |service| {
            let client = ClientKey {
                client: key.source,
                service,
            };
            Some((client, clients.get(&client, 0).ok()?))
        };
        Ok(services
            .into_iter()
            .filter_map(of)
            .take(CONNECTIONS as usize)
            .collect())
    }

    /// The VIP with this id.
    fn vip(&self, id: u32) -> Option<Vip> {
        let mut all = self.vips.iter().filter_map(Result::ok);
        all.find(|(_, vip)| vip.id == id).map(|(_, vip)| vip)
    }
}

/// Reads in the maps of `program` what it has done with the one packet that it has seen.
fn tell(
    program: &mut Ebpf,
    live: &Live,
    probe: &Probe,
    frame: &[u8],
) -> Result<Rehearsed, L4Error> {
    let counters: PerCpuArray<_, Counters> = own(program, names::MAP_COUNTERS)?;
    let cpus = counters.get(&0, 0).map_err(|error| failed(&error))?;
    let mut sum = Counters::default();
    cpus.iter().for_each(|cpu| sum.add(cpu));
    let counted = Counter::ALL.iter().copied().filter(|c| sum.get(*c) > 0);
    let (events, fates): (Vec<_>, Vec<_>) = counted
        .filter(|counter| counter.kind() != CounterKind::Received)
        .partition(|counter| counter.kind() == CounterKind::Event);
    let fate = fates.first().copied().ok_or_else(|| L4Error::Load {
        why: "the program counted its packet nowhere".to_owned(),
    })?;
    let vip = first(program, names::MAP_VIP_TRAFFIC, MAX_VIPS, is_used)?;
    let instance = first(program, names::MAP_INSTANCE_TRAFFIC, MAX_INSTANCES, is_used)?;
    let mine: HashMap<_, FlowKey, FlowEntry> = own(program, names::MAP_CONNECTIONS)?;
    let made = mine.get(&probe.key(), 0).ok();
    let entry_of = |entry: FlowEntry| (u32::from(entry.vip), entry.instance);
    let vip = vip.or(made.map(|entry| entry_of(entry).0));
    let instance = instance
        .and_then(|index| u16::try_from(index).ok())
        .or(made.map(|entry| entry_of(entry).1));
    let is_forwarded = fate.kind() == CounterKind::Forwarded;
    let is_reply = made.is_some_and(|entry| entry.direction == FLOW_REPLY);
    let sent = if is_forwarded {
        Some(Sent::of(frame, way(program, instance, is_reply)?))
    } else {
        None
    };
    let mut told = Rehearsed {
        interface: String::new(),
        fate,
        events,
        vip,
        forwarding: made.and_then(|entry| forwarding_of(entry.forward)),
        instance,
        known: None,
        made,
        slot: None,
        shares: Vec::new(),
        sent,
    };
    if let Some(vip) = vip.and_then(|id| live.vip(id)) {
        told.forwarding = told.forwarding.or_else(|| forwarding_of(vip.forward));
        tell_slots(&mut told, live, &vip, &probe.key())?;
    }
    Ok(told)
}

/// Where a flow is in the table of its VIP, and how many slots of that lead to each instance.
fn tell_slots(told: &mut Rehearsed, live: &Live, vip: &Vip, key: &FlowKey) -> Result<(), L4Error> {
    let table = live.tables.get(vip.table);
    let table = table.map_err(|error| failed(&error))?;
    let mut shares = std::collections::BTreeMap::new();
    for slot in &table.slots {
        *shares.entry(lb_common::Slot(*slot).index()).or_insert(0) += 1;
    }
    shares.remove(&0);
    told.shares = shares.into_iter().collect();
    let is_owned = vip.flags & VIP_OWNED != 0;
    let number = match vip.hash_of {
        // Where slots have owners, by what those are found.
        _ if is_owned => settled::slot_of(vip, key),
        HASH_SOURCE => hash::slot(hash::address(&key.source)),
        _ => hash::slot(hash::flow(key)),
    };
    let slot = lb_common::Slot(table.slots[number as usize]);
    let view = SlotView {
        number,
        current: slot.index(),
        owner: if slot.is_unsettled() {
            table.owners[number as usize]
        } else {
            slot.index()
        },
    };
    told.slot = (is_owned || vip.select == SELECT_HASH).then_some(view);
    Ok(())
}

/// What the program has looked up for its packet.
fn way(
    program: &mut Ebpf,
    instance: Option<u16>,
    is_reply: bool,
) -> Result<Option<NextHop>, L4Error> {
    if is_reply {
        let hops: PerCpuArray<_, ClientHop> = own(program, names::MAP_CLIENT_HOPS)?;
        let found = (0..lb_common::CLIENT_HOPS).find_map(|place| {
            let values = hops.get(&place, 0).ok()?;
            values.iter().map(|hop| hop.hop).find(is_known)
        });
        return found.map(|hop| below(program, hop)).transpose();
    }
    let Some(index) = instance else {
        return Ok(None);
    };
    let hops: PerCpuArray<_, NextHop> = own(program, names::MAP_NEXT_HOPS)?;
    let values = hops.get(&u32::from(index), 0);
    let values = values.map_err(|error| failed(&error))?;
    let found = values.iter().copied().find(is_known);
    found.map(|hop| below(program, hop)).transpose()
}

/// A way by the interface that packets leave by, where that is below the one that it names.
fn below(program: &mut Ebpf, mut hop: NextHop) -> Result<NextHop, L4Error> {
    if names_subinterface(hop.flags) {
        let vlans: HashMap<_, u32, Subinterface> = own(program, names::MAP_SUBINTERFACES)?;
        if let Ok(vlan) = vlans.get(&hop.interface, 0) {
            hop.interface = vlan.parent;
        }
    }
    Ok(hop)
}

const fn is_known(hop: &NextHop) -> bool {
    hop.interface != 0
}

fn is_used(traffic: &Traffic) -> bool {
    *traffic != Traffic::default()
}

/// The first element of an array whose value is so on any processor.
fn first<V: Pod>(
    program: &mut Ebpf,
    name: &'static str,
    length: u32,
    is_so: impl Fn(&V) -> bool,
) -> Result<Option<u32>, L4Error> {
    let map: PerCpuArray<_, V> = own(program, name)?;
    for index in 0..length {
        let values = map.get(&index, 0).map_err(|error| failed(&error))?;
        if values.iter().any(&is_so) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// A map of the second load.
fn own<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
    program: &'a mut Ebpf,
    name: &'static str,
) -> Result<T, L4Error> {
    let map = program.map_mut(name).ok_or_else(|| absent(name))?;
    T::try_from(map).map_err(|error| failed(&error))
}

/// Gives the program a map that it finds through an array.
fn give<M: InnerMap>(program: &mut Ebpf, name: &'static str, map: &M) -> Result<(), L4Error> {
    let mut array: ArrayOfMaps<_, M> = own(program, name)?;
    array.set(0, map, 0).map_err(|error| failed(&error))
}

fn absent(name: &'static str) -> L4Error {
    L4Error::Load {
        why: format!("the object holds no map named {name}"),
    }
}

fn failed(error: &dyn std::error::Error) -> L4Error {
    L4Error::Load { why: chain(error) }
}
