//! Metrics of the packet path, from its own report.

use lb_common::{Counter, CounterKind};
use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names::{self, Family},
    samples::{Samples, describe},
};
use crate::{
    l4::{FlowFigures, Handle, PathMode, Report},
    model::RelayRefusal,
};

/// Reads the packet path's latest report at each scrape.
#[derive(Debug)]
pub(super) struct PacketCollector {
    packet_path: Handle,
    descriptions: Vec<Desc>,
}

impl PacketCollector {
    pub(super) fn new(packet_path: Handle) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::L4_MODE,
            &names::L4_ATTACHED,
            &names::L4_RECEIVED,
            &names::L4_PACKETS,
            &names::L4_EVENTS,
            &names::L4_FLOW_FOLLOWERS,
            &names::L4_FLOW_EVENTS,
            &names::L4_VIP_PACKETS,
            &names::L4_VIP_BYTES,
            &names::L4_VIP_CONNECTIONS,
            &names::L4_VIP_LIVE,
            &names::L4_VIP_DROPPED,
            &names::L4_VIP_DROPS,
            &names::L4_VIP_GENERATION,
            &names::L4_RELAY_REFUSED,
            &names::L4_RELAY_MAX,
            &names::L4_ENTRIES,
            &names::L4_ENTRIES_MAX,
            &names::L4_FORGOTTEN,
            &names::L4_TABLES,
            &names::L4_TABLES_MAX,
            &names::L4_REVISION,
            &names::L4_WRITES,
            &names::L4_FAILURES,
            &names::L4_RECONCILE_TIME,
        ])?;
        Ok(Self {
            packet_path,
            descriptions,
        })
    }
}

impl Collector for PacketCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let report = self.packet_path.report();
        let Some(mode) = report.mode else {
            // There is no packet path, and zeros would say that there is an idle one.
            return Vec::new();
        };
        let mut families = vec![one(&names::L4_MODE, &[mode.as_str()], 1.0)];
        if mode == PathMode::Relay {
            families.extend(relay(&report));
            return families;
        }
        families.extend(program(&report));
        families.extend(vips(&report));
        families.extend(reasons(&report));
        families.extend(maps(&report));
        families.extend(
            self.packet_path
                .flow_figures()
                .map(flows)
                .into_iter()
                .flatten(),
        );
        families
    }
}

fn program(report: &Report) -> [MetricFamily; 4] {
    let mut attached = Samples::new(&names::L4_ATTACHED);
    for attachment in &report.interfaces {
        attached.add(&[&attachment.interface, attachment.mode.as_str()], 1.0);
    }
    let mut received = Samples::new(&names::L4_RECEIVED);
    let mut packets = Samples::new(&names::L4_PACKETS);
    let mut events = Samples::new(&names::L4_EVENTS);
    for counter in Counter::ALL {
        let (label, count) = (counter.label(), report.counters.get(*counter) as f64);
        match counter.kind() {
            CounterKind::Received => received.add(&[], count),
            CounterKind::Forwarded => packets.add(&["forwarded", label], count),
            CounterKind::Passed => packets.add(&["passed", label], count),
            CounterKind::Dropped => packets.add(&["dropped", label], count),
            CounterKind::Event => events.add(&[label], count),
        }
    }
    [attached, received, packets, events].map(Samples::finish)
}

/// How following packets goes.
fn flows(figures: FlowFigures) -> [MetricFamily; 2] {
    let mut events = Samples::new(&names::L4_FLOW_EVENTS);
    events.add(&["delivered"], figures.delivered as f64);
    events.add(&["lost"], figures.lost as f64);
    let followers = figures.followers as f64;
    [
        one(&names::L4_FLOW_FOLLOWERS, &[], followers),
        events.finish(),
    ]
}

/// What only the kernel counts of VIPs.
fn reasons(report: &Report) -> [MetricFamily; 2] {
    let mut drops = Samples::new(&names::L4_VIP_DROPS);
    let mut generations = Samples::new(&names::L4_VIP_GENERATION);
    for report in &report.vips {
        let (vip, service) = (report.vip.to_string(), report.vip.service.as_str());
        generations.add(&[&vip, service], report.generation.into());
        for reason in Counter::ALL {
            let count = report.drops.get(*reason);
            if count > 0 {
                drops.add(&[&vip, service, reason.label()], count as f64);
            }
        }
    }
    [drops, generations].map(Samples::finish)
}

fn vips(report: &Report) -> [MetricFamily; 5] {
    let mut packets = Samples::new(&names::L4_VIP_PACKETS);
    let mut bytes = Samples::new(&names::L4_VIP_BYTES);
    let mut connections = Samples::new(&names::L4_VIP_CONNECTIONS);
    let mut live = Samples::new(&names::L4_VIP_LIVE);
    let mut dropped = Samples::new(&names::L4_VIP_DROPPED);
    for report in &report.vips {
        let (vip, service) = (report.vip.to_string(), report.vip.service.as_str());
        let traffic = &report.traffic;
        packets.add(&[&vip, service, "in"], traffic.packets_in as f64);
        packets.add(&[&vip, service, "out"], traffic.packets_out as f64);
        bytes.add(&[&vip, service, "in"], traffic.bytes_in as f64);
        bytes.add(&[&vip, service, "out"], traffic.bytes_out as f64);
        connections.add(&[&vip, service], traffic.connections as f64);
        if let Some(count) = report.live {
            live.add(&[&vip, service], count as f64);
        }
        dropped.add(&[&vip, service], traffic.dropped as f64);
    }
    [packets, bytes, connections, live, dropped].map(Samples::finish)
}

/// A relay sees connections and bytes, no packets, and has no maps.
fn relay(report: &Report) -> [MetricFamily; 6] {
    let [_, bytes, connections, live, _] = vips(report);
    let mut refused = Samples::new(&names::L4_RELAY_REFUSED);
    for report in &report.vips {
        let (vip, service) = (report.vip.to_string(), report.vip.service.as_str());
        let Some(relayed) = report.relayed else {
            continue;
        };
        for (why, count) in RelayRefusal::ALL.iter().zip(relayed.refused) {
            refused.add(&[&vip, service, why.label()], count as f64);
        }
    }
    let most = one(&names::L4_RELAY_MAX, &[], report.connections.max.into());
    let revision = one(&names::L4_REVISION, &[], report.reconcile.revision as f64);
    [bytes, connections, live, refused.finish(), most, revision]
}

fn one(family: &'static Family, labels: &[&str], value: f64) -> MetricFamily {
    let mut samples = Samples::new(family);
    samples.add(labels, value);
    samples.finish()
}

fn maps(report: &Report) -> Vec<MetricFamily> {
    let (connections, reconcile) = (&report.connections, &report.reconcile);
    let values: [(&'static Family, f64); 11] = [
        (&names::L4_ENTRIES, connections.entries as f64),
        (&names::L4_ENTRIES_MAX, f64::from(connections.max)),
        (&names::L4_FORGOTTEN, connections.forgotten as f64),
        (&names::L4_CLIENTS, report.clients.used as f64),
        (&names::L4_CLIENTS_MAX, f64::from(report.clients.max)),
        (&names::L4_TABLES, report.tables_used as f64),
        (&names::L4_TABLES_MAX, f64::from(report.tables_max)),
        (&names::L4_REVISION, reconcile.revision as f64),
        (&names::L4_WRITES, reconcile.writes as f64),
        (&names::L4_FAILURES, reconcile.failures as f64),
        (&names::L4_RECONCILE_TIME, reconcile.took.as_secs_f64()),
    ];
    let families = values
        .iter()
        .map(|(family, value)| one(family, &[], *value));
    families.collect()
}
