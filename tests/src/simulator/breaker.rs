//! Circuit breakers on the way of a simulated request: the daemon's state machine, asked and told
//! what the HTTP proxy asks and tells it.

use std::sync::Arc;

use lb_userspace::{
    balance::{Choice, Random},
    model::{BreakerSpec, GateState, InFlight, Instance, Outcome, Timestamp},
    registry::Service,
    resilience::{Permit, Report, Verdict, breaker},
};

/// Goes from an instance that was picked to one that may be asked. `None` when nobody may.
pub(super) fn enter(
    service: &Service,
    choice: &Choice<'_>,
) -> Option<(usize, Option<Permit<Instance>>)> {
    for _ in 0..=service.members.len() {
        let position = service.balancer.pick(&service.members, choice)?;
        let instance = &service.members[position].instance;
        if instance.gate.is_closed() {
            return Some((position, None));
        }
        let rules = service.spec.breakers.instance.unwrap_or_default();
        if let Ok(permit) = breaker::admit(instance, &rules, choice.now) {
            return Some((position, permit));
        }
    }
    None
}

/// Tells the breaker how a request has ended that was judged.
pub(super) fn settle(
    spec: Option<&BreakerSpec>,
    guard: &InFlight,
    permit: Option<Permit<Instance>>,
    outcome: Outcome,
    now: Timestamp,
    random: &Random,
) {
    let Some(spec) = spec else { return };
    let instance: &Arc<Instance> = guard.instance();
    let verdict = match outcome {
        Outcome::Success => Verdict::Success,
        Outcome::Failure => Verdict::Failure,
    };
    if permit.is_none() && verdict == Verdict::Success && instance.gate.is_quiet() {
        return;
    }
    let report = Report {
        verdict,
        began: guard.began(),
        now,
        chance: random.bits(),
    };
    if let Some(permit) = permit {
        breaker::probed(permit, spec, &report);
        return;
    }
    if let GateState::Closed { since, .. } = instance.gate.state() {
        let stale = breaker::is_stale(report.began, since);
        if stale || report.verdict != Verdict::Success {
            instance.blame(0, now, !stale);
        }
    }
    let window = |seconds| instance.blamed(now, seconds);
    breaker::ended(&instance.gate, spec, &report, window);
}
