//! The retry budget: retries never are more than a share of the requests.
//!
//! Retries help against instances that fail now and then and harm one that is overloaded: with two
//! retries a service whose instances all fail would get three times its load. So a retry is paid
//! for by requests: of the requests of the last [`WINDOW`] seconds a share of retries is allowed
//! (20 % by default, as in Finagle and Envoy), which bounds the load of a total outage at 1.2 times
//! the requests.
//!
//! **The bound.** Let a retry be granted at time `t` only if, with it, the retries of the window
//! that ends at `t` are at most `s` times its requests. Cut any period backwards from its last
//! retry into windows, each ending at a retry: they do not overlap, in each the retries are at most
//! `s` times the requests, so in the period they are, too (plus what the first window reaches back
//! before its begin). There is no credit beyond a window, and none to start with.
//!
//! **The floor.** A service of three requests a minute could never pay for a retry. So retries are
//! also granted while the service had fewer than `floor` of them, paid or not, in the running
//! period of [`WINDOW`] seconds. Of a service with one worker the larger of floor and share is the
//! bound; with more workers it is at most their sum: `retries ≤ s · requests + floor` for each
//! [`WINDOW`].
//!
//! **Cost.** Every request is counted, so each worker counts for itself, with plain loads and
//! stores. It also pays from its own requests alone; only retries, which are rare or denied, look
//! at the one word that all workers share. A worker that has seen few requests may thus deny what
//! the others could pay for: that is the price of sharing nothing.
//!
//! Hedges ([`super::hedge`]) are paid for by the same requests, from a share of their own and
//! without a floor.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::model::Timestamp;

/// Seconds that a budget looks back.
pub const WINDOW: u64 = 10;

/// One second of one worker.
#[derive(Debug, Default)]
struct Bucket {
    /// The second that it counts, plus one; 0 is never.
    tag: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
    hedges: AtomicU32,
}

/// What one worker counts: written by that worker alone.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    buckets: [Bucket; WINDOW as usize],
}

/// Sums over a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    requests: u64,
    retries: u64,
    hedges: u64,
}

/// What a service may spend on retries and hedges. See the module.
#[derive(Debug)]
pub struct Budget {
    shards: Box<[Shard]>,
    /// Number of the running period in the upper half, its retries in the lower.
    period: AtomicU64,
}

fn add(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).saturating_add(1), Relaxed);
}

impl Shard {
    fn bucket(&self, now: Timestamp) -> &Bucket {
        let second = now.seconds();
        let bucket = &self.buckets[(second % WINDOW) as usize];
        if bucket.tag.load(Relaxed) != second + 1 {
            bucket.tag.store(second + 1, Relaxed);
            for counter in [&bucket.requests, &bucket.retries, &bucket.hedges] {
                counter.store(0, Relaxed);
            }
        }
        bucket
    }

    fn sums(&self, now: Timestamp) -> Sums {
        let first = (now.seconds() + 2).saturating_sub(WINDOW);
        let mut sums = Sums::default();
        for bucket in &self.buckets {
            let tag = bucket.tag.load(Relaxed);
            if tag >= first.max(1) && tag <= now.seconds() + 1 {
                sums.requests += u64::from(bucket.requests.load(Relaxed));
                sums.retries += u64::from(bucket.retries.load(Relaxed));
                sums.hedges += u64::from(bucket.hedges.load(Relaxed));
            }
        }
        sums
    }
}

impl Budget {
    /// A budget that `workers` threads pay into.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            period: AtomicU64::new(0),
        }
    }

    fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker % self.shards.len()]
    }

    /// Counts a request of a client. Only thread `worker` may say so.
    pub fn request(&self, now: Timestamp, worker: usize) {
        add(&self.shard(worker).bucket(now).requests);
    }

    /// Grants a retry, or does not: `share` is in percent of the requests, `floor` in retries per
    /// [`WINDOW`]. Only thread `worker` may ask.
    #[must_use]
    pub fn retry(&self, now: Timestamp, worker: usize, share: u8, floor: u32) -> bool {
        let shard = self.shard(worker);
        let sums = shard.sums(now);
        let paid = (sums.retries + 1) * 100 <= sums.requests * u64::from(share);
        let granted = paid || self.used(now) < floor;
        if granted {
            add(&shard.bucket(now).retries);
            self.count(now);
        }
        granted
    }

    /// Grants a hedge, or does not. One that is asked for early may use a quarter of the share only,
    /// so that something is left for those that have waited longer. Only thread `worker` may ask.
    #[must_use]
    pub fn hedge(&self, now: Timestamp, worker: usize, share: u8, early: bool) -> bool {
        let shard = self.shard(worker);
        let sums = shard.sums(now);
        let parts = if early { 400 } else { 100 };
        let granted = (sums.hedges + 1) * parts <= sums.requests * u64::from(share);
        if granted {
            add(&shard.bucket(now).hedges);
        }
        granted
    }

    /// Retries of the running period.
    fn used(&self, now: Timestamp) -> u32 {
        let word = self.period.load(Relaxed);
        if word >> 32 == period(now) {
            word as u32
        } else {
            0
        }
    }

    fn count(&self, now: Timestamp) {
        let period = period(now);
        let next = |word: u64| {
            let used = if word >> 32 == period { word as u32 } else { 0 };
            Some(period << 32 | u64::from(used.saturating_add(1)))
        };
        // `next` never refuses.
        let _ = self.period.fetch_update(Relaxed, Relaxed, next);
    }
}

/// Number of the period, never 0 so that a fresh budget has no running one.
const fn period(now: Timestamp) -> u64 {
    (now.seconds() / WINDOW + 1) & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_total_outage_costs_a_fifth() {
        let budget = Budget::new(1);
        let mut retries = 0;
        for second in 1..=100 {
            for _ in 0..100 {
                budget.request(at(second), 0);
                // Two retries each, were it not for the budget.
                retries += u32::from(budget.retry(at(second), 0, 20, 0));
                retries += u32::from(budget.retry(at(second), 0, 20, 0));
            }
        }
        assert_eq!(retries, 2000);
    }

    #[test]
    fn the_floor_is_no_addition_where_the_share_is_larger() {
        let budget = Budget::new(1);
        let mut retries = 0;
        for second in 0..100 {
            for _ in 0..100 {
                budget.request(at(second), 0);
                retries += u32::from(budget.retry(at(second), 0, 20, 30));
            }
        }
        assert!((2000..=2030).contains(&retries), "{retries}");
    }

    #[test]
    fn a_service_of_little_traffic_has_its_floor() {
        let budget = Budget::new(4);
        let granted = |second| {
            let ask = |worker: usize| u32::from(budget.retry(at(second), worker % 4, 20, 3));
            (0..10).map(ask).sum::<u32>()
        };
        assert_eq!(granted(1), 3);
        assert_eq!(granted(9), 0);
        assert_eq!(granted(10), 3);
        assert_eq!(granted(1000), 3);
    }

    #[test]
    fn what_is_ten_seconds_old_pays_for_nothing() {
        let budget = Budget::new(1);
        (0..100).for_each(|_| budget.request(at(5), 0));
        assert!(budget.retry(at(14), 0, 20, 0));
        assert!(!budget.retry(at(15), 0, 20, 0));
    }

    #[test]
    fn hedges_that_come_early_leave_most() {
        let budget = Budget::new(1);
        (0..1000).for_each(|_| budget.request(at(1), 0));
        let granted = |early| {
            (0..100)
                .filter(|_| budget.hedge(at(2), 0, 2, early))
                .count()
        };
        assert_eq!(granted(true), 5);
        assert_eq!(granted(false), 15);
        // Retries have a share of their own.
        assert!(budget.retry(at(2), 0, 20, 0));
    }

    proptest! {
        /// Whatever comes when, on whichever worker: over any period the retries are within the
        /// bound. A window's retries may be paid for by requests of the window before.
        #[test]
        fn the_budget_is_never_exceeded(
            steps in prop::collection::vec((0u64..4, 0usize..3, 0u32..40, 0u32..40), 1..120),
            share in 0u8..=100,
            floor in 0u32..10,
        ) {
            let budget = Budget::new(3);
            let mut second = 0;
            let mut seen: Vec<(u64, u64, u64)> = Vec::new();
            for (pause, worker, requests, asks) in steps {
                second += pause;
                (0..requests).for_each(|_| budget.request(at(second), worker));
                let granted = (0..asks)
                    .filter(|_| budget.retry(at(second), worker, share, floor))
                    .count() as u64;
                seen.push((second, u64::from(requests), granted));
                for windows in [1, 2, 5, 100] {
                    let since = |back| move |(then, ..): &&(u64, u64, u64)| *then + back > second;
                    let retries = seen.iter().filter(since(windows * WINDOW));
                    let retries: u64 = retries.map(|(.., retries)| retries).sum();
                    let requests = seen.iter().filter(since((windows + 1) * WINDOW));
                    let requests: u64 = requests.map(|(_, requests, _)| requests).sum();
                    // A sliding window touches one more period of the floor.
                    let floor = u64::from(floor) * (windows + 1);
                    let most = requests * u64::from(share) / 100 + floor;
                    prop_assert!(retries <= most, "{retries} of {requests}, allowed {most}");
                }
            }
        }
    }
}
