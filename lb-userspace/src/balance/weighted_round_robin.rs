//! `weighted_round_robin`: each instance in turn, as often as its weight says.
//!
//! Turns are interleaved so that no instance is ever a whole turn ahead of its share or behind it
//! (see [`super::order`]); weights of 5, 1 and 1 give a a a b a a c, never four in a row. Over
//! one cycle, which has as many turns as the weights add up to once their common divisor is
//! taken out, shares are exact.

use super::{Balancer, Choice, turns::Turns};
use crate::model::Member;

#[derive(Debug)]
pub(super) struct WeightedRoundRobin(Turns);

impl WeightedRoundRobin {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.weight))
    }
}

impl Balancer for WeightedRoundRobin {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        self.0.next(members, choice)
    }
}
