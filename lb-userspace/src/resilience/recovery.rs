//! Gradual recovery: an instance that comes back earns its weight in steps.
//!
//! ```text
//!            up, and the wait is over             share + step ≥ 100 %
//!   waiting ──────────────────────────► climbing ─────────────────────► recovered
//!   (0 %)   ◄──────────────────────────  (start %, + step, …)
//!                     relapse
//! ```
//!
//! An interval is a step when its success rate reached the threshold, with evidence: of requests
//! when there were any, else of health checks, which is all that there is for an instance that
//! only the kernel sends traffic to. An interval without evidence proves nothing, and the instance
//! stays where it is. A relapse is going down, or an interval below the threshold; ten requests are
//! enough to call one before the interval is over, because a bad instance at a share of 90 % does
//! harm for every second of it.
//!
//! After the n-th relapse in a row the next attempt waits `interval × 2^(n-1)`, up to a limit, as
//! in any protocol whose peers must not be hammered. Having recovered wipes the slate clean.
//!
//! No clock, no I/O: time and counts are arguments, and counts only ever grow.

use std::time::Duration;

use super::weight::WHOLE;
use crate::model::{RecoverySpec, Timestamp};

/// Requests of an interval that are enough to call a relapse before its end.
pub const ENOUGH: u64 = 10;

/// What an instance has done so far; the machine looks at differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Requests that succeeded.
    pub successes: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Health checks that passed.
    pub passed: u64,
    /// Health checks that failed.
    pub failed: u64,
}

/// Whether an instance could take traffic, were it not for its recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// It could.
    Up,
    /// Something is wrong with it.
    Down,
    /// Its operator does not want it to: nothing can be learned, and nothing is lost.
    Away,
}

/// How far a recovery is; what is published of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Share of its weight that the instance has, in percent, below 100; 0 while it waits.
    pub share: u8,
    /// Relapses in a row.
    pub relapses: u32,
    /// When the next step or attempt is due at the earliest.
    pub due: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting { until: Timestamp },
    Climbing { share: u8, since: Timestamp },
    Recovered,
}

/// The recovery of one instance.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    phase: Phase,
    relapses: u32,
    /// What had been done when the interval began.
    mark: Done,
}

impl Default for Recovery {
    /// Begins as soon as the instance is up.
    fn default() -> Self {
        Self {
            phase: Phase::Waiting {
                until: Timestamp::default(),
            },
            relapses: 0,
            mark: Done::default(),
        }
    }
}

impl Recovery {
    /// How far it is; `None` when it is over.
    #[must_use]
    pub fn progress(&self, spec: &RecoverySpec) -> Option<Progress> {
        let (share, due) = match self.phase {
            Phase::Waiting { until } => (0, until),
            Phase::Climbing { share, since } => (share, since + spec.interval),
            Phase::Recovered => return None,
        };
        Some(Progress {
            share,
            relapses: self.relapses,
            due,
        })
    }

    /// Whether the instance has a share already.
    #[must_use]
    pub const fn is_climbing(&self) -> bool {
        matches!(self.phase, Phase::Climbing { .. })
    }

    /// Takes into account how the instance is at `now` and what it has `done` by then. To be called
    /// about once a second; more often does no harm.
    pub fn observe(
        &mut self,
        now: Timestamp,
        situation: Situation,
        done: Done,
        spec: &RecoverySpec,
    ) {
        match (self.phase, situation) {
            (Phase::Waiting { until }, Situation::Up) if now >= until => {
                self.climb(spec.start, now, done);
            }
            (Phase::Climbing { .. }, Situation::Down) => self.relapse(now, spec),
            (Phase::Climbing { share, .. }, Situation::Away) => self.climb(share, now, done),
            (Phase::Climbing { share, since }, Situation::Up) => {
                let rate = done.since(&self.mark);
                let over = now.since(since) >= spec.interval;
                match rate {
                    Some(rate)
                        if rate.is_below(spec.threshold) && (over || rate.requests >= ENOUGH) =>
                    {
                        self.relapse(now, spec);
                    }
                    Some(_) if over => {
                        self.climb(share.saturating_add(spec.step), now, done);
                    }
                    None if over => self.climb(share, now, done),
                    _ => {}
                }
            }
            (Phase::Waiting { .. } | Phase::Recovered, _) => {}
        }
    }

    /// Back to nothing. Without effect on an instance that has nothing, and on one that has
    /// recovered.
    pub fn relapse(&mut self, now: Timestamp, spec: &RecoverySpec) {
        if self.is_climbing() {
            self.relapses = self.relapses.saturating_add(1);
            let until = now + wait(self.relapses, spec);
            self.phase = Phase::Waiting { until };
        }
    }

    fn climb(&mut self, share: u8, now: Timestamp, done: Done) {
        self.mark = done;
        self.phase = if share < WHOLE {
            Phase::Climbing { share, since: now }
        } else {
            Phase::Recovered
        };
    }
}

/// The wait after the n-th relapse in a row.
fn wait(relapses: u32, spec: &RecoverySpec) -> Duration {
    let doublings = relapses.saturating_sub(1).min(31);
    spec.interval
        .saturating_mul(1 << doublings)
        .min(spec.max_wait)
}

/// What an interval has shown.
struct Rate {
    requests: u64,
    good: u64,
    all: u64,
}

impl Rate {
    fn is_below(&self, percent: u8) -> bool {
        u128::from(self.good) * 100 < u128::from(self.all) * u128::from(percent)
    }
}

impl Done {
    /// What was done since `mark`; `None` when that is nothing.
    fn since(&self, mark: &Self) -> Option<Rate> {
        let successes = self.successes.saturating_sub(mark.successes);
        let requests = successes + self.failures.saturating_sub(mark.failures);
        let passed = self.passed.saturating_sub(mark.passed);
        let checks = passed + self.failed.saturating_sub(mark.failed);
        let (good, all) = if requests > 0 {
            (successes, requests)
        } else {
            (passed, checks)
        };
        (all > 0).then_some(Rate {
            requests,
            good,
            all,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec() -> RecoverySpec {
        RecoverySpec::default()
    }

    struct Run {
        machine: Recovery,
        now: Timestamp,
        done: Done,
    }

    impl Run {
        fn new() -> Self {
            Self {
                machine: Recovery::default(),
                now: Timestamp(1_000_000_000),
                done: Done::default(),
            }
        }

        /// A second in which so many requests succeed and fail; the share at its end.
        fn second(&mut self, situation: Situation, successes: u64, failures: u64) -> u8 {
            self.now = self.now + Duration::from_secs(1);
            self.done.successes += successes;
            self.done.failures += failures;
            self.machine
                .observe(self.now, situation, self.done, &spec());
            self.share()
        }

        fn seconds(&mut self, seconds: u32, situation: Situation, successes: u64) -> u8 {
            (0..seconds).for_each(|_| {
                self.second(situation, successes, 0);
            });
            self.share()
        }

        fn share(&self) -> u8 {
            self.machine.progress(&spec()).map_or(WHOLE, |p| p.share)
        }
    }

    #[test]
    fn climbs_by_a_step_each_interval_until_it_has_everything() {
        let mut run = Run::new();
        assert_eq!(run.seconds(1, Situation::Up, 1), 10);
        for step in 1..=9 {
            assert_eq!(run.seconds(29, Situation::Up, 1), step * 10);
            assert_eq!(run.seconds(1, Situation::Up, 1), (step + 1) * 10);
        }
        assert_eq!(run.machine.progress(&spec()), None);
        assert_eq!(run.seconds(100, Situation::Down, 0), WHOLE);
    }

    #[test]
    fn without_evidence_nothing_moves_and_a_passed_check_is_evidence() {
        let mut run = Run::new();
        assert_eq!(run.seconds(300, Situation::Up, 0), 10);
        run.done.passed += 1;
        assert_eq!(run.seconds(31, Situation::Up, 0), 20);
        run.done.passed += 1;
        run.done.failed += 1;
        assert_eq!(run.seconds(31, Situation::Up, 0), 0);
    }

    #[test]
    fn an_operator_holds_it_without_a_loss() {
        let mut run = Run::new();
        run.seconds(31, Situation::Up, 1);
        assert_eq!(run.seconds(1000, Situation::Away, 1), 20);
        assert_eq!(run.seconds(29, Situation::Up, 1), 20);
        assert_eq!(run.seconds(1, Situation::Up, 1), 30);
    }

    #[test]
    fn waits_double_up_to_the_limit_and_are_forgotten_after_a_recovery() {
        let mut run = Run::new();
        for wait in [30, 60, 120, 240, 300, 300] {
            assert_eq!(run.seconds(1, Situation::Up, 1), 10);
            assert_eq!(run.second(Situation::Down, 0, 0), 0);
            assert_eq!(run.seconds(wait - 1, Situation::Up, 0), 0, "{wait}");
        }
        assert_eq!(run.seconds(1 + 9 * 30, Situation::Up, 1), WHOLE);
        run.machine = Recovery::default();
        assert_eq!(run.second(Situation::Up, 1, 0), 10);
    }

    #[test]
    fn ten_requests_are_enough_to_see_a_relapse() {
        let mut run = Run::new();
        run.second(Situation::Up, 0, 0);
        assert_eq!(run.second(Situation::Up, 3, 6), 10);
        assert_eq!(run.second(Situation::Up, 0, 1), 0);
        // One failure of a few is for the end of the interval to judge.
        let mut run = Run::new();
        run.second(Situation::Up, 0, 0);
        assert_eq!(run.second(Situation::Up, 0, 1), 10);
        assert_eq!(run.seconds(28, Situation::Up, 0), 10);
        assert_eq!(run.second(Situation::Up, 0, 0), 0);
    }

    proptest! {
        #[test]
        fn it_moves_by_whole_steps_and_falls_to_nothing_only(
            seconds in prop::collection::vec(
                (prop::sample::select(vec![Situation::Up, Situation::Up, Situation::Down,
                    Situation::Away]), 0u64..5, 0u64..3, 1u32..40),
                1..200,
            ),
        ) {
            let mut run = Run::new();
            let mut before = 0;
            let mut waiting_since = run.now;
            for (situation, good, bad, times) in seconds {
                for _ in 0..times {
                    let progress = run.machine.progress(&spec());
                    let after = run.second(situation, good, bad);
                    prop_assert!(after <= WHOLE);
                    prop_assert!(
                        after == before || after == before + 10 || after == 0,
                        "{before} to {after}"
                    );
                    if situation == Situation::Down && before < WHOLE {
                        prop_assert_eq!(after, 0);
                    }
                    if before == 0 && after > 0 {
                        prop_assert_eq!((situation, after), (Situation::Up, 10));
                        prop_assert!(run.now >= progress.unwrap_or_default().due);
                    }
                    if before > 0 && after == 0 {
                        waiting_since = run.now;
                        let due = run.machine.progress(&spec()).unwrap_or_default().due;
                        let wait = due - waiting_since;
                        prop_assert!(wait >= spec().interval && wait <= spec().max_wait);
                    }
                    before = after;
                }
            }
            prop_assert!(waiting_since <= run.now);
        }

        #[test]
        fn who_never_fails_climbs_without_a_step_back(
            served in prop::collection::vec((0u64..3, 1u32..60), 1..100),
        ) {
            let mut run = Run::new();
            let mut before = 0;
            for (good, times) in served {
                let after = run.seconds(times, Situation::Up, good);
                prop_assert!(after >= before);
                before = after;
            }
        }
    }
}
