//! Circuit breakers on the way of a request: who may be picked, and what the end of it means.
//!
//! A pick sees open breakers by itself (see [`balance::exclusion`]). What is left to do here is
//! the rare part: to get a permit from a breaker that is half-open, where several workers may want
//! the same one, and to say why when nobody is left.

use std::time::Duration;

use hyper::StatusCode;

use super::{connection::Client, worker::Worker};
use crate::{
    balance::{self, Choice},
    model::{AllOpen, BreakerSpec, Exclusion, GateState, InFlight, Instance, Reason, Timestamp},
    registry::Service,
    resilience::{Permit, Verdict, breaker},
};

/// An instance to send a request to: its position, and the permit if the request is a probe.
pub(super) type Chosen = (usize, Option<Permit<Instance>>);

/// Goes from an instance that was picked to one that may be asked: the same, as long as its breaker
/// is closed or grants a permit.
///
/// # Errors
/// Why there is none.
pub(super) fn enter(
    client: &Client,
    service: &Service,
    choice: &Choice<'_>,
    picked: Option<usize>,
) -> Result<Chosen, Reason> {
    match picked {
        Some(position) if service.members[position].instance.gate.is_closed() => {
            Ok((position, None))
        }
        _ => ask(client, service, choice, picked),
    }
}

#[cold]
fn ask(
    client: &Client,
    service: &Service,
    choice: &Choice<'_>,
    mut picked: Option<usize>,
) -> Result<Chosen, Reason> {
    let now = choice.now.max(client.worker.clock.now());
    let choice = &Choice { now, ..*choice };
    // Whoever gets no permit has lost it to another worker and sees that at the next pick, so
    // nearly every round is another instance's.
    for _ in 0..=service.members.len() {
        let Some(position) = picked else {
            break;
        };
        let instance = &service.members[position].instance;
        if let Ok(permit) = breaker::admit(instance, &rules(service), now) {
            client.worker.breakers.notify_one();
            return Ok((position, permit));
        }
        picked = service.balancer.pick(&service.members, choice);
    }
    nobody(service, choice).map(|position| (position, None))
}

/// What instances' breakers go by. Without any they are all closed, but for those that an operator
/// holds or that a reload has just switched off.
fn rules(service: &Service) -> BreakerSpec {
    service.spec.breakers.instance.unwrap_or_default()
}

/// What remains when every member is excluded: one that may be asked all the same.
///
/// # Errors
/// Why there is none.
#[cold]
pub(super) fn nobody(service: &Service, choice: &Choice<'_>) -> Result<usize, Reason> {
    // Each member is looked at once: whoever was full a moment ago may have room now.
    let mut full = None;
    for (position, member) in service.members.iter().enumerate() {
        let reason = match balance::exclusion(member, choice) {
            None if member.instance.gate.is_closed() => return Ok(position),
            Some(Exclusion::Full) => Reason::AtCapacity,
            Some(Exclusion::NoConnection) => Reason::ConnectionLimit,
            _ => continue,
        };
        // Requests end sooner than connections do, so their limit is the one to name.
        if !choice.tried.contains(member.instance.id) && full != Some(Reason::AtCapacity) {
            full = Some(reason);
        }
    }
    // Whoever is full will have room again: to wait is better than to ask one that fails.
    if let Some(reason) = full {
        return Err(reason);
    }
    let is_shut = |position: &usize| {
        matches!(
            balance::exclusion(&service.members[*position], choice),
            Some(Exclusion::BreakerOpen | Exclusion::ProbeBusy)
        )
    };
    let shut: Vec<usize> = (0..service.members.len()).filter(is_shut).collect();
    if shut.is_empty() {
        return Err(Reason::NoInstance);
    }
    if service.spec.breakers.all_open == AllOpen::Pass {
        // An operator's order is not for lb to weigh against anything.
        let free = |position: &&usize| !service.members[**position].instance.gate.state().is_held();
        let weight = |position: &usize| u64::from(service.members[*position].weight);
        let sum = shut.iter().filter(free).map(weight).sum::<u64>();
        let mut drawn = choice
            .random
            .below(usize::try_from(sum).unwrap_or(usize::MAX)) as u64;
        for position in shut.iter().filter(free) {
            match drawn.checked_sub(weight(position)) {
                Some(left) => drawn = left,
                None => return Ok(*position),
            }
        }
    }
    Err(Reason::BreakerOpen)
}

/// When to come again after [`Reason::BreakerOpen`]: in whole seconds, when the first breaker of the
/// service will want a probe.
#[cold]
pub(super) fn retry_after(service: &Service, now: Timestamp) -> Duration {
    let members = service.members.iter().filter(|member| member.weight > 0);
    members
        .filter_map(|member| match member.instance.gate.state() {
            GateState::Open { until, .. } => Some(until - now),
            GateState::HalfOpen { .. } => Some(Duration::ZERO),
            GateState::HeldOpen | GateState::Closed { .. } | GateState::HeldClosed => None,
        })
        .min()
        .unwrap_or_default()
}

/// What an answer says about its instance.
pub(super) fn verdict(status: StatusCode) -> Verdict {
    if status.is_server_error() {
        Verdict::Failure
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Verdict::Throttled
    } else {
        Verdict::Success
    }
}

/// Tells the breaker of an instance how a request to it ended. To be called once the request was
/// judged; for one that is not judged, dropping the permit is all.
pub(super) fn settle(
    worker: &Worker,
    service: &Service,
    in_flight: &InFlight,
    permit: Option<Permit<Instance>>,
    verdict: Verdict,
) {
    let gate = &in_flight.instance().gate;
    if permit.is_none() && verdict == Verdict::Success && gate.is_quiet() {
        return;
    }
    weigh(worker, service, in_flight, permit, verdict);
}

#[cold]
fn weigh(
    worker: &Worker,
    service: &Service,
    in_flight: &InFlight,
    permit: Option<Permit<Instance>>,
    verdict: Verdict,
) {
    let (now, chance) = (worker.clock.now(), worker.random.bits());
    let changed = service.weigh(worker.index, in_flight, permit, verdict, now, chance);
    if changed.is_some_and(|step| step.is_transition()) {
        worker.breakers.notify_one();
    }
}
