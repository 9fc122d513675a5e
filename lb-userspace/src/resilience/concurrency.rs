//! How many requests a service can have in flight before they only wait for each other.
//!
//! The limit follows a gradient (the rule of Envoy's adaptive concurrency filter):
//!
//! ```text
//! gradient = (base × (1 + tolerance)) / latency, kept within 0.5 to 2
//! limit    = gradient × limit + √limit, kept within min to max
//! ```
//!
//! with `latency` the mean time to the head of an answer in a window of 100 ms or one latency,
//! whichever is longer, and `base` the least such mean of the last minute: the latency without
//! queueing. While latency is near its base the limit grows; when requests begin to wait for each
//! other in the instances it shrinks, until about √limit of them do. A window in which less than
//! half of the limit was used says nothing about the limit, and does not raise it. A service
//! begins with `min`, so its first base is one without queueing.
//!
//! Under lasting load every window is one with queueing, and the base would creep up. Envoy pins
//! the limit to a few requests once a minute to measure it, and answers everything else with 503
//! meanwhile. Here the limit is halved for a few windows every half minute, only while the
//! service is busy, never below `min`, and only where requests that find no place *wait* for one:
//! measuring never costs an answer. Without a queue nothing is measured but what comes.

use std::{
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::model::{ConcurrencySpec, Priority, Timestamp};

/// The shortest window, and the fewest samples that one needs.
const WINDOW: Duration = Duration::from_millis(100);
const SAMPLES: u64 = 10;

/// How long a base is remembered for sure; twice as long at most.
const MEMORY: Duration = Duration::from_secs(30);

/// Windows of a measurement; the first of them is for requests of before to end.
const MEASURING: u8 = 4;

/// The rule, without clock and counters of its own.
#[derive(Debug)]
pub struct Gradient {
    limit: f64,
    /// The least means of the running and of the last half minute, in µs.
    least: [f64; 2],
    /// When the running half minute ends.
    turns: Timestamp,
    /// Windows of a measurement that are left.
    measuring: u8,
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            limit: 0.0,
            least: [f64::INFINITY; 2],
            turns: Timestamp::default(),
            measuring: 0,
        }
    }
}

/// What was seen in a window.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When it ended.
    pub now: Timestamp,
    /// The mean latency in µs.
    pub latency: f64,
    /// The most requests that were in flight.
    pub busiest: u32,
    /// Whether requests that find no place wait for one.
    pub waits: bool,
}

impl Gradient {
    /// The latency without queueing, in µs; `None` before the first window.
    #[must_use]
    pub fn base(&self) -> Option<f64> {
        Some(self.least[0].min(self.least[1])).filter(|base| base.is_finite())
    }

    /// The limit after a window.
    pub fn window(&mut self, spec: &ConcurrencySpec, seen: &Seen) -> u32 {
        let (min, max) = (f64::from(spec.min), f64::from(spec.max.max(spec.min)));
        self.limit = self.limit.clamp(min, max);
        let is_busy = f64::from(seen.busiest) * 2.0 >= self.limit;
        if seen.now >= self.turns {
            self.turns = seen.now + MEMORY;
            self.least = [f64::INFINITY, self.least[0]];
            if is_busy && seen.waits && self.measuring == 0 && self.least[1].is_finite() {
                self.measuring = MEASURING;
            }
        }
        if self.measuring > 0 {
            // What began before the limit was lowered says nothing.
            if self.measuring < MEASURING {
                self.learn(seen.latency);
            }
            self.measuring -= 1;
        } else {
            self.learn(seen.latency);
            let base = self.least[0].min(self.least[1]);
            let tolerated = base * (1.0 + f64::from(spec.tolerance) / 100.0);
            let gradient = (tolerated / seen.latency.max(1.0)).clamp(0.5, 2.0);
            let next = gradient * self.limit + self.limit.sqrt();
            if next < self.limit || is_busy {
                self.limit = next.clamp(min, max);
            }
        }
        let limit = match self.measuring {
            0 => self.limit,
            _ => (self.limit / 2.0).max(min),
        };
        limit as u32
    }

    fn learn(&mut self, latency: f64) {
        self.least[0] = self.least[0].min(latency);
    }
}

/// The limit of a service, for all workers.
#[derive(Debug, Default)]
pub struct Concurrency {
    /// 0 before the first window.
    limit: AtomicU32,
    busiest: AtomicU32,
    samples: AtomicU64,
    sum_us: AtomicU64,
    /// When the window may end, in µs.
    ends: AtomicU64,
    gradient: Mutex<Gradient>,
}

impl Concurrency {
    /// The limit in force.
    #[must_use]
    pub fn limit(&self, spec: &ConcurrencySpec) -> u32 {
        match self.limit.load(Ordering::Relaxed) {
            0 => spec.min,
            limit => limit.clamp(spec.min, spec.max.max(spec.min)),
        }
    }

    /// The limit for requests of that urgency, where they do not wait in order of it: what is less
    /// urgent than usual is refused first, by a tenth of the limit for each step, and what is more
    /// urgent may go beyond it by a twentieth.
    #[must_use]
    pub fn limit_for(&self, spec: &ConcurrencySpec, priority: Priority) -> u32 {
        const PERCENT: [u64; 8] = [115, 110, 105, 100, 90, 80, 70, 60];
        let limit = u64::from(self.limit(spec));
        let share = (limit * PERCENT[priority.lane()]).div_ceil(100);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// The latency without queueing; `None` before the first window.
    #[must_use]
    pub fn base(&self) -> Option<Duration> {
        let gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Duration::from_micros(gradient.base()? as u64))
    }

    /// Notes that an answer took `latency` while `inside` requests were in flight. Returns by how
    /// much the limit has grown.
    pub fn sample(
        &self,
        spec: &ConcurrencySpec,
        now: Timestamp,
        latency: Duration,
        inside: u32,
        waits: bool,
    ) -> u32 {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        let samples = self.samples.fetch_add(1, Ordering::Relaxed) + 1;
        if self.busiest.load(Ordering::Relaxed) < inside {
            self.busiest.fetch_max(inside, Ordering::Relaxed);
        }
        if samples < SAMPLES || now.0 < self.ends.load(Ordering::Relaxed) {
            return 0;
        }
        self.close(spec, now, waits)
    }

    /// Ends the window, unless another worker does.
    #[cold]
    fn close(&self, spec: &ConcurrencySpec, now: Timestamp, waits: bool) -> u32 {
        let mut gradient = match self.gradient.try_lock() {
            Ok(gradient) => gradient,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return 0,
        };
        if now.0 < self.ends.load(Ordering::Relaxed) {
            return 0;
        }
        // A sample that comes in between counts in one of the two windows, or its time in one and
        // its number in the other: one of ten at the least.
        let samples = self.samples.swap(0, Ordering::Relaxed).max(1);
        let latency = self.sum_us.swap(0, Ordering::Relaxed) as f64 / samples as f64;
        let busiest = self.busiest.swap(0, Ordering::Relaxed);
        let seen = Seen {
            now,
            latency,
            busiest,
            waits,
        };
        let before = self.limit(spec);
        let limit = gradient.window(spec, &seen);
        self.limit.store(limit, Ordering::Relaxed);
        let next = now + WINDOW.max(Duration::from_micros(latency as u64));
        self.ends.store(next.0, Ordering::Relaxed);
        limit.saturating_sub(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ConcurrencySpec = ConcurrencySpec {
        min: 4,
        max: 500,
        tolerance: 25,
    };

    /// A service of `slots` that each take `service` for a request: with `inside` requests the
    /// others wait. Runs windows with `offered` requests that would be inside if they could, and
    /// returns the limits.
    fn run(
        gradient: &mut Gradient,
        windows: std::ops::Range<u64>,
        slots: f64,
        offered: f64,
        waits: bool,
    ) -> Vec<u32> {
        let mut limit = (gradient.limit as u32).max(SPEC.min);
        let mut limits = Vec::new();
        for at in windows {
            let inside = f64::from(limit).min(offered);
            let seen = Seen {
                now: Timestamp(at * 100_000),
                latency: 10_000.0 * (inside / slots).max(1.0),
                busiest: inside as u32,
                waits,
            };
            limit = gradient.window(&SPEC, &seen);
            limits.push(limit);
        }
        limits
    }

    #[test]
    fn the_limit_finds_what_a_service_can_do() {
        for slots in [10.0, 50.0, 200.0] {
            let mut gradient = Gradient::default();
            let limits = run(&mut gradient, 1..100, slots, 1e4, true);
            let last = f64::from(*limits.last().unwrap());
            // All slots are used, and little more is in flight.
            assert!(last >= slots, "{slots}: {last}");
            assert!(last <= slots * 1.25 + 3.0 * slots.sqrt(), "{slots}: {last}");
        }
    }

    #[test]
    fn lasting_overload_does_not_make_the_limit_creep() {
        let mut gradient = Gradient::default();
        let limits = run(&mut gradient, 1..20_000, 50.0, 1e4, true);
        let highest = limits[100..].iter().max().unwrap();
        assert!(*highest <= 90, "{highest}");
        // Measuring takes little of the time, and never goes below what is allowed.
        let low = limits[100..].iter().filter(|limit| **limit < 50).count();
        assert!(low * 20 < limits.len(), "{low}");
        assert!(limits.iter().all(|limit| *limit >= SPEC.min));
    }

    #[test]
    fn without_a_queue_measuring_never_lowers_the_limit() {
        let mut gradient = Gradient::default();
        let limits = run(&mut gradient, 1..2000, 50.0, 1e4, false);
        assert!(limits[100..].iter().all(|limit| *limit >= 50));
    }

    #[test]
    fn a_service_that_slows_down_gets_less_and_one_that_is_idle_keeps_its_limit() {
        let mut gradient = Gradient::default();
        run(&mut gradient, 1..100, 100.0, 1e4, true);
        let before = gradient.limit;
        let idle = run(&mut gradient, 100..200, 100.0, 3.0, true);
        assert_eq!(f64::from(*idle.last().unwrap()), before.floor());
        let slowed = run(&mut gradient, 200..250, 20.0, 1e4, true);
        assert!(*slowed.last().unwrap() < 45, "{slowed:?}");
        let again = run(&mut gradient, 250..400, 100.0, 1e4, true);
        assert!(*again.last().unwrap() >= 100, "{again:?}");
    }

    #[test]
    fn the_less_urgent_are_refused_first() {
        let concurrency = Concurrency::default();
        let spec = ConcurrencySpec { min: 100, ..SPEC };
        let limit = |number| {
            let priority = Priority::new(number).unwrap();
            concurrency.limit_for(&spec, priority)
        };
        let limits: Vec<u32> = (0..8).map(limit).collect();
        assert!(limits.is_sorted_by(|a, b| a > b), "{limits:?}");
        assert_eq!(limits[3], concurrency.limit(&spec));
    }

    #[test]
    fn samples_of_all_workers_make_one_window() {
        let concurrency = Concurrency::default();
        let latency = Duration::from_millis(5);
        let mut now = Timestamp(1_000_000);
        let mut grown = 0;
        for at in 0..2000 {
            now = now + Duration::from_millis(1);
            let inside = concurrency.limit(&SPEC);
            grown += concurrency.sample(&SPEC, now, latency, inside, true);
            assert!(grown == 0 || at >= 9);
        }
        assert_eq!(concurrency.base(), Some(latency));
        assert_eq!(concurrency.limit(&SPEC), SPEC.max);
        assert_eq!(grown, SPEC.max - SPEC.min);
    }
}
