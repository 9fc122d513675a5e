//! Circuit breakers on the way of a request: what the end of it means to them. Who may be asked is
//! the service's to say ([`Service::admit`]).

use std::time::Duration;

use hyper::StatusCode;

use super::worker::Worker;
use crate::{
    model::{GateState, InFlight, Instance, Timestamp},
    registry::Service,
    resilience::{Permit, Verdict},
};

/// When to come again after [`Reason::BreakerOpen`](crate::model::Reason::BreakerOpen): in whole seconds, when the first breaker of the
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
