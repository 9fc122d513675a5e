//! From one set of maps to the next, when sizes have changed.
//!
//! What is known of instances and VIPs goes over before the new maps are filled, so that indices,
//! ids and figures stay, and the tables of VIPs with them: they say whose the flows are that are not
//! remembered. Connections go over last, just before the links move, because until then
//! the old program adds to them. The few that begin between the copy and the move are chosen anew
//! by the new program, which for most algorithms means the same instance.

use std::collections::BTreeMap;

use super::{
    maps::{Maps, is_legible},
    pins::MapSet,
    walk,
};
use crate::{l4::L4Error, model::DatapathSpec};

/// Takes over everything but connections. VIPs whose tables have no room point to the empty table
/// until they are given theirs.
pub(super) fn state(former: &MapSet, new: &mut Maps, spec: &DatapathSpec) -> Result<(), L4Error> {
    if former.abi != lb_common::ABI || !is_legible(&former.path, spec) {
        tracing::warn!(
            from = %former.path.display(),
            "the maps of the running program have another layout: connections will be chosen anew"
        );
        return Ok(());
    }
    tracing::info!(from = %former.path.display(), "sizes have changed: moving to new maps");
    let old = Maps::open(&former.path)?;
    let found = super::adopted(&old)?;
    let mut copied = || -> Result<(), aya::maps::MapError> {
        if let Some(settings) = found.settings {
            new.settings.set(0, settings, 0)?;
        }
        for (index, entry) in &found.instances {
            let index = u32::from(*index);
            new.instances.set(index, entry, 0)?;
            let traffic = old.instance_traffic.get(&index, 0)?;
            new.instance_traffic.set(index, traffic, 0)?;
        }
        let mut tables = BTreeMap::new();
        for (key, vip) in &found.vips {
            let next = tables.len() as u32 + 1;
            let table = match tables.get(&vip.table) {
                Some(table) => *table,
                None if vip.table != 0 && next < new.tables.len() => {
                    new.tables.set(next, old.tables.get(&vip.table, 0)?, 0)?;
                    tables.insert(vip.table, next);
                    next
                }
                None => 0,
            };
            let vip = lb_common::Vip { table, ..*vip };
            new.vips.insert(key, vip, 0)?;
            let traffic = old.vip_traffic.get(&vip.id, 0)?;
            new.vip_traffic.set(vip.id, traffic, 0)?;
        }
        new.counters.set(0, old.counters.get(&0, 0)?, 0)?;
        Ok(())
    };
    copied().map_err(|error| L4Error::Load {
        why: format!(
            "its state could not be taken over: {}",
            super::chain(&error)
        ),
    })
}

/// Takes over connections, as many as fit, and live counters. What fails here costs connections
/// but must not keep the new program from running.
pub(super) fn connections(former: &MapSet, new: &mut Maps) {
    let Ok(old) = Maps::open(&former.path) else {
        return;
    };
    let (mut taken, mut lost, mut from, mut buffer) = (0u64, 0u64, None, Vec::new());
    loop {
        buffer.clear();
        match walk(&old, from, &mut buffer) {
            Ok(next) => from = next,
            Err(error) => {
                tracing::warn!(%error, "connections are left behind");
                break;
            }
        }
        for (key, entry) in &buffer {
            match new.connections.insert(key, entry, 0) {
                Ok(()) => taken += 1,
                Err(_) => lost += 1,
            }
        }
        if from.is_none() {
            break;
        }
    }
    for index in 1..lb_common::MAX_INSTANCES {
        // Counters that cannot be set are put right by the next walk over the table. The new
        // program counts nothing of these connections so far, so its counter may be written.
        if let (Ok(live), Ok(expired)) = (old.live.get(&index, 0), old.expired.get(&index, 0)) {
            let _ = new.live.set(index, live, 0);
            let _ = new.expired.set(index, expired, 0);
        }
    }
    tracing::info!(taken, lost, "connections taken over");
}
