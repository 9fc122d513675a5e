//! The state of a circuit breaker in one atomic word, so that every thread sees the same one.
//!
//! A breaker is asked at every pick and told of every outcome, by all workers at once. So its whole
//! state is a word: a pick is a relaxed load, an outcome that changes nothing is a relaxed load, and
//! a transition is a compare-and-swap that exactly one thread wins. What the transitions are is
//! decided in `resilience::breaker`; here is what a state *means* to a pick.
//!
//! ```text
//! bits 0–2   bits 3–7   bits 8–15   bits 16–23   bits 24–63
//! tag 0      ├─── run (3–18) ───┤                since (ms)    closed
//! tag 1      trips                               until (ms)    open
//! tag 2      trips      free        passed       since (ms)    half-open
//! tag 3                                                        held open
//! tag 4                                                        held closed
//! ```
//!
//! The time in milliseconds since the process began lasts for 34 years. The moment at which a
//! breaker became half-open is also the name of that phase: a probe of an earlier one cannot give
//! its permit back to a later one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Exclusion, Timestamp};

const TAG: u64 = 0b111;

/// Tag and run of a word.
const TAG_AND_RUN: u64 = (1 << 19) - 1;

/// Milliseconds since the process began, below 2^40.
const MILLIS: u64 = (1 << 40) - 1;

/// The most trips that are counted.
pub const MOST_TRIPS: u8 = 31;

/// What state a breaker is in, and what belongs to that state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Everything passes.
    Closed {
        /// Failures since the last success.
        run: u16,
        /// When it was closed: what began before does not count.
        since: Timestamp,
    },
    /// Nothing passes before `until`; then it may become half-open.
    Open {
        /// The time of the first probe.
        until: Timestamp,
        /// How often in a row it has opened, at most [`MOST_TRIPS`].
        trips: u8,
    },
    /// Probes pass, a few at a time.
    HalfOpen {
        /// Probes that may begin now.
        free: u8,
        /// Probes that succeeded.
        passed: u8,
        /// How often in a row it has opened, at most [`MOST_TRIPS`].
        trips: u8,
        /// When it became half-open.
        since: Timestamp,
    },
    /// Nothing passes until an operator says otherwise.
    HeldOpen,
    /// Everything passes until an operator says otherwise.
    HeldClosed,
}

/// The states without what belongs to them, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Everything passes.
    #[default]
    Closed,
    /// Nothing passes.
    Open,
    /// Probes pass.
    HalfOpen,
}

impl BreakerState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in API, CLI and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

const fn millis(time: Timestamp) -> u64 {
    let millis = time.0 / 1000;
    if millis < MILLIS { millis } else { MILLIS }
}

const fn timestamp(millis: u64) -> Timestamp {
    Timestamp((millis & MILLIS) * 1000)
}

impl GateState {
    /// A breaker that was never told of anything.
    pub const NEW: Self = Self::Closed {
        run: 0,
        since: Timestamp(0),
    };

    /// Closed, with nothing to its debit.
    #[must_use]
    pub const fn closed(now: Timestamp) -> Self {
        Self::Closed { run: 0, since: now }
    }

    /// The state without what belongs to it. One that is open and whose time is over counts as
    /// half-open: the next request will be a probe.
    #[must_use]
    pub fn kind(self, now: Timestamp) -> BreakerState {
        match self {
            Self::Closed { .. } | Self::HeldClosed => BreakerState::Closed,
            Self::Open { until, .. } if now >= until => BreakerState::HalfOpen,
            Self::Open { .. } | Self::HeldOpen => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether an operator holds it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::HeldOpen | Self::HeldClosed)
    }

    /// Why a request may not pass at `now`, if so.
    #[must_use]
    pub fn exclusion(self, now: Timestamp) -> Option<Exclusion> {
        match self {
            Self::Open { until, .. } if now < until => Some(Exclusion::BreakerOpen),
            Self::HeldOpen => Some(Exclusion::BreakerOpen),
            Self::HalfOpen { free: 0, .. } => Some(Exclusion::ProbeBusy),
            _ => None,
        }
    }

    fn pack(self) -> u64 {
        match self {
            Self::Closed { run, since } => u64::from(run) << 3 | millis(since) << 24,
            // Rounded up: not a moment too early.
            Self::Open { until, trips } => {
                let until = millis(Timestamp(until.0.saturating_add(999)));
                1 | u64::from(trips.min(MOST_TRIPS)) << 3 | until << 24
            }
            Self::HalfOpen {
                free,
                passed,
                trips,
                since,
            } => {
                2 | u64::from(trips.min(MOST_TRIPS)) << 3
                    | u64::from(free) << 8
                    | u64::from(passed) << 16
                    | millis(since) << 24
            }
            Self::HeldOpen => 3,
            Self::HeldClosed => 4,
        }
    }

    const fn unpack(word: u64) -> Self {
        let time = timestamp(word >> 24);
        let trips = (word >> 3) as u8 & MOST_TRIPS;
        match word & TAG {
            0 => Self::Closed {
                run: (word >> 3) as u16,
                since: time,
            },
            1 => Self::Open { until: time, trips },
            2 => Self::HalfOpen {
                free: (word >> 8) as u8,
                passed: (word >> 16) as u8,
                trips,
                since: time,
            },
            3 => Self::HeldOpen,
            _ => Self::HeldClosed,
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was.
    pub before: GateState,
    /// What it is.
    pub after: GateState,
}

impl Step {
    /// Whether it is another state, not only another number that belongs to it.
    #[must_use]
    pub fn is_transition(&self) -> bool {
        std::mem::discriminant(&self.before) != std::mem::discriminant(&self.after)
    }
}

/// A breaker's state where every thread finds it. It is small, because a pick reads it of each
/// candidate: what is counted at transitions lies elsewhere.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    counts: Box<Counts>,
}

/// How often a breaker came into each state.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    half_opened: AtomicU64,
    closed: AtomicU64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            word: AtomicU64::new(GateState::NEW.pack()),
            counts: Box::default(),
        }
    }
}

impl AsRef<Self> for Gate {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Gate {
    /// The state.
    #[must_use]
    pub fn state(&self) -> GateState {
        GateState::unpack(self.word.load(Ordering::Relaxed))
    }

    /// Why a request may not pass at `now`, if so. A load and a branch while it is closed.
    #[must_use]
    pub fn exclusion(&self, now: Timestamp) -> Option<Exclusion> {
        let word = self.word.load(Ordering::Relaxed);
        if word & TAG == 0 {
            return None;
        }
        GateState::unpack(word).exclusion(now)
    }

    /// Whether it is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & TAG == 0
    }

    /// Whether it is closed and the last outcome was a success: another one changes nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.word.load(Ordering::Relaxed) & TAG_AND_RUN == 0
    }

    /// Replaces the state by what `next` makes of it, unless that is `None`. Returns what this call
    /// has changed, as others see it, and counts transitions.
    ///
    /// `next` may be called several times, when other threads change the state meanwhile.
    pub fn update(&self, mut next: impl FnMut(GateState) -> Option<GateState>) -> Option<Step> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let before = GateState::unpack(word);
            let after = next(before)?;
            // Nothing else is published with the word, so no ordering is needed beyond its own.
            let swapped = self.word.compare_exchange_weak(
                word,
                after.pack(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => {
                    let after = GateState::unpack(after.pack());
                    let step = Step { before, after };
                    self.count(&step);
                    return Some(step);
                }
                Err(current) => word = current,
            }
        }
    }

    fn count(&self, step: &Step) {
        if !step.is_transition() {
            return;
        }
        match step.after {
            GateState::Open { .. } | GateState::HeldOpen => &self.counts.opened,
            GateState::HalfOpen { .. } => &self.counts.half_opened,
            GateState::Closed { .. } | GateState::HeldClosed => &self.counts.closed,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// How often it came into `state`.
    #[must_use]
    pub fn transitions(&self, state: BreakerState) -> u64 {
        match state {
            BreakerState::Closed => &self.counts.closed,
            BreakerState::Open => &self.counts.opened,
            BreakerState::HalfOpen => &self.counts.half_opened,
        }
        .load(Ordering::Relaxed)
    }

    /// As if nothing had ever happened.
    pub fn reset(&self) {
        self.word.store(GateState::NEW.pack(), Ordering::Relaxed);
        let counts = &self.counts;
        for counter in [&counts.opened, &counts.half_opened, &counts.closed] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..MILLIS).prop_map(timestamp)
    }

    fn state() -> impl Strategy<Value = GateState> {
        prop_oneof![
            (any::<u16>(), time()).prop_map(|(run, since)| GateState::Closed { run, since }),
            (0..=MOST_TRIPS, time()).prop_map(|(trips, until)| GateState::Open { until, trips }),
            (any::<u8>(), any::<u8>(), 0..=MOST_TRIPS, time()).prop_map(
                |(free, passed, trips, since)| GateState::HalfOpen {
                    free,
                    passed,
                    trips,
                    since
                }
            ),
            Just(GateState::HeldOpen),
            Just(GateState::HeldClosed),
        ]
    }

    proptest! {
        #[test]
        fn a_state_fits_into_its_word(state in state(), other in state(), now in time()) {
            prop_assert_eq!(GateState::unpack(state.pack()), state);
            let gate = Gate::default();
            gate.update(|_| Some(other));
            let changed = gate.update(|_| Some(state));
            prop_assert_eq!(changed, Some(Step { before: other, after: state }));
            prop_assert_eq!(gate.state(), state);
            prop_assert_eq!(gate.exclusion(now), state.exclusion(now));
            let closed = matches!(state, GateState::Closed { .. });
            prop_assert_eq!(gate.is_closed(), closed);
            let quiet = matches!(state, GateState::Closed { run: 0, .. });
            prop_assert_eq!(gate.is_quiet(), quiet);
            let open = state.kind(now) == BreakerState::Open;
            prop_assert_eq!(state.exclusion(now) == Some(Exclusion::BreakerOpen), open);
        }
    }

    #[test]
    fn an_open_gate_lets_nobody_through_a_moment_too_early() {
        let gate = Gate::default();
        let until = Timestamp(1_000_001);
        gate.update(|_| Some(GateState::Open { until, trips: 1 }));
        assert_eq!(gate.exclusion(until), Some(Exclusion::BreakerOpen));
        assert_eq!(gate.exclusion(Timestamp(1_001_000)), None);
        assert_eq!(gate.transitions(BreakerState::Open), 1);
        gate.reset();
        assert!(gate.is_quiet());
        assert_eq!(gate.transitions(BreakerState::Open), 0);
    }

    #[test]
    fn what_changes_nothing_is_no_transition() {
        let gate = Gate::default();
        assert_eq!(gate.update(|_| None), None);
        for run in 1..4 {
            let since = Timestamp(0);
            gate.update(|_| Some(GateState::Closed { run, since }));
        }
        assert_eq!(gate.transitions(BreakerState::Closed), 0);
    }
}
