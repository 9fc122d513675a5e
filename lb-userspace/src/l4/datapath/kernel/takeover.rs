//! From one set of maps to the next, when sizes have changed.
//!
//! What is known of instances and VIPs goes over before the new maps are filled, so that indices,
//! ids and figures stay, and the tables of VIPs with them: they say whose the flows are that are not
//! remembered. Connections go over twice. Just before the links move, because until then the old
//! program adds to them; and what it has added meanwhile right afterwards, with what it has seen of
//! those that were copied ([`progress`]). The packets of new ones need not wait for that: the new
//! program looks for what it does not know in the old table, and finds itself what it needs
//! (`lb-ebpf/bin/lb-xdp/former.rs`). What was copied is taken out of the old table, which the new
//! program keeps, empty, until it is replaced itself.

mod progress;

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    EbpfLoader,
    maps::{HashMap, MapData, MapError},
};
use lb_common::{Counters, FlowEntry, FlowKey, names};

use self::progress::Brought;
use super::{
    maps::{Maps, is_legible},
    pins::MapSet,
    walk,
};
use crate::{l4::L4Error, model::DatapathSpec};

/// Only where a key is not there.
const NEW: u64 = 1;
/// Only where it is.
const KNOWN: u64 = 2;

/// Looks at a processor's counters until no packet is under way between two of them.
const LOOKS: u32 = 1000;

/// What [`names::HAS_FORMER`] is when there is one.
static YES: u8 = 1;

/// Whether what is in `former` can be taken over; says so if not.
pub(super) fn is_possible(former: &MapSet, spec: &DatapathSpec) -> bool {
    let from = former.path.display();
    let possible = former.abi == lb_common::ABI && is_legible(&former.path, spec);
    if possible {
        tracing::info!(%from, "sizes have changed: moving to new maps");
    } else {
        tracing::warn!(
            %from,
            "the maps of the running program have another layout: connections will be chosen anew"
        );
    }
    possible
}

/// Tells a program that is to be loaded of the connection table before its own.
pub(super) fn announce(loader: &mut EbpfLoader<'_>, former: &MapSet) {
    loader.map_pin_path(names::MAP_FORMER, former.path.join(names::MAP_CONNECTIONS));
    loader.override_global(names::HAS_FORMER, &YES, true);
}

/// Takes over everything but connections. VIPs whose tables have no room point to the empty table
/// until they are given theirs.
pub(super) fn state(former: &MapSet, new: &mut Maps) -> Result<(), L4Error> {
    let old = Maps::open(&former.path)?;
    let found = super::adopted(&old)?;
    let mut copied = || -> Result<(), MapError> {
        if let Some(settings) = found.settings {
            new.settings.set(0, settings, 0)?;
        }
        for (index, entry) in &found.instances {
            let index = u32::from(*index);
            new.instances.set(index, entry, 0)?;
            let traffic = old.instance_traffic.get(&index, 0)?;
            new.instance_traffic.set(index, traffic, 0)?;
        }
        let used: BTreeSet<u32> = found.vips.iter().map(|(_, vip)| vip.table).collect();
        let most = (new.tables.len() as usize).min(used.len() + 1) as u32;
        new.tables.make(&(1..most).collect())?;
        let mut tables = BTreeMap::new();
        for (key, vip) in &found.vips {
            let next = tables.len() as u32 + 1;
            let table = match tables.get(&vip.table) {
                Some(table) => *table,
                None if vip.table != 0 && next < new.tables.len() => {
                    new.tables.set(next, &*old.tables.get(vip.table)?)?;
                    tables.insert(vip.table, next);
                    next
                }
                None => 0,
            };
            let vip = lb_common::Vip { table, ..*vip };
            new.vips.insert(key, vip, 0)?;
            let traffic = old.vip_traffic.get(&vip.id, 0)?;
            new.vip_traffic.set(vip.id, traffic, 0)?;
            new.vip_drops
                .set(vip.id, old.vip_drops.get(&vip.id, 0)?, 0)?;
        }
        counters(&old, new)
    };
    copied().map_err(|error| L4Error::Load {
        why: format!(
            "its state could not be taken over: {}",
            super::chain(&error)
        ),
    })
}

/// Takes over the counters, of each processor at a moment when they add up.
fn counters(old: &Maps, new: &mut Maps) -> Result<(), MapError> {
    let mut counters = old.counters.get(&0, 0)?;
    for _ in 0..LOOKS {
        if counters.iter().all(Counters::adds_up) {
            break;
        }
        counters = old.counters.get(&0, 0)?;
    }
    new.counters.set(0, counters, 0)
}

/// What [`connections`] leaves to [`rest`].
#[derive(Debug)]
pub(super) struct Rest {
    old: Maps,
    /// Live connections of each instance index when they were copied.
    live: Vec<u64>,
}

/// Takes over connections, as many as fit, live counters, and the figures once more. What fails here
/// costs connections but must not keep the new program from running.
pub(super) fn connections(former: &MapSet, new: &mut Maps) -> Option<Rest> {
    let old = Maps::open(&former.path).ok()?;
    let (mut taken, mut lost) = (0_u64, 0_u64);
    each(&old, |key, entry| {
        match new.connections.insert(key, entry, 0) {
            Ok(()) => taken += 1,
            Err(_) => lost += 1,
        }
    });
    let mut live = Vec::new();
    for index in 0..lb_common::MAX_INSTANCES {
        // Counters that cannot be set are put right by the next walk over the table. The new
        // program counts nothing of these connections so far, so its counter may be written.
        let begun = old.live.get(&index, 0).unwrap_or_default();
        let _ = new.live.set(index, begun, 0);
        if let Ok(expired) = old.expired.get(&index, 0) {
            let _ = new.expired.set(index, expired, 0);
        }
        live.push(begun);
    }
    if let Err(error) = counters(&old, new) {
        tracing::warn!(%error, "some packets will be missing in figures");
    }
    tracing::info!(taken, lost, "connections taken over");
    Some(Rest { old, live })
}

/// Takes over the connections that have begun since [`connections`], and what the old program has seen
/// of the others, now that it is at rest, and empties its table.
pub(super) fn rest(rest: Rest, new: &mut Maps) {
    let Rest { mut old, mut live } = rest;
    let (mut taken, mut brought) = (0_u64, 0_u64);
    let mut keys = Vec::new();
    each(&old, |key, entry| {
        match follow(&old.connections, &mut new.connections, key, entry) {
            Followed::Taken => taken += 1,
            Followed::Brought(found) => {
                brought += 1;
                // As if one more had been there when they were copied: it is counted as one less.
                let index = usize::from(found.entry.instance);
                if let Some(live) = live.get_mut(index).filter(|_| found.is_over) {
                    *live = live.wrapping_add(1);
                }
            }
            Followed::Left => {}
        }
        keys.push(*key);
    });
    for key in keys {
        // The program may have been faster.
        let _ = old.connections.remove(&key);
    }
    for (index, copied) in (0..).zip(live) {
        // The new program counts the ends of these, and has not counted their beginnings; ends that the
        // old one has counted are below zero.
        let begun = old
            .live
            .get(&index, 0)
            .map_or(0, |now| now.wrapping_sub(copied));
        if begun != 0
            && let Ok(expired) = new.expired.get(&index, 0)
        {
            let _ = new.expired.set(index, expired.wrapping_sub(begun), 0);
        }
    }
    tracing::info!(
        taken,
        brought,
        "connections taken over that had begun or gone on meanwhile"
    );
}

/// What became of a connection of the old table in the new one.
#[derive(Debug)]
enum Followed {
    /// It was not there.
    Taken,
    /// It was there, and is now where the old program has left it.
    Brought(Brought),
    /// There was nothing to do, or nothing to be done.
    Left,
}

/// Takes over a connection, or what the old program has seen of it since it was copied.
///
/// What the new program writes between the look and the replacement is lost. That is a moment, and only
/// of connections that were ending or beginning in the one before; their idle times end them in any case,
/// and the next walk puts their number right.
fn follow(
    old: &HashMap<MapData, FlowKey, FlowEntry>,
    new: &mut HashMap<MapData, FlowKey, FlowEntry>,
    key: &FlowKey,
    entry: &FlowEntry,
) -> Followed {
    let Ok(found) = new.get(key, 0) else {
        let is_taken = new.insert(key, entry, NEW).is_ok();
        return if is_taken {
            Followed::Taken
        } else {
            Followed::Left
        };
    };
    if progress::bring(&found, entry).is_none() {
        return Followed::Left;
    }
    // Many are read at a time, and the new program may have forgotten this one since, and begun another.
    let brought = old.get(key, 0).ok();
    let brought = brought.and_then(|entry| progress::bring(&found, &entry));
    match brought.filter(|brought| new.insert(key, brought.entry, KNOWN).is_ok()) {
        Some(brought) => Followed::Brought(brought),
        None => Followed::Left,
    }
}

/// Does something with each connection of a table.
fn each(maps: &Maps, mut work: impl FnMut(&FlowKey, &FlowEntry)) {
    let (mut from, mut buffer) = (None, Vec::new());
    loop {
        buffer.clear();
        match walk(maps, from, &mut buffer) {
            Ok(next) => from = next,
            Err(error) => {
                tracing::warn!(%error, "connections are left behind");
                return;
            }
        }
        for (key, entry) in &buffer {
            work(key, entry);
        }
        if from.is_none() {
            return;
        }
    }
}
