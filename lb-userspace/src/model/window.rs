//! Exact sums over the last seconds.
//!
//! A ring of one-second buckets, each tagged with the second that it counts. A bucket is emptied
//! when its turn comes again, so a sum over the last `n` seconds is exact to the second, with no
//! decay to hide a burst and nothing to run in the background. One thread writes a ring; others
//! read it at any time and skip buckets whose tag is not of the window.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Timestamp;

/// Seconds that a ring remembers, the running one included.
pub const WINDOW_SECONDS: u64 = 64;

#[derive(Debug, Default)]
struct Bucket {
    /// The second that this bucket counts, plus one; 0 is never.
    tag: AtomicU64,
    requests: AtomicU32,
    failures: AtomicU32,
    latency_us: AtomicU64,
}

/// A ring of buckets. See the module.
#[derive(Debug)]
pub struct Window {
    buckets: [Bucket; WINDOW_SECONDS as usize],
}

/// What a window has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSum {
    /// Answered or failed requests.
    pub requests: u64,
    /// Those that count as failures.
    pub failures: u64,
    /// Sum of their latencies in microseconds.
    pub latency_us: u64,
}

impl WindowSum {
    /// Share of requests that succeeded, 0 to 1; `None` without requests.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| 1.0 - self.failures as f64 / self.requests as f64)
    }

    /// Mean latency in seconds; `None` without requests.
    #[must_use]
    pub fn mean_latency(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.latency_us as f64 / 1e6 / self.requests as f64)
    }
}

impl std::ops::AddAssign for WindowSum {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.latency_us += other.latency_us;
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Bucket::default()),
        }
    }
}

impl Window {
    /// Counts one request. Only one thread may call this for a ring: a second one could lose
    /// counts at the turn of a second.
    pub fn record(&self, now: Timestamp, failed: bool, latency_us: u64) {
        let second = now.seconds();
        let bucket = &self.buckets[(second % WINDOW_SECONDS) as usize];
        if bucket.tag.load(Ordering::Relaxed) != second + 1 {
            // The tag goes first, so that a reader never takes old counts for new ones.
            bucket.tag.store(0, Ordering::Release);
            bucket.requests.store(0, Ordering::Relaxed);
            bucket.failures.store(0, Ordering::Relaxed);
            bucket.latency_us.store(0, Ordering::Relaxed);
            bucket.tag.store(second + 1, Ordering::Release);
        }
        // Additions without a locked instruction: this thread is the only one that writes.
        let add = |to: &AtomicU32, by| {
            let sum = to.load(Ordering::Relaxed).wrapping_add(by);
            to.store(sum, Ordering::Relaxed);
        };
        add(&bucket.requests, 1);
        add(&bucket.failures, u32::from(failed));
        let sum = bucket.latency_us.load(Ordering::Relaxed);
        let sum = sum.wrapping_add(latency_us);
        bucket.latency_us.store(sum, Ordering::Relaxed);
    }

    /// Forgets everything. Any thread may call this: it takes the tags away, and the writer empties
    /// a bucket without its tag before it counts there again.
    pub fn reset(&self) {
        for bucket in &self.buckets {
            bucket.tag.store(0, Ordering::Release);
        }
    }

    /// The sum over the running second and the `seconds - 1` before it, at most
    /// [`WINDOW_SECONDS`], beginning `skip` seconds ago.
    #[must_use]
    pub fn sum(&self, now: Timestamp, skip: u64, seconds: u64) -> WindowSum {
        let mut sum = WindowSum::default();
        let last = now.seconds();
        for back in skip..(skip + seconds).min(WINDOW_SECONDS) {
            let Some(second) = last.checked_sub(back) else {
                break;
            };
            let bucket = &self.buckets[(second % WINDOW_SECONDS) as usize];
            if bucket.tag.load(Ordering::Acquire) == second + 1 {
                sum += WindowSum {
                    requests: u64::from(bucket.requests.load(Ordering::Relaxed)),
                    failures: u64::from(bucket.failures.load(Ordering::Relaxed)),
                    latency_us: bucket.latency_us.load(Ordering::Relaxed),
                };
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_exactly_what_a_list_sums(
            steps in prop::collection::vec((0u64..3_000_000, any::<bool>(), 0u64..10_000), 1..200),
            seconds in 1u64..=WINDOW_SECONDS,
        ) {
            let window = Window::default();
            let mut now = Timestamp(5_000_000);
            let mut list = Vec::new();
            for (step, failed, latency) in steps {
                now = now + Duration::from_micros(step);
                window.record(now, failed, latency);
                list.push((now.seconds(), failed, latency));
            }
            let mut expected = WindowSum::default();
            for (second, failed, latency) in list {
                if now.seconds() - second < seconds {
                    expected += WindowSum {
                        requests: 1, failures: u64::from(failed), latency_us: latency,
                    };
                }
            }
            prop_assert_eq!(window.sum(now, 0, seconds), expected);
        }
    }
}
