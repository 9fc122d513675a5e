//! `health_aware`: in turn, in proportion to weight × health score × recent success.
//!
//! Both measures (see `resilience::factor`) reach the effective weight once a second as its
//! factor, and with it both data planes: the kernel's tables and these turns are
//! built from the same numbers. A score decides how much an instance gets; excluding is left to
//! health checks, which can tell when to end it.
//!
//! One second is long for an instance that fails whatever it gets, and a sixteenth of its weight is
//! still much. Its turns go to the next in the order that does not, as soon as that shows, but for
//! one in five seconds that tells when it is over (see [`super::cost`]).

use super::{
    Balancer, Choice,
    cost::{fails_everything, is_due},
    turns::Turns,
};
use crate::model::Member;

/// Turns that are passed over at most; when all of them fail everything, one is as good as another.
const PASSES: usize = 16;

#[derive(Debug)]
pub(super) struct HealthAware(Turns);

impl HealthAware {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.weight))
    }
}

impl Balancer for HealthAware {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let first = self.0.next(members, choice)?;
        let is_good = |position: usize| {
            let member = &members[position];
            !fails_everything(member) || is_due(member, choice.now)
        };
        if is_good(first) {
            return Some(first);
        }
        let others = std::iter::repeat_with(|| self.0.next(members, choice)).take(PASSES);
        others
            .flatten()
            .find(|other| is_good(*other))
            .or(Some(first))
    }
}
