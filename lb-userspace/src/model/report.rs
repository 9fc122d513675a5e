//! What an instance says of its own load.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::Timestamp;

/// A report, in the terms of ORCA (`OrcaLoadReport` of xDS): finite numbers of at least 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// How much of what it can do the instance is doing; 1 is all, and more is possible.
    pub utilization: f32,
    /// Requests a second that the instance serves, for whomever; 0 when it does not say.
    pub rate: f32,
    /// Failed requests a second; 0 when it does not say.
    pub errors: f32,
}

/// When reports count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportTimes {
    /// How long an instance must have reported before it is believed: a process that has just
    /// begun is idle and says so.
    pub blackout: Duration,
    /// How long the last report is believed; also the silence after which a blackout begins anew.
    pub expiry: Duration,
}

/// The reports of an instance: the last one, and since when there are any. Written by any worker,
/// read by the control plane. A reader may see the load of one report beside the rates of the next;
/// both are true.
#[derive(Debug, Default)]
pub struct LoadReports {
    /// Utilization as bits of an `f32`, and the time in milliseconds plus one; 0 is no report.
    load: AtomicU64,
    /// Requests and errors a second, as bits of two `f32`.
    rates: AtomicU64,
    /// Percent of its weight that it wants to have, and the time; 0 is nothing said.
    wanted: AtomicU64,
    /// When the first report of an unbroken row came, in milliseconds plus one; 0 is never.
    since: AtomicU32,
}

impl LoadReports {
    /// The least time between two reports that are worth being read.
    pub const PACE: Duration = Duration::from_millis(100);

    /// Whether a report that has come at `now` is worth being read.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.age(now).is_none_or(|age| age >= Self::PACE)
    }

    /// Takes in what the instance has said at `now`. `expiry` is the silence after which a row of
    /// reports is broken.
    pub fn record(&self, now: Timestamp, report: LoadReport, expiry: Duration) {
        if self.age(now).is_none_or(|age| age >= expiry) {
            self.since.store(stamp(now), Ordering::Relaxed);
        }
        let rates = pack(report.rate.to_bits(), report.errors.to_bits());
        self.rates.store(rates, Ordering::Relaxed);
        let load = pack(report.utilization.to_bits(), stamp(now));
        self.load.store(load, Ordering::Relaxed);
    }

    /// The last report, and how long ago it was; `None` when there is none.
    #[must_use]
    pub fn last(&self, now: Timestamp) -> Option<(LoadReport, Duration)> {
        let (utilization, at) = unpack(self.load.load(Ordering::Relaxed));
        let age = since(at, now)?;
        let (rate, errors) = unpack(self.rates.load(Ordering::Relaxed));
        let report = LoadReport {
            utilization: f32::from_bits(utilization),
            rate: f32::from_bits(rate),
            errors: f32::from_bits(errors),
        };
        Some((report, age))
    }

    /// The report to go by at `now`; `None` when there is none, the blackout is not over, or the
    /// last one is too old.
    #[must_use]
    pub fn get(&self, now: Timestamp, times: &ReportTimes) -> Option<LoadReport> {
        let (report, age) = self.last(now)?;
        let row = since(self.since.load(Ordering::Relaxed), now)?;
        (age < times.expiry && row >= times.blackout).then_some(report)
    }

    /// Notes what the instance has told a health check at `now`: the percent of its weight that it
    /// wants to have, or nothing.
    pub fn want(&self, now: Timestamp, percent: Option<u8>) {
        let word = percent.map_or(0, |percent| pack(percent.into(), stamp(now)));
        self.wanted.store(word, Ordering::Relaxed);
    }

    /// The percent of its weight that the instance wants to have, as told less than `within` ago.
    #[must_use]
    pub fn wanted(&self, now: Timestamp, within: Duration) -> Option<u8> {
        let (percent, at) = unpack(self.wanted.load(Ordering::Relaxed));
        let age = since(at, now)?;
        (age < within).then_some(percent.min(100) as u8)
    }

    /// Forgets every report.
    pub fn reset(&self) {
        self.wanted.store(0, Ordering::Relaxed);
        self.load.store(0, Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
    }

    fn age(&self, now: Timestamp) -> Option<Duration> {
        since(unpack(self.load.load(Ordering::Relaxed)).1, now)
    }
}

/// A time in milliseconds, never 0. It wraps after 49 days, and so do differences.
const fn stamp(now: Timestamp) -> u32 {
    let stamp = (now.0 / 1000) as u32;
    if stamp == 0 { 1 } else { stamp }
}

/// The time since a stamp; a stamp of a moment that is yet to come, from a worker that was quicker,
/// is now.
fn since(at: u32, now: Timestamp) -> Option<Duration> {
    let elapsed = (stamp(now).wrapping_sub(at) as i32).max(0);
    (at != 0).then(|| Duration::from_millis(elapsed as u64))
}

const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: ReportTimes = ReportTimes {
        blackout: Duration::from_secs(10),
        expiry: Duration::from_secs(180),
    };

    const REPORT: LoadReport = LoadReport {
        utilization: 0.5,
        rate: 10.0,
        errors: 1.0,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_report_counts_after_the_blackout_and_until_it_expires() {
        let reports = LoadReports::default();
        assert_eq!(reports.get(at(1), &TIMES), None);
        reports.record(at(1), REPORT, TIMES.expiry);
        assert_eq!(reports.get(at(10), &TIMES), None);
        assert_eq!(reports.get(at(11), &TIMES), Some(REPORT));
        assert_eq!(reports.last(at(2)), Some((REPORT, Duration::from_secs(1))));
        assert_eq!(reports.get(at(180), &TIMES), Some(REPORT));
        assert_eq!(reports.get(at(181), &TIMES), None);
    }

    #[test]
    fn a_broken_row_begins_with_a_blackout_again_and_an_unbroken_one_does_not() {
        let reports = LoadReports::default();
        reports.record(at(1), REPORT, TIMES.expiry);
        let newer = LoadReport {
            utilization: 0.9,
            ..REPORT
        };
        reports.record(at(180), newer, TIMES.expiry);
        assert_eq!(reports.get(at(180), &TIMES), Some(newer));
        reports.record(at(360), REPORT, TIMES.expiry);
        assert_eq!(reports.get(at(369), &TIMES), None);
        assert_eq!(reports.get(at(370), &TIMES), Some(REPORT));
        reports.reset();
        assert_eq!(reports.last(at(370)), None);
    }

    #[test]
    fn a_wanted_weight_holds_until_it_is_taken_back_or_expires() {
        let reports = LoadReports::default();
        assert_eq!(reports.wanted(at(1), TIMES.expiry), None);
        reports.want(at(1), Some(50));
        assert_eq!(reports.wanted(at(180), TIMES.expiry), Some(50));
        assert_eq!(reports.wanted(at(181), TIMES.expiry), None);
        reports.want(at(181), Some(25));
        reports.want(at(182), None);
        assert_eq!(reports.wanted(at(182), TIMES.expiry), None);
    }

    #[test]
    fn ten_reports_a_second_are_enough() {
        let reports = LoadReports::default();
        assert!(reports.is_due(Timestamp(0)));
        reports.record(Timestamp(0), REPORT, TIMES.expiry);
        assert!(!reports.is_due(Timestamp(99_000)));
        assert!(reports.is_due(Timestamp(101_000)));
    }
}
