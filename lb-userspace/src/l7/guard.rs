//! The circuit breaker of a service on the way of a request: before an instance is picked, and
//! when it is clear what the client gets.

use std::time::Duration;

use super::{breaker::verdict, proxy::Exchanged, worker::Worker};
use crate::{
    model::{BreakerSpec, GateState, Reason, ServiceGuard, Timestamp},
    registry::Service,
    resilience::{Permit, Report, Verdict, breaker},
};

/// What the probes of a service without a breaker of its own go by, when somebody else's word has it
/// probed.
static UNASKED: BreakerSpec = BreakerSpec::of_service();

/// Asks whether a request may pass. Two loads and branches while the breaker is closed.
///
/// # Errors
/// That it may not.
pub(super) fn enter(
    service: &Service,
    now: Timestamp,
) -> Result<Option<Permit<ServiceGuard>>, Reason> {
    if service.guard.gate.is_closed() && !service.guard.may_be_refused() {
        return Ok(None);
    }
    ask(service, now)
}

#[cold]
fn ask(service: &Service, now: Timestamp) -> Result<Option<Permit<ServiceGuard>>, Reason> {
    if service.guard.refused(now).is_some() {
        return Err(Reason::BreakerBackendOpen);
    }
    // Without rules it is an operator's order, an advice, or about to be closed.
    let rules = service.spec.breakers.service.as_ref().unwrap_or(&UNASKED);
    breaker::admit(&service.guard, rules, now).map_err(|_| Reason::ServiceBreakerOpen)
}

/// When to come again after a refusal of [`enter`]; `asked` is how often the circuit-breaker backend
/// is asked, as it may say something else each time.
#[cold]
pub(super) fn retry_after(service: &Service, asked: Option<Duration>, now: Timestamp) -> Duration {
    if let Some(until) = service.guard.refused(now) {
        return (until - now).min(asked.unwrap_or(Duration::MAX));
    }
    match service.guard.gate.state() {
        GateState::Open { until, .. } => until - now,
        _ => Duration::ZERO,
    }
}

/// Tells the breaker what the client gets for a request that began at `began`.
pub(super) fn leave(
    worker: &Worker,
    service: &Service,
    began: Timestamp,
    permit: Option<Permit<ServiceGuard>>,
    exchanged: &Result<Exchanged, Reason>,
) {
    let spec = match (&service.spec.breakers.service, &permit) {
        (Some(spec), _) => spec,
        (None, Some(_)) => &UNASKED,
        (None, None) => return,
    };
    let verdict = match exchanged {
        Ok(exchanged) => verdict(exchanged.answer.status()),
        Err(reason) if is_failure(*reason) => Verdict::Failure,
        Err(_) => return,
    };
    let (guard, now) = (&service.guard, worker.clock.now());
    let report = Report {
        verdict,
        began,
        now,
        chance: worker.random.bits(),
    };
    let step = match permit {
        Some(permit) => breaker::probed(permit, spec, &report),
        None => {
            match guard.gate.state() {
                GateState::Closed { since, .. } if !breaker::is_stale(began, since) => {}
                _ => return,
            }
            guard.record(worker.index, now, verdict != Verdict::Success);
            let window = |seconds| guard.window(now, seconds);
            breaker::ended(&guard.gate, spec, &report, window, |_| true)
        }
    };
    if step.is_some_and(|step| step.is_transition()) {
        worker.breakers.notify_one();
    }
}

/// Whether an answer of lb's own means that the service has failed, not its client and not lb's
/// own limits.
const fn is_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::ConnectionLost
            | Reason::BadAnswer
            | Reason::RequestTimeout
    )
}
