//! The health score: how well an instance does, 0 to 1, for people and for `health_aware`.
//!
//! Four parts, each 0 to 1, weighted and added:
//!
//! | part | weight by default | 1 means | formula |
//! |---|---|---|---|
//! | success rate | 0.4 | every request succeeded | successes / requests |
//! | latency | 0.3 | not above the service's median | min(1, median / own mean) |
//! | load | 0.2 | not above its share | min(1, service's load / own load) |
//! | error trend | 0.1 | failures do not become more | 1 - max(0, failure rate now - before) |
//!
//! Latency and load are relative to the other instances of the service, because there is no
//! absolute number that is right for both a cache and a report generator. Load is the requests in
//! flight plus one, per weight; the service's load is the same figure over all its instances, so
//! an instance with its fair share is at 1 whatever the traffic. The trend compares the younger
//! half of the window with the older one: of two instances with the same success rate, one is
//! getting worse.
//!
//! A part without evidence counts as 1: an instance that has served nothing so far is not ill.

use super::factor::median;
use crate::model::{ScoreSpec, window::WindowSum};

/// Requests that are enough to tell a success rate.
pub const RECENT: u64 = 10;

/// The share of each part in the whole.
#[derive(Clone, Copy, Debug)]
struct Shares {
    success: f64,
    latency: f64,
    load: f64,
    trend: f64,
}

impl Shares {
    fn of(spec: &ScoreSpec) -> Self {
        let sum = [spec.success, spec.latency, spec.load, spec.trend]
            .map(f64::from)
            .iter()
            .sum::<f64>()
            .max(1.0);
        Self {
            success: f64::from(spec.success) / sum,
            latency: f64::from(spec.latency) / sum,
            load: f64::from(spec.load) / sum,
            trend: f64::from(spec.trend) / sum,
        }
    }
}

/// What is known of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The younger half of the window.
    pub younger: WindowSum,
    /// The older half.
    pub older: WindowSum,
    /// Requests and connections in flight.
    pub in_flight: u64,
    /// Weight; 0 when it takes no traffic.
    pub weight: u32,
}

impl Evidence {
    fn all(&self) -> WindowSum {
        let mut sum = self.older;
        sum += self.younger;
        sum
    }

    /// Requests in flight, the next one included, per weight.
    #[must_use]
    pub fn load(&self) -> f64 {
        (self.in_flight as f64 + 1.0) / f64::from(self.weight.max(1))
    }
}

/// Scores of the instances of one service, in the same order, 0 to 1 each.
#[must_use]
pub fn scores(evidence: &[Evidence], spec: &ScoreSpec) -> Vec<f32> {
    let shares = Shares::of(spec);
    let means = evidence.iter().filter_map(|e| e.all().mean_latency());
    let median = median(means.collect());
    let serving = || evidence.iter().filter(|e| e.weight > 0);
    let queued: f64 = serving().map(|e| e.in_flight as f64 + 1.0).sum();
    let weight: f64 = serving().map(|e| f64::from(e.weight)).sum();
    evidence
        .iter()
        .map(|own| {
            let all = own.all();
            let success = all.success_rate().unwrap_or(1.0);
            let latency = match (median, all.mean_latency()) {
                (Some(median), Some(mean)) => ratio(median, mean),
                _ => 1.0,
            };
            let load = if own.weight > 0 {
                ratio(queued / weight, own.load())
            } else {
                1.0
            };
            let trend = match (own.younger.success_rate(), own.older.success_rate()) {
                (Some(now), Some(before)) => 1.0 - (before - now).max(0.0),
                _ => 1.0,
            };
            let score = shares.success * success
                + shares.latency * latency
                + shares.load * load
                + shares.trend * trend;
            score.clamp(0.0, 1.0) as f32
        })
        .collect()
}

/// The success rate that a pick by latency reckons with, 0 to 1; 1 without evidence.
///
/// It is the rate of the youngest requests: whole seconds, the youngest first, until they hold
/// [`RECENT`] requests or there are no more. On a busy instance that is the last second, so a
/// failure is found while it is young. An instance that is hardly asked any more because it
/// failed is judged by the same failures until something younger is known.
#[must_use]
pub fn recent_success(seconds: impl IntoIterator<Item = WindowSum>) -> f32 {
    let mut sum = WindowSum::default();
    for second in seconds {
        sum += second;
        if sum.requests >= RECENT {
            break;
        }
    }
    sum.success_rate().unwrap_or(1.0) as f32
}

/// `reference / own`, at most 1; 1 when `own` is nothing.
fn ratio(reference: f64, own: f64) -> f64 {
    if own > reference {
        reference / own
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(requests: u64, failures: u64, mean_us: u64) -> WindowSum {
        WindowSum {
            requests,
            failures,
            latency_us: requests * mean_us,
        }
    }

    fn steady(requests: u64, failures: u64, mean_us: u64) -> Evidence {
        Evidence {
            younger: window(requests, failures, mean_us),
            older: window(requests, failures, mean_us),
            in_flight: 0,
            weight: 16,
        }
    }

    fn scores_of(evidence: &[Evidence]) -> Vec<f32> {
        scores(evidence, &ScoreSpec::default())
    }

    #[test]
    fn no_evidence_is_neutral() {
        assert_eq!(scores_of(&[Evidence::default(); 2]), [1.0, 1.0]);
        assert_eq!(scores_of(&[]), [0.0; 0]);
        assert_eq!(recent_success([]), 1.0);
        assert_eq!(recent_success([window(0, 0, 0)]), 1.0);
    }

    #[test]
    fn each_part_has_its_weight() {
        let good = steady(100, 0, 1000);
        let close = |own: Evidence, expected: f32| {
            let score = scores_of(&[own, good, good])[0];
            assert!(
                (score - expected).abs() < 1e-3,
                "{own:?}: {score} is not {expected}"
            );
        };
        close(good, 1.0);
        close(steady(100, 50, 1000), 0.8);
        close(steady(100, 0, 3000), 0.8);
        // 4 of an average of 2 in the queue, itself included.
        let busy = Evidence {
            in_flight: 3,
            ..good
        };
        close(busy, 0.9);
        let worse = Evidence {
            younger: window(100, 40, 1000),
            older: window(100, 0, 1000),
            ..good
        };
        close(worse, 1.0 - 0.4 * 0.2 - 0.1 * 0.4);
        let better = Evidence {
            younger: worse.older,
            older: worse.younger,
            ..good
        };
        close(better, 1.0 - 0.4 * 0.2);
    }

    #[test]
    fn only_the_ratios_of_weights_matter() {
        let own = [steady(100, 50, 3000), steady(100, 0, 1000)];
        let only = |success, latency| {
            let spec = ScoreSpec {
                success,
                latency,
                load: 0,
                trend: 0,
                ..ScoreSpec::default()
            };
            scores(&own, &spec)[0]
        };
        assert_eq!(only(1, 0), 0.5);
        assert_eq!(only(10, 0), 0.5);
        // Of 3 and 1 ms the median is the lower one.
        assert!((only(0, 7) - 1.0 / 3.0).abs() < 1e-6);
        assert!((only(500_000, 500_000) - (0.5 + 1.0 / 3.0) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn the_youngest_requests_tell_the_success_rate() {
        let of = |seconds: &[(u64, u64)]| {
            recent_success(seconds.iter().map(|(all, failed)| window(*all, *failed, 0)))
        };
        assert_eq!(of(&[(10, 10), (1000, 0)]), 0.0);
        assert_eq!(of(&[(20, 0), (1000, 1000)]), 1.0);
        // Nothing younger is known than what failed.
        assert_eq!(of(&[(0, 0), (0, 0), (20, 20), (1000, 0)]), 0.0);
        assert_eq!(of(&[(1, 0), (0, 0), (9, 9), (1000, 0)]), 0.1);
    }

    proptest! {
        #[test]
        fn scores_stay_in_range_and_failures_never_help(
            counts in prop::collection::vec(
                (0u64..1000, 0u64..1000, 0u64..100_000, 0u64..100, 0u32..100), 1..20),
            extra in 1u64..100,
        ) {
            let evidence: Vec<Evidence> = counts
                .iter()
                .map(|&(requests, failures, us, in_flight, weight)| Evidence {
                    younger: window(requests, failures.min(requests), us),
                    older: window(requests / 2, failures.min(requests) / 2, us),
                    in_flight,
                    weight,
                })
                .collect();
            let before = scores_of(&evidence);
            prop_assert!(before.iter().all(|score| (0.0..=1.0).contains(score)));
            let mut worse = evidence;
            let failures = worse[0].younger.failures + extra;
            worse[0].younger.failures = failures.min(worse[0].younger.requests);
            prop_assert!(scores_of(&worse)[0] <= before[0] + 1e-6);
        }
    }
}
