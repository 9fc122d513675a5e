//! What the control plane makes of circuit breakers.
//!
//! Breakers are decided where requests are: a worker that opens one is obeyed by all workers with
//! their next pick, without anybody here. What is left to do is what has no hurry of microseconds:
//! the registry is told, so that the kernel's tables follow (woken at once, not by a clock);
//! breakers that wait for a probe in vain are closed; those that a reload has switched off, too.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    model::{
        BreakerSpec, BreakerState, Clock, Gate, GateState, InstanceId, ServiceName, Timestamp,
    },
    registry::{Change, Registry, Service},
    resilience::breaker,
};

/// The longest time between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// The shortest: what happens meanwhile is taken together. A breaker that flutters costs the kernel
/// a table each time.
const SHORTEST: Duration = Duration::from_millis(10);

/// Follows the breakers of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let mut changes = registry.subscribe();
    let breakers = registry.breakers();
    loop {
        let now = clock.now();
        let due = follow(&registry, now);
        sleep(SHORTEST).await;
        let pause = due.map_or(PERIOD, |due| due.since(clock.now()).min(PERIOD));
        tokio::select! {
            () = sleep(pause) => {}
            () = breakers.notified() => {}
            // The registry is held here, so its sender cannot go away.
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Brings the registry up to date; says when there will be something to do without anybody's doing.
pub fn follow(registry: &Registry, now: Timestamp) -> Option<Timestamp> {
    let mut next: Option<Timestamp> = None;
    let mut instances: Vec<(InstanceId, BreakerState)> = Vec::new();
    let mut services: Vec<(ServiceName, BreakerState)> = Vec::new();
    for service in &registry.snapshot().services {
        let due = tend_service(service, now);
        next = next.into_iter().chain(due).min();
        let state = service.guard.gate.state().kind(now);
        if state != service.breaker {
            services.push((service.name().clone(), state));
        }
        let spec = service.spec.breakers.instance.as_ref();
        for (member, status) in service.members.iter().zip(service.statuses.iter()) {
            let gate = &member.instance.gate;
            if gate.is_closed() && status.breaker == BreakerState::Closed {
                continue;
            }
            next = next.into_iter().chain(tend(gate, spec, now)).min();
            let state = gate.state().kind(now);
            if state != status.breaker {
                instances.push((member.instance.id, state));
            }
        }
    }
    if instances.is_empty() && services.is_empty() {
        return next;
    }
    let change = Change::Breakers {
        instances,
        services,
    };
    if let Err(error) = registry.apply(change) {
        tracing::error!(%error, "the registry refused states of circuit breakers");
    }
    next
}

/// Does what is due at the breaker of a service; says when the next thing is.
fn tend_service(service: &Service, now: Timestamp) -> Option<Timestamp> {
    let guard = &service.guard;
    if guard.gate.is_closed() {
        return None;
    }
    breaker::forget_advice(guard, now);
    // A service without a breaker of its own is probed all the same while somebody advises so.
    let unasked = BreakerSpec::of_service();
    let advised = guard.advised(now).map(|_| &unasked);
    let spec = service.spec.breakers.service.as_ref().or(advised);
    let due = tend(&guard.gate, spec, now);
    due.into_iter().chain(guard.advised(now)).min()
}

/// Does what is due at a breaker; says when the next thing is.
fn tend(gate: &Gate, spec: Option<&BreakerSpec>, now: Timestamp) -> Option<Timestamp> {
    let Some(spec) = spec else {
        breaker::clear(gate, now);
        return None;
    };
    breaker::expire(gate, spec, now);
    match gate.state() {
        GateState::Open { until, .. } if until > now => Some(until),
        state => breaker::expiry(state, spec),
    }
}
