//! What the packet path is doing, for the API, the metrics and the CLI.
//!
//! A [`Report`] is a value without a tie to the kernel; whoever holds a [`Handle`] sees the latest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lb_common::{Counters, Traffic};
use tokio::sync::{Notify, watch};

use super::{
    L4Error,
    datapath::{AttachMode, Attachment, kernel::Rehearsal},
    flows::{Filter, FlowFigures, Flows, Followed},
    rehearsal::{Probe, Rehearsed},
};
use crate::model::{RelayRefusal, Timestamp, VipSpec};

/// Reports younger than this are good enough for whoever asks for a fresh one.
const FRESH: Duration = Duration::from_millis(100);
/// How long a fresh report is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// How the packet path stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// When the figures were read.
    pub at: Timestamp,
    /// How VIPs are served: native only when the program is so on every interface. `None`: they are
    /// not.
    pub mode: Option<PathMode>,
    /// Why the mode is what it is; empty when it is what was asked for.
    pub reason: String,
    /// Interfaces and modes.
    pub interfaces: Vec<Attachment>,
    /// What will not work, and why, a sentence each.
    pub warnings: Vec<String>,
    /// Packets and events, all CPUs. Received = forwarded + passed + dropped, once the packets that
    /// are just being worked on are through.
    pub counters: Counters,
    /// VIPs that a relay cannot serve, and addresses that it cannot listen at.
    pub unserved: usize,
    /// Addresses and ports that a relay cannot listen at, and why.
    pub unheard: BTreeMap<SocketAddr, String>,
    /// Addresses of VIPs whose packets reach no socket of the host's, so none of a relay's.
    pub undelivered: BTreeSet<IpAddr>,
    /// VIPs and their traffic.
    pub vips: Vec<VipReport>,
    /// The connection table.
    pub connections: ConnectionReport,
    /// Clients whose instance is remembered.
    pub clients: ClientReport,
    /// Instances whose paths are narrower than the host's routes say, as the last walk has found them.
    pub path_mtus: Vec<PathMtuReport>,
    /// Tables that VIPs point to.
    pub tables_used: usize,
    /// Tables that could be pointed to.
    pub tables_max: u32,
    /// How bringing snapshots into the kernel goes.
    pub reconcile: ReconcileReport,
    /// How long nothing must be heard of a connection that nobody remembers until it is over.
    pub silence: Duration,
}

/// What a router has said of the path to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtuReport {
    /// The instance's address.
    pub address: IpAddr,
    /// Largest IP packet that the path takes, in bytes.
    pub mtu: u32,
    /// How much longer that holds, unless it is said again.
    pub left: Duration,
}

/// How many clients' instances are remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientReport {
    /// As counted by the last walk.
    pub used: u64,
    /// At most.
    pub max: u32,
}

/// A VIP and its traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct VipReport {
    /// As configured.
    pub vip: VipSpec,
    /// Index of its counters.
    pub id: u32,
    /// Index of its table.
    pub table: u32,
    /// How often it was pointed to another table.
    pub generation: u32,
    /// Its traffic since it was published. A relay sees no packets: what counts as dropped there are
    /// connections that it has refused.
    pub traffic: Traffic,
    /// Its packets that were not forwarded, by reason; their sum is what its traffic has as dropped. A
    /// relay has none.
    pub drops: Counters,
    /// Connections that are open: as counted by the last walk over the connection table, of those that
    /// are remembered, `None` until one is over that has begun with the VIP there; of a relay now.
    pub live: Option<u64>,
    /// What only a relay knows.
    pub relayed: Option<RelayedVip>,
}

/// What only a relay knows of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayedVip {
    /// Connections that were refused, by [`RelayRefusal::ALL`].
    pub refused: [u64; RelayRefusal::ALL.len()],
}

/// How VIPs are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMode {
    /// By the program, attached to drivers.
    Native,
    /// By the program, attached to the network stack of an interface or more.
    Generic,
    /// By the program, attached to traffic control.
    Tc,
    /// By the daemon's own sockets.
    Relay,
}

impl PathMode {
    /// The name in API, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
            Self::Relay => "relay",
        }
    }

    /// Whether the program is attached.
    #[must_use]
    pub const fn is_attached(self) -> bool {
        matches!(self, Self::Native | Self::Generic | Self::Tc)
    }
}

impl From<AttachMode> for PathMode {
    fn from(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Native => Self::Native,
            AttachMode::Generic => Self::Generic,
            AttachMode::Tc => Self::Tc,
        }
    }
}

/// The connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Entries, as counted by the last pass over the table. A `nat` connection has two.
    pub entries: u64,
    /// Entries that fit.
    pub max: u32,
    /// Entries forgotten since start because their time was over.
    pub forgotten: u64,
    /// By how much live counters had to be put right since start.
    pub corrected: u64,
}

/// How bringing snapshots into the kernel goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// The revision that the maps hold completely; 0 before the first.
    pub revision: u64,
    /// When they held it.
    pub held: Timestamp,
    /// How long the last pass took.
    pub took: Duration,
    /// Values written since start.
    pub writes: u64,
    /// Passes since start that failed.
    pub failures: u64,
    /// Why the last pass failed; `None` when it did not.
    pub error: Option<String>,
}

/// A view of the packet path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    reports: watch::Receiver<Arc<Report>>,
    asked: Arc<Notify>,
    rehearsal: Option<Arc<Rehearsal>>,
    flows: Option<Flows>,
}

/// The other end of a [`Handle`].
#[derive(Debug)]
pub(crate) struct Reporter {
    reports: watch::Sender<Arc<Report>>,
    asked: Arc<Notify>,
}

impl Reporter {
    /// A reporter whose first report is `report`.
    pub(crate) fn new(report: Report) -> Self {
        Self {
            reports: watch::Sender::new(Arc::new(report)),
            asked: Arc::default(),
        }
    }

    /// A view of the reports.
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            reports: self.reports.subscribe(),
            asked: Arc::clone(&self.asked),
            rehearsal: None,
            flows: None,
        }
    }

    /// Waits until somebody wants a fresh report.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The latest report.
    pub(crate) fn latest(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    /// Publishes `report`.
    pub(crate) fn publish(&self, report: Report) {
        self.reports.send_replace(Arc::new(report));
    }
}

impl Handle {
    /// A handle to a packet path that is not there, and why.
    #[must_use]
    pub fn off(reason: impl Into<String>) -> Self {
        Reporter::new(Report {
            reason: reason.into(),
            ..Report::default()
        })
        .handle()
    }

    /// With something to [`Handle::rehearse`] on, and to [`Handle::follow`].
    #[must_use]
    pub(crate) fn with(mut self, rehearsal: Rehearsal, flows: Flows) -> Self {
        self.rehearsal = Some(Arc::new(rehearsal));
        self.flows = Some(flows);
        self
    }

    /// With something to [`Handle::follow`] alone.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn followed(mut self, flows: Flows) -> Self {
        self.flows = Some(flows);
        self
    }

    /// Begins to follow packets.
    ///
    /// # Errors
    /// When there is no packet path in the kernel, or too many follow already.
    pub async fn follow(&self, filter: Filter) -> Result<Followed, L4Error> {
        let flows = self.flows.as_ref().ok_or_else(|| self.absent())?;
        flows.follow(filter).await
    }

    /// How following goes; `None` without a packet path in the kernel.
    #[must_use]
    pub fn flow_figures(&self) -> Option<FlowFigures> {
        self.flows.as_ref().map(Flows::figures)
    }

    fn absent(&self) -> L4Error {
        let report = self.report();
        L4Error::NoPath {
            why: match (report.mode, report.reason.as_str()) {
                (Some(PathMode::Relay), "") => "lb relays them, as datapath.mode says".to_owned(),
                (_, reason) => reason.to_owned(),
            },
        }
    }

    /// What the packet path would do with a packet. It takes a processor for some tenths of a second,
    /// and blocks for as long.
    ///
    /// # Errors
    /// When there is no packet path in the kernel, or the packet cannot be.
    pub fn rehearse(&self, probe: &Probe) -> Result<Rehearsed, L4Error> {
        let rehearsal = self.rehearsal.as_ref();
        let rehearsal = rehearsal.ok_or_else(|| self.absent())?;
        rehearsal.run(probe)
    }

    /// The latest report, a second old at most while the packet path runs.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    /// Tells when there is another report.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        self.reports.clone()
    }

    /// A report that was made just now: at most a tenth of a second before `now`. When none can be
    /// had soon, the latest one.
    pub async fn fresh(&self, now: Timestamp) -> Arc<Report> {
        let mut reports = self.reports.clone();
        let latest = Arc::clone(&reports.borrow_and_update());
        if now.since(latest.at) < FRESH || reports.has_changed().is_err() {
            return latest;
        }
        self.asked.notify_one();
        // A worker that has gone away or is busy must not hold up whoever only wants to look.
        let _ = tokio::time::timeout(PATIENCE, reports.changed()).await;
        self.report()
    }

    /// A report whose figures were read when the kernel held `revision` already. When that takes
    /// too long, the latest one.
    pub async fn holding(&self, revision: u64) -> Arc<Report> {
        let mut reports = self.reports.clone();
        let held = reports.wait_for(|report| report.reconcile.revision >= revision);
        let _ = tokio::time::timeout(PATIENCE, held).await;
        self.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fresh_report_is_asked_for_only_when_the_latest_is_old() {
        let reporter = Reporter::new(Report::default());
        let handle = reporter.handle();
        let young = Timestamp(50_000);
        assert_eq!(handle.fresh(young).await.at, Timestamp(0));
        let old = Timestamp(10_000_000);
        let worker = async {
            reporter.asked().await;
            reporter.publish(Report {
                at: old,
                ..Report::default()
            });
        };
        let (report, ()) = tokio::join!(handle.fresh(old), worker);
        assert_eq!(report.at, old);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_packet_path_that_is_not_there() {
        let handle = Handle::off("no interface");
        let report = handle.fresh(Timestamp(1_000_000)).await;
        assert_eq!(
            (report.mode, report.reason.as_str()),
            (None, "no interface")
        );
    }
}
