//! What a pick by latency knows of a member.

use std::time::Duration;

use super::{Choice, Draw, eligible, turns::Turns};
use crate::model::{Member, Timestamp};

/// An idle member that was not asked for so long is asked when its turn comes, whatever it would
/// cost by what is known of it: knowledge grows old, and without a request it never gets younger.
/// The price is at most one slow request in this time for each slow member and worker.
pub(super) const EXPLORE_AFTER: Duration = Duration::from_secs(5);

/// The lowest success rate that counts. With it a member costs 10,000 times its latency.
const LEAST_SUCCESS: f64 = 0.01;

/// Members that are compared at one pick. Two would do among equals; where one is much faster than
/// the rest, it has to be among those that are drawn to be of use.
pub(super) const DRAWS: usize = 8;

/// A few members to compare: all of them, when there are no more than [`DRAWS`]; else the one
/// whose turn it is and others drawn by weight. Comparing all of a large set would send every
/// worker to the same member until its answers tell otherwise.
#[derive(Debug)]
pub(super) struct Candidates {
    positions: [usize; DRAWS],
    count: usize,
    /// The first one is due for exploration.
    pub(super) explore: bool,
}

impl Candidates {
    /// `None` when no member is eligible.
    pub(super) fn draw(turns: &Turns, members: &[Member], choice: &Choice<'_>) -> Option<Self> {
        let first = turns.next(members, choice)?;
        let mut drawn = Self {
            positions: [first; DRAWS],
            count: 1,
            explore: is_due(&members[first], choice.now),
        };
        if drawn.explore {
            return Some(drawn);
        }
        if members.len() <= DRAWS {
            for position in (first + 1..members.len()).chain(0..first) {
                if eligible(&members[position], choice) {
                    drawn.push(position);
                }
            }
        } else {
            for position in Draw::new(turns, members, choice, first) {
                if !drawn.as_slice().contains(&position) {
                    drawn.push(position);
                }
                if drawn.count == DRAWS {
                    break;
                }
            }
        }
        Some(drawn)
    }

    fn push(&mut self, position: usize) {
        self.positions[self.count] = position;
        self.count += 1;
    }

    /// The positions, at least one; the one whose turn it is in front.
    pub(super) fn as_slice(&self) -> &[usize] {
        &self.positions[..self.count]
    }

    /// The latency to expect of each candidate in microseconds until a *success*: with success
    /// rate `s` and latency `t`, `t / s²`. Repeating until it works costs `t / s` by itself; the
    /// square stands for what a failure costs beside its time, and makes an instance that fails
    /// at once dear rather than quick. A candidate of which nothing is known counts like the
    /// fastest that is known: its first answer will tell, and until then its requests in flight
    /// keep it from being flooded.
    pub(super) fn latencies(&self, members: &[Member], now: Timestamp) -> [f64; DRAWS] {
        let mut expected = [f64::INFINITY; DRAWS];
        let mut least = f64::INFINITY;
        for (latency, position) in expected.iter_mut().zip(self.as_slice()) {
            *latency = UNKNOWN;
            if let Some(micros) = members[*position].instance.latency.micros(now) {
                // Below a microsecond all are equal.
                *latency = micros.max(1.0);
                least = least.min(*latency);
            }
        }
        let unknown = if least.is_finite() { least } else { 1.0 };
        for (latency, position) in expected.iter_mut().zip(self.as_slice()) {
            if *latency == UNKNOWN {
                *latency = unknown;
            }
            let success = f64::from(members[*position].instance.measured.success());
            if success < 1.0 {
                *latency /= success.max(LEAST_SUCCESS).powi(2);
            }
        }
        expected
    }
}

/// Stands for a latency that nobody has seen.
const UNKNOWN: f64 = 0.0;

/// What the next request to `member` is expected to cost: `latency × (in flight + 1) / weight`.
pub(super) fn cost(member: &Member, latency: f64) -> f64 {
    let queue = f64::from(member.instance.in_flight()) + 1.0;
    latency * queue / f64::from(member.base.max(1))
}

/// Whether a member should be asked just to learn how it does.
fn is_due(member: &Member, now: Timestamp) -> bool {
    let instance = &member.instance;
    instance.in_flight() == 0
        && instance
            .asked()
            .is_none_or(|asked| now.since(asked) >= EXPLORE_AFTER)
}
