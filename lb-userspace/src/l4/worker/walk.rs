//! Walks over the connection table and the clients, and what follows from what they have met.

use std::{collections::BTreeSet, time::Duration};

use lb_common::{Address, INSTANCE_ABSENT};

use super::{Worker, ip};
use crate::l4::{datapath::DatapathError, report::PathMtuReport};

impl Worker {
    /// Takes a step over the connection table, then over the clients; whether that was the last one of
    /// both.
    pub(super) fn walk(&mut self) -> bool {
        if self.walks_clients {
            self.walks_clients = !self.walk_clients();
        } else {
            self.walks_clients = self.walk_connections();
            return false;
        }
        !self.walks_clients
    }

    fn walk_clients(&mut self) -> bool {
        match self.affinities.step(self.datapath.as_mut()) {
            Ok(is_over) => {
                self.next.clients.used = self.affinities.clients();
                is_over
            }
            Err(error) => {
                tracing::warn!(%error, "cannot walk over the clients");
                true
            }
        }
    }

    fn walk_connections(&mut self) -> bool {
        if !self.sweep.is_under_way() {
            self.state.begin_walk(self.clock.now());
            self.filter.begin_walk();
        }
        let known = &mut self.state.walked();
        match self.sweep.step(self.datapath.as_mut(), known) {
            Ok(None) => false,
            Ok(Some(pass)) => {
                self.greeter
                    .greet(self.sweep.take_clients().into_iter().map(ip));
                self.live = self.sweep.take_live();
                let report = &mut self.next.connections;
                report.entries = pass.entries;
                report.forgotten += pass.forgotten;
                report.corrected += pass.corrected;
                if pass.corrected > 0 {
                    tracing::debug!(by = pass.corrected, "live counters put right");
                }
                if let Err(error) = self.read_path_mtus() {
                    tracing::warn!(%error, "cannot see to what is known of paths");
                }
                self.narrow();
                self.advance();
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot walk the connection table");
                true
            }
        }
    }

    /// Reads what routers have said of paths. What holds no longer is forgotten, and what is of no instance: anybody
    /// can send such messages, and there is room for so many.
    fn read_path_mtus(&mut self) -> Result<(), DatapathError> {
        let now = self.datapath.now();
        let entries = self.state.instances().values();
        let present = entries.filter(|entry| entry.state != INSTANCE_ABSENT);
        let known: BTreeSet<Address> = present.map(|entry| entry.address).collect();
        self.next.path_mtus.clear();
        for (address, path) in self.datapath.path_mtus()? {
            if now < path.until && known.contains(&address) {
                self.next.path_mtus.push(PathMtuReport {
                    address: ip(address),
                    mtu: path.mtu,
                    left: Duration::from_nanos(path.until - now),
                });
            } else {
                self.datapath.forget_path_mtu(&address)?;
            }
        }
        self.next.path_mtus.sort_by_key(|path| path.address);
        Ok(())
    }

    /// Takes addresses out of the filter that nobody has any more.
    fn narrow(&mut self) {
        let seen = self.sweep.take_ends();
        let (state, datapath) = (&self.state, self.datapath.as_mut());
        if let Err(error) = self.filter.narrow(seen, state, datapath) {
            tracing::warn!(%error, "cannot bring the address filter into the kernel");
        }
    }

    /// Lets slots change hands whose flows are over or remembered. Not while the maps are behind the
    /// snapshot: what the walk has met may have been decided by half of it.
    fn advance(&mut self) {
        let report = &mut self.next.reconcile;
        if self.is_behind {
            return;
        }
        let silence = self.next.silence;
        let (datapath, now) = (self.datapath.as_mut(), self.clock.now());
        match self.state.advance(silence, datapath, now) {
            Ok(writes) => report.writes += writes,
            Err(error) => tracing::warn!(%error, "cannot bring slots to their new owners"),
        }
        self.tidy();
    }

    /// Sees to the memory of tables, when nothing waits for it.
    pub(super) fn tidy(&mut self) {
        if let Err(error) = self.state.tidy(self.datapath.as_mut(), self.clock.now()) {
            tracing::warn!(%error, "cannot see to the memory of tables");
        }
    }
}
