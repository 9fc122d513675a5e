//! Circuit breakers on the way of a simulated request: the daemon's state machine, asked and told
//! what the HTTP proxy asks and tells it.

use lb_userspace::{
    balance::{Choice, Random},
    model::{InFlight, Instance, Outcome, Timestamp},
    registry::Service,
    resilience::{Permit, Verdict, breaker},
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
    service: &Service,
    guard: &InFlight,
    permit: Option<Permit<Instance>>,
    outcome: Outcome,
    now: Timestamp,
    random: &Random,
) {
    let verdict = match outcome {
        Outcome::Success => Verdict::Success,
        Outcome::Failure | Outcome::Refused => Verdict::Failure,
    };
    if permit.is_none() && verdict == Verdict::Success && guard.instance().gate.is_quiet() {
        return;
    }
    service.weigh(0, guard, permit, verdict, now, random.bits());
}
