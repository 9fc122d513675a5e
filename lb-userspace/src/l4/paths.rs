//! Instances behind tunnels, of whose paths the program may learn.
//!
//! It believes messages about nobody else, so that strangers cannot fill its memory, and learns nothing where the
//! configuration does not want it to. What it has learned is read from time to time, to be shown.

use std::{collections::BTreeSet, time::Duration};

use lb_common::Address;

use super::{
    datapath::{Datapath, DatapathError},
    plan::{Plan, ip},
    report::PathMtuReport,
};

/// What is in the kernel of it.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    present: BTreeSet<Address>,
}

impl Paths {
    /// Brings into the kernel which instances are behind tunnels, if it `learns` of any.
    ///
    /// # Errors
    /// When the map cannot be made or written; the next call goes on from there.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        learns: bool,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let none = BTreeSet::new();
        let wanted = if learns { &plan.tunnelled } else { &none };
        let gone: Vec<Address> = self.present.difference(wanted).copied().collect();
        for address in gone {
            datapath.remove_path(&address)?;
            self.present.remove(&address);
        }
        for address in wanted {
            if !self.present.contains(address) {
                datapath.put_path(address)?;
                self.present.insert(*address);
            }
        }
        Ok(())
    }

    /// What is known of paths now.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn read(
        &self,
        datapath: &dyn Datapath,
    ) -> Result<Vec<PathMtuReport>, DatapathError> {
        if self.present.is_empty() {
            return Ok(Vec::new());
        }
        let now = datapath.now();
        let known = datapath.path_mtus()?.into_iter();
        let known = known.filter(|(_, path)| now < path.until);
        let mut known: Vec<_> = known
            .map(|(address, path)| PathMtuReport {
                address: ip(address),
                mtu: path.mtu,
                left: Duration::from_nanos(path.until - now),
            })
            .collect();
        known.sort_by_key(|path| path.address);
        Ok(known)
    }
}
