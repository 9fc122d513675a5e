//! How fast new connections may begin, in the kernel.
//!
//! The limits of a service hold for all its VIPs together, so these share a bucket: that of the VIP
//! with the lowest id. A limit that stays keeps what was taken of its bucket; should that VIP go,
//! the others begin with another bucket.

use std::collections::BTreeMap;

use lb_common::{Address, Arrivals, SOURCE_UNIT_NS, from_v4};

use super::{
    datapath::{Datapath, DatapathError},
    plan::vip_key,
    reconcile::Reconciler,
};
use crate::{
    model::{ArrivalRate, ArrivalsSpec},
    registry::Snapshot,
};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The limits that are in the kernel, by id of their VIP.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    present: BTreeMap<u32, Arrivals>,
    /// What sources are hashed with.
    seed: u64,
}

impl Limits {
    /// No limits yet; `seed` is what nobody else knows.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            present: BTreeMap::new(),
            seed,
        }
    }

    /// Brings the limits of the VIPs that are in the kernel to what `snapshot` asks for.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn apply(
        &mut self,
        snapshot: &Snapshot,
        state: &Reconciler,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let wanted = self.wanted(snapshot, state);
        let gone = self.present.keys().filter(|id| !wanted.contains_key(id));
        for id in gone.copied().collect::<Vec<_>>() {
            datapath.put_arrivals(id, &Arrivals::default())?;
            self.present.remove(&id);
        }
        // One that needs memory that is not to be had must not keep others from theirs.
        let mut told = Ok(());
        for (id, limit) in &wanted {
            if self.present.get(id) != Some(limit) {
                match datapath.put_arrivals(*id, limit) {
                    Ok(()) => drop(self.present.insert(*id, *limit)),
                    Err(error) => told = told.and(Err(error)),
                }
            }
        }
        told
    }

    fn wanted(&self, snapshot: &Snapshot, state: &Reconciler) -> BTreeMap<u32, Arrivals> {
        let mut wanted = BTreeMap::new();
        for service in &snapshot.services {
            let spec = &service.spec.limits.arrivals;
            if !spec.is_limited() && spec.cookies_above.is_none() {
                continue;
            }
            let vips = snapshot.vips.iter();
            let vips = vips.filter(|vip| vip.service == *service.name());
            let ids = vips.filter_map(|vip| state.vips().get(&vip_key(vip)));
            let ids: Vec<u32> = ids.map(|vip| vip.id).collect();
            if let Some(bucket) = ids.iter().min() {
                let limit = arrivals(spec, *bucket, self.seed);
                wanted.extend(ids.iter().map(|id| (*id, limit)));
            }
        }
        wanted
    }
}

/// A limit as the kernel has it. Rounded up, so that no more begins than was asked for.
fn arrivals(spec: &ArrivalsSpec, bucket: u32, seed: u64) -> Arrivals {
    let of = |rate: Option<ArrivalRate>, unit: u64| {
        rate.map_or((0, 0), |rate| {
            let second = SECOND / unit;
            let interval = second.div_ceil(u64::from(rate.per_second.get()));
            (interval, interval * u64::from(rate.burst.get()))
        })
    };
    let (interval, window) = of(spec.service, 1);
    let (source_interval, source_window) = of(spec.source, SOURCE_UNIT_NS);
    let (cookie_interval, cookie_window) = match spec.cookies_above {
        None => (0, 0),
        // Any bucket is full.
        Some(0) => (1, 0),
        Some(rate) => (SECOND.div_ceil(rate.into()), SECOND),
    };
    Arrivals {
        interval,
        window,
        source_interval,
        source_window,
        cookie_interval,
        cookie_window,
        seed,
        mask_v4: mask(from_v4([0xff; 4]), u32::from(spec.prefix_v4) + 96),
        mask_v6: mask([0xff; 16], u32::from(spec.prefix_v6)),
        bucket,
        pad: 0,
    }
}

/// The first `length` bits of an address.
fn mask(whole: Address, length: u32) -> Address {
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (u128::from_be_bytes(whole) & mask).to_be_bytes()
}
