//! Metrics of the daemon itself, from `/proc/self`.

use std::{fs, io};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names::{self, Family},
    samples::{Samples, describe},
};
use crate::model::{Clock, Timestamp};

/// Units of the times in `/proc/self/stat`: `USER_HZ`, which is 100 on every architecture that
/// Linux shows to user space (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    clock: Clock,
    started: Timestamp,
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new(clock: Clock) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::BUILD,
            &names::UPTIME,
            &names::CPU,
            &names::RESIDENT,
            &names::VIRTUAL,
            &names::OPEN_FDS,
            &names::MAX_FDS,
            &names::THREADS,
        ])?;
        Ok(Self {
            started: clock.now(),
            clock,
            descriptions,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut build = Samples::new(&names::BUILD);
        build.add(&[env!("CARGO_PKG_VERSION")], 1.0);
        let uptime = (self.clock.now() - self.started).as_secs_f64();
        let mut families = vec![build.finish(), single(&names::UPTIME, uptime)];
        // A system that hides /proc costs these figures and nothing else.
        match usage() {
            Ok(usage) => families.extend(usage.map(|(family, value)| single(family, value))),
            Err(error) => tracing::debug!(%error, "cannot read the daemon's own figures"),
        }
        families
    }
}

fn single(family: &'static Family, value: f64) -> MetricFamily {
    let mut samples = Samples::new(family);
    samples.add(&[], value);
    samples.finish()
}

fn usage() -> io::Result<[(&'static Family, f64); 6]> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let limits = fs::read_to_string("/proc/self/limits")?;
    let descriptors = fs::read_dir("/proc/self/fd")?.count();
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self has another form");
    let kib = |key| Some(field(&status, key)? * 1024.0);
    Ok([
        (&names::CPU, cpu_seconds(&stat).ok_or_else(missing)?),
        (&names::RESIDENT, kib("VmRSS:").ok_or_else(missing)?),
        (&names::VIRTUAL, kib("VmSize:").ok_or_else(missing)?),
        // The directory was open while it was read.
        (&names::OPEN_FDS, descriptors.saturating_sub(1) as f64),
        (
            &names::MAX_FDS,
            field(&limits, "Max open files").ok_or_else(missing)?,
        ),
        (
            &names::THREADS,
            field(&status, "Threads:").ok_or_else(missing)?,
        ),
    ])
}

/// User and system time. The name before the fields may hold spaces and brackets, so counting
/// starts after the last bracket: `state` is the third field, `utime` the 14th, `stime` the 15th.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The first number after `key`.
fn field(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let stat = "7 (lb) x) S 1 7 7 0 -1 4194304 1 2 3 4 250 150 0 0 20 0 5 0 99 1 1";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("7 (lb) S 1"), None);
    }

    #[test]
    fn this_process_has_figures() {
        for (family, value) in usage().unwrap() {
            let least = if family.name == names::CPU.name {
                0.0
            } else {
                1.0
            };
            assert!(value >= least, "{} {value}", family.name);
        }
        assert_eq!(
            field("Max open files  unlimited 5 files", "Max open files"),
            Some(f64::INFINITY)
        );
    }
}
