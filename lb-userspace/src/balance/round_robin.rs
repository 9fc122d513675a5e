//! `round_robin`: each instance in turn, configured weights ignored.
//!
//! The effective weight already leaves configured weights out for this algorithm, so equal
//! instances take equal turns. What remains in it is what must hold under every algorithm: an
//! instance that is excluded has no turn, and one that is given less than its share for a while
//! has fewer.

use super::{Balancer, Choice, turns::Turns};
use crate::model::Member;

#[derive(Debug)]
pub(super) struct RoundRobin(Turns);

impl RoundRobin {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.weight))
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        self.0.next(members, choice)
    }
}
