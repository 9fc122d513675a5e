//! Once a second: from measurements to scores, and from scores to weights.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    model::{Algorithm, Clock, Instance, InstanceId, Timestamp, window::WindowSum},
    registry::{Change, Registry, Service},
    resilience::{
        Measurement, ScoreWeights,
        factor::{factors, is_step, learn},
        score::{Evidence, WINDOW, recent_success, scores},
    },
};

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// Scores the instances of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock, weights: ScoreWeights) {
    let mut scorer = Scorer::new(weights);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        scorer.score(&registry, clock.now());
    }
}

/// What has been learned so far.
#[derive(Debug)]
pub struct Scorer {
    weights: ScoreWeights,
    /// Factors of instances whose service goes by measurements. Without evidence they return to
    /// 1 by themselves; those of instances that are gone are forgotten, and so are those that were
    /// learned for another algorithm.
    learned: HashMap<(InstanceId, Algorithm), f32>,
    /// The reset after which it was learned.
    reset: u64,
}

impl Scorer {
    /// A scorer that has learned nothing; `weights` are those of the score's parts.
    #[must_use]
    pub fn new(weights: ScoreWeights) -> Self {
        Self {
            weights,
            learned: HashMap::new(),
            reset: 0,
        }
    }

    /// Scores every instance by what it has measured until `now`, and moves the weights of
    /// services whose algorithm goes by measurements. To be called once a second.
    pub fn score(&mut self, registry: &Registry, now: Timestamp) {
        let mut before = std::mem::take(&mut self.learned);
        let snapshot = registry.snapshot();
        if snapshot.reset != self.reset {
            self.reset = snapshot.reset;
            before.clear();
        }
        let mut steps = Vec::new();
        for service in &snapshot.services {
            let measured = measure(service, &self.weights, now);
            let algorithm = service.spec.algorithm;
            let Some(factors) = factors(algorithm, &measured) else {
                continue;
            };
            let members = service.members.iter().zip(service.statuses.iter());
            for ((member, status), factor) in members.zip(factors) {
                let id = member.instance.id;
                let known = before.get(&(id, algorithm)).copied().unwrap_or(1.0);
                let learned = learn(known, factor);
                self.learned.insert((id, algorithm), learned);
                if member.base > 0 && is_step(status.factor, learned) {
                    steps.push((id, learned));
                }
            }
        }
        if !steps.is_empty()
            && let Err(error) = registry.apply(Change::Factors(steps))
        {
            tracing::error!(%error, "the registry refused measured factors");
        }
    }
}

/// Scores the instances of one service and says what else is known of them.
fn measure(service: &Service, weights: &ScoreWeights, now: Timestamp) -> Vec<Measurement> {
    let seconds: Vec<Vec<WindowSum>> = service
        .members
        .iter()
        .map(|member| {
            (0..WINDOW)
                .map(|skip| member.instance.window(now, skip, 1))
                .collect()
        })
        .collect();
    let evidence: Vec<Evidence> = service
        .members
        .iter()
        .zip(&seconds)
        .map(|(member, seconds)| {
            let (younger, older) = seconds.split_at(seconds.len() / 2);
            Evidence {
                younger: sum(younger),
                older: sum(older),
                in_flight: in_flight(&member.instance),
                weight: member.base,
            }
        })
        .collect();
    let latencies = latencies(service, &seconds);
    scores(&evidence, weights)
        .into_iter()
        .enumerate()
        .map(|(i, score)| {
            let measured = &service.members[i].instance.measured;
            let success = recent_success(seconds[i].iter().copied());
            measured.set_score(score);
            measured.set_success(success);
            Measurement {
                score,
                success,
                latency: latencies[i],
                load: (evidence[i].weight > 0).then(|| evidence[i].load()),
            }
        })
        .collect()
}

/// The latency of each instance in seconds: of its requests when all that take traffic have had
/// some, else of its health checks. One kind for all, because a request and a check are not to be
/// compared.
fn latencies(service: &Service, seconds: &[Vec<WindowSum>]) -> Vec<Option<f64>> {
    let of_requests: Vec<Option<f64>> = seconds.iter().map(|s| sum(s).mean_latency()).collect();
    let mut serving = service.members.iter().zip(&of_requests);
    if serving.all(|(member, latency)| member.base == 0 || latency.is_some()) {
        return of_requests;
    }
    let of_checks = |instance: &Instance| instance.probe_latency.at_last_sample();
    service
        .members
        .iter()
        .map(|member| of_checks(&member.instance).map(|latency| latency.as_secs_f64()))
        .collect()
}

fn sum(seconds: &[WindowSum]) -> WindowSum {
    let mut sum = WindowSum::default();
    for second in seconds {
        sum += *second;
    }
    sum
}

/// Requests that lb forwards itself and connections that the kernel forwards.
fn in_flight(instance: &Instance) -> u64 {
    u64::from(instance.in_flight()) + instance.kernel.live.load(Ordering::Relaxed)
}
