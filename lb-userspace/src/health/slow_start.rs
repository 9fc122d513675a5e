//! Slow starts, step by step.
//!
//! The registry gives an instance that joins a running service its least share in the same change;
//! from there on time decides, as long as nothing is wrong with it: an instance that is not up yet
//! does not get warm, so its time begins when it is.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    model::{Clock, Health, InstanceId, Timestamp},
    registry::{Change, InstanceStatus, Registry},
    resilience::{
        Ramp, WHOLE,
        slow_start::{next_step, share},
    },
};

/// How often, when nothing changes and nothing is due.
const PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two looks that no change asks for.
const SHORTEST: Duration = Duration::from_millis(10);

/// Drives the slow starts of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let mut changes = registry.subscribe();
    let mut starts = Starts::default();
    loop {
        let now = clock.now();
        let due = starts.drive(&registry, now);
        let pause = due.map_or(PERIOD, |due| due.since(now).clamp(SHORTEST, PERIOD));
        tokio::select! {
            () = sleep(pause) => {}
            // The registry is held here, so its sender cannot go away.
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// When instances that start slowly began.
#[derive(Debug, Default)]
pub struct Starts(HashMap<InstanceId, Timestamp>);

impl Starts {
    /// Takes every slow start as far as it is at `now`; says when the next step is due.
    pub fn drive(&mut self, registry: &Registry, now: Timestamp) -> Option<Timestamp> {
        let before = std::mem::take(&mut self.0);
        let mut ramps = Vec::new();
        let mut next: Option<Timestamp> = None;
        for service in &registry.snapshot().services {
            let Some(spec) = &service.spec.slow_start else {
                continue;
            };
            for (member, status) in service.members.iter().zip(service.statuses.iter()) {
                let Some(ramp) = status.ramp else {
                    continue;
                };
                let id = member.instance.id;
                let known = before.get(&id).filter(|_| is_up(status));
                let began = known.copied().unwrap_or(now);
                let elapsed = now - began;
                let share = share(elapsed, spec);
                let to = (share < WHOLE).then_some(Ramp {
                    share,
                    ends: is_up(status).then_some(began + spec.window),
                });
                if to.is_some() {
                    self.0.insert(id, began);
                    let due = Some(began + next_step(elapsed, spec));
                    next = next.into_iter().chain(due).min();
                }
                if to != Some(ramp) {
                    ramps.push((id, to));
                }
            }
        }
        if !ramps.is_empty()
            && let Err(error) = registry.apply(Change::Ramps(ramps))
        {
            tracing::error!(%error, "the registry refused slow starts");
        }
        next
    }
}

/// Whether it gets its share, were there requests.
fn is_up(status: &InstanceStatus) -> bool {
    status.is_wanted() && status.health != Health::Unhealthy && status.ejected.is_none()
}
