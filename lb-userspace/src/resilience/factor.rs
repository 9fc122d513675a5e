//! What a measurement means to a weight.
//!
//! The kernel cannot look at latencies when a packet comes; it has tables made of weights. For the
//! algorithms that go by measurements, this turns what is known of a service's instances into
//! factors of their weights, once a second, and [`super::effective_weight`] does the rest.
//!
//! | algorithm | factor | bounds |
//! |---|---|---|
//! | `health_aware` | health score × recent success rate | 1/16 to 1 |
//! | `least_response_time` | (best latency + g) / (own latency + g) | 1/10 to 1 |
//! | `adaptive` | latency term × load term × recent success rate | 1/2 to 1 |
//!
//! with a grace g of 1 ms, below which differences are noise; the terms of `adaptive` are
//! `min(1, reference / own)` with the service's median latency and its load per weight as
//! references, so that only instances worse than usual lose weight. Factors are only ever
//! relative: an instance without evidence has 1. The success rate counts twice in `health_aware`
//! because an instance that fails everything still has a score of 0.6 or more; in proportion to
//! that alone, users would keep getting most of its failures.
//!
//! A table that changes moves connections, so factors are steadied twice: what is learned moves
//! by [`RATE`] of the way to each new measurement, and a weight follows only when what is learned
//! has left its step of 1 / [`STEPS`] by a good part of the next one.

use super::weight::STEPS;
use crate::model::Algorithm;

/// Differences in latency below this are noise, in seconds.
const GRACE: f64 = 0.001;

/// Least factor of `least_response_time`.
const LEAST_BY_LATENCY: f32 = 0.1;

/// Least factor of `adaptive`: what is learned may be wrong, and half is enough to be kind.
const LEAST_LEARNED: f32 = 0.5;

/// How much of the way to a new measurement one second goes.
pub const RATE: f32 = 0.3;

/// How far, in steps, a factor must be from the step in force to replace it. At half a step both
/// are equally near; the rest is the hysteresis.
const HYSTERESIS: f32 = 0.75;

/// What is known of an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Health score, 0 to 1.
    pub score: f32,
    /// Success rate of late, 0 to 1.
    pub success: f32,
    /// Latency in seconds, of the same kind for all instances of a service.
    pub latency: Option<f64>,
    /// Requests and connections in flight, plus one, per weight; `None` when it takes no traffic.
    pub load: Option<f64>,
}

/// The factor that each instance of a service should have by what is measured now; `None` when
/// `algorithm` does not go by measurements.
#[must_use]
pub fn factors(algorithm: Algorithm, measured: &[Measurement]) -> Option<Vec<f32>> {
    let latencies = || measured.iter().filter_map(|m| m.latency);
    match algorithm {
        Algorithm::HealthAware => {
            let least = 1.0 / STEPS as f32;
            Some(
                measured
                    .iter()
                    .map(|m| (m.score * m.success).max(least))
                    .collect(),
            )
        }
        Algorithm::LeastResponseTime => {
            let best = latencies().fold(f64::INFINITY, f64::min);
            let factor = |own: f64| ((best + GRACE) / (own + GRACE)) as f32;
            Some(
                measured
                    .iter()
                    .map(|m| m.latency.map_or(1.0, factor).max(LEAST_BY_LATENCY))
                    .collect(),
            )
        }
        Algorithm::Adaptive => {
            let latency = median(latencies().collect());
            let load = median(measured.iter().filter_map(|m| m.load).collect());
            let term = |reference: Option<f64>, own: Option<f64>, grace: f64| {
                reference
                    .zip(own)
                    .map_or(1.0, |(r, own)| ((r + grace) / (own + grace)).min(1.0))
            };
            let factor = |m: &Measurement| {
                let good = term(latency, m.latency, GRACE) * term(load, m.load, 0.0);
                (good as f32 * m.success).clamp(LEAST_LEARNED, 1.0)
            };
            Some(measured.iter().map(factor).collect())
        }
        Algorithm::RoundRobin
        | Algorithm::WeightedRoundRobin
        | Algorithm::LeastConnections
        | Algorithm::ConsistentHash => None,
    }
}

/// What is known after `measured`, when `known` was known before.
#[must_use]
pub fn learn(known: f32, measured: f32) -> f32 {
    known + RATE * (measured - known)
}

/// Whether `learned` is far enough from the factor that is `in_force` to replace it.
#[must_use]
pub fn is_step(in_force: f32, learned: f32) -> bool {
    let unit = STEPS as f32;
    let step = (in_force * unit).round();
    // At full strength there is no next step to pass, only the last half of this one.
    let full = learned >= 1.0 - 0.25 / unit && step < unit;
    full || (learned * unit - step).abs() > HYSTERESIS
}

/// The lower median; `None` of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Measurement = Measurement {
        score: 1.0,
        success: 1.0,
        latency: None,
        load: None,
    };

    fn latency(ms: f64) -> Measurement {
        Measurement {
            latency: Some(ms / 1000.0),
            ..PLAIN
        }
    }

    #[test]
    fn each_algorithm_goes_by_its_own_measure() {
        let measured = [
            Measurement {
                score: 0.5,
                ..latency(1.0)
            },
            latency(3.0),
            PLAIN,
            latency(1000.0),
        ];
        assert_eq!(
            factors(Algorithm::HealthAware, &measured).unwrap(),
            [0.5, 1.0, 1.0, 1.0]
        );
        let by_latency = factors(Algorithm::LeastResponseTime, &measured).unwrap();
        assert_eq!(by_latency, [1.0, 0.5, 1.0, 0.1]);
        // The median is 3 ms; 1000 ms would be a factor of 0.004.
        assert_eq!(
            factors(Algorithm::Adaptive, &measured).unwrap(),
            [1.0, 1.0, 1.0, 0.5]
        );
        for blind in [
            Algorithm::RoundRobin,
            Algorithm::WeightedRoundRobin,
            Algorithm::LeastConnections,
            Algorithm::ConsistentHash,
        ] {
            assert_eq!(factors(blind, &measured), None);
        }
    }

    #[test]
    fn adaptive_counts_load_and_failures_too() {
        let load = |load: f64, success: f32| Measurement {
            load: Some(load),
            success,
            ..PLAIN
        };
        let measured = [load(1.0, 1.0), load(1.0, 0.75), load(1.25, 1.0)];
        assert_eq!(
            factors(Algorithm::Adaptive, &measured).unwrap(),
            [1.0, 0.75, 0.8]
        );
    }

    #[test]
    fn jitter_around_a_step_moves_nothing_and_recovery_is_complete() {
        let edge = 11.5 / STEPS as f32;
        for in_force in [11.0 / STEPS as f32, 12.0 / STEPS as f32] {
            for jitter in [-0.2, -0.1, 0.0, 0.1, 0.2] {
                assert!(!is_step(in_force, edge + jitter / STEPS as f32));
            }
            assert!(is_step(in_force, in_force + 1.0 / STEPS as f32));
        }
        let mut known = 0.5;
        let mut in_force = 0.5;
        for _ in 0..60 {
            known = learn(known, 1.0);
            if is_step(in_force, known) {
                in_force = known;
            }
        }
        assert_eq!((in_force * STEPS as f32).round(), STEPS as f32);
    }

    proptest! {
        #[test]
        fn factors_are_factors(
            measured in prop::collection::vec(
                (0.0f32..=1.0, 0.0f32..=1.0, prop::option::of(0.0f64..100.0),
                 prop::option::of(0.0f64..1e6)),
                0..20,
            ),
        ) {
            let measured: Vec<Measurement> = measured
                .into_iter()
                .map(|(score, success, latency, load)| Measurement {
                    score, success, latency, load,
                })
                .collect();
            for algorithm in Algorithm::ALL {
                for factor in factors(algorithm, &measured).into_iter().flatten() {
                    prop_assert!((0.0..=1.0).contains(&factor), "{algorithm}: {factor}");
                }
            }
        }

        #[test]
        fn what_is_in_force_is_never_far_from_what_is_learned(
            targets in prop::collection::vec(0.0f32..=1.0, 1..100),
        ) {
            let (mut known, mut in_force) = (1.0, 1.0);
            for target in targets {
                known = learn(known, target);
                if is_step(in_force, known) {
                    in_force = known;
                }
                let step = (in_force * STEPS as f32).round();
                prop_assert!((known * STEPS as f32 - step).abs() <= 0.75);
            }
        }
    }
}
