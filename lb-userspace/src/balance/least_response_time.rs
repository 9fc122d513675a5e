//! `least_response_time`: the instance that is expected to answer first.
//!
//! The cost of a member is `latency × (in flight + 1) / weight`, the lowest of a few candidates
//! wins (see [`super::cost`]). Latency is the peak EWMA of Finagle and linkerd (see
//! [`crate::model::PeakEwma`]): a rise counts at once, a fall slowly, and age forgives. The factor
//! for requests in flight is theirs as well: it reacts before the first slow answer is there, and
//! keeps the fastest from being flooded.
//!
//! Against the known faults of choosing by latency: an instance that fails fast is charged for its
//! failures, one that was slow once is asked again after five seconds at the latest, and a new one
//! gets one request at a time until its first answer.
//!
//! The weight is the one *without* the measured factor. That factor is how the kernel, which
//! measures no latencies, gets to know them; here it would count the same latency twice.

use super::{
    Balancer, Choice,
    cost::{Candidates, cost},
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
        let latencies = candidates.latencies(members, choice.now);
        candidates
            .as_slice()
            .iter()
            .enumerate()
            .map(|(i, position)| (cost(&members[*position], latencies[i]), *position))
            // The first of equals wins, and the first is the one whose turn it is.
            .reduce(|best, other| if other.0 < best.0 { other } else { best })
            .map(|(_, position)| position)
    }
}
