//! Scores and weights from traffic, in virtual time.

use std::time::Duration;

use super::*;
use crate::{
    health::scorer::Scorer,
    model::{Clock, Outcome, Timestamp},
    resilience::{ScoreWeights, UNIT},
};

struct Run {
    registry: Arc<Registry>,
    clock: Clock,
    scorer: Scorer,
}

impl Run {
    fn new(algorithm: Algorithm, instances: u16) -> Self {
        let endpoints: Vec<String> = (1..=instances).map(|i| format!("10.0.0.{i}:80")).collect();
        Self {
            registry: registry(vec![service("web", algorithm, None, &endpoints)]),
            clock: Clock::manual(Timestamp(100_000_000)),
            scorer: Scorer::new(ScoreWeights::default()),
        }
    }

    /// `seconds` in each of which every instance answers ten requests, after its latency in ms;
    /// one of 0 ms answers none, a negative one fails them all.
    fn seconds(&mut self, seconds: usize, latencies_ms: &[i64]) -> Vec<u32> {
        for _ in 0..seconds {
            for (member, ms) in self.members().iter().zip(latencies_ms) {
                for _ in (0..10).filter(|_| *ms != 0) {
                    let clock = Clock::manual(self.clock.now());
                    let mut request = member.instance.begin(Algorithm::RoundRobin, 0, &clock);
                    clock.advance(Duration::from_millis(ms.unsigned_abs()));
                    request.judge(if *ms < 0 {
                        Outcome::Failure
                    } else {
                        Outcome::Success
                    });
                }
            }
            self.clock.advance(Duration::from_secs(1));
            self.scorer.score(&self.registry, self.clock.now());
        }
        self.members().iter().map(|member| member.weight).collect()
    }

    fn members(&self) -> Arc<[crate::model::Member]> {
        Arc::clone(&self.registry.snapshot().services[0].members)
    }

    fn revision(&self) -> u64 {
        self.registry.snapshot().revision
    }
}

const FULL: u32 = 10 * UNIT;

#[test]
fn every_algorithm_has_scores_and_only_some_have_factors() {
    for algorithm in Algorithm::ALL {
        let mut run = Run::new(algorithm, 3);
        let weights = run.seconds(12, &[5, 5, -5]);
        let members = run.members();
        let scores: Vec<f32> = members
            .iter()
            .map(|m| m.instance.measured.score())
            .collect();
        assert!(
            scores[0] > 0.99 && (scores[2] - 0.6).abs() < 0.01,
            "{scores:?}"
        );
        assert_eq!(members[2].instance.measured.success(), 0.0);
        let lowered = weights[2] < weights[0];
        let measured = matches!(algorithm, Algorithm::HealthAware | Algorithm::Adaptive);
        assert_eq!(lowered, measured, "{algorithm}: {weights:?}");
    }
}

#[test]
fn latency_becomes_weight_in_proportion() {
    let mut run = Run::new(Algorithm::LeastResponseTime, 3);
    let weights = run.seconds(30, &[9, 19, 39]);
    assert_eq!(weights, [FULL, FULL / 2, FULL / 4]);
    assert!(run.members().iter().all(|member| member.base == FULL));
}

#[test]
fn checks_stand_in_for_requests_until_all_have_some() {
    let mut run = Run::new(Algorithm::LeastResponseTime, 2);
    for (member, ms) in run.members().iter().zip([1, 3]) {
        let latency = Duration::from_millis(ms);
        member.instance.probe_latency.add(run.clock.now(), latency);
    }
    assert_eq!(run.seconds(30, &[9, 0]), [FULL, FULL / 2]);
}

#[test]
fn adaptive_takes_at_most_half_and_gives_it_back_without_evidence() {
    let mut run = Run::new(Algorithm::Adaptive, 3);
    assert_eq!(run.seconds(30, &[5, 5, 500]), [FULL, FULL, FULL / 2]);
    assert_eq!(run.seconds(30, &[0, 0, 0]), [FULL; 3]);
}

#[test]
fn a_steady_service_keeps_its_tables() {
    for algorithm in Algorithm::ALL {
        let mut run = Run::new(algorithm, 3);
        run.seconds(30, &[10, 10, 13]);
        let settled = run.revision();
        for _ in 0..10 {
            run.seconds(1, &[10, 11, 13]);
            run.seconds(1, &[11, 10, 13]);
        }
        assert_eq!(run.revision(), settled, "{algorithm}");
    }
}

#[test]
fn a_changed_algorithm_begins_at_full_weight() {
    let mut run = Run::new(Algorithm::Adaptive, 2);
    run.seconds(30, &[5, 500]);
    let change = Change::Algorithm {
        service: ServiceName::new("web").unwrap(),
        algorithm: Algorithm::WeightedRoundRobin,
    };
    run.registry.apply(change).unwrap();
    assert_eq!(run.seconds(3, &[5, 500]), [FULL, FULL]);
}
