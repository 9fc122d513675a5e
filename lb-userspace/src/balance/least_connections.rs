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
//! [`OTHERS`] more that are drawn by weight (Mitzenmacher, "The Power of Two Choices", 2001), which
//! keeps workers that see the same loads from stampeding.
//!
//! An instance that fails at once is never busy, and fewest in flight alone would send it most of
//! the requests. So a load counts as many times as its failures are dear (see [`super::cost`]), and
//! an instance that is avoided for them is asked now and then whether it still fails.

use super::{
    Balancer, Choice, Draw,
    cost::{SCAN, dearness, is_due},
    eligible,
    turns::Turns,
};
use crate::model::Member;

/// Members of a larger set that are compared with the one whose turn it is. One is nearly as good
/// as all among equals; with three the loaded and the slow are met less often without a better
/// choice, and the cost is still that of a few memory accesses.
const OTHERS: usize = 3;

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
        let own = Load::of(&members[first]);
        if own.is_idle() || is_due(&members[first], choice.now) {
            return Some(first);
        }
        if members.len() > SCAN {
            let drawn = Draw::new(&self.0, members, choice, first).take(OTHERS);
            return Some(lightest(members, (first, own), drawn));
        }
        // From the candidate onwards, so that ties among the others rotate too.
        let others = (first + 1..members.len()).chain(0..first);
        let others = others.filter(|position| eligible(&members[*position], choice));
        Some(lightest(members, (first, own), others))
    }
}

/// The position whose load is lowest; the first at a tie.
fn lightest(
    members: &[Member],
    first: (usize, Load),
    others: impl Iterator<Item = usize>,
) -> usize {
    let lighter = |best: (usize, Load), other: usize| {
        let load = Load::of(&members[other]);
        if load.is_below(&best.1) {
            (other, load)
        } else {
            best
        }
    };
    others.fold(first, lighter).0
}

/// What a member has in flight, for its weight.
#[derive(Clone, Copy)]
struct Load {
    /// Twice the requests in flight and one more, times what its failures cost.
    steps: f64,
    weight: f64,
}

impl Load {
    fn of(member: &Member) -> Self {
        let steps = 2 * u64::from(member.instance.in_flight()) + 1;
        Self {
            steps: steps as f64 * dearness(member),
            weight: f64::from(member.weight),
        }
    }

    /// Nothing in flight, and no failures that count.
    fn is_idle(&self) -> bool {
        self.steps <= 1.0
    }

    fn is_below(&self, other: &Self) -> bool {
        // Cross-multiplied: whole numbers below 2^53 as long as nobody fails, so ties are exact.
        self.steps * other.weight < other.steps * self.weight
    }
}
