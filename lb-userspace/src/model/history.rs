//! How long requests took, over windows of up to an hour.
//!
//! Two rings of histograms: one slot for each of the last 60 seconds and one for each of the last
//! 60 minutes, beside the running ones. A slot is emptied when its turn comes again, so there is
//! nothing to run in the background, and memory does not depend on traffic.
//!
//! Buckets are log-linear, as in HdrHistogram: 8 to each doubling, so that a value is known to an
//! eighth of itself. Quantiles are interpolated within a bucket, sums and counts are exact.
//!
//! One thread writes a history, so its counters need no atomic addition; others read at any time
//! and leave out a slot that is being emptied under their eyes.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    time::Duration,
};

use super::{Timestamp, window::WindowSum};

/// The longest window, in seconds.
pub const LONGEST_WINDOW: u64 = 3600;

/// Width of the first buckets in microseconds.
const UNIT_US: u64 = 32;
/// Buckets to a doubling, and of [`UNIT_US`] at the lower end.
const PARTS: u64 = 8;
/// Buckets: the last ends at 16.8 s and takes what is longer too.
const BUCKETS: usize = 136;
/// The running slot and 60 complete ones.
const SLOTS: usize = 61;

/// The bucket of a latency.
const fn bucket(us: u64) -> usize {
    let units = us / UNIT_US;
    if units < PARTS {
        return units as usize;
    }
    // 8 to 15 units are the first doubling, each unit a bucket; from there widths double.
    let doubling = units.ilog2() as u64 - PARTS.ilog2() as u64;
    let part = (units >> doubling) - PARTS;
    let index = PARTS * (doubling + 1) + part;
    if index < BUCKETS as u64 {
        index as usize
    } else {
        BUCKETS - 1
    }
}

/// Where a bucket begins, in microseconds; it ends where the next one begins.
const fn begin_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket * UNIT_US;
    }
    ((bucket % PARTS + PARTS) << (bucket / PARTS - 1)) * UNIT_US
}

#[derive(Debug)]
struct Slot {
    /// The second or minute that this slot counts, plus one; 0 is never.
    tag: AtomicU64,
    failures: AtomicU32,
    sum_us: AtomicU64,
    max_us: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            tag: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl Slot {
    fn record(&self, tag: u64, failed: bool, us: u64) {
        if self.tag.load(Ordering::Relaxed) != tag {
            self.empty();
            self.tag.store(tag, Ordering::Release);
        }
        // Additions without a locked instruction: this thread is the only one that writes.
        let add = |to: &AtomicU32, by| {
            let sum = to.load(Ordering::Relaxed).saturating_add(by);
            to.store(sum, Ordering::Relaxed);
        };
        add(&self.buckets[bucket(us)], 1);
        add(&self.failures, u32::from(failed));
        let sum = self.sum_us.load(Ordering::Relaxed).saturating_add(us);
        self.sum_us.store(sum, Ordering::Relaxed);
        if us > self.max_us.load(Ordering::Relaxed) {
            self.max_us.store(us, Ordering::Relaxed);
        }
    }

    fn empty(&self) {
        // The tag goes first, so that a reader never takes new counts for old ones.
        self.tag.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.failures.store(0, Ordering::Relaxed);
        self.sum_us.store(0, Ordering::Relaxed);
        self.max_us.store(0, Ordering::Relaxed);
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// What the slot counts; `None` when that is something else than `tag`.
    fn read(&self, tag: u64) -> Option<Distribution> {
        if self.tag.load(Ordering::Acquire) != tag {
            return None;
        }
        let read = Distribution {
            failures: u64::from(self.failures.load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
            max_us: self.max_us.load(Ordering::Relaxed),
            buckets: std::array::from_fn(|i| u64::from(self.buckets[i].load(Ordering::Relaxed))),
        };
        fence(Ordering::Acquire);
        (self.tag.load(Ordering::Relaxed) == tag).then_some(read)
    }
}

/// See the module. It takes 70 KB, too much for an instance that nobody asks, so whoever holds one
/// makes it when it is needed.
#[derive(Debug)]
pub struct History {
    seconds: [Slot; SLOTS],
    minutes: [Slot; SLOTS],
}

impl Default for History {
    fn default() -> Self {
        Self {
            seconds: std::array::from_fn(|_| Slot::default()),
            minutes: std::array::from_fn(|_| Slot::default()),
        }
    }
}

/// The part of the past that a window looks at, in whole slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Length of a slot in seconds: 1 or 60.
    slot: u64,
    /// First and last slot since the process began.
    slots: (u64, u64),
}

impl Span {
    /// The span of a window of `seconds` (1 to [`LONGEST_WINDOW`]) that ends at `now`.
    ///
    /// Up to 60 s it is the running second and the complete ones before it. Longer windows begin
    /// with the minute in which they begin, and so may span up to a minute more.
    #[must_use]
    pub fn new(now: Timestamp, seconds: u64) -> Self {
        let seconds = seconds.clamp(1, LONGEST_WINDOW);
        let last = now.seconds();
        if seconds < SLOTS as u64 {
            return Self {
                slot: 1,
                slots: (last.saturating_sub(seconds - 1), last),
            };
        }
        Self {
            slot: 60,
            slots: (last.saturating_sub(seconds) / 60, last / 60),
        }
    }

    /// `minutes` of them, the running one included, that end `skip` minutes before that.
    #[must_use]
    pub fn minutes(now: Timestamp, skip: u64, minutes: u64) -> Self {
        let last = (now.seconds() / 60).saturating_sub(skip);
        let minutes = minutes.clamp(1, SLOTS as u64);
        Self {
            slot: 60,
            slots: (last.saturating_sub(minutes - 1), last),
        }
    }

    /// How long it is, until `now`. At least a second, lest the first request of a process looks
    /// like a flood.
    #[must_use]
    pub fn duration(self, now: Timestamp) -> Duration {
        let begin = Timestamp(self.slots.0 * self.slot * 1_000_000);
        now.since(begin).max(Duration::from_secs(1))
    }
}

impl History {
    /// Counts a request. Only one thread may call this for a history.
    pub fn record(&self, now: Timestamp, failed: bool, us: u64) {
        let (second, minute) = (now.seconds(), now.seconds() / 60);
        self.seconds[second as usize % SLOTS].record(second + 1, failed, us);
        self.minutes[minute as usize % SLOTS].record(minute + 1, failed, us);
    }

    /// Forgets everything. Any thread may call this: it takes the tags away, and the writer empties
    /// a slot without its tag before it counts there again.
    pub fn reset(&self) {
        for slot in self.seconds.iter().chain(&self.minutes) {
            slot.tag.store(0, Ordering::Release);
        }
    }

    /// Adds what happened in `span` to `sum`.
    pub fn add_to(&self, sum: &mut Distribution, span: Span) {
        let ring = if span.slot == 1 {
            &self.seconds
        } else {
            &self.minutes
        };
        let (first, last) = span.slots;
        for slot in first..=last {
            if let Some(read) = ring[slot as usize % SLOTS].read(slot + 1) {
                *sum += &read;
            }
        }
    }
}

/// Requests, and how long they took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Those that failed.
    pub failures: u64,
    /// Sum of all latencies in microseconds.
    pub sum_us: u64,
    /// The longest one.
    pub max_us: u64,
    buckets: [u64; BUCKETS],
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            failures: 0,
            sum_us: 0,
            max_us: 0,
            buckets: [0; BUCKETS],
        }
    }
}

impl std::ops::AddAssign<&Self> for Distribution {
    fn add_assign(&mut self, other: &Self) {
        self.failures += other.failures;
        self.sum_us += other.sum_us;
        self.max_us = self.max_us.max(other.max_us);
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
    }
}

impl Distribution {
    /// Counts and latencies alone.
    #[must_use]
    pub fn sum(&self) -> WindowSum {
        WindowSum {
            requests: self.requests(),
            failures: self.failures,
            latency_us: self.sum_us,
        }
    }

    /// Requests, failed ones included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean latency in microseconds; `None` without requests.
    #[must_use]
    pub fn mean_us(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| self.sum_us as f64 / requests as f64)
    }

    /// The latency in microseconds that a share `q` (0 to 1) of the requests did not exceed;
    /// `None` without requests. By nearest rank, interpolated within a bucket, and never above
    /// the longest latency: within an eighth of the truth, or 32 µs.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> Option<f64> {
        let requests = self.requests();
        let rank = ((q * requests as f64).ceil() as u64).clamp(1, requests.max(1));
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            if below + count >= rank && *count > 0 {
                let begin = begin_us(index) as f64;
                let end = if index + 1 < BUCKETS {
                    begin_us(index + 1) as f64
                } else {
                    self.max_us as f64
                };
                let end = end.min(self.max_us as f64).max(begin);
                let part = (rank - below) as f64 / *count as f64;
                return Some(begin + (end - begin) * part);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_meet_each_other() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(begin_us(index)), index);
            assert_eq!(bucket(begin_us(index + 1) - 1), index);
        }
        assert_eq!(begin_us(BUCKETS), 16_777_216);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_history_is_as_large_as_it_is_said_to_be() {
        assert!(
            size_of::<History>() <= 72 * 1024,
            "{}",
            size_of::<History>()
        );
    }

    #[test]
    fn long_latencies_are_not_cut_to_the_last_bucket() {
        let history = History::default();
        history.record(Timestamp(1), true, 30_000_000);
        let mut sum = Distribution::default();
        history.add_to(&mut sum, Span::new(Timestamp(1), 1));
        assert_eq!(sum.quantile_us(0.99), Some(30_000_000.0));
        assert_eq!((sum.requests(), sum.failures), (1, 1));
        assert_eq!(Distribution::default().quantile_us(0.5), None);
    }

    #[test]
    fn windows_are_as_long_as_they_say() {
        let now = Timestamp(7_265_500_000); // 2:01:05.5 after the start
        for (seconds, covered_ms) in [
            (1, 500),
            (60, 59_500),
            // From 1:59:00, the minute of 1:59:05.5.
            (120, 125_500),
            (300, 305_500),
            (3600, 3_605_500),
        ] {
            let duration = Span::new(now, seconds).duration(now);
            let covered = Duration::from_millis(covered_ms).max(Duration::from_secs(1));
            assert_eq!(duration, covered, "{seconds}");
        }
        // Nothing is older than the process.
        let young = Timestamp(30_000_000);
        let duration = Span::new(young, 3600).duration(young);
        assert_eq!(duration, Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn counts_exactly_and_ranks_within_an_eighth(
            steps in prop::collection::vec((0u64..40_000_000, any::<bool>(), 0u64..20_000_000), 1..300),
            seconds in prop_oneof![1u64..=60, 61u64..=LONGEST_WINDOW],
            q in 0.0f64..=1.0,
        ) {
            let history = History::default();
            let mut now = Timestamp(5_000_000);
            let mut list = Vec::new();
            for (step, failed, us) in steps {
                now = now + Duration::from_micros(step);
                history.record(now, failed, us);
                list.push((now, failed, us));
            }
            let span = Span::new(now, seconds);
            let covered = span.duration(now);
            // The running second of a window of one may be shorter than the least duration.
            let begin = span.slots.0 * span.slot * 1_000_000;
            let inside: Vec<_> = list.iter().filter(|(at, ..)| at.0 >= begin).collect();
            prop_assert!(covered.as_secs() <= seconds + 60);
            let mut sum = Distribution::default();
            history.add_to(&mut sum, span);
            prop_assert_eq!(sum.requests(), inside.len() as u64);
            prop_assert_eq!(sum.failures, inside.iter().filter(|(_, failed, _)| *failed).count() as u64);
            prop_assert_eq!(sum.sum_us, inside.iter().map(|(.., us)| us).sum::<u64>());
            let mut sorted: Vec<u64> = inside.iter().map(|(.., us)| *us).collect();
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted[rank - 1] as f64;
            let found = sum.quantile_us(q).unwrap();
            let last = begin_us(BUCKETS - 1) as f64;
            let width = if exact >= last { sum.max_us as f64 - last } else { exact / 8.0 };
            prop_assert!((found - exact).abs() <= width + UNIT_US as f64, "{} {}", found, exact);
        }
    }
}
