//! A task an instance, and the one that starts and ends them.
//!
//! Each snapshot is compared with the tasks that run. An instance keeps its task, and with it its
//! pace and its run of results, as long as it and its check are the same; a reload that touches
//! something else is not noticed. A task begins where the registry's knowledge ends: with the
//! health that the instance has.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{probe::probe, verdict::Verdict};
use crate::{
    model::{Clock, Health, HealthCheckSpec, Instance, InstanceId, Timestamp},
    registry::{Change, Registry, Snapshot},
    resilience::breaker,
};

/// Time between the first checks of instances that are added together, on average.
const SPREAD: Duration = Duration::from_millis(1);

/// How far a check may be moved from its time, as a share of the interval. Without it, instances
/// that were added together would be checked together for ever.
const JITTER: f64 = 0.1;

/// Checks the instances of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let mut revision = registry.subscribe();
    let mut tasks = Tasks::default();
    loop {
        tasks.follow(&registry, &clock);
        // The registry is held here, so its sender cannot go away.
        if revision.changed().await.is_err() {
            return;
        }
    }
}

/// Closes the breaker of an instance that checks found down and now find up again, unless an
/// operator holds it, and forgets its run of failures: what its requests ran into was that it was
/// down. That it comes back carefully is what recoveries are for.
pub fn is_up_again(instance: &Instance, now: Timestamp) {
    breaker::clear(&instance.gate, now);
    instance.failures.end();
}

/// The tasks that run.
#[derive(Debug, Default)]
struct Tasks(HashMap<InstanceId, Task>);

#[derive(Debug)]
struct Task {
    instance: Arc<Instance>,
    spec: HealthCheckSpec,
    /// Whether the registry knows a health: when the task began, or from the task.
    known: Arc<AtomicBool>,
    handle: AbortHandle,
}

impl Task {
    /// Whether it does what is wanted. When the registry knows no health although it did,
    /// checks were switched off and on again between two looks.
    fn serves(&self, wanted: &Wanted<'_>) -> bool {
        let forgotten = wanted.health == Health::Unknown && self.known.load(Ordering::Relaxed);
        Arc::ptr_eq(&self.instance, wanted.instance) && self.spec == *wanted.spec && !forgotten
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// An instance that is to be checked.
struct Wanted<'a> {
    instance: &'a Arc<Instance>,
    spec: &'a HealthCheckSpec,
    health: Health,
}

impl Tasks {
    /// Ends the tasks that the current snapshot has no use for and starts those that it misses.
    fn follow(&mut self, registry: &Arc<Registry>, clock: &Clock) {
        let snapshot = registry.snapshot();
        let mut wanted = wanted(&snapshot);
        self.0.retain(|id, task| match wanted.get(id) {
            Some(new) if task.serves(new) => {
                wanted.remove(id);
                true
            }
            _ => false,
        });
        let spread = SPREAD * wanted.len() as u32;
        for (
            id,
            Wanted {
                instance,
                spec,
                health,
            },
        ) in wanted
        {
            let known = Arc::new(AtomicBool::new(health != Health::Unknown));
            let check = Check {
                instance: Arc::clone(instance),
                spec: spec.clone(),
                verdict: Verdict::new(health, spec.rise, spec.fall),
                known: Arc::clone(&known),
                registry: Arc::clone(registry),
                clock: clock.clone(),
                random: fastrand::Rng::new(),
            };
            let task = Task {
                instance: Arc::clone(instance),
                spec: spec.clone(),
                known,
                handle: tokio::spawn(check.run(spread)).abort_handle(),
            };
            self.0.insert(id, task);
        }
    }
}

fn wanted(snapshot: &Snapshot) -> HashMap<InstanceId, Wanted<'_>> {
    let checked = snapshot
        .services
        .iter()
        .filter_map(|service| Some((service, service.spec.health_check.as_ref()?)));
    let instances = checked.flat_map(|(service, spec)| {
        let members = service.members.iter().zip(service.statuses.iter());
        members.map(move |(member, status)| Wanted {
            instance: &member.instance,
            spec,
            health: status.health,
        })
    });
    instances
        .map(|wanted| (wanted.instance.id, wanted))
        .collect()
}

/// The checks of one instance.
struct Check {
    instance: Arc<Instance>,
    spec: HealthCheckSpec,
    verdict: Verdict,
    known: Arc<AtomicBool>,
    registry: Arc<Registry>,
    clock: Clock,
    random: fastrand::Rng,
}

impl Check {
    async fn run(mut self, spread: Duration) {
        let spread = spread.min(self.spec.interval);
        sleep(spread.mul_f64(self.random.f64())).await;
        loop {
            let begun = Instant::now();
            self.once().await;
            // A check that took longer than the interval is followed by the next at once.
            sleep_until(begun + jittered(self.spec.interval, &mut self.random)).await;
        }
    }

    async fn once(&mut self) {
        let begun = self.clock.now();
        let result = probe(&self.instance.endpoint, &self.spec).await;
        let now = self.clock.now();
        let took = now - begun;
        match &result {
            Ok(wanted) => {
                self.instance.probe_latency.add(now, took);
                self.instance.reports.want(now, *wanted);
            }
            Err(failure) => {
                let (service, instance) = (&self.instance.service, &self.instance.endpoint);
                tracing::debug!(%service, %instance, %failure, "health check failed");
            }
        }
        self.instance.checks.count(result.is_ok());
        let was_down = self.verdict.is_down();
        let Some(health) = self.verdict.observe(result.is_ok()) else {
            return;
        };
        if was_down {
            is_up_again(&self.instance, now);
        }
        let detail = match result {
            Ok(_) => format!("the check passed in {:.1} ms", took.as_secs_f64() * 1e3),
            Err(failure) => failure.to_string(),
        };
        let change = Change::Health {
            id: self.instance.id,
            health,
            detail: detail.into(),
        };
        // Before the report: to be restarted once too often does no harm.
        self.known.store(true, Ordering::Relaxed);
        // Nothing in a report of health can be refused: an instance that is gone is ignored.
        if let Err(error) = self.registry.apply(change) {
            tracing::error!(%error, "the registry refused a report of health");
        }
    }
}

/// `interval`, moved by up to [`JITTER`] of it.
fn jittered(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(1.0 + JITTER * (2.0 * random.f64() - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_within_a_tenth_and_on_both_sides() {
        let mut random = fastrand::Rng::with_seed(7);
        let interval = Duration::from_secs(10);
        let all: Vec<Duration> = (0..1000).map(|_| jittered(interval, &mut random)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!((9.0..9.2).contains(&least.as_secs_f64()), "{least:?}");
        assert!((10.8..=11.0).contains(&most.as_secs_f64()), "{most:?}");
    }
}
