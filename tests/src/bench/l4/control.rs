//! What the control plane costs: building tables, bringing a change into the kernel, memory.

use std::fs;
use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use lb_userspace::balance::maglev;

use super::change::{Change, Live};
use crate::bench::report::{Comparison, Series};

/// Instances of a table, and slots.
const TABLES: [(usize, usize); 6] = [
    (10, 65_537),
    (1000, 65_537),
    (10_000, 65_537),
    (10, 655_373),
    (1000, 655_373),
    (10_000, 655_373),
];

/// Instances of the service that changes.
const INSTANCES: u16 = 1000;
/// VIPs that are added to see what one takes.
const VIPS: u16 = 20;

/// Measures `rounds` rounds. `progress` is told what runs, and what is left out.
///
/// # Errors
/// When this process may not load programs.
pub(super) fn run(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Comparison>> {
    let mut comparisons = vec![tables(rounds, progress)];
    Live::in_network(|live| {
        comparisons.extend(changes(live, rounds, progress)?);
        Ok(())
    })?;
    Live::in_network(|live| {
        comparisons.push(memory(live, progress)?);
        Ok(())
    })?;
    Ok(comparisons)
}

fn series(name: String, values: Vec<f64>) -> Series {
    Series { name, values }
}

fn tables(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Comparison {
    let mut all: Vec<Series> = TABLES
        .iter()
        .map(|(members, slots)| series(format!("{members} instances, {slots}"), Vec::new()))
        .collect();
    for round in 0..rounds {
        for ((members, slots), series) in TABLES.iter().zip(&mut all) {
            let members: Vec<(u64, u32)> = (1..=*members as u64).map(|key| (key, 100)).collect();
            let begin = Instant::now();
            black_box(maglev::table(black_box(&members), *slots));
            let time = begin.elapsed().as_nanos() as f64 / 1e6;
            progress(&format!(
                "tables, round {}/{rounds}: {} {time:.2} ms",
                round + 1,
                series.name
            ));
            series.values.push(time);
        }
    }
    Comparison {
        title: "building a Maglev table of so many instances and slots".to_owned(),
        unit: "ms",
        series: all,
    }
}

fn changes(
    live: &mut Live,
    rounds: u32,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Vec<Comparison>> {
    live.serve(1, INSTANCES)?;
    let kinds = [Change::Drain, Change::Enable, Change::Weight];
    let names = [
        "an instance drains",
        "it is enabled again",
        "its weight changes",
    ];
    let of = format!("one service of {INSTANCES} instances");
    let mut comparisons = [
        (format!("from a change to the kernel, {of}"), "ms"),
        (format!("of that bringing it into the kernel, {of}"), "ms"),
        (format!("values that a change writes, {of}"), "system calls"),
    ]
    .map(|(title, unit)| Comparison {
        title,
        unit,
        series: names
            .map(|name| series(name.to_owned(), Vec::new()))
            .to_vec(),
    });
    for round in 0..rounds {
        for (at, (kind, name)) in kinds.into_iter().zip(names).enumerate() {
            let cost = live.change(kind, (round % u32::from(INSTANCES)) as u16)?;
            let ms = |time: Duration| time.as_nanos() as f64 / 1e6;
            let values = [ms(cost.whole), ms(cost.kernel), cost.writes as f64];
            for (comparison, value) in comparisons.iter_mut().zip(values) {
                comparison.series[at].values.push(value);
            }
            progress(&format!(
                "changes, round {}/{rounds}: {name}: {cost:.2?}",
                round + 1
            ));
        }
    }
    Ok(comparisons.into())
}

fn memory(live: &mut Live, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Comparison> {
    let start = maps(live.since)?;
    for (name, bytes) in &start {
        progress(&format!(
            "memory at start: {name} {:.3} MB",
            megabytes(*bytes)
        ));
    }
    let start: u64 = start.iter().map(|(_, bytes)| bytes).sum();
    live.serve(VIPS, 3)?;
    let then: u64 = maps(live.since)?.iter().map(|(_, bytes)| bytes).sum();
    let each = megabytes(then.saturating_sub(start)) / f64::from(VIPS);
    Ok(Comparison {
        title: "memory of all maps, by the kernel's account".to_owned(),
        unit: "MB",
        series: vec![
            series("at start".to_owned(), vec![megabytes(start)]),
            series("each VIP".to_owned(), vec![each]),
        ],
    })
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The memory of each map that is newer than the map with the id `since`, by its name.
fn maps(since: u32) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for map in loaded_maps() {
        let map = map?;
        if map.id() <= since {
            continue;
        }
        let descriptor = map.fd()?;
        let number = descriptor.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = bytes.and_then(|bytes| bytes.trim().parse().ok());
        let name = map.name_as_str().unwrap_or_default().to_owned();
        found.push((name, bytes.context("a map without an account")?));
    }
    Ok(found)
}
