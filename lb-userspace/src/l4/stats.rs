//! Reads what the program counts.
//!
//! Figures of instances go where every other figure of an instance is, into [`Instance::kernel`];
//! the rest makes the [`Report`].
//!
//! [`Instance::kernel`]: crate::model::Instance::kernel
//! [`Report`]: super::Report

use std::{collections::BTreeMap, sync::atomic::Ordering};

use lb_common::VipKey;

use super::{
    datapath::{Datapath, DatapathError},
    plan::vip_key,
    reconcile::Reconciler,
    report::VipReport,
};
use crate::registry::Snapshot;

/// Reads the traffic of the VIPs of `snapshot` that are in the maps. `live` has the connections of
/// each that the last walk has found open.
///
/// # Errors
/// When a map cannot be read.
pub(crate) fn vips(
    snapshot: &Snapshot,
    state: &Reconciler,
    live: &BTreeMap<VipKey, u64>,
    datapath: &dyn Datapath,
) -> Result<Vec<VipReport>, DatapathError> {
    let mut reports = Vec::with_capacity(snapshot.vips.len());
    for spec in snapshot.vips.iter() {
        let key = vip_key(spec);
        if let Some(vip) = state.vips().get(&key) {
            reports.push(VipReport {
                vip: spec.clone(),
                id: vip.id,
                table: vip.table,
                generation: vip.generation,
                traffic: datapath.vip_traffic(vip.id)?,
                drops: datapath.vip_drops(vip.id)?,
                live: live.get(&key).copied(),
                relayed: None,
            });
        }
    }
    Ok(reports)
}

/// Reads the traffic of the instances of `snapshot` that are in the maps.
///
/// # Errors
/// When a map cannot be read.
pub(crate) fn instances(
    snapshot: &Snapshot,
    state: &Reconciler,
    datapath: &dyn Datapath,
) -> Result<(), DatapathError> {
    let Some((last, _)) = state.instances().last_key_value() else {
        return Ok(());
    };
    let figures = datapath.all_instances(*last)?;
    let members = snapshot.services.iter().flat_map(|s| s.members.iter());
    for instance in members.map(|member| &member.instance) {
        let id = instance.id;
        let is_ours = |entry: &lb_common::InstanceEntry| entry.generation == id.generation;
        if !state.instances().get(&id.index).is_some_and(is_ours) {
            continue;
        }
        let Some((traffic, live)) = figures.get(usize::from(id.index)) else {
            continue;
        };
        let kernel = &instance.kernel;
        for (to, from) in [
            (&kernel.packets_in, traffic.packets_in),
            (&kernel.bytes_in, traffic.bytes_in),
            (&kernel.packets_out, traffic.packets_out),
            (&kernel.bytes_out, traffic.bytes_out),
            (&kernel.connections, traffic.connections),
            (&kernel.dropped, traffic.dropped),
            (&kernel.live, *live),
        ] {
            to.store(from, Ordering::Relaxed);
        }
        kernel.owns.store(state.owns(id.index), Ordering::Relaxed);
    }
    Ok(())
}
