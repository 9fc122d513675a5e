//! From one set of maps to the next, when sizes have changed, or what is in them.
//!
//! What is known of instances and VIPs goes over before the new maps are filled, so that indices,
//! ids and figures stay, and the tables of VIPs with them: they say whose the flows are that are not
//! remembered. Connections go over twice. Just before the links move, because until then the old
//! program adds to them; and what it has added meanwhile right afterwards, with what it has seen of
//! those that were copied ([`progress`]). The packets of new ones need not wait for that: the new
//! program looks for what it does not know in the old table, and finds itself what it needs
//! (`lb-ebpf/bin/lb-xdp/former.rs`). What was copied is taken out of the old table, which the new
//! program keeps, empty, until it is replaced itself.
//!
//! The old maps may be another version's, whose values have other fields, or the same ones elsewhere: all
//! of them are read by name ([`super::former`]), in this process and by the program.

mod progress;

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::{Counters, FlowEntry, FlowKey, names};

use self::progress::Brought;
use super::{
    former::{Former, FormerError},
    layout::Layouts,
    maps::Maps,
    pins::MapSet,
    processors,
};
use crate::l4::L4Error;

/// Only where a key is not there.
const NEW: u64 = 1;
/// Only where it is.
const KNOWN: u64 = 2;

/// Looks at a processor's counters until no packet is under way between two of them.
const LOOKS: u32 = 1000;

/// What [`names::HAS_FORMER`] is when there is one.
static YES: u8 = 1;

/// Opens what is to be taken over; says so, and also if that is not possible.
pub(super) fn open(set: &MapSet) -> Option<Former> {
    let from = set.path.display();
    match Former::open(set) {
        Ok(former) => {
            let has_our_layout = former.layouts == Layouts::ours();
            tracing::info!(%from, has_our_layout, "moving to new maps");
            Some(former)
        }
        Err(error) => {
            tracing::warn!(
                %from,
                %error,
                "the maps of the running program cannot be read: connections will be chosen anew"
            );
            None
        }
    }
}

/// Tells a program that is to be loaded of the connection table before its own.
pub(super) fn announce<'a>(loader: &mut EbpfLoader<'a>, former: &'a Former) {
    loader.map_pin_path(names::MAP_FORMER, former.path.join(names::MAP_CONNECTIONS));
    loader.override_global(names::HAS_FORMER, &YES, true);
    loader.override_global(names::FORMER_PLACES, former.places.as_slice(), true);
}

/// Why something could not be taken over.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Read(#[from] FormerError),
    #[error(transparent)]
    Write(#[from] MapError),
}

/// Takes over everything but connections. VIPs whose tables have no room point to the empty table
/// until they are given theirs.
pub(super) fn state(old: &Former, new: &mut Maps) -> Result<(), L4Error> {
    let mut copied = || -> Result<(), CopyError> {
        let found = &old.adopted;
        if let Some(settings) = found.settings {
            new.settings.set(0, settings, 0)?;
        }
        for (index, entry) in &found.instances {
            let index = u32::from(*index);
            new.instances.set(index, entry, 0)?;
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
                    if let Some(table) = old.table(vip.table)? {
                        new.tables.set(next, &table)?;
                    }
                    tables.insert(vip.table, next);
                    next
                }
                None => 0,
            };
            let vip = lb_common::Vip { table, ..*vip };
            new.vips.insert(key, vip, 0)?;
        }
        all_figures(old, new)
    };
    copied().map_err(|error| L4Error::Load {
        why: format!(
            "its state could not be taken over: {}",
            super::chain(&error)
        ),
    })
}

/// Sets the values of all processors, as far as there are any.
fn figures<T: aya::Pod + Default>(
    map: &mut PerCpuArray<MapData, T>,
    index: u32,
    mut values: Vec<T>,
) -> Result<(), CopyError> {
    if values.is_empty() {
        return Ok(());
    }
    let processors = processors::possible().map_err(|why| FormerError::Read {
        name: "processors",
        why,
    })?;
    values.resize(processors, T::default());
    let values = PerCpuValues::try_from(values).map_err(MapError::from)?;
    Ok(map.set(index, values, 0)?)
}

/// Takes over what was counted, also of those VIPs and instances that both sets of maps have under the same number.
fn all_figures(old: &Former, new: &mut Maps) -> Result<(), CopyError> {
    for (index, entry) in &old.adopted.instances {
        let index = u32::from(*index);
        let here = new.instances.get(&index, 0)?;
        if (here.identity, here.generation) == (entry.identity, entry.generation) {
            let traffic = old.instance_traffic.all(index)?;
            figures(&mut new.instance_traffic, index, traffic)?;
        }
    }
    for (key, vip) in &old.adopted.vips {
        let here = new.vips.get(key, 0);
        if here.is_ok_and(|here| here.id == vip.id) {
            figures(&mut new.vip_traffic, vip.id, old.vip_traffic.all(vip.id)?)?;
            figures(&mut new.vip_drops, vip.id, old.vip_drops.all(vip.id)?)?;
        }
    }
    counters(old, new)
}

/// Takes over the counters, of each processor at a moment when they add up.
fn counters(old: &Former, new: &mut Maps) -> Result<(), CopyError> {
    let mut counters = old.counters.all(0)?;
    for _ in 0..LOOKS {
        if counters.iter().all(Counters::adds_up) {
            break;
        }
        counters = old.counters.all(0)?;
    }
    figures(&mut new.counters, 0, counters)
}

/// What [`connections`] leaves to [`rest`].
#[derive(Debug)]
pub(super) struct Rest {
    old: Former,
    /// Live connections of each instance index when they were copied.
    live: Vec<Option<u64>>,
}

impl Rest {
    /// The maps that are moved from.
    pub(super) const fn old(&self) -> &Former {
        &self.old
    }
}

/// Takes over connections, as many as fit, live counters, and the figures once more. What fails here
/// costs connections but must not keep the new program from running.
///
/// Where some links work on the new maps already (`has_run`), because a daemon before this one has died while it
/// moved them, nothing is undone that has been done there since, and the next walk over the table puts live
/// counters right.
pub(super) fn connections(old: Former, new: &mut Maps, has_run: bool) -> Rest {
    let (mut taken, mut lost) = (0_u64, 0_u64);
    lost += each(&old, |key, entry| {
        if has_run {
            let followed = follow(&old, &mut new.connections, key, entry);
            taken += u64::from(!matches!(followed, Followed::Left));
        } else {
            match new.connections.insert(key, entry, 0) {
                Ok(()) => taken += 1,
                Err(_) => lost += 1,
            }
        }
    });
    let live = (0..lb_common::MAX_INSTANCES).map(|index| begun(&old, index));
    let live: Vec<Option<u64>> = live.collect();
    if !has_run {
        for (index, begun) in (0..).zip(&live) {
            // Counters that cannot be set are put right by the next walk over the table. The new
            // program counts nothing of these connections so far, so its counter may be written.
            let _ = new.live.set(index, begun.unwrap_or_default(), 0);
            if let Ok(Some(expired)) = old.expired.get(index) {
                let _ = new.expired.set(index, expired, 0);
            }
        }
        // Last, because the old program counts on until the links move.
        if let Err(error) = all_figures(&old, new) {
            tracing::warn!(%error, "some packets will be missing in figures");
        }
    }
    tracing::info!(taken, lost, "connections taken over");
    Rest { old, live }
}

/// Connections of an instance that the old program has begun and not ended; `None` when that is not known.
fn begun(old: &Former, index: u32) -> Option<u64> {
    old.live.get(index).ok().flatten()
}

/// Takes over the connections that have begun since [`connections`], and what the old program has seen
/// of the others, now that it is at rest, and empties its table.
pub(super) fn rest(rest: Rest, new: &mut Maps) {
    let Rest { old, mut live } = rest;
    let (mut taken, mut brought) = (0_u64, 0_u64);
    let mut keys = Vec::new();
    each(&old, |key, entry| {
        match follow(&old, &mut new.connections, key, entry) {
            Followed::Taken => taken += 1,
            Followed::Brought(found) => {
                brought += 1;
                // As if one more had been there when they were copied: it is counted as one less.
                let index = usize::from(found.entry.instance);
                if let Some(Some(live)) = live.get_mut(index).filter(|_| found.is_over) {
                    *live = live.wrapping_add(1);
                }
            }
            Followed::Left => {}
        }
        keys.push(*key);
    });
    for key in keys {
        // The program may have been faster.
        let _ = old.connections.remove(key);
    }
    for (index, copied) in (0..).zip(live) {
        // The new program counts the ends of these, and has not counted their beginnings; ends that the
        // old one has counted are below zero.
        let begun = begun(&old, index).zip(copied);
        let begun = begun.map_or(0, |(now, copied)| now.wrapping_sub(copied));
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
    old: &Former,
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
    let brought = old.connections.get(*key).ok().flatten();
    let brought = brought.and_then(|entry| progress::bring(&found, &entry));
    match brought.filter(|brought| new.insert(key, brought.entry, KNOWN).is_ok()) {
        Some(brought) => Followed::Brought(brought),
        None => Followed::Left,
    }
}

/// Does something with each connection of the old table; says how many could not be read.
fn each(old: &Former, work: impl FnMut(&FlowKey, &FlowEntry)) -> u64 {
    old.connections.each(work).unwrap_or_else(|error| {
        tracing::warn!(%error, "connections are left behind");
        0
    })
}
