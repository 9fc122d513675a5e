//! What the kernel has counted, as the daemon reports it.

use lb_common::{Counter, Counters};

use super::Worker;
use crate::{
    l4::{
        datapath::{AttachMode, Attachment, DatapathError},
        report::PathMode,
        stats,
    },
    registry::Snapshot,
};

impl Worker {
    /// Reads all figures and publishes a report. Says whether something in them is for a walk over
    /// the connection table to see to.
    pub(super) fn read(&mut self) -> bool {
        let snapshot = self.registry.snapshot();
        let before = self.next.counters;
        if let Err(error) = self.try_read(&snapshot) {
            tracing::warn!(%error, "cannot read the kernel's figures");
        }
        let interfaces = self.datapath.attachments();
        let missing: Vec<&str> = self
            .spec
            .interfaces
            .iter()
            .filter(|name| !interfaces.iter().any(|found| found.interface == **name))
            .map(String::as_str)
            .collect();
        self.next.at = self.clock.now();
        self.next.mode = mode(&interfaces).map(PathMode::from);
        self.next.reason = if missing.is_empty() {
            self.reason.clone()
        } else {
            format!("the program has been taken off {}", missing.join(", "))
        };
        self.next.interfaces = interfaces;
        self.reporter.publish(self.next.clone());
        self.has_work(&before)
    }

    /// Whether packets were dropped, since the counters stood at `before`, for reasons that the
    /// daemon can do something about.
    fn has_work(&mut self, before: &Counters) -> bool {
        let is_more = |counter| self.next.counters.get(counter) > before.get(counter);
        let (unresolved, forgotten) = (
            is_more(Counter::DropNoNeighbour),
            is_more(Counter::ConnectionsUnremembered),
        );
        let full = forgotten || is_more(Counter::DropTableFull);
        if forgotten {
            self.state.prolong(self.clock.now());
        }
        if unresolved {
            self.sweep.collect_clients();
            self.misses_neighbours = true;
        }
        if full {
            self.sweep.note_crowd();
        }
        unresolved || full
    }

    fn try_read(&mut self, snapshot: &Snapshot) -> Result<(), DatapathError> {
        let datapath = self.datapath.as_ref();
        stats::instances(snapshot, &self.state, datapath)?;
        // One that comes back is another one, and so may be whoever has its id.
        self.live
            .retain(|vip, _| self.state.vips().contains_key(vip));
        self.next.vips = stats::vips(snapshot, &self.state, &self.live, datapath)?;
        let counters = datapath.counters()?;
        self.next.counters = counters;
        let limits = datapath.limits();
        self.next.connections.max = limits.connections;
        self.next.clients.max = limits.clients;
        self.next.tables_max = limits.tables.saturating_sub(1);
        self.next.tables_used = self.state.tables_in_use();
        Ok(())
    }
}

fn mode(interfaces: &[Attachment]) -> Option<AttachMode> {
    let has = |mode| interfaces.iter().any(|attached| attached.mode == mode);
    // The worst of them.
    [AttachMode::Generic, AttachMode::Tc, AttachMode::Native]
        .into_iter()
        .find(|mode| has(*mode))
}
