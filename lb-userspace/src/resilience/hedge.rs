//! When a request that waits for its answer is sent to a second instance.
//!
//! A service whose instances pause now and then answers slowly once in a while although most of
//! its instances are idle. Sending a request a second time when its answer takes longer than
//! nearly all others, and taking whichever comes first, cuts that tail for little (Dean and
//! Barroso, "The Tail at Scale", CACM 2013: deferred hedging at the 95th percentile).
//!
//! **The delay** is a quantile of the time to the head of an answer, estimated by stochastic
//! approximation in the logarithm: a sample above the estimate moves it up by `η·p`, one below
//! moves it down by `η·(1-p)`, so that it rests where a share `p` of the samples is below. That
//! takes two words and no sorting, follows a service that becomes slower or faster within some
//! hundred requests, and every worker does it for itself.
//!
//! **The cost** is bounded by a share of the requests ([`super::Budget::hedge`]). By its
//! definition one request in twenty is slower than the 95th percentile, more than a share of 2 %
//! allows, and most of those would have been answered a moment later. So whoever asks at the delay
//! may use a quarter of the share; the rest is for those that still wait after twice, four times …
//! the delay.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::model::HedgeAfter;

/// Step of the estimate, and the larger one with which it begins.
const STEP: f64 = 0.02;
const FIRST_STEPS: f64 = 0.2;

/// Samples with the larger step; before that many, nothing is hedged by a quantile.
const FIRST: u32 = 64;

/// How often a request asks: at the delay, twice, four times … sixteen times the delay.
const ASKS: u32 = 5;

/// What one worker knows of the time that answers take.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Estimate {
    /// In µs, the bits of a float; 0 before the first sample.
    micros: AtomicU64,
    samples: AtomicU32,
}

/// What is known of the time that a service's answers take. See the module.
#[derive(Debug)]
pub struct Hedging {
    workers: Box<[Estimate]>,
}

impl Hedging {
    /// Nothing is known so far; `workers` threads will learn.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1)).map(|_| Estimate::default()).collect(),
        }
    }

    fn estimate(&self, worker: usize) -> &Estimate {
        &self.workers[worker % self.workers.len()]
    }

    /// Learns how long an answer took, or at least took. Only thread `worker` may say so.
    pub fn learn(&self, worker: usize, after: HedgeAfter, took: Duration) {
        let HedgeAfter::Quantile(percent) = after else {
            return;
        };
        let estimate = self.estimate(worker);
        let sample = took.as_secs_f64() * 1e6;
        let samples = estimate.samples.load(Relaxed);
        let before = f64::from_bits(estimate.micros.load(Relaxed));
        let step = if samples < FIRST { FIRST_STEPS } else { STEP };
        let p = f64::from(percent) / 100.0;
        let now = match samples {
            0 => sample,
            _ if sample > before => before * (step * p).exp(),
            _ => before * (-step * (1.0 - p)).exp(),
        };
        estimate.micros.store(now.max(1.0).to_bits(), Relaxed);
        estimate.samples.store(samples.saturating_add(1), Relaxed);
    }

    /// How long a request waits before it asks for a second instance; `None` while too little is
    /// known.
    #[must_use]
    pub fn delay(&self, worker: usize, after: HedgeAfter) -> Option<Duration> {
        match after {
            HedgeAfter::Time(time) => Some(time),
            HedgeAfter::Quantile(_) => {
                let estimate = self.estimate(worker);
                let micros = f64::from_bits(estimate.micros.load(Relaxed));
                (estimate.samples.load(Relaxed) >= FIRST)
                    .then(|| Duration::from_secs_f64(micros / 1e6))
            }
        }
    }
}

/// The times at which a request asks, from its start, and whether each is early (see
/// [`super::Budget::hedge`]).
pub fn asks(after: HedgeAfter, delay: Duration) -> impl Iterator<Item = (Duration, bool)> {
    (0..ASKS).map(move |ask| {
        let early = ask == 0 && matches!(after, HedgeAfter::Quantile(_));
        (delay.saturating_mul(1 << ask), early)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::Random;

    const P95: HedgeAfter = HedgeAfter::Quantile(95);

    fn us(micros: f64) -> Duration {
        Duration::from_secs_f64(micros / 1e6)
    }

    #[test]
    fn the_estimate_is_the_quantile() {
        let (hedging, random) = (Hedging::new(1), Random::new(3));
        // Uniform from 0 to 1000 µs: the quantile is 950.
        let sample = || us(random.below(1000) as f64);
        (0..2000).for_each(|_| hedging.learn(0, P95, sample()));
        let mut above = 0;
        for _ in 0..10_000 {
            let sample = sample();
            above += u32::from(sample > hedging.delay(0, P95).unwrap());
            hedging.learn(0, P95, sample);
        }
        assert!((400..=600).contains(&above), "{above}");
    }

    #[test]
    fn it_follows_a_service_that_changes() {
        let (hedging, random) = (Hedging::new(1), Random::new(5));
        for scale in [1.0, 50.0, 2.0] {
            let sample = || us(scale * (900 + random.below(200)) as f64);
            (0..4000).for_each(|_| hedging.learn(0, P95, sample()));
            let delay = hedging.delay(0, P95).unwrap();
            assert!(
                delay > us(scale * 950.0) && delay < us(scale * 1150.0),
                "{delay:?}"
            );
        }
    }

    #[test]
    fn a_time_needs_nothing_to_be_known() {
        let hedging = Hedging::new(1);
        let after = HedgeAfter::Time(Duration::from_millis(5));
        assert_eq!(hedging.delay(0, after), Some(Duration::from_millis(5)));
        assert_eq!(hedging.delay(0, P95), None);
        let asked: Vec<_> = asks(after, us(10.0)).collect();
        let late = [10.0, 20.0, 40.0, 80.0, 160.0].map(|at| (us(at), false));
        assert_eq!(asked, late);
        assert_eq!(asks(P95, us(10.0)).next(), Some((us(10.0), true)));
    }

    proptest! {
        #[test]
        fn the_estimate_is_always_a_time(
            samples in prop::collection::vec(0u64..u64::from(u32::MAX), 64..300),
            percent in 50u8..100,
        ) {
            let hedging = Hedging::new(2);
            let after = HedgeAfter::Quantile(percent);
            for sample in &samples {
                hedging.learn(1, after, Duration::from_micros(*sample));
            }
            let delay = hedging.delay(1, after).unwrap();
            let most = samples.iter().max().unwrap();
            prop_assert!(delay >= Duration::from_nanos(999));
            prop_assert!(delay.as_micros() as f64 <= (*most as f64).max(1.0) * 1.25);
            prop_assert_eq!(hedging.delay(0, after), None);
        }
    }
}
