//! `least_response_time`: the instance that is expected to answer first.
//!
//! The cost of a member is `latency × (in flight + 1) / weight`, the lowest of a few candidates
//! wins: Finagle's and linkerd's formula. Their latency is a peak moving average, which jumps with
//! each long answer; here it is a mean of logarithms that knows how sure it is, and only what is
//! sure counts (see [`super::cost`]). Instances that are alike then get equal shares: with the peak
//! average the least share in 30 s was half the fair one in simulation, now it is 0.8 of it or more,
//! and differences too small to be sure of are left to the requests in flight.
//!
//! At low load, when an idle instance that is not known to be slower comes with every turn, this is
//! weighted round robin.
//!
//! Against the known faults of choosing by latency: an instance that fails fast is charged for its
//! failures, one that was slow once is asked again after five seconds at the latest, and a new one
//! is in no hurry, because its requests in flight count like everybody's.
//!
//! The weight is the one *without* the measured factor. That factor is how the kernel, which
//! measures no latencies, gets to know them; here it would count the same latency twice.

use super::{
    Balancer, Choice,
    cost::{Candidates, Cost, is_as_good_as_any},
    turns::Turns,
};
use crate::model::Member;

#[derive(Debug)]
pub(super) struct LeastResponseTime(Turns);

impl LeastResponseTime {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.base))
    }
}

impl Balancer for LeastResponseTime {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let candidates = Candidates::draw(&self.0, members, choice)?;
        let slowness = candidates.slowness(members, choice.now);
        let first = candidates.as_slice()[0];
        if is_as_good_as_any(&members[first], slowness[0]) {
            return Some(first);
        }
        candidates
            .as_slice()
            .iter()
            .enumerate()
            .map(|(i, position)| (Cost::of(&members[*position], slowness[i]), *position))
            // The first of equals wins, and the first is the one whose turn it is.
            .reduce(|best, other| {
                if other.0.is_below(&best.0) {
                    other
                } else {
                    best
                }
            })
            .map(|(_, position)| position)
    }
}
