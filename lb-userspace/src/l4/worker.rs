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

use lb_common::{Subinterface, VipKey};
use tokio::time::{Instant, sleep_until};

use super::{
    acl::Rules,
    addresses,
    affinity::Affinities,
    arrivals,
    ceilings::{self, Ceilings},
    cookies,
    datapath::Datapath,
    filter::Filter,
    host,
    neighbour::Greeter,
    paths::Paths,
    plan::{Host, ip},
    reconcile::Reconciler,
    report::{Report, Reporter},
    sweep::{Limits, Sweep},
    vlans,
};
use crate::{
    model::{Clock, DatapathSpec},
    registry::{Registry, Snapshot},
};

mod figures;
mod pass;
mod walk;

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
    paths: Paths,
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
            host: ask(&spec, None),
            spec,
            reason,
            state,
            registry,
            clock,
            reporter: Reporter::new(Report::default()),
            sweep,
            filter: Filter::default(),
            affinities: Affinities::default(),
            paths: Paths::default(),
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

/// What the host has of what a plan depends on. These VLANs are known, if any are.
fn ask(spec: &DatapathSpec, known: Option<&BTreeMap<u32, Subinterface>>) -> Host {
    let interfaces = &spec.interfaces;
    let families = interfaces
        .iter()
        .flat_map(|name| [true, false].map(|v4| (name.clone(), v4)));
    let (vlans, untold) = match vlans::all() {
        Ok(vlans) => (Some(vlans), None),
        Err(error) => (known.cloned(), Some(error.to_string())),
    };
    Host {
        addresses: addresses::of(interfaces.first().map(String::as_str)),
        not_forwarding: families
            .filter(|(name, v4)| host::forwards(name, *v4) == Some(false))
            .collect(),
        vlans,
        untold,
        spec: spec.clone(),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        // A timer would take up to a millisecond to find out.
        Some(at) if at <= Instant::now() => {}
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
