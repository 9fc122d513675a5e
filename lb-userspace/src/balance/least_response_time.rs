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
    cost::{Candidates, Cost, Podium, Second, is_as_good_as_any},
    turns::Turns,
};
use crate::model::Member;

#[derive(Debug)]
pub(super) struct LeastResponseTime {
    turns: Turns,
    workers: Box<[Kept]>,
}

/// What a worker keeps from pick to pick.
#[derive(Debug)]
#[repr(align(128))]
struct Kept(Second);

impl LeastResponseTime {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self {
            turns: Turns::new(members, workers, |member| member.base),
            workers: (0..workers.max(1)).map(|_| Kept(Second::new())).collect(),
        }
    }
}

impl Balancer for LeastResponseTime {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let Kept(kept) = &self.workers[choice.worker % self.workers.len()];
        let candidates = Candidates::draw(&self.turns, members, choice, kept)?;
        let slowness = candidates.slowness(members, choice.now);
        let first = candidates.as_slice()[0];
        if is_as_good_as_any(&members[first], slowness[0]) {
            return Some(first);
        }
        let mut podium = Podium::new();
        for (i, &position) in candidates.as_slice().iter().enumerate() {
            let cost = Cost::of(&members[position], slowness[i]);
            podium.add(cost, position, Cost::is_below);
        }
        let (best, second) = podium.positions();
        kept.set(second);
        best
    }
}
