//! From what instances say of their load to factors of their weights.
//!
//! An instance that serves `q` requests a second with utilization `u` can serve `q / u`, and its
//! weight should say so. The formula is that of gRFC A58 ("`weighted_round_robin` LB policy"), which
//! Envoy's client-side weighted round robin shares:
//!
//! `w = q / (u + e / q · penalty)`
//!
//! with `e` failed requests a second: an instance that answers everything with an error is not
//! idle but useless. Being an estimate of a capacity rather than of a load, it does not swing: half
//! the requests come with half the utilization.
//!
//! Configured weights are what the operator knows, and reports correct them: what is compared is
//! `w` for each unit of configured weight. It is held within ½ to 2 times the median of the service
//! (an instance may lie, and one that is nearly idle divides by nearly nothing), and the factor is
//! relative to the largest, so it is between ¼ and 1. Whoever does not report counts as the median.

use super::factor::median;
use crate::model::LoadReport;

/// How far from the median a capacity may be, either way.
const SPAN: f64 = 2.0;

/// Utilization below this is noise: nobody is that idle by design.
const LEAST_UTILIZATION: f64 = 0.001;

/// An instance as seen by the formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// What it says; `None` when it does not, or is not to be believed yet or any more.
    pub report: Option<LoadReport>,
    /// Requests a second that lb has sent it, for instances that do not say how many they serve.
    pub rate: f64,
    /// Configured weight.
    pub weight: u16,
}

impl Reported {
    /// What it can do for each unit of weight; `None` when that cannot be told.
    fn capacity(&self, penalty: f64) -> Option<f64> {
        let report = self.report?;
        let rate = Some(f64::from(report.rate))
            .filter(|rate| *rate > 0.0)
            .unwrap_or(self.rate);
        let utilization = f64::from(report.utilization);
        if rate <= 0.0 || self.weight == 0 || utilization <= 0.0 {
            return None;
        }
        let failing = (f64::from(report.errors) / rate).min(1.0);
        let capacity = rate / (utilization.max(LEAST_UTILIZATION) + failing * penalty);
        (capacity / f64::from(self.weight))
            .is_finite()
            .then_some(capacity / f64::from(self.weight))
    }
}

/// The factor of each instance of a service, ¼ to 1; `None` for those that do not report, and what
/// they have instead. All are `None` when nobody reports.
#[must_use]
pub fn reported_factors(instances: &[Reported], penalty: f64) -> (Vec<Option<f32>>, f32) {
    let capacities: Vec<Option<f64>> = instances.iter().map(|i| i.capacity(penalty)).collect();
    let known: Vec<f64> = capacities.iter().flatten().copied().collect();
    let Some(median) = median(known) else {
        return (vec![None; instances.len()], 1.0);
    };
    let held = |capacity: f64| capacity.clamp(median / SPAN, median * SPAN);
    let largest = capacities.iter().flatten().copied().map(held);
    let largest = largest.fold(median, f64::max);
    let factor = |capacity: f64| (held(capacity) / largest) as f32;
    let factors = capacities.iter().map(|c| c.map(factor)).collect();
    (factors, factor(median))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn says(utilization: f32, rate: f32, errors: f32) -> Reported {
        Reported {
            report: Some(LoadReport {
                utilization,
                rate,
                errors,
            }),
            rate: 0.0,
            weight: 1,
        }
    }

    const SILENT: Reported = Reported {
        report: None,
        rate: 100.0,
        weight: 1,
    };

    #[test]
    fn weights_follow_what_instances_can_do() {
        // 200, 100 and 400 requests a second at full load.
        let all = [
            says(0.5, 100.0, 0.0),
            says(1.0, 100.0, 0.0),
            says(0.25, 100.0, 0.0),
        ];
        let (factors, silent) = reported_factors(&all, 1.0);
        assert_eq!(factors, [Some(0.5), Some(0.25), Some(1.0)]);
        assert_eq!(silent, 0.5);
        // Half the requests at half the load are the same capacity.
        let half = [all[0], says(0.5, 50.0, 0.0), all[2]];
        assert_eq!(reported_factors(&half, 1.0).0, factors);
    }

    #[test]
    fn failures_cost_as_configured() {
        let all = [says(0.5, 100.0, 50.0), says(0.5, 100.0, 0.0)];
        assert_eq!(reported_factors(&all, 1.0).0, [Some(0.5), Some(1.0)]);
        assert_eq!(reported_factors(&all, 0.0).0, [Some(1.0), Some(1.0)]);
    }

    #[test]
    fn configured_weights_are_what_is_corrected() {
        let large = Reported {
            weight: 4,
            ..says(0.5, 400.0, 0.0)
        };
        let small = says(0.5, 100.0, 0.0);
        assert_eq!(reported_factors(&[large, small], 1.0).0, [Some(1.0); 2]);
    }

    #[test]
    fn who_does_not_say_how_many_is_asked_by_lb_and_who_says_nothing_is_the_median() {
        let counted = Reported {
            rate: 100.0,
            ..says(0.5, 0.0, 0.0)
        };
        let all = [counted, says(0.25, 100.0, 0.0), SILENT, says(0.0, 5.0, 0.0)];
        let (factors, silent) = reported_factors(&all, 1.0);
        assert_eq!(factors, [Some(0.5), Some(1.0), None, None]);
        assert_eq!(silent, 0.5);
        assert_eq!(reported_factors(&[SILENT; 2], 1.0), (vec![None; 2], 1.0));
    }

    proptest! {
        #[test]
        fn factors_are_bounded_and_somebody_has_all(
            all in prop::collection::vec(
                (any::<f32>(), any::<f32>(), any::<f32>(), 0u16..100, 0.0f64..1e6, any::<bool>()),
                1..30,
            ),
            penalty in 0.0f64..10.0,
        ) {
            let sane = |x: f32| if x.is_finite() { x.abs() } else { 1.0 };
            let all: Vec<Reported> = all
                .into_iter()
                .map(|(utilization, requests, errors, weight, rate, silent)| Reported {
                    weight,
                    rate,
                    report: (!silent)
                        .then(|| says(sane(utilization), sane(requests), sane(errors)).report)
                        .flatten(),
                })
                .collect();
            let (factors, silent) = reported_factors(&all, penalty);
            prop_assert!((0.25..=1.0).contains(&silent));
            let known: Vec<f32> = factors.into_iter().flatten().collect();
            for factor in &known {
                prop_assert!((0.2499..=1.0).contains(factor), "{factor}");
            }
            if !known.is_empty() {
                prop_assert!(known.iter().any(|factor| *factor > 0.999));
            }
        }
    }
}
