//! The task that leads a relay: sockets and fronts as snapshots say, and the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use lb_common::{Counters, Traffic};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep_until},
};

use super::{
    front::{Front, Fronts},
    worker::{Order, Shared},
};
use crate::{
    l4::report::{Handle, PathMode, RelayedVip, Report, Reporter, VipReport},
    model::{RELAYED_ACL, loses_acl, lost_forwarding, lost_limits},
    net::{self, Group},
    registry::Snapshot,
};

/// How often figures are read, addresses that could not be listened at tried again, and what the host
/// delivers looked at.
const READ: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Control {
    shared: Arc<Shared>,
    workers: Vec<UnboundedSender<Order>>,
    open: BTreeSet<SocketAddr>,
    /// Why addresses could not be listened at.
    closed: BTreeMap<SocketAddr, String>,
    /// Warnings that have been logged and still hold.
    warned: BTreeSet<String>,
    reporter: Reporter,
    next: Report,
}

impl Control {
    /// Nothing is open so far. `reason` is why there is a relay, empty when it was asked for.
    pub(super) fn new(
        shared: Arc<Shared>,
        workers: Vec<UnboundedSender<Order>>,
        reason: String,
    ) -> Self {
        let next = Report {
            mode: Some(PathMode::Relay),
            reason,
            ..Report::default()
        };
        let mut control = Self {
            shared,
            workers,
            open: BTreeSet::new(),
            closed: BTreeMap::new(),
            warned: BTreeSet::new(),
            reporter: Reporter::new(next.clone()),
            next,
        };
        control.follow();
        control
    }

    pub(super) fn handle(&self) -> Handle {
        self.reporter.handle()
    }

    /// Follows the registry until `shutdown`.
    pub(super) async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut revisions = self.shared.registry.subscribe();
        revisions.mark_changed();
        let mut shutdown = std::pin::pin!(shutdown);
        let mut read = Instant::now() + READ;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                changed = revisions.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.follow();
                }
                () = self.reporter.asked() => self.report(),
                () = sleep_until(read) => {
                    let snapshot = self.shared.registry.snapshot();
                    self.listen(&snapshot);
                    self.warn(&snapshot);
                    self.report();
                    read = Instant::now() + READ;
                }
            }
        }
    }

    /// Brings fronts and sockets to the latest snapshot.
    fn follow(&mut self) {
        let snapshot = self.shared.registry.snapshot();
        let fronts = self
            .shared
            .fronts
            .load()
            .follow(&snapshot, self.workers.len());
        self.shared.fronts.store(Arc::new(fronts));
        self.listen(&snapshot);
        for worker in &self.workers {
            // A worker that is gone has cut everything.
            let _ = worker.send(Order::Look);
        }
        self.warn(&snapshot);
        self.next.reconcile.revision = snapshot.revision;
        self.report();
    }

    /// Closes sockets that no VIP needs, then opens those that are missing.
    fn listen(&mut self, snapshot: &Snapshot) {
        let fronts = self.shared.fronts.load_full();
        let wanted: BTreeSet<SocketAddr> = fronts.addresses().collect();
        for address in self.open.extract_if(.., |open| !wanted.contains(open)) {
            for worker in &self.workers {
                let _ = worker.send(Order::Close(address));
            }
        }
        self.closed.clear();
        for address in wanted {
            if self.open.contains(&address) {
                continue;
            }
            match self.open(address, snapshot) {
                Ok(()) => drop(self.open.insert(address)),
                Err(error) => drop(self.closed.insert(address, error.to_string())),
            }
        }
    }

    fn open(&self, address: SocketAddr, snapshot: &Snapshot) -> io::Result<()> {
        let listeners = snapshot.listeners.iter().map(|listener| listener.address);
        let is_all = |one: SocketAddr| one.ip().is_unspecified() && one.port() == address.port();
        let group = Group {
            address,
            // The kernel path serves addresses that the host does not have, too; they may come later.
            foreign: true,
            shared: listeners.clone().any(is_all),
        };
        let sockets = group.open(self.workers.len())?;
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let _ = worker.send(Order::Open(address, socket));
        }
        Ok(())
    }

    /// Says what will not work, each once until it is gone and comes back.
    fn warn(&mut self, snapshot: &Snapshot) {
        let fronts = self.shared.fronts.load_full();
        let unserved = unserved(snapshot);
        let closed: Vec<String> = (self.closed.iter())
            .map(|(address, why)| format!("cannot listen at {address} for a VIP: {why}"))
            .collect();
        self.next.unserved = unserved.len() + closed.len();
        self.next.unheard.clone_from(&self.closed);
        self.next.undelivered = undelivered(&fronts);
        let warnings = unserved
            .into_iter()
            .chain(closed)
            .chain(self.next.undelivered.iter().copied().map(nowhere))
            .chain(self.otherwise(&fronts, snapshot));
        self.next.warnings = warnings.collect();
        for warning in &self.next.warnings {
            if !self.warned.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warned = self.next.warnings.iter().cloned().collect();
    }

    /// What VIPs do not get that they would get in the kernel; of no interest where a relay was asked
    /// for, which the configuration's notices tell of.
    fn otherwise(&self, fronts: &Fronts, snapshot: &Snapshot) -> Vec<String> {
        if self.next.reason.is_empty() || fronts.all().is_empty() {
            return Vec::new();
        }
        let forwardings = fronts.all().iter().filter_map(|front| forwarded(front));
        let acl = loses_acl(&snapshot.acl.spec).then(|| format!("VIPs are relayed: {RELAYED_ACL}"));
        forwardings
            .chain(unlimited(fronts, snapshot))
            .chain(acl)
            .collect()
    }

    /// Reads all figures and publishes a report.
    fn report(&mut self) {
        let fronts = self.shared.fronts.load();
        self.next.at = self.shared.clock.now();
        self.next.vips = fronts.all().iter().map(|front| vip(front)).collect();
        self.next.connections.entries = self.shared.open.load(Relaxed).into();
        self.next.connections.max = self.shared.spec.max_connections;
        self.reporter.publish(self.next.clone());
    }
}

fn vip(front: &Front) -> VipReport {
    let counts = &front.counts;
    let refused = counts.refusals();
    VipReport {
        vip: front.spec.clone(),
        id: 0,
        table: 0,
        generation: 0,
        traffic: Traffic {
            bytes_in: counts.bytes_in.load(Relaxed),
            bytes_out: counts.bytes_out.load(Relaxed),
            connections: counts.connections.load(Relaxed),
            dropped: refused.iter().sum(),
            ..Traffic::default()
        },
        drops: Counters::default(),
        live: Some(counts.live.load(Relaxed)),
        relayed: Some(RelayedVip { refused }),
    }
}

/// VIPs that cannot be relayed.
fn unserved(snapshot: &Snapshot) -> Vec<String> {
    let vips = snapshot.vips.iter();
    vips.filter_map(|vip| {
        let why = vip.relay_obstacle()?;
        Some(format!("VIP {vip} is not served: {why}"))
    })
    .collect()
}

/// What the instances of a VIP see and answer that is not what their service says.
fn forwarded(front: &Front) -> Option<String> {
    let lost = lost_forwarding(front.service.spec.forwarding)?;
    let (vip, service) = (&front.spec, &front.spec.service);
    Some(format!(
        "VIP {vip} is relayed: instances of service {service} {lost}"
    ))
}

/// Limits of the services that VIPs lead to, whoever serves in their place, that do not hold.
fn unlimited(fronts: &Fronts, snapshot: &Snapshot) -> Vec<String> {
    let names: BTreeSet<&str> = (fronts.all().iter())
        .map(|front| front.spec.service.as_str())
        .collect();
    let services = names.into_iter().filter_map(|name| snapshot.service(name));
    services
        .flat_map(|service| {
            let (spec, name) = (&service.spec, service.name());
            let lost = lost_limits(&spec.limits.arrivals, spec.forwarding);
            lost.into_iter()
                .map(move |lost| format!("connections of service {name} are relayed: {lost}"))
        })
        .collect()
}

/// Addresses of VIPs whose packets do not reach any socket.
fn undelivered(fronts: &Fronts) -> BTreeSet<IpAddr> {
    let addresses: BTreeSet<_> = fronts
        .all()
        .iter()
        .map(|front| front.spec.address)
        .collect();
    addresses
        .into_iter()
        .filter(|address| net::is_delivered(*address) == Some(false))
        .collect()
}

fn nowhere(address: IpAddr) -> String {
    let (family, length) = match address.is_ipv4() {
        true => ("", 32),
        false => (" -6", 128),
    };
    format!(
        "{address} is no address of this host, so packets for its VIPs reach nobody until \
         `ip{family} route add local {address}/{length} dev lo`"
    )
}
