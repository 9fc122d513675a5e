//! Once a second: from measurements to scores, and from scores to weights.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    model::{
        Clock, Instance, InstanceId, Learned, Lesson, Member, Timestamp,
        history::Span,
        window::{WINDOW_SECONDS, WindowSum},
    },
    registry::{Change, Registry, Service},
    resilience::{
        Factors, Measurement, Reported,
        factor::{HOLD, factors, is_step, learn},
        reported_factors,
        score::{Evidence, recent_success, scores},
    },
};

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// Seconds of the window that weights and recent success go by. Long enough for an instance with
/// a request a second to have evidence, short enough that an incident is over soon after.
const WINDOW: u64 = 10;

/// Scores the instances of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        score(&registry, clock.now());
    }
}

/// Scores every instance by what it has measured until `now`, and moves the weights of services
/// whose algorithm goes by measurements or reports. What is learned is kept with the instances. To
/// be called once a second.
pub fn score(registry: &Registry, now: Timestamp) {
    let mut steps = Vec::new();
    for service in &registry.snapshot().services {
        let seconds = seconds(service, now);
        let measured = measure(service, &seconds, now);
        step(
            service,
            &measured,
            &reported(service, &seconds, now),
            now,
            &mut steps,
        );
    }
    if !steps.is_empty()
        && let Err(error) = registry.apply(Change::Factors(steps))
    {
        tracing::error!(%error, "the registry refused factors of weights");
    }
}

/// The steps that the factors of a service's instances take by what is `measured` and `reported`.
fn step(
    service: &Service,
    measured: &[Measurement],
    reported: &Option<Vec<f32>>,
    now: Timestamp,
    steps: &mut Vec<(InstanceId, Factors)>,
) {
    let algorithm = service.spec.algorithm;
    let factors = factors(algorithm, measured);
    let members = service.members.iter().zip(service.statuses.iter());
    for (i, (member, status)) in members.enumerate() {
        let instance = &member.instance;
        let learned = |place: &Learned, wanted: Option<Option<f32>>| match wanted {
            Some(target) => place.update(|known| learn(known, algorithm, target, now)),
            None => {
                place.reset();
                None
            }
        };
        let lessons = [
            learned(
                &instance.measured.learned,
                factors.as_ref().map(|all| all[i]),
            ),
            learned(
                &instance.measured.reported,
                reported.as_ref().map(|all| Some(all[i])),
            ),
        ];
        let [measured, reported] =
            lessons.map(|lesson| lesson.map_or(1.0, |Lesson { factor, .. }| factor));
        let next = |in_force: f32, learned: f32| match is_step(in_force, learned) {
            true => learned,
            false => in_force,
        };
        let after = Factors {
            measured: next(status.factors.measured, measured),
            reported: next(status.factors.reported, reported),
        };
        if member.base > 0 && after != status.factors {
            steps.push((instance.id, after));
        }
    }
}

/// The factors of a service's instances by their own reports; `None` when nobody is to listen.
fn reported(service: &Service, seconds: &[Vec<WindowSum>], now: Timestamp) -> Option<Vec<f32>> {
    let spec = service.spec.load_reports.as_ref();
    let spec = spec.filter(|spec| spec.feeds(service.spec.algorithm))?;
    let members = service.members.iter().zip(service.statuses.iter());
    let instances: Vec<Reported> = members
        .zip(seconds)
        .map(|((member, status), seconds)| Reported {
            report: member.instance.reports.get(now, &spec.times),
            rate: sum(seconds).requests as f64 / seconds.len().max(1) as f64,
            weight: status.weight,
        })
        .collect();
    let penalty = f64::from(spec.error_penalty) / 100.0;
    let (factors, silent) = reported_factors(&instances, penalty);
    let wanted = |member: &Member| {
        let percent = member.instance.reports.wanted(now, spec.times.expiry);
        f32::from(percent.unwrap_or(100)) / 100.0
    };
    let factors = factors.into_iter().zip(service.members.iter());
    let factors = factors.map(|(own, member)| own.unwrap_or(silent) * wanted(member));
    Some(factors.collect())
}

/// The last seconds of each instance, the youngest first.
fn seconds(service: &Service, now: Timestamp) -> Vec<Vec<WindowSum>> {
    let members = service.members.iter();
    let of = |member: &Member| {
        (0..WINDOW)
            .map(|skip| member.instance.window(now, skip, 1))
            .collect()
    };
    members.map(of).collect()
}

/// Scores the instances of one service and says what else is known of them.
fn measure(service: &Service, seconds: &[Vec<WindowSum>], now: Timestamp) -> Vec<Measurement> {
    let spec = &service.spec.score;
    let members = service.members.iter();
    let evidence: Vec<Evidence> = members
        .map(|member| {
            let (younger, older) = halves(&member.instance, spec.window, now);
            Evidence {
                younger,
                older,
                in_flight: member.instance.busy_with(),
                weight: member.base,
            }
        })
        .collect();
    let latencies = latencies(service, seconds, now);
    let serving = || evidence.iter().filter(|e| e.weight > 0);
    let weight_of_all: f64 = serving().map(|e| f64::from(e.weight)).sum();
    let average = weight_of_all / serving().count().max(1) as f64;
    scores(&evidence, spec)
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
                fresh: latencies[i].is_some()
                    || evidence[i].in_flight > 0
                    || sum(&seconds[i]).requests > 0,
                // Idle instances are equally loaded whatever their weights are.
                load: (evidence[i].weight > 0).then(|| {
                    evidence[i].in_flight as f64 * average / f64::from(evidence[i].weight) + 1.0
                }),
            }
        })
        .collect()
}

/// The younger and the older half of an instance's last `window`. Seconds are kept for a minute;
/// what is longer is counted in minutes, two at least.
fn halves(instance: &Instance, window: Duration, now: Timestamp) -> (WindowSum, WindowSum) {
    let seconds = window.as_secs();
    if seconds < WINDOW_SECONDS {
        let half = seconds / 2;
        let older = instance.window(now, half, seconds - half);
        return (instance.window(now, 0, half), older);
    }
    let minutes = seconds.div_ceil(60).max(2);
    let half = minutes / 2;
    let of = |skip, count| instance.history(Span::minutes(now, skip, count)).sum();
    (of(0, half), of(half, minutes - half))
}

/// The latency of each instance in seconds: of its requests when all that take traffic have had
/// some, else of its health checks. One kind for all, because a request and a check are not to be
/// compared. A check of long ago says nothing: they may have been switched off.
fn latencies(service: &Service, seconds: &[Vec<WindowSum>], now: Timestamp) -> Vec<Option<f64>> {
    let of_requests: Vec<Option<f64>> = seconds.iter().map(|s| sum(s).mean_latency()).collect();
    let mut serving = service.members.iter().zip(&of_requests);
    if serving.all(|(member, latency)| member.base == 0 || latency.is_some()) {
        return of_requests;
    }
    let interval = service
        .spec
        .health_check
        .as_ref()
        .map(|check| check.interval * 2);
    let within = interval.unwrap_or_default().max(HOLD);
    let members = service.members.iter();
    members
        .map(|member| member.instance.probe_latency.sampled(now, within))
        .map(|latency| latency.map(|latency| latency.as_secs_f64()))
        .collect()
}

fn sum(seconds: &[WindowSum]) -> WindowSum {
    let mut sum = WindowSum::default();
    for second in seconds {
        sum += *second;
    }
    sum
}
