//! Recoveries, step by step: from what instances did since to shares of their weights.
//!
//! The registry takes the whole share from an instance in the same change that makes it unhealthy,
//! so there is no moment in which it is back with all of its weight. What follows is decided by
//! [`Recovery`], once a second, when a step is due and whenever something has changed, and goes back to the registry.
//! Whoever was forced, or is gone, has no recovery there any more, and its machine is forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    model::{AdminState, Clock, Health, Instance, InstanceId, Timestamp},
    registry::{Change, InstanceStatus, RecoveryStep, Registry},
    resilience::{
        Recovery,
        recovery::{Done, Situation},
    },
};

/// How often, when nothing changes and nothing is due.
const PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two looks that no change asks for.
const SHORTEST: Duration = Duration::from_millis(10);

/// Drives the recoveries of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let mut changes = registry.subscribe();
    let mut comebacks = Comebacks::default();
    loop {
        let now = clock.now();
        let due = comebacks.drive(&registry, now);
        let pause = due.map_or(PERIOD, |due| due.since(now).clamp(SHORTEST, PERIOD));
        tokio::select! {
            () = sleep(pause) => {}
            // The registry is held here, so its sender cannot go away.
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The recoveries under way.
#[derive(Debug, Default)]
pub struct Comebacks(HashMap<InstanceId, Recovery>);

impl Comebacks {
    /// Takes every recovery as far as it is at `now`; says when the next one is due.
    pub fn drive(&mut self, registry: &Registry, now: Timestamp) -> Option<Timestamp> {
        let mut before = std::mem::take(&mut self.0);
        let mut steps = Vec::new();
        let mut next: Option<Timestamp> = None;
        for service in &registry.snapshot().services {
            let Some(spec) = &service.spec.recovery else {
                continue;
            };
            for (member, status) in service.members.iter().zip(service.statuses.iter()) {
                let Some(from) = status.recovery else {
                    continue;
                };
                let id = member.instance.id;
                let mut recovery = before.remove(&id).unwrap_or_default();
                if from.share == 0 {
                    // It was down, however shortly.
                    recovery.relapse(now, spec);
                }
                recovery.observe(now, situation(status), done(&member.instance), spec);
                let to = recovery.progress(spec);
                if let Some(progress) = to {
                    self.0.insert(id, recovery);
                    // One that is over waits for health or an operator: a change will tell.
                    let due = Some(progress.due).filter(|due| *due > now);
                    next = next.into_iter().chain(due).min();
                }
                if to != Some(from) {
                    steps.push(RecoveryStep { id, from, to });
                }
            }
        }
        if !steps.is_empty()
            && let Err(error) = registry.apply(Change::Recovery(steps))
        {
            tracing::error!(%error, "the registry refused steps of recoveries");
        }
        next
    }
}

fn situation(status: &InstanceStatus) -> Situation {
    if status.health == Health::Unhealthy || status.ejected.is_some() {
        Situation::Down
    } else if status.admin != AdminState::Enabled || status.weight == 0 {
        Situation::Away
    } else {
        Situation::Up
    }
}

fn done(instance: &Instance) -> Done {
    let totals = instance.totals_of_all();
    Done {
        successes: totals.successes,
        failures: totals.failures,
        passed: instance.checks.passed.load(Relaxed),
        failed: instance.checks.failed.load(Relaxed),
    }
}
