//! Which instance of a service may be asked: from a pick to one whose circuit breaker agrees.
//!
//! A pick sees open breakers by itself (see [`balance::exclusion`]). What is left is the rare part:
//! to get a permit from a breaker that is half-open, where several workers may want the same one, and
//! to say why when nobody is left.

use tokio::sync::Notify;

use super::Service;
use crate::{
    balance::{self, Choice},
    model::{AllOpen, BreakerSpec, Clock, Exclusion, Instance, Reason},
    resilience::{Permit, breaker},
};

/// An instance to ask: its position, and the permit if the request is a probe.
pub type Chosen = (usize, Option<Permit<Instance>>);

/// Who tells the time, and who is told of transitions of breakers.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The time.
    pub clock: &'a Clock,
    /// To be notified of every transition.
    pub breakers: &'a Notify,
}

impl Service {
    /// Goes from an instance that was picked to one that may be asked: the same, as long as its
    /// breaker is closed or grants a permit.
    ///
    /// # Errors
    /// Why there is none.
    pub fn admit(
        &self,
        around: Around<'_>,
        choice: &Choice<'_>,
        picked: Option<usize>,
    ) -> Result<Chosen, Reason> {
        match picked {
            Some(position) if self.members[position].instance.gate.is_closed() => {
                Ok((position, None))
            }
            _ => self.ask(around, choice, picked),
        }
    }

    #[cold]
    fn ask(
        &self,
        around: Around<'_>,
        choice: &Choice<'_>,
        mut picked: Option<usize>,
    ) -> Result<Chosen, Reason> {
        let now = choice.now.max(around.clock.now());
        let choice = &Choice { now, ..*choice };
        // Whoever gets no permit has lost it to another worker and sees that at the next pick, so
        // nearly every round is another instance's.
        for _ in 0..=self.members.len() {
            let Some(position) = picked else {
                break;
            };
            let instance = &self.members[position].instance;
            if let Ok(permit) = breaker::admit(instance, &self.rules(), now) {
                around.breakers.notify_one();
                return Ok((position, permit));
            }
            picked = self.balancer.pick(&self.members, choice);
        }
        self.nobody(choice).map(|position| (position, None))
    }

    /// What instances' breakers go by. Without any they are all closed, but for those that an
    /// operator holds or that a reload has just switched off.
    fn rules(&self) -> BreakerSpec {
        self.spec.breakers.instance.unwrap_or_default()
    }

    /// What remains when every member is excluded: one that may be asked all the same.
    ///
    /// # Errors
    /// Why there is none.
    #[cold]
    pub fn nobody(&self, choice: &Choice<'_>) -> Result<usize, Reason> {
        // Each member is looked at once: whoever was full a moment ago may have room now.
        let mut full = None;
        for (position, member) in self.members.iter().enumerate() {
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
                balance::exclusion(&self.members[*position], choice),
                Some(Exclusion::BreakerOpen | Exclusion::ProbeBusy)
            )
        };
        let shut: Vec<usize> = (0..self.members.len()).filter(is_shut).collect();
        if shut.is_empty() {
            return Err(Reason::NoInstance);
        }
        if self.spec.breakers.all_open == AllOpen::Pass
            && let Some(position) = self.drawn(&shut, choice)
        {
            return Ok(position);
        }
        Err(Reason::BreakerOpen)
    }

    /// One of those whose breakers are open, by chance and weight.
    fn drawn(&self, shut: &[usize], choice: &Choice<'_>) -> Option<usize> {
        // An operator's order is not for lb to weigh against anything.
        let free = |position: &&usize| !self.members[**position].instance.gate.state().is_held();
        let weight = |position: &usize| u64::from(self.members[*position].weight);
        let sum = shut.iter().filter(free).map(weight).sum::<u64>();
        let below = usize::try_from(sum).unwrap_or(usize::MAX);
        let mut drawn = choice.random.below(below) as u64;
        for position in shut.iter().filter(free) {
            match drawn.checked_sub(weight(position)) {
                Some(left) => drawn = left,
                None => return Some(*position),
            }
        }
        None
    }
}
