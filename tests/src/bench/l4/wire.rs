//! Packets and connections on the wire: lb beside the kernel's own balancer, nftables' DNAT by `numgen`
//! with masquerading, which does what `nat` does.
//!
//! Both stand in the same network, each on a host of its own, before the same instances, and take turns
//! within each round. Everything that has to do with a packet, from its sender's system call to its
//! receiver's queue, runs on one processor, in the context of the sender, of the instance, or of the
//! kernel's thread for what they leave over; the processor time of these is what is counted. A kernel
//! that accounts for interrupts separately (`CONFIG_IRQ_TIME_ACCOUNTING`) leaves the packets' part of it
//! out, and the figures mean nothing. What packets cost without a balancer, straight to the instance, is
//! measured in the same round and taken off.
//!
//! Each balancer also has a floor, which does what it does without balancing: for nftables a router that
//! only forwards, on the same host; for lb a program at the same hook that sends packets to one instance, on a host like
//! lb's. A veth pair copies each packet that it gives to an XDP program and wakes up the other end for
//! each that it sends, which no network card has to do; with its floor taken off, what is left is what
//! the balancer itself costs.
//!
//! Queues of veth have 256 places. What overflows them is no longer on its way: the share that arrives
//! is measured too.

mod stage;
mod traffic;

use std::iter;

use anyhow::Result;

use self::stage::{Stage, Way};
use crate::bench::report::{Comparison, Series};

/// What is measured of a way.
const FIGURES: [(&str, &str); 7] = [
    ("a packet, one way", "ns per packet"),
    ("a connection, from SYN to end", "µs per connection"),
    ("latency, median", "µs there and back"),
    ("latency, 99th percentile", "µs there and back"),
    ("packets that arrive of as many as can be sent", "per cent"),
    ("most packets a second of which all arrive", "thousands"),
    ("connections a second, one after the other", "per second"),
];
/// So many of them, from the first, are costs, of which others can be taken off.
const COSTS: usize = 4;

/// Measures `rounds` rounds. `progress` is told what runs, and what is left out.
///
/// # Errors
/// When this process may not make namespaces, or something does not come up.
pub(super) fn run(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Comparison>> {
    let stage = Stage::make(progress)?;
    let mut all = FIGURES.map(|(title, unit)| comparison(title, unit, &stage.ways));
    for round in 0..rounds {
        for step in 0..stage.ways.len() {
            let at = (step + round as usize) % stage.ways.len();
            let way = &stage.ways[at];
            let figures = measure(&stage, way)?;
            for (comparison, figure) in all.iter_mut().zip(figures) {
                comparison.series[at].values.push(figure);
            }
            let [packet, connection, median, tail, arrive, most, rate] = figures;
            progress(&format!(
                "on the wire, round {}/{rounds}: {}: {packet:.0} ns a packet ({arrive:.1} % of as many \
                 as can be sent arrive, all of {most:.0},000 a second), {connection:.0} µs a connection \
                 ({rate:.0} a second), {median:.0} and {tail:.0} µs",
                round + 1,
                way.name
            ));
        }
    }
    let costs = all.iter().take(COSTS);
    let mut comparisons: Vec<Comparison> = costs
        .clone()
        .filter_map(|comparison| own(comparison, &stage.ways))
        .collect();
    comparisons.extend(costs.map(|comparison| added(comparison, &stage.ways)));
    comparisons.extend(all);
    Ok(comparisons)
}

/// In the order of [`FIGURES`].
fn measure(stage: &Stage, way: &Way) -> Result<[f64; FIGURES.len()]> {
    let packets = stage.packets(way)?;
    let most = stage.most_packets(way, packets.sent_per_second)?;
    let connections = stage.connections(way)?;
    let (median, tail) = stage.latency(way)?;
    Ok([
        packets.cost,
        connections.cost,
        median,
        tail,
        packets.arrived,
        most / 1000.0,
        connections.per_second,
    ])
}

fn comparison(title: &str, unit: &'static str, ways: &[Way]) -> Comparison {
    let series = ways.iter().map(|way| Series {
        name: way.name.to_owned(),
        values: Vec::new(),
    });
    Comparison {
        title: format!("{title}, in all"),
        unit,
        series: series.collect(),
    }
}

/// What each way costs beyond the one without a balancer, which is the last.
fn added(all: &Comparison, ways: &[Way]) -> Comparison {
    let without = ways.len() - 1;
    let series = (0..without).map(|at| beyond(all, at, without));
    Comparison {
        title: all.title.replace(", in all", ", what the way adds"),
        unit: all.unit,
        series: series.collect(),
    }
}

/// What each balancer costs beyond its floor; `None` where nothing has any.
fn own(all: &Comparison, ways: &[Way]) -> Option<Comparison> {
    let place = |name| ways.iter().position(|way| way.name == name);
    let balancers = ways.iter().enumerate();
    let series = balancers.filter_map(|(at, way)| Some(beyond(all, at, place(way.floor?)?)));
    let series: Vec<Series> = series.collect();
    (!series.is_empty()).then(|| Comparison {
        title: all
            .title
            .replace(", in all", ", what the balancer adds to its floor"),
        unit: all.unit,
        series,
    })
}

fn beyond(all: &Comparison, at: usize, floor: usize) -> Series {
    let (series, floor) = (&all.series[at], &all.series[floor].values);
    let values = iter::zip(&series.values, floor).map(|(a, b)| a - b);
    Series {
        name: series.name.clone(),
        values: values.collect(),
    }
}
