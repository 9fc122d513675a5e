//! `health_aware`: in turn, in proportion to weight × health score × recent success.
//!
//! Both measures (see `resilience::factor`) reach the effective weight once a second as its
//! factor, and with it both data planes: the kernel's tables and these turns are
//! built from the same numbers. A score decides how much an instance gets, never whether it gets
//! anything; excluding is left to health checks, which can tell when to end it.

use super::{Balancer, Choice, turns::Turns};
use crate::model::Member;

#[derive(Debug)]
pub(super) struct HealthAware(Turns);

impl HealthAware {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.weight))
    }
}

impl Balancer for HealthAware {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        self.0.next(members, choice)
    }
}
