//! `/datapath`: the packet path's own report, as a document.

use axum::extract::State;
use lb_common::{Counter, CounterKind, Counters};

use super::{
    answer::Answer,
    document::tag,
    measure,
    state::ApiState,
    types::{
        ConnectionTable, CounterValue, Datapath, DropCount, Envelope, Interface, NarrowPath,
        Packets, Reconcile, Usage, VipTraffic,
    },
};
use crate::l4::{Attachment, PathMode, PathMtuReport, Report, VipReport};

/// How the packet path is and what it counts
///
/// Mode, interfaces, counters, drop reasons, VIPs and the connection table.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/datapath",
    tag = tag::PACKET_PATH,
    operation_id = "getDatapath",
    responses((status = OK, body = Envelope<Datapath>, description = "The packet path"))
)]
pub(super) async fn datapath(State(state): State<ApiState>) -> Answer<Datapath> {
    Answer::ok(document(&*state.fresh_report().await))
}

pub(super) fn document(report: &Report) -> Datapath {
    Datapath {
        attached: report.mode.is_some_and(PathMode::is_attached),
        mode: report.mode.map(|mode| mode.as_str().to_owned()),
        reason: report.reason.clone(),
        warnings: report.warnings.clone(),
        interfaces: interfaces(&report.interfaces),
        packets: packets(&report.counters),
        counters: counters(&report.counters),
        vips: report.vips.iter().map(vip).collect(),
        connections: ConnectionTable {
            entries: report.connections.entries,
            max: u64::from(report.connections.max),
            forgotten: report.connections.forgotten,
            corrected: report.connections.corrected,
        },
        clients: Usage {
            used: report.clients.used,
            max: u64::from(report.clients.max),
        },
        path_mtus: report.path_mtus.iter().map(path_mtu).collect(),
        tables: Usage {
            used: report.tables_used as u64,
            max: u64::from(report.tables_max),
        },
        reconcile: Reconcile {
            revision: report.reconcile.revision,
            took_ms: measure::round(report.reconcile.took.as_secs_f64() * 1e3),
            writes: report.reconcile.writes,
            failures: report.reconcile.failures,
            error: report.reconcile.error.clone(),
        },
    }
}

/// Where the program is attached.
pub(crate) fn interfaces(attachments: &[Attachment]) -> Vec<Interface> {
    let interfaces = attachments.iter().map(|attachment| Interface {
        interface: attachment.interface.clone(),
        mode: attachment.mode.as_str().to_owned(),
    });
    interfaces.collect()
}

/// What became of the packets.
pub(crate) fn packets(counters: &Counters) -> Packets {
    Packets {
        received: counters.get(Counter::Received),
        forwarded: counters.total(CounterKind::Forwarded),
        passed: counters.total(CounterKind::Passed),
        dropped: counters.total(CounterKind::Dropped),
    }
}

/// Each counter.
pub(crate) fn counters(counters: &Counters) -> Vec<CounterValue> {
    let values = Counter::ALL.iter().map(|counter| CounterValue {
        number: *counter as u32,
        counter: counter.label().to_owned(),
        kind: match counter.kind() {
            CounterKind::Received => "received",
            CounterKind::Forwarded => "forwarded",
            CounterKind::Passed => "passed",
            CounterKind::Dropped => "dropped",
            CounterKind::Event => "event",
        }
        .to_owned(),
        count: counters.get(*counter),
    });
    values.collect()
}

/// The reasons that have occurred.
fn drops(counters: &Counters) -> Vec<DropCount> {
    let counted = Counter::ALL.iter().map(|reason| DropCount {
        reason: reason.label().to_owned(),
        count: counters.get(*reason),
    });
    counted.filter(|reason| reason.count > 0).collect()
}

fn path_mtu(report: &PathMtuReport) -> NarrowPath {
    NarrowPath {
        address: report.address.to_string(),
        mtu: report.mtu,
        expires_in_seconds: measure::round(report.left.as_secs_f64()),
    }
}

fn vip(report: &VipReport) -> VipTraffic {
    let traffic = &report.traffic;
    VipTraffic {
        vip: report.vip.to_string(),
        service: report.vip.service.to_string(),
        generation: report.generation,
        connections: traffic.connections,
        packets_in: traffic.packets_in,
        bytes_in: traffic.bytes_in,
        packets_out: traffic.packets_out,
        bytes_out: traffic.bytes_out,
        dropped: traffic.dropped,
        drops: drops(&report.drops),
        live: report.live,
    }
}
