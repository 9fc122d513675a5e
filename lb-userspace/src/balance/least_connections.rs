//! `least_connections`: the instance with the fewest requests in flight for its weight.
//!
//! Loads are compared as `(2n + 1) / w` with `n` in flight and weight `w`, which is where the
//! next request would take `n / w` on average over its life, half a step up. With `n / w` alone
//! every idle instance is equal, a small one to a big one; with `(n + 1) / w` small ones get
//! nothing until the big ones are nearly full. (The same halves make Sainte-Laguë's method of
//! apportionment the unbiased one.)
//!
//! Whoever's turn it is in the weighted order is the first candidate, and at a tie the only one:
//! at low load, when nearly everything is idle, this is weighted round robin rather than the same
//! instance again and again. Up to [`SCAN`] members all are compared; above, the candidate and
//! one more that is drawn by weight, which is nearly as good (Mitzenmacher, "The Power of Two
//! Choices", 2001) and keeps workers that see the same loads from stampeding.

use super::{Balancer, Choice, Draw, eligible, turns::Turns};
use crate::model::Member;

/// The most members of which all are compared.
const SCAN: usize = 16;

#[derive(Debug)]
pub(super) struct LeastConnections(Turns);

impl LeastConnections {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        Self(Turns::new(members, workers, |member| member.weight))
    }
}

impl Balancer for LeastConnections {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let first = self.0.next(members, choice)?;
        if members[first].instance.in_flight() == 0 {
            return Some(first);
        }
        if members.len() > SCAN {
            let second = Draw::new(&self.0, members, choice, first).next();
            return Some(second.map_or(first, |second| lighter(members, first, second)));
        }
        // From the candidate onwards, so that ties among the others rotate too.
        let others = (first + 1..members.len()).chain(0..first);
        Some(
            others
                .filter(|position| eligible(&members[*position], choice))
                .fold(first, |best, other| lighter(members, best, other)),
        )
    }
}

/// The one of two positions whose load is lower; the first at a tie.
fn lighter(members: &[Member], first: usize, second: usize) -> usize {
    let (a, b) = (&members[first], &members[second]);
    let steps = |member: &Member| 2 * u64::from(member.instance.in_flight()) + 1;
    // Cross-multiplied: below 2^33 × 2^20.
    if steps(b) * u64::from(a.weight) < steps(a) * u64::from(b.weight) {
        second
    } else {
        first
    }
}
