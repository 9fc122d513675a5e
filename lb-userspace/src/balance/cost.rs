//! What a pick by load and latency knows of a member.
//!
//! **Latency.** The cost of a member is `latency × (in flight + 1) / weight` (Finagle's and
//! linkerd's formula; the factor for requests in flight reacts before the first slow answer is
//! there), with a part of what was in flight before taken out of the latency (see
//! [`crate::model::pace`]). Latencies are compared as intervals: a member whose
//! interval meets that of the fastest candidate is not known to be slower and costs what the
//! fastest costs, so that equals are chosen by their requests in flight alone and get equal
//! shares. A gap between two intervals counts twice, up to the whole difference of the means:
//! there is no step at the point where a difference becomes significant, and a large one counts in
//! full.
//!
//! **Failures.** The cost is divided by the square of the recent success rate `s`: repeating until
//! it works costs `1 / s` by itself; the square stands for what a failure costs beside its time,
//! and makes an instance that fails at once dear rather than quick. The rate is of whole seconds;
//! [`ROW`] failures in a row are enough before the second is over.
//!
//! **Exploration.** Knowledge grows old, and without a request it never gets younger: see
//! [`EXPLORE_AFTER`].

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{Choice, Draw, eligible, turns::Turns};
use crate::model::{Member, Timestamp, pace::Interval};

/// An idle member that was not asked for so long is asked when its turn comes, whatever it would
/// cost by what is known of it. The price is at most one bad request in this time for each bad
/// member and worker.
pub(super) const EXPLORE_AFTER: Duration = Duration::from_secs(5);

/// Success rates from here on are as good as 1: a failure now and then is no reason to leave an
/// idle instance alone.
const GOOD: f64 = 0.95;

/// The lowest success rate that counts. With it a member costs 10,000 times its latency.
const LEAST_SUCCESS: f64 = 0.01;

/// Failures in a row that count as the lowest success rate; the number at which Envoy ejects.
const ROW: u32 = 5;

/// The most members of which all are compared.
pub(super) const SCAN: usize = 16;

/// Members of a larger set that are compared: the one whose turn it is, the one that was second
/// best last time, and others that are drawn. Two would do among equals; where one is much faster
/// than the rest, it has to be among them to be of use, and is remembered once it was.
pub(super) const DRAWS: usize = 6;

/// A few members to compare: all of them, when there are no more than [`SCAN`]; else the one
/// whose turn it is and others drawn by weight. Comparing all of a large set would cost more than
/// it gains, and send every worker to the same member until its answers tell otherwise.
#[derive(Debug)]
pub(super) struct Candidates {
    positions: [usize; SCAN],
    count: usize,
}

impl Candidates {
    /// `None` when no member is eligible.
    pub(super) fn draw(
        turns: &Turns,
        members: &[Member],
        choice: &Choice<'_>,
        second: &Second,
    ) -> Option<Self> {
        let first = turns.next(members, choice)?;
        let mut drawn = Self {
            positions: [first; SCAN],
            count: 1,
        };
        if is_due(&members[first], choice.now) {
            return Some(drawn);
        }
        if members.len() <= SCAN {
            for position in (first + 1..members.len()).chain(0..first) {
                if eligible(&members[position], choice) {
                    drawn.push(position);
                }
            }
        } else {
            let remembered = second.get().filter(|position| {
                *position != first && members.get(*position).is_some_and(|m| eligible(m, choice))
            });
            let others = Draw::new(turns, members, choice, first);
            for position in remembered.into_iter().chain(others) {
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

    /// The latency of each candidate as a multiple of the fastest one's, 1 or more, by what is
    /// known for sure, and times what its failures cost. A candidate of which nothing is known
    /// counts like the fastest: its answers will tell, and its requests in flight keep it from
    /// being flooded until then.
    pub(super) fn slowness(&self, members: &[Member], now: Timestamp) -> [f64; SCAN] {
        let mut known = [Interval::UNKNOWN; SCAN];
        let mut fastest = f32::INFINITY;
        let mut mean = f32::INFINITY;
        for (known, position) in known.iter_mut().zip(self.as_slice()) {
            if let Some(own) = members[*position].instance.pace.get(now) {
                *known = own;
                if own.upper() < fastest {
                    (fastest, mean) = (own.upper(), own.mean);
                }
            }
        }
        let mut slowness = [1.0; SCAN];
        for (i, position) in self.as_slice().iter().enumerate() {
            let gap = known[i].lower() - fastest;
            if gap > 0.0 {
                slowness[i] = f64::from((2.0 * gap).min(known[i].mean - mean).exp2());
            }
            slowness[i] *= dearness(&members[*position]);
        }
        slowness
    }
}

/// The second best of a worker's last comparison in a large set, which is likely to be among the
/// best now: with a memory of one, few draws do as well as many (Mitzenmacher, Prabhakar, Shah:
/// "Load balancing with memory", FOCS 2002). Only that worker writes it.
#[derive(Debug)]
pub(super) struct Second(AtomicU32);

impl Second {
    /// Nothing is remembered.
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }

    fn get(&self) -> Option<usize> {
        let position = self.0.load(Ordering::Relaxed);
        (position != u32::MAX).then_some(position as usize)
    }

    /// Remembers a position, if there was a second one.
    pub(super) fn set(&self, position: Option<usize>) {
        if let Some(position) = position {
            self.0.store(position as u32, Ordering::Relaxed);
        }
    }
}

/// The best of what is compared one by one, and the second best. The first of equals is the best,
/// and the first is the one whose turn it is.
#[derive(Debug)]
pub(super) struct Podium<C> {
    best: Option<(C, usize)>,
    second: Option<(C, usize)>,
}

impl<C: Copy> Podium<C> {
    /// Nobody.
    pub(super) const fn new() -> Self {
        Self {
            best: None,
            second: None,
        }
    }

    /// Compares one more.
    pub(super) fn add(&mut self, cost: C, position: usize, is_below: impl Fn(&C, &C) -> bool) {
        let new = (cost, position);
        let beats =
            |old: &Option<(C, usize)>| old.as_ref().is_none_or(|(least, _)| is_below(&cost, least));
        if beats(&self.best) {
            self.second = self.best.replace(new);
        } else if beats(&self.second) {
            self.second = Some(new);
        }
    }

    /// Their positions.
    pub(super) fn positions(&self) -> (Option<usize>, Option<usize>) {
        let position = |place: &Option<(C, usize)>| place.as_ref().map(|(_, position)| *position);
        (position(&self.best), position(&self.second))
    }
}

/// Whether `member`, whose turn it is, can be taken without a look at the others' loads: it is idle
/// and not known to be slower or to fail, so nobody is expected to answer earlier. That makes a
/// calm service one of weighted turns; by the cost alone, the heaviest would get everything until
/// it has as many requests in flight as others have weight less.
pub(super) fn is_as_good_as_any(member: &Member, slowness: f64) -> bool {
    slowness <= 1.0 && member.instance.in_flight() == 0
}

/// What a request to `member` costs more than one that is sure to succeed, 1 or more.
pub(super) fn dearness(member: &Member) -> f64 {
    let instance = &member.instance;
    let success = if instance.failures_in_a_row() < ROW {
        f64::from(instance.measured.success()).max(LEAST_SUCCESS)
    } else {
        LEAST_SUCCESS
    };
    if success >= GOOD {
        1.0
    } else {
        success.powi(-2)
    }
}

/// Whether nothing of late has succeeded.
pub(super) fn fails_everything(member: &Member) -> bool {
    let instance = &member.instance;
    instance.failures_in_a_row() >= ROW || f64::from(instance.measured.success()) <= LEAST_SUCCESS
}

/// What the next request to a member costs, for its weight: compared by multiplying crosswise,
/// because a division takes as long as all the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    whole: f64,
    weight: f64,
}

impl Cost {
    /// `slowness × (in flight + 1) / weight`.
    pub(super) fn of(member: &Member, slowness: f64) -> Self {
        Self::new(
            slowness * (f64::from(member.instance.in_flight()) + 1.0),
            member,
        )
    }

    /// That much, for the weight of `member`.
    pub(super) fn new(whole: f64, member: &Member) -> Self {
        Self {
            whole,
            weight: f64::from(member.base.max(1)),
        }
    }

    /// Whether it is less.
    pub(super) fn is_below(&self, other: &Self) -> bool {
        self.whole * other.weight < other.whole * self.weight
    }
}

/// Whether a member should be asked just to learn how it does.
pub(super) fn is_due(member: &Member, now: Timestamp) -> bool {
    let instance = &member.instance;
    instance.in_flight() == 0
        && instance
            .asked()
            .is_none_or(|asked| now.since(asked) >= EXPLORE_AFTER)
}
