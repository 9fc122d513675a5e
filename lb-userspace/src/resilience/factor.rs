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
//! references, so that only instances worse than usual lose weight, and none more than half: what is
//! learned may be wrong. Factors are only ever relative. The success rate counts twice in `health_aware`
//! because an instance that fails everything still has a score of 0.6 or more; in proportion to
//! that alone, users would keep getting most of its failures.
//!
//! A table that changes moves connections, so factors are steadied twice: what is learned moves
//! by [`RATE`] of the way to each new measurement, and a weight follows only when what is learned
//! has left its step of 1 / [`STEPS`] by a good part of the next one.
//!
//! What is learned holds while there is nothing new to learn from, because an instance that was
//! slow before a quiet minute will hardly be quick after it; but only for [`HOLD`]. Then it goes
//! back to 1 at the same pace, for a service that nobody asks must not remember for ever.

use std::time::Duration;

use super::weight::STEPS;
use crate::model::{Algorithm, Lesson, Timestamp};

/// Differences in latency below this are noise, in seconds.
const GRACE: f64 = 0.001;

/// Least factor of `least_response_time`.
const LEAST_BY_LATENCY: f32 = 0.1;

/// Least factor of `adaptive`: what is learned may be wrong, and half is enough to be kind.
const LEAST_LEARNED: f32 = 0.5;

/// How much of the way to a new measurement one second goes.
pub const RATE: f32 = 0.3;

/// How long what was learned holds without fresh evidence.
pub const HOLD: Duration = Duration::from_secs(60);

/// What is as good as 1.
const FORGOTTEN: f32 = 0.999;

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
    /// Whether there was anything to measure of late.
    pub fresh: bool,
    /// Latency in seconds, of the same kind for all instances of a service.
    pub latency: Option<f64>,
    /// Requests and connections in flight for a weight that is average in the service, plus one;
    /// `None` when it takes no traffic.
    pub load: Option<f64>,
}

/// The factor that each instance of a service should have by what is measured now, `None` where
/// there is no fresh evidence; `None` altogether when `algorithm` does not go by measurements.
#[must_use]
pub fn factors(algorithm: Algorithm, measured: &[Measurement]) -> Option<Vec<Option<f32>>> {
    let latencies = || measured.iter().filter_map(|m| m.latency);
    match algorithm {
        Algorithm::HealthAware => {
            let least = 1.0 / STEPS as f32;
            Some(
                measured
                    .iter()
                    .map(|m| m.fresh.then(|| (m.score * m.success).max(least)))
                    .collect(),
            )
        }
        Algorithm::LeastResponseTime => {
            let best = latencies().fold(f64::INFINITY, f64::min);
            let factor = |own: f64| ((best + GRACE) / (own + GRACE)) as f32;
            Some(
                measured
                    .iter()
                    .map(|m| m.latency.map(|own| factor(own).max(LEAST_BY_LATENCY)))
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
                m.fresh
                    .then(|| (good as f32 * m.success).clamp(LEAST_LEARNED, 1.0))
            };
            Some(measured.iter().map(factor).collect())
        }
        Algorithm::RoundRobin
        | Algorithm::WeightedRoundRobin
        | Algorithm::LeastConnections
        | Algorithm::ConsistentHash => None,
    }
}

/// What is known at `now` of an instance under `algorithm`, when `known` was known before and
/// `measured` is what its factor should be; `None` when there is no fresh evidence. To be asked
/// once a second. A lesson of another algorithm counts for nothing.
#[must_use]
pub fn learn(
    known: Option<Lesson>,
    algorithm: Algorithm,
    measured: Option<f32>,
    now: Timestamp,
) -> Option<Lesson> {
    let known = known.filter(|lesson| lesson.algorithm == algorithm);
    let towards = |to: f32| {
        let factor = known.map_or(1.0, |lesson| lesson.factor);
        factor + RATE * (to - factor)
    };
    match (measured, known) {
        (Some(measured), _) => Some(Lesson {
            algorithm,
            factor: towards(measured),
            evidence: now,
        }),
        (None, Some(lesson)) if now - lesson.evidence < HOLD => Some(lesson),
        (None, Some(lesson)) => Some(Lesson {
            factor: towards(1.0),
            ..lesson
        })
        .filter(|lesson| lesson.factor < FORGOTTEN),
        (None, None) => None,
    }
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
        fresh: true,
        latency: None,
        load: None,
    };

    const STALE: Measurement = Measurement {
        fresh: false,
        ..PLAIN
    };

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn latency(ms: f64) -> Measurement {
        Measurement {
            latency: Some(ms / 1000.0),
            ..PLAIN
        }
    }

    /// What is learned from 1 on by a measurement a second.
    fn course(measured: impl IntoIterator<Item = Option<f32>>) -> Vec<Option<Lesson>> {
        let mut known = None;
        let seconds = (0..).map(|second| NOW + Duration::from_secs(second));
        let learned = seconds.zip(measured).map(|(now, measured)| {
            known = learn(known, Algorithm::Adaptive, measured, now);
            known
        });
        learned.collect()
    }

    #[test]
    fn each_algorithm_goes_by_its_own_measure() {
        let measured = [
            Measurement {
                score: 0.5,
                ..latency(1.0)
            },
            latency(3.0),
            STALE,
            latency(1000.0),
        ];
        assert_eq!(
            factors(Algorithm::HealthAware, &measured).unwrap(),
            [Some(0.5), Some(1.0), None, Some(1.0)]
        );
        let by_latency = factors(Algorithm::LeastResponseTime, &measured).unwrap();
        assert_eq!(by_latency, [Some(1.0), Some(0.5), None, Some(0.1)]);
        // The median is 3 ms; 1000 ms would be a factor of 0.004.
        assert_eq!(
            factors(Algorithm::Adaptive, &measured).unwrap(),
            [Some(1.0), Some(1.0), None, Some(0.5)]
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
            [Some(1.0), Some(0.75), Some(0.8)]
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
        let mut in_force = 0.5;
        for lesson in course([Some(0.5); 20].into_iter().chain([Some(1.0); 60])) {
            let learned = lesson.unwrap().factor;
            if is_step(in_force, learned) {
                in_force = learned;
            }
        }
        assert_eq!((in_force * STEPS as f32).round(), STEPS as f32);
    }

    #[test]
    fn what_was_learned_holds_for_a_minute_without_evidence_and_then_expires() {
        let course = course([Some(0.5); 30].into_iter().chain([None; 100]));
        let factor = |second: usize| course[second].map(|lesson| lesson.factor);
        assert!(factor(29).unwrap() < 0.51);
        // The last evidence was that of second 29.
        assert_eq!(factor(29 + 59), factor(29));
        assert!(factor(29 + 60).unwrap() > 0.6);
        assert_eq!(
            course[29 + 60].unwrap().evidence,
            course[29].unwrap().evidence
        );
        assert_eq!(factor(129), None);
    }

    #[test]
    fn another_algorithms_lesson_counts_for_nothing() {
        let known = course([Some(0.5); 30])[29];
        let learned = learn(known, Algorithm::LeastResponseTime, Some(1.0), NOW);
        assert_eq!(learned.unwrap().factor, 1.0);
        assert_eq!(learn(known, Algorithm::HealthAware, None, NOW), None);
    }

    proptest! {
        #[test]
        fn factors_are_factors(
            measured in prop::collection::vec(
                (0.0f32..=1.0, 0.0f32..=1.0, any::<bool>(), prop::option::of(0.0f64..100.0),
                 prop::option::of(0.0f64..1e6)),
                0..20,
            ),
        ) {
            let measured: Vec<Measurement> = measured
                .into_iter()
                .map(|(score, success, fresh, latency, load)| Measurement {
                    score, success, fresh, latency, load,
                })
                .collect();
            for algorithm in Algorithm::ALL {
                for factor in factors(algorithm, &measured).into_iter().flatten().flatten() {
                    prop_assert!((0.0..=1.0).contains(&factor), "{algorithm}: {factor}");
                    if algorithm == Algorithm::Adaptive {
                        prop_assert!(factor >= LEAST_LEARNED);
                    }
                }
            }
        }

        #[test]
        fn what_is_learned_stays_between_what_was_measured_and_one(
            measured in prop::collection::vec(prop::option::of(0.5f32..=1.0), 1..300),
        ) {
            let least = measured.iter().flatten().copied().fold(1.0, f32::min);
            for lesson in course(measured).into_iter().flatten() {
                prop_assert!((least - 1e-6..=1.0).contains(&lesson.factor), "{lesson:?}");
            }
        }

        #[test]
        fn what_is_in_force_is_never_far_from_what_is_learned(
            targets in prop::collection::vec(0.0f32..=1.0, 1..100),
        ) {
            let mut in_force = 1.0;
            for known in course(targets.into_iter().map(Some)) {
                let known = known.unwrap().factor;
                if is_step(in_force, known) {
                    in_force = known;
                }
                let step = (in_force * STEPS as f32).round();
                prop_assert!((known * STEPS as f32 - step).abs() <= 0.75);
            }
        }
    }
}
