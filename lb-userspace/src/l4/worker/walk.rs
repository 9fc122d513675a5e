//! Walks over the connection table and the clients, and what follows from what they have met.

use super::{Worker, ip};

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
                match self.paths.read(self.datapath.as_ref()) {
                    Ok(known) => self.next.path_mtus = known,
                    Err(error) => tracing::warn!(%error, "cannot read what is known of paths"),
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
