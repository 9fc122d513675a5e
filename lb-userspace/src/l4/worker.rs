//! The task that owns the packet path.
//!
//! One task does everything that touches the maps, one short thing after the other: it brings new
//! snapshots into the kernel, walks the connection table, reads the counters and keeps neighbours
//! known. With one owner there is nothing to lock and no order to argue about.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    future::Future,
    hash::{BuildHasher as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_common::{Counter, Counters, InstanceEntry, Vip, VipKey};
use tokio::time::{Instant, sleep_until};

use super::{
    acl::Rules,
    addresses,
    affinity::Affinities,
    arrivals,
    ceilings::{self, Ceilings},
    cookies,
    datapath::{AttachMode, Datapath},
    filter::Filter,
    host,
    neighbour::Greeter,
    plan::{self, Host, Plan, ip, plan},
    reconcile::{Outcome, ReconcileError, Reconciler},
    report::{PathMode, Report, Reporter},
    stats,
    sweep::{Limits, Sweep},
    vlans,
};
use crate::{
    model::{Clock, DatapathSpec},
    registry::{Registry, Snapshot},
};

/// Shortest time between two passes. The first change goes to the kernel at once; the rest of a
/// burst, such as failing checks, is gathered, because each pass may write tables.
const GATHER: Duration = Duration::from_millis(5);
/// First and longest wait before a failed pass is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often figures are read.
const READ: Duration = Duration::from_secs(1);
/// Pause between two steps of a walk over the connection table.
const STEP: Duration = Duration::from_millis(20);
/// Shortest time between the beginnings of two walks.
const WALK: Duration = Duration::from_secs(5);
/// Pause between two walks over a table that is short of room.
const CROWDED_WALK: Duration = Duration::from_secs(1);
/// How often neighbours are greeted: well below the 15 to 45 seconds for which the kernel takes a
/// neighbour as reachable.
const GREET: Duration = Duration::from_secs(10);

/// Owns the packet path.
#[derive(Debug)]
pub(crate) struct Worker {
    datapath: Box<dyn Datapath>,
    spec: DatapathSpec,
    /// What the host had when it was last asked, which is after each pass: asking takes dozens of
    /// system calls, which no change has to wait for.
    host: Host,
    /// Why the program is attached as it is, when that is not what was asked for.
    reason: String,
    state: Reconciler,
    registry: Arc<Registry>,
    clock: Clock,
    reporter: Reporter,
    sweep: Sweep,
    filter: Filter,
    affinities: Affinities,
    ceilings: Ceilings,
    rules: Rules,
    arrivals: arrivals::Limits,
    cookies: cookies::Keys,
    greeter: Greeter,
    /// Warnings that have been logged and still hold.
    warned: BTreeSet<String>,
    retry: Duration,
    /// Whether something of the latest snapshot has to wait, or could not be done.
    is_behind: bool,
    /// Whether it is clients that are being walked over.
    walks_clients: bool,
    /// Connections of each VIP that the last walk has found open.
    live: BTreeMap<VipKey, u64>,
    /// Whether packets were dropped for want of a neighbour, since the last look at that.
    misses_neighbours: bool,
    /// What the next report will say.
    next: Report,
}

impl Worker {
    pub(crate) fn new(
        datapath: Box<dyn Datapath>,
        spec: DatapathSpec,
        reason: String,
        state: Reconciler,
        registry: Arc<Registry>,
        clock: Clock,
    ) -> Self {
        let sweep = Sweep::new(Limits::new(&spec));
        let silence = spec.tcp_idle_timeout;
        // Nobody has to guess it: another one at each start is enough.
        let seed = RandomState::new().build_hasher().finish();
        let mut worker = Self {
            datapath,
            host: ask(&spec),
            spec,
            reason,
            state,
            registry,
            clock,
            reporter: Reporter::new(Report::default()),
            sweep,
            filter: Filter::default(),
            affinities: Affinities::default(),
            ceilings: Ceilings::default(),
            rules: Rules::default(),
            arrivals: arrivals::Limits::new(seed),
            cookies: cookies::Keys::default(),
            greeter: Greeter::default(),
            warned: BTreeSet::new(),
            retry: RETRY.0,
            is_behind: false,
            walks_clients: false,
            live: BTreeMap::new(),
            misses_neighbours: false,
            next: Report {
                silence,
                ..Report::default()
            },
        };
        worker.read();
        worker
    }

    pub(crate) const fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Works until `shutdown`. What is in the kernel stays there: traffic goes on without the
    /// daemon.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut revisions = self.registry.subscribe();
        revisions.mark_changed();
        let mut shutdown = std::pin::pin!(shutdown);
        let start = Instant::now();
        let (mut again, mut read, mut step, mut greet) = (None, start + READ, start, start);
        let (mut walk, mut passed, mut share) = (start, start, start);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                alive = revisions.changed() => {
                    if alive.is_err() {
                        break;
                    }
                    let soon = passed + GATHER;
                    again = Some(again.map_or(soon, |at: Instant| at.min(soon)));
                }
                () = until(again) => {
                    let next = self.reconcile();
                    passed = Instant::now();
                    again = next.wait.map(|wait| Instant::now() + wait);
                    if next.walk {
                        step = Instant::now();
                    }
                }
                () = self.reporter.asked() => {
                    self.read();
                }
                () = sleep_until(read) => {
                    self.datapath.log_events();
                    if self.read() {
                        step = Instant::now();
                    }
                    self.greet_missed();
                    read = Instant::now() + READ;
                }
                () = sleep_until(share), if self.ceilings.shares() => {
                    self.limit();
                    share = Instant::now() + ceilings::PERIOD;
                }
                () = sleep_until(step) => {
                    let now = Instant::now();
                    step = if !self.walk() {
                        now + STEP
                    } else if self.sweep.is_crowded() {
                        now + CROWDED_WALK
                    } else {
                        walk = (walk + WALK).max(now);
                        walk
                    };
                }
                () = sleep_until(greet) => {
                    self.greet(&self.registry.snapshot());
                    greet = Instant::now() + GREET;
                    // The host's own addresses may have changed without any revision.
                    again = again.or(Some(Instant::now()));
                }
            }
        }
    }

    /// Brings the latest snapshot into the kernel.
    fn reconcile(&mut self) -> Next {
        let snapshot = self.registry.snapshot();
        let now = self.clock.now();
        let mut plan = plan(&snapshot, &self.host);
        // Nobody is warned of what is mended already.
        if !plan.warnings.is_empty() && self.host_has_changed() {
            plan = plan::plan(&snapshot, &self.host);
        }
        self.warn(&plan);
        if self.has_strangers(&plan) {
            // Before the kernel sends them packets, so that the first one finds its way.
            self.greet(&snapshot);
        }
        // Before anything that is new in the kernel gets packets.
        self.limit();
        // No program gets packets for VIPs before it knows who may not send any.
        let ruled = self.rules.apply(&snapshot.acl, self.datapath.as_mut());
        let applied = ruled.map_err(Into::into).and_then(|()| {
            self.filter.widen(&plan, self.datapath.as_mut())?;
            // Also before, for VIPs of an earlier daemon that this program does not serve yet. What fails
            // fails again afterwards, and is told then: it must not hold up what else has changed.
            let _ = self.pace(&snapshot);
            let _ = self.stay(&plan);
            self.state.apply(&plan, self.datapath.as_mut(), now)
        });
        let told = applied.is_ok().then(|| {
            let paced = self.pace(&snapshot);
            paced.and(self.stay(&plan))
        });
        let refused = told.and_then(Result::err);
        let done = self.clock.now();
        let took = done - now;
        let report = &mut self.next.reconcile;
        report.took = took;
        let news = *applied.as_ref().unwrap_or(&Outcome::default());
        let wait = match applied {
            Ok(outcome) => {
                let idle = idle_times(&plan, self.state.vips());
                let longest = idle.values().copied().max().unwrap_or_default();
                self.next.silence = self.spec.tcp_idle_timeout.max(longest);
                self.sweep.set_idle(idle);
                let report = &mut self.next.reconcile;
                report.writes += outcome.writes;
                self.is_behind = outcome.later.is_some();
                if refused.is_none() {
                    report.error = None;
                    self.retry = RETRY.0;
                }
                if outcome.later.is_none() {
                    if report.revision != snapshot.revision {
                        report.held = done;
                    }
                    report.revision = snapshot.revision;
                }
                if outcome.withdrew {
                    self.sweep.restart();
                }
                if outcome.writes > 0 {
                    let (revision, writes) = (snapshot.revision, outcome.writes);
                    tracing::debug!(revision, writes, ?took, "kernel tables brought up to date");
                }
                outcome.later.map(|at| at - now)
            }
            Err(error) => {
                self.is_behind = true;
                Some(self.note_failure(&error, snapshot.revision))
            }
        };
        // Limits and affinity alone: everything else is in the kernel.
        let again = refused.map(|error| self.note_failure(&error, snapshot.revision));
        let wait = again.map_or(wait, |again| {
            Some(wait.map_or(again, |wait| wait.min(again)))
        });
        self.read();
        self.tidy();
        let wait = if self.host_has_changed() {
            Some(Duration::ZERO)
        } else {
            wait
        };
        Next {
            wait,
            walk: news.withdrew,
        }
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
        let before = std::mem::replace(&mut self.host, ask(&self.spec));
        before != self.host
    }

    /// Brings the limits of connections into the kernel. What fails is tried again with the next pass,
    /// or the next look at what a service has.
    fn limit(&mut self) {
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

    /// Reads all figures and publishes a report. Says whether something in them is for a walk over
    /// the connection table to see to.
    fn read(&mut self) -> bool {
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

    fn try_read(&mut self, snapshot: &Snapshot) -> Result<(), super::datapath::DatapathError> {
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

    /// Takes a step over the connection table, then over the clients; whether that was the last one of
    /// both.
    fn walk(&mut self) -> bool {
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
    fn tidy(&mut self) {
        if let Err(error) = self.state.tidy(self.datapath.as_mut(), self.clock.now()) {
            tracing::warn!(%error, "cannot see to the memory of tables");
        }
    }

    /// Whether `plan` has instances that the kernel does not know by their address.
    fn has_strangers(&self, plan: &Plan) -> bool {
        let known = self.state.instances();
        let address = |entry: &InstanceEntry| entry.address;
        plan.instances
            .iter()
            .any(|(index, entry)| known.get(index).map(address) != Some(entry.address))
    }

    /// Has instances greeted whose packets were dropped because the kernel has forgotten them, without
    /// waiting for the time at which all are. Figures are read whenever somebody asks for them, so it
    /// is not done where they are read: nobody is to be greeted more than once a second.
    fn greet_missed(&mut self) {
        if std::mem::take(&mut self.misses_neighbours) {
            self.greet(&self.registry.snapshot());
        }
    }

    /// Makes the kernel find the neighbours of all instances that VIPs lead to.
    fn greet(&mut self, snapshot: &Snapshot) {
        let addresses: BTreeSet<IpAddr> = snapshot
            .behind_vips()
            .into_iter()
            .flat_map(|service| service.members.iter())
            .map(|member| member.instance.endpoint.address().ip())
            .collect();
        self.greeter.greet(addresses);
    }
}

/// What the host has of what a plan depends on.
fn ask(spec: &DatapathSpec) -> Host {
    let interfaces = &spec.interfaces;
    let families = interfaces
        .iter()
        .flat_map(|name| [true, false].map(|v4| (name.clone(), v4)));
    Host {
        addresses: addresses::of(interfaces.first().map(String::as_str)),
        not_forwarding: families
            .filter(|(name, v4)| host::forwards(name, *v4) == Some(false))
            .collect(),
        vlans: vlans::all(),
        spec: spec.clone(),
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

async fn until(at: Option<Instant>) {
    match at {
        // A timer would take up to a millisecond to find out.
        Some(at) if at <= Instant::now() => {}
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn mode(interfaces: &[super::datapath::Attachment]) -> Option<AttachMode> {
    let has = |mode| interfaces.iter().any(|attached| attached.mode == mode);
    // The worst of them.
    [AttachMode::Generic, AttachMode::Tc, AttachMode::Native]
        .into_iter()
        .find(|mode| has(*mode))
}

/// What follows from a pass over the maps.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// After which time to try again.
    wait: Option<Duration>,
    /// Whether there are connections to forget.
    walk: bool,
}

/// Says loudly, whenever a configuration has VIPs, that nobody serves them.
pub(crate) async fn mourn(
    registry: Arc<Registry>,
    reporter: Reporter,
    shutdown: impl Future<Output = ()>,
) {
    let mut revisions = registry.subscribe();
    revisions.mark_changed();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut configured = 0;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            alive = revisions.changed() => {
                if alive.is_err() {
                    break;
                }
                let snapshot = registry.snapshot();
                if snapshot.configured != configured {
                    configured = snapshot.configured;
                    let mut report = (*reporter.latest()).clone();
                    report.warnings = unserved(&snapshot, &report.reason);
                    for warning in &report.warnings {
                        tracing::error!("{warning}");
                    }
                    reporter.publish(report);
                }
            }
        }
    }
}

fn unserved(snapshot: &Snapshot, reason: &str) -> Vec<String> {
    snapshot
        .vips
        .iter()
        .map(|vip| format!("VIP {vip} is not served: {reason}"))
        .collect()
}

#[cfg(test)]
mod tests;
