//! A pass: the latest snapshot is brought into the kernel.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{InstanceEntry, Vip, VipKey};

use super::{RETRY, Worker, ask};
use crate::{
    l4::{
        plan::{Plan, plan},
        reconcile::{Outcome, ReconcileError},
    },
    model::Timestamp,
    registry::Snapshot,
};

/// What follows from a pass over the maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// After which time to try again.
    pub(super) wait: Option<Duration>,
    /// Whether there are connections to forget.
    pub(super) walk: bool,
}

/// A pass that did what does not depend on what was refused.
struct Brought {
    outcome: Outcome,
    /// Of rules, limits and the like: what was refused first.
    refused: Option<ReconcileError>,
    /// Whether VIPs wait for that, or the program itself.
    withholds: bool,
}

impl Worker {
    /// Brings the latest snapshot into the kernel.
    pub(super) fn reconcile(&mut self) -> Next {
        let snapshot = self.registry.snapshot();
        let now = self.clock.now();
        let mut plan = self.plan(&snapshot);
        let brought = self.bring(&snapshot, &mut plan, now);
        let done = self.clock.now();
        self.next.reconcile.took = done - now;
        let mut walk = false;
        let wait = match brought {
            Ok(brought) => {
                walk = brought.outcome.withdrew;
                self.note(&brought, &plan, snapshot.revision, done)
            }
            Err(error) => {
                self.is_behind = true;
                Some(self.note_failure(&error, snapshot.revision))
            }
        };
        self.read();
        self.tidy();
        let wait = if self.host_has_changed() {
            Some(Duration::ZERO)
        } else {
            wait
        };
        Next { wait, walk }
    }

    /// What should be in the kernel; what will not work is warned of.
    fn plan(&mut self, snapshot: &Snapshot) -> Plan {
        let mut made = plan(snapshot, &self.host);
        // Nobody is warned of what is mended already.
        if !made.warnings.is_empty() && self.host_has_changed() {
            made = plan(snapshot, &self.host);
        }
        self.warn(&made);
        made
    }

    /// Brings what was planned into the kernel. VIPs that have to wait are taken out of the plan.
    fn bring(
        &mut self,
        snapshot: &Snapshot,
        plan: &mut Plan,
        now: Timestamp,
    ) -> Result<Brought, ReconcileError> {
        if self.has_strangers(plan) {
            // Before the kernel sends them packets, so that the first one finds its way.
            self.greet(snapshot);
        }
        // Before anything that is new in the kernel gets packets.
        self.limit();
        let unruled = self.rule(snapshot, plan);
        self.filter.widen(plan, self.datapath.as_mut())?;
        // Also before, for VIPs of an earlier daemon that this program does not serve yet. What fails
        // fails again afterwards, and is told then: it must not hold up what else has changed.
        let _ = self.pace(snapshot);
        let _ = self.stay(plan);
        let learned = self.learn(plan);
        let outcome = self.state.apply(plan, self.datapath.as_mut(), now)?;
        let paced = self.pace(snapshot);
        let told = paced.and(self.stay(plan)).and(learned);
        Ok(Brought {
            outcome,
            withholds: unruled.is_some(),
            refused: unruled.or(told.err()),
        })
    }

    /// Brings the source ACL into the kernel, and says what was refused of it.
    ///
    /// No program gets packets for VIPs before it knows who may not send any: without all rules no program
    /// begins, and one that runs gets no new VIPs. Those that are served must not wait, be it by an
    /// earlier daemon's program, or an instance that fails would go on getting packets because a rule found no
    /// memory.
    fn rule(&mut self, snapshot: &Snapshot, plan: &mut Plan) -> Option<ReconcileError> {
        let ruled = self.rules.apply(&snapshot.acl, self.datapath.as_mut());
        self.state.hold_back(ruled.is_err());
        let error = ruled.err()?;
        let served = self.state.vips();
        plan.vips.retain(|key, _| served.contains_key(key));
        Some(error.into())
    }

    /// Notes what a pass has done, and says when there is to be another.
    fn note(
        &mut self,
        brought: &Brought,
        plan: &Plan,
        revision: u64,
        done: Timestamp,
    ) -> Option<Duration> {
        let outcome = &brought.outcome;
        let idle = idle_times(plan, self.state.vips());
        let longest = idle.values().copied().max().unwrap_or_default();
        self.next.silence = self.spec.tcp_idle_timeout.max(longest);
        self.sweep.set_idle(idle);
        let report = &mut self.next.reconcile;
        report.writes += outcome.writes;
        // What is served is in the kernel as a whole, whatever waits; but a program that has not begun sees nothing
        // of the flows that another one has on other maps.
        let waits = brought.withholds && !self.state.is_active();
        self.is_behind = outcome.later.is_some() || waits;
        if !self.is_behind && !brought.withholds {
            if report.revision != revision {
                report.held = done;
            }
            report.revision = revision;
        }
        if outcome.withdrew {
            self.sweep.restart();
        }
        if outcome.writes > 0 {
            let (writes, took) = (outcome.writes, report.took);
            tracing::debug!(revision, writes, ?took, "kernel tables brought up to date");
        }
        let later = outcome.later.map(|at| at - done);
        let Some(error) = &brought.refused else {
            report.error = None;
            self.retry = RETRY.0;
            return later;
        };
        let again = self.note_failure(error, revision);
        Some(later.map_or(again, |later| later.min(again)))
    }

    /// Notes why a pass has failed, and says when to try again.
    fn note_failure(&mut self, error: &ReconcileError, revision: u64) -> Duration {
        let error = error.to_string();
        let report = &mut self.next.reconcile;
        report.failures += 1;
        if report.error.as_ref() != Some(&error) {
            tracing::error!(revision, %error, "cannot bring the snapshot into the kernel");
        }
        report.error = Some(error);
        let wait = self.retry;
        self.retry = (wait * 2).min(RETRY.1);
        wait
    }

    /// Asks the host what it has, and says whether that is something else than before.
    fn host_has_changed(&mut self) -> bool {
        let host = ask(&self.spec, self.host.vlans.as_ref());
        let before = std::mem::replace(&mut self.host, host);
        before != self.host
    }

    /// Brings the limits of connections into the kernel. What fails is tried again with the next pass,
    /// or the next look at what a service has.
    pub(super) fn limit(&mut self) {
        let snapshot = self.registry.snapshot();
        let (state, datapath) = (&self.state, self.datapath.as_mut());
        if let Err(error) = self.ceilings.apply(&snapshot, state, datapath) {
            tracing::warn!(%error, "cannot bring limits of connections into the kernel");
        }
    }

    /// Brings into the kernel how fast new connections may begin, and what SYNs that come too fast are
    /// answered with.
    fn pace(&mut self, snapshot: &Snapshot) -> Result<(), ReconcileError> {
        let (state, datapath) = (&self.state, self.datapath.as_mut());
        let mut specs = snapshot.services.iter().map(|service| &service.spec);
        if specs.any(|spec| spec.limits.arrivals.cookies_above.is_some()) {
            self.cookies.renew(datapath)?;
        }
        Ok(self.arrivals.apply(snapshot, state, datapath)?)
    }

    /// Brings into the kernel whose clients stay with their instance.
    fn stay(&mut self, plan: &Plan) -> Result<(), ReconcileError> {
        let (state, datapath) = (&self.state, self.datapath.as_mut());
        Ok(self.affinities.apply(plan, state, datapath)?)
    }

    /// Brings into the kernel of whose paths it may learn.
    fn learn(&mut self, plan: &Plan) -> Result<(), ReconcileError> {
        let learns = self.spec.path_mtu_discovery;
        Ok(self.paths.apply(plan, learns, self.datapath.as_mut())?)
    }

    /// Logs each warning once, until it is gone and comes back.
    fn warn(&mut self, plan: &Plan) {
        for warning in &plan.warnings {
            if !self.warned.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warned = plan.warnings.iter().cloned().collect();
        self.next.warnings.clone_from(&plan.warnings);
    }

    /// Whether `plan` has instances that the kernel does not know by their address.
    fn has_strangers(&self, plan: &Plan) -> bool {
        let known = self.state.instances();
        let address = |entry: &InstanceEntry| entry.address;
        plan.instances
            .iter()
            .any(|(index, entry)| known.get(index).map(address) != Some(entry.address))
    }
}

/// Idle times of connections that are not those of all, by the id of their VIP.
fn idle_times(plan: &Plan, vips: &BTreeMap<VipKey, Vip>) -> BTreeMap<u16, Duration> {
    let of = |(key, vip): (&VipKey, &Vip)| {
        let idle = plan.vips.get(key)?.idle?;
        // Ids are indices of counters, of which there are far fewer.
        Some((u16::try_from(vip.id).ok()?, idle))
    };
    vips.iter().filter_map(of).collect()
}
