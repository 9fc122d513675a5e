//! Scores and weights from traffic, in virtual time.

use std::time::Duration;

use super::*;
use crate::{
    health::scorer,
    model::{Clock, LoadReport, LoadReportSpec, Outcome, ScoreSpec, Timestamp},
    resilience::UNIT,
};

struct Run {
    registry: Arc<Registry>,
    clock: Clock,
}

impl Run {
    fn new(algorithm: Algorithm, instances: u16) -> Self {
        let endpoints: Vec<String> = (1..=instances).map(|i| format!("10.0.0.{i}:80")).collect();
        Self {
            registry: registry(vec![service("web", algorithm, None, &endpoints)]),
            clock: Clock::manual(Timestamp(100_000_000)),
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
            scorer::score(&self.registry, self.clock.now());
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

/// A service that listens to reports.
fn listening(algorithm: Algorithm, weights: &[u16], spec: LoadReportSpec) -> Run {
    let instances = weights.iter().zip(1..).map(|(weight, host)| {
        InstanceSpec::new(
            Endpoint::parse(&format!("10.0.0.{host}:80")).unwrap(),
            *weight,
        )
    });
    let service = ServiceSpec {
        algorithm,
        load_reports: Some(spec),
        instances: instances.collect(),
        ..ServiceSpec::new(ServiceName::new("web").unwrap())
    };
    Run {
        registry: registry(vec![service]),
        clock: Clock::manual(Timestamp(100_000_000)),
    }
}

impl Run {
    /// `seconds` in each of which every instance says that it is used so much at 100 requests a
    /// second; negative is silence.
    fn reports(&mut self, seconds: usize, utilizations: &[f32]) -> Vec<(u32, u32)> {
        let expiry = LoadReportSpec::default().times.expiry;
        for _ in 0..seconds {
            let members = self.members();
            let said = members.iter().zip(utilizations);
            for (member, utilization) in said.filter(|(_, utilization)| **utilization >= 0.0) {
                let report = LoadReport {
                    utilization: *utilization,
                    rate: 100.0,
                    errors: 0.0,
                };
                member
                    .instance
                    .reports
                    .record(self.clock.now(), report, expiry);
            }
            self.clock.advance(Duration::from_secs(1));
            scorer::score(&self.registry, self.clock.now());
        }
        let members = self.members();
        members
            .iter()
            .map(|m| (m.weight / UNIT, m.base / UNIT))
            .collect()
    }
}

#[test]
fn reports_move_the_weights_of_both_planes_after_the_blackout_and_until_they_expire() {
    let spec = LoadReportSpec::default();
    let mut run = listening(Algorithm::Adaptive, &[16; 4], spec);
    let says = [0.25, 0.5, 1.0, -1.0];
    assert_eq!(run.reports(9, &says), [(16, 16); 4]);
    // Capacities of 400, 200 and 100; who is silent counts as the median.
    let settled = [(16, 16), (8, 8), (4, 4), (8, 8)];
    assert_eq!(run.reports(40, &says), settled);
    assert_eq!(run.reports(178, &[-1.0; 4]), settled);
    assert_eq!(run.reports(40, &[-1.0; 4]), [(16, 16); 4]);
}

#[test]
fn what_a_health_check_is_told_lowers_the_weight() {
    let mut run = listening(Algorithm::Adaptive, &[16; 2], LoadReportSpec::default());
    run.members()[1]
        .instance
        .reports
        .want(run.clock.now(), Some(50));
    assert_eq!(run.reports(30, &[-1.0; 2]), [(16, 16), (8, 8)]);
    run.members()[1]
        .instance
        .reports
        .want(run.clock.now(), None);
    assert_eq!(run.reports(30, &[-1.0; 2]), [(16, 16); 2]);
}

#[test]
fn weighted_round_robin_listens_only_when_it_is_told_to() {
    let says = [0.25, 0.5];
    let run = |algorithm, weighted_round_robin| {
        let spec = LoadReportSpec {
            weighted_round_robin,
            ..LoadReportSpec::default()
        };
        listening(algorithm, &[16; 2], spec).reports(60, &says)
    };
    assert_eq!(run(Algorithm::WeightedRoundRobin, false), [(16, 16); 2]);
    assert_eq!(run(Algorithm::WeightedRoundRobin, true), [(16, 16), (8, 8)]);
    assert_eq!(run(Algorithm::ConsistentHash, true), [(16, 16); 2]);
}

#[test]
fn steady_reports_move_nothing_and_a_service_that_stops_listening_forgets() {
    let mut run = listening(Algorithm::Adaptive, &[16; 3], LoadReportSpec::default());
    let jitter = |run: &mut Run| {
        for _ in 0..30 {
            run.reports(1, &[0.49, 0.51, 0.7]);
            run.reports(1, &[0.51, 0.49, 0.71]);
        }
        run.revision()
    };
    let settled = jitter(&mut run);
    jitter(&mut run);
    assert_eq!(run.revision(), settled);
    let snapshot = run.registry.snapshot();
    let deaf = ServiceSpec {
        load_reports: None,
        ..(*snapshot.services[0].spec).clone()
    };
    configure(&run.registry, vec![deaf]);
    assert_eq!(run.reports(1, &[0.5, 0.5, 0.7]), [(16, 16); 3]);
}

#[test]
fn idle_instances_are_equally_loaded_whatever_they_weigh() {
    let mut run = listening(Algorithm::Adaptive, &[10, 1], LoadReportSpec::default());
    for member in run.members().iter() {
        let latency = Duration::from_millis(5);
        member.instance.probe_latency.add(run.clock.now(), latency);
    }
    assert_eq!(run.seconds(30, &[0, 0]), [10 * UNIT, UNIT]);
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
    // It holds for a minute after the last evidence, which is there for ten seconds more.
    assert_eq!(run.seconds(65, &[0, 0, 0]), [FULL, FULL, FULL / 2]);
    assert_eq!(run.seconds(30, &[0, 0, 0]), [FULL; 3]);
    assert_eq!(run.members()[2].instance.measured.learned.get(), None);
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

#[test]
fn a_score_looks_at_its_services_window_with_its_services_weights() {
    let scores_after = |spec: ScoreSpec, quiet: u64| {
        let endpoints = ["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()];
        let service = ServiceSpec {
            score: spec,
            ..service("web", Algorithm::HealthAware, None, &endpoints)
        };
        let mut run = Run {
            registry: registry(vec![service]),
            clock: Clock::manual(Timestamp(600_000_000)),
        };
        run.seconds(1, &[-5, 5]);
        run.clock.advance(Duration::from_secs(quiet));
        scorer::score(&run.registry, run.clock.now());
        run.members()[0].instance.measured.score()
    };
    let only_success = |seconds| ScoreSpec {
        success: 1_000_000,
        latency: 0,
        load: 0,
        trend: 0,
        window: Duration::from_secs(seconds),
    };
    // A failure is all that counts, as long as the window sees it.
    for (window, quiet, score) in [
        (10, 5, 0.0),
        (10, 12, 1.0),
        (60, 50, 0.0),
        (300, 200, 0.0),
        (300, 400, 1.0),
        (3600, 3000, 0.0),
    ] {
        let found = scores_after(only_success(window), quiet);
        assert_eq!(found, score, "{window} s, {quiet} s later");
    }
    // By default it is two fifths of the whole.
    assert_eq!(scores_after(ScoreSpec::default(), 2), 0.6);
}
