//! Clients that stay with their instance, in the kernel.
//!
//! Which services want it follows from the plan. What is remembered is the program's to write; the
//! daemon takes out what nobody needs any more, a few hundred at a time: clients whose time is over,
//! and those of services that remember none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{Affinity, ClientKey, ClientPin};

use super::{
    datapath::{Cursor, Datapath, DatapathError},
    plan::Plan,
    reconcile::Reconciler,
};

/// Calls for clients in one step.
const CALLS_PER_STEP: usize = 8;

/// What is in the kernel of it.
#[derive(Debug, Default)]
pub(crate) struct Affinities {
    /// By the id of the VIP.
    present: BTreeMap<u32, Affinity>,
    /// Services of instances, by index.
    members: BTreeMap<u16, u64>,
    walk: Walk,
    /// Clients that the last whole walk has left.
    clients: u64,
}

/// A walk over the clients, in steps.
#[derive(Debug, Default)]
struct Walk {
    cursor: Option<Cursor>,
    is_under_way: bool,
    left: u64,
    buffer: Vec<(ClientKey, ClientPin)>,
}

impl Affinities {
    /// Clients that were remembered when they were counted last.
    pub(crate) const fn clients(&self) -> u64 {
        self.clients
    }

    /// Brings into the kernel what `plan` asks for of the VIPs that are there.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        state: &Reconciler,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let (vips, members) = wanted(plan, state);
        for (index, service) in changes(&self.members, &members) {
            datapath.put_service_of(index, service)?;
        }
        self.members = members;
        for (id, affinity) in changes(&self.present, &vips) {
            datapath.put_affinity(id, &affinity)?;
        }
        self.present = vips;
        Ok(())
    }

    /// Takes a step of a walk over the clients; whether that was the last one.
    ///
    /// # Errors
    /// When the map cannot be read or written. The walk begins anew with the next step.
    pub(crate) fn step(&mut self, datapath: &mut dyn Datapath) -> Result<bool, DatapathError> {
        let result = self.try_step(datapath);
        if !matches!(result, Ok(false)) {
            self.walk = Walk::default();
        }
        result
    }

    fn try_step(&mut self, datapath: &mut dyn Datapath) -> Result<bool, DatapathError> {
        if !self.walk.is_under_way && self.present.is_empty() && self.clients == 0 {
            return Ok(true);
        }
        self.walk.is_under_way = true;
        let services: BTreeSet<u64> = self.present.values().map(|a| a.service).collect();
        let mut buffer = std::mem::take(&mut self.walk.buffer);
        for _ in 0..CALLS_PER_STEP {
            buffer.clear();
            self.walk.cursor = datapath.clients(self.walk.cursor, &mut buffer)?;
            let now = datapath.now();
            for (key, pin) in &buffer {
                if pin.until <= now || !services.contains(&key.service) {
                    // Should it be remembered anew in this very moment, it is forgotten once too early.
                    datapath.forget_client(key)?;
                } else {
                    self.walk.left += 1;
                }
            }
            if self.walk.cursor.is_none() {
                self.clients = self.walk.left;
                return Ok(true);
            }
        }
        self.walk.buffer = buffer;
        Ok(false)
    }
}

/// What has to be written to get from one to the other.
fn changes<K: Copy + Ord, V: Copy + Default + PartialEq>(
    present: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> Vec<(K, V)> {
    let gone = present.keys().filter(|key| !wanted.contains_key(key));
    let gone = gone.map(|key| (*key, V::default()));
    let new = wanted.iter().map(|(key, value)| (*key, *value));
    gone.chain(new.filter(|(key, value)| present.get(key) != Some(value)))
        .collect()
}

/// The VIPs whose clients stay, of those that are in the maps, and the services of the instances that
/// they may stay with.
fn wanted(plan: &Plan, state: &Reconciler) -> (BTreeMap<u32, Affinity>, BTreeMap<u16, u64>) {
    let (mut vips, mut members) = (BTreeMap::new(), BTreeMap::new());
    for (key, vip) in &plan.vips {
        let (Some((ttl, service)), Some(present)) = (vip.affinity, state.vips().get(key)) else {
            continue;
        };
        vips.insert(present.id, affinity(ttl, service));
        let shares = vip.recipe.shares().iter();
        members.extend(shares.map(|share| (share.index, service)));
    }
    (vips, members)
}

fn affinity(ttl: Duration, service: u64) -> Affinity {
    Affinity {
        ttl: u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX),
        service,
    }
}
