//! Taking instances out without taking the service down: what tells a broken instance from a busy
//! one, and how many may be out at a time.
//!
//! An instance that gets more than it can do answers a part of it with an error, and before long
//! several requests in a row. Whoever takes it out for that takes away what it does serve; the
//! others get its load, do the same, and are next. In the end two thirds of the requests fail where
//! a fifth had to. The same happens when all fail alike for another reason: a database that is
//! away for a moment, a path that fails everywhere. Circuit breakers and ejection therefore share
//! three rules:
//!
//! - **A run of failures says nothing while the instance serves.** A busy instance goes on serving
//!   at its own pace, so what proves that it is broken is [`Silence`]: no success for so long that
//!   an instance that works would show it less than once an hour, going by the best of the seconds
//!   before. At 500 answers a second that is some 29 ms, and always at most a second or four
//!   latencies. A run of refused connections needs no silence: whoever is busy lets connections
//!   wait or drops their first packets, which shows as time running out; only where nobody listens
//!   does the kernel refuse.
//! - **What counts is what an instance serves, not what it refuses.** A share of failures speaks
//!   against an instance only if it serves less than the others do ([`can_be_spared`]), for what
//!   it weighs. The worse the others fare themselves, the less of its load could they take, and
//!   the less must it serve to be better gone. By the same measure a run of failures counts without
//!   silence: one that has become slow, so that its queue overflows, still serves at its own pace.
//!   In the two seconds that may be waited for, chance has to be reckoned with, and that somebody
//!   may have been asked less than the others ([`lags`]).
//! - **Only a share of the instances may be out at a time** ([`most_out`]), by breakers and
//!   ejections together, and those that fail in a row in this moment count as well: when many fail
//!   at once, the cause lies behind them all. Whoever has been silent for so long that it certainly
//!   serves nothing takes nothing away, so a breaker may open on it beyond the share: a service that
//!   is wholly dead fails fast.
//!
//! Envoy and gRFC A50 have the share alone, for ejections; HAProxy and linkerd have none of this.

use std::time::Duration;

use crate::model::{Instance, Timestamp, WindowSum, window::WINDOW_SECONDS};

/// Seconds before a silence of which the best says how many successes there should be. The mean of
/// them would be low while an instance is new, and while it becomes slow.
const BEFORE: u64 = 10;

/// Fewer successes than this in a second are no pace to go by.
const FEW: u64 = 5;

/// Failures in a row that are a silence however short, as traffic may have grown since the seconds
/// before: those that are as rare as this many where each is as likely as not to be followed by
/// another, which is once in 30 million requests.
const ENOUGH: f64 = 25.0;

/// Share of failures that is reckoned with at most.
const MOST_FAIL: f64 = 0.99;

/// Fewer requests than this in a second have no share of failures to go by.
const TELLING: u64 = 20;

/// A silence is to come about by chance this often at most.
const ONCE_IN: Duration = Duration::from_secs(3600);

/// Successes that must be missing however rare they are: as many as the failures that open a
/// breaker by default.
const LEAST_MISSING: f64 = 7.0;

/// A silence of so many latencies is certain, within these bounds.
const LATENCIES: u32 = 4;
const CERTAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What an instance serves next to what others do, for it to be worse than they are, when none of
/// their requests fail. Less by the cube of their success rate when some do.
const WORSE: f64 = 0.95;

/// Share of failures, in percent, from which on an instance serves next to nothing.
pub const NEXT_TO_NOTHING: u64 = 99;

/// How sure it is that an instance serves nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// It is not: it serves, or has done so a moment ago.
    #[default]
    None,
    /// Sure enough as long as hardly anybody else fails.
    Likely,
    /// Beyond doubt.
    Certain,
}

impl Silence {
    /// That of an instance at `now`.
    #[must_use]
    pub fn of(instance: &Instance, now: Timestamp) -> Self {
        let Some(since) = instance.failures.since() else {
            return Self::None;
        };
        let skip = now.seconds().saturating_sub(since.seconds());
        if skip + BEFORE > WINDOW_SECONDS {
            return Self::Certain;
        }
        let before: [WindowSum; BEFORE as usize] =
            std::array::from_fn(|back| instance.window(now, skip + back as u64, 1));
        let served = |second: &WindowSum| second.requests.saturating_sub(second.failures);
        let best = before.iter().map(served).max().unwrap_or_default();
        let latency = instance.latency.at_last_sample().unwrap_or_default();
        let by_time = silence(now - since, best, latency);
        let failures = &instance.failures;
        let run = failures.length();
        if failures.is_refusal() || f64::from(run) >= enough(&before, u64::from(run)) {
            by_time.max(Self::Likely)
        } else {
            by_time
        }
    }
}

/// What it means that nothing has succeeded for this time, after so many successes a second that
/// took so long.
fn silence(lasting: Duration, served: u64, latency: Duration) -> Silence {
    let certain = latency
        .saturating_mul(LATENCIES)
        .clamp(CERTAIN.0, CERTAIN.1);
    if lasting >= certain {
        return Silence::Certain;
    }
    if lasting >= expected(served) {
        Silence::Likely
    } else {
        Silence::None
    }
}

/// The longest time between two successes that is to be expected: when they come at random, `n`
/// times their mean distance passes without one with probability `e⁻ⁿ`.
fn expected(served: u64) -> Duration {
    if served < FEW {
        return Duration::ZERO;
    }
    let rate = served as f64;
    let missing = (rate * ONCE_IN.as_secs_f64()).ln().max(LEAST_MISSING);
    Duration::from_secs_f64(missing / rate)
}

/// How many failures in a row are too many for chance, of an instance that has failed as many as it
/// did in the worst of the seconds `before`. The `run` at hand has begun in the first of them and
/// says nothing about what was before it.
///
/// Somebody who can do `1` and is asked for `a` fails a share of `f = 1 - 1 / a`, while the queue is
/// full. Then what comes next is a success with probability `1 / (1 + a)`, else another failure:
/// `q = a / (1 + a) = 1 / (2 - f)`.
fn enough(before: &[WindowSum], run: u64) -> f64 {
    let share = |(back, second): (usize, &WindowSum)| {
        let of_run = if back == 0 {
            run.min(second.failures)
        } else {
            0
        };
        let requests = second.requests.saturating_sub(of_run);
        let failures = second.failures.saturating_sub(of_run);
        (requests >= TELLING).then(|| failures as f64 / requests as f64)
    };
    let worst = before.iter().enumerate().filter_map(share);
    let worst = worst.fold(0.0, f64::max).min(MOST_FAIL);
    ENOUGH * 2f64.ln() / (2.0 - worst).ln()
}

/// What instances did, for what they weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Output {
    /// Requests served a second.
    pub served: f64,
    /// Requests failed a second.
    pub failed: f64,
    /// Sum of the weights.
    pub weight: f64,
}

impl Output {
    /// What an instance of that weight did within `seconds`, which are at least 1.
    #[must_use]
    pub fn new(sum: &WindowSum, seconds: u64, weight: u32) -> Self {
        let per_second = |count: u64| count as f64 / seconds.max(1) as f64;
        Self {
            served: per_second(sum.requests.saturating_sub(sum.failures)),
            failed: per_second(sum.failures),
            weight: f64::from(weight.max(1)),
        }
    }

    /// The same without a part of it.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        Self {
            served: (self.served - part.served).max(0.0),
            failed: (self.failed - part.failed).max(0.0),
            weight: (self.weight - part.weight).max(0.0),
        }
    }
}

impl std::ops::AddAssign for Output {
    fn add_assign(&mut self, other: Self) {
        self.served += other.served;
        self.failed += other.failed;
        self.weight += other.weight;
    }
}

/// Whether an instance serves so much less than the others, for what it weighs, that it is better
/// gone. Nobody can be spared when the others serve nothing.
#[must_use]
pub fn can_be_spared(own: &Output, others: &Output) -> bool {
    if others.served <= 0.0 || others.weight <= 0.0 {
        return false;
    }
    let rate = others.served / (others.served + others.failed);
    own.served / own.weight < WORSE * rate.powi(3) * others.served / others.weight
}

/// Seconds of which it is looked at whether an instance lags.
pub const RECENT: u64 = 2;

/// How many standard deviations of what was served must lie between chance and a lag: under a
/// little too much load everybody who fails in a row is looked at several times a second.
const DEVIATIONS: f64 = 4.0;

/// Whether an instance with `busy` requests in flight serves so much less than the others with
/// `others_busy` that it is better gone, by what all of them did in the last `seconds`. One that has
/// less to do than they have is only asked less.
#[must_use]
pub fn lags(own: &Output, others: &Output, busy: f64, others_busy: f64, seconds: u64) -> bool {
    let served = own.served * seconds as f64;
    let at_best = Output {
        served: (served + DEVIATIONS * served.max(1.0).sqrt()) / seconds as f64,
        ..*own
    };
    busy * others.weight > others_busy * own.weight && can_be_spared(&at_best, others)
}

/// How many of so many instances may be out at a time, when that is to be `share` percent: one
/// always.
#[must_use]
pub const fn most_out(share: u8, wanted: usize) -> usize {
    let most = wanted * share as usize / 100;
    if most > 1 { most } else { 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_silence_is_measured_by_what_was_served_before() {
        let quick = 5 * MS;
        for (lasting, served, is) in [
            // 500 a second: ln(500 × 3600) = 14.4 are missing after 29 ms.
            (28 * MS, 500, Silence::None),
            (29 * MS, 500, Silence::Likely),
            (999 * MS, 500, Silence::Likely),
            (1000 * MS, 500, Silence::Certain),
            // Five a second: 9.8 would be missing after 1.96 s, but a second is enough.
            (999 * MS, 5, Silence::None),
            (1000 * MS, 5, Silence::Certain),
            // No pace to go by.
            (Duration::ZERO, 4, Silence::Likely),
        ] {
            assert_eq!(silence(lasting, served, quick), is, "{lasting:?}, {served}");
        }
        let slow = Duration::from_secs(5);
        for (lasting, served, is) in [
            (1950 * MS, 5, Silence::None),
            (1970 * MS, 5, Silence::Likely),
            (20_000 * MS, 5, Silence::Certain),
        ] {
            assert_eq!(silence(lasting, served, slow), is, "{lasting:?}, {served}");
        }
    }

    #[test]
    fn a_run_is_too_long_for_chance_by_how_much_failed_before() {
        let second = |requests, failures| WindowSum {
            requests,
            failures,
            latency_us: 0,
        };
        let close = |before: &[WindowSum], run, expected: f64| {
            let found = enough(before, run);
            assert!((found - expected).abs() < 0.5, "{found}, not {expected}");
        };
        close(&[], 30, 25.0);
        close(&[second(100, 1), second(100, 3)], 1, 25.5);
        // Two thirds fail, as always at three times the load.
        close(&[second(1000, 0), second(1000, 667)], 30, 60.3);
        // It has just begun to: the run itself is no evidence of that, what was before it is.
        close(&[second(130, 30), second(1000, 0)], 30, 25.0);
        close(&[second(330, 230), second(1000, 0)], 30, 60.2);
        // Nothing but failures, or next to no requests.
        close(&[second(1000, 0), second(1000, 1000)], 30, 1741.5);
        close(&[second(19, 19)], 0, 25.0);
    }

    fn output(served: f64, failed: f64) -> Output {
        Output {
            served,
            failed,
            weight: 10.0,
        }
    }

    #[test]
    fn who_serves_as_much_as_the_others_is_not_better_gone() {
        // Overload: the same is served, however much is refused on top.
        assert!(!can_be_spared(&output(800.0, 900.0), &output(800.0, 500.0)));
        // Three in ten fail, nobody else's do.
        assert!(can_be_spared(&output(70.0, 30.0), &output(100.0, 0.0)));
        // When a tenth of the others' fail, too, there is too little to gain.
        assert!(!can_be_spared(&output(70.0, 30.0), &output(90.0, 10.0)));
        assert!(can_be_spared(&output(40.0, 60.0), &output(90.0, 10.0)));
        // Nobody could take over.
        assert!(!can_be_spared(&output(1.0, 99.0), &output(0.0, 100.0)));
        assert!(!can_be_spared(&output(1.0, 99.0), &Output::default()));
    }

    #[test]
    fn who_has_more_to_do_and_serves_less_lags() {
        let (slow, others) = (output(80.0, 0.0), output(480.0, 0.0));
        assert!(lags(&slow, &others, 1000.0, 4.0, 2));
        // It is asked less.
        assert!(!lags(&slow, &others, 2.0, 4.0, 2));
        // Everybody has too much to do: it serves what they do, or what chance has made of it.
        let others = output(100.0, 80.0);
        assert!(!lags(&output(90.0, 100.0), &others, 900.0, 800.0, 2));
        assert!(!lags(&output(80.0, 0.0), &output(100.0, 0.0), 9.0, 5.0, 2));
        assert!(lags(&output(70.0, 0.0), &output(100.0, 0.0), 9.0, 5.0, 2));
        // So few requests say nothing, and neither do others that serve nothing.
        assert!(!lags(&output(1.0, 3.0), &output(3.0, 0.0), 9.0, 5.0, 2));
        assert!(lags(&output(0.0, 3.0), &output(3.0, 0.0), 9.0, 5.0, 2));
        assert!(!lags(&output(0.0, 3.0), &output(0.0, 9.0), 9.0, 5.0, 2));
    }

    #[test]
    fn weights_count() {
        let small = Output {
            weight: 5.0,
            ..output(50.0, 0.0)
        };
        assert!(!can_be_spared(&small, &output(100.0, 0.0)));
        assert!(can_be_spared(&output(50.0, 0.0), &output(100.0, 0.0)));
    }

    proptest! {
        #[test]
        fn a_longer_silence_is_never_less_sure(
            short in 0u64..100_000,
            more in 0u64..100_000,
            served in 0u64..1_000_000,
            latency in 0u64..100_000,
        ) {
            let of = |ms| silence(Duration::from_millis(ms), served, Duration::from_millis(latency));
            prop_assert!(of(short) <= of(short + more));
            prop_assert_eq!(of(30_000), Silence::Certain);
        }

        #[test]
        fn one_may_always_be_out_and_never_more_than_the_share(
            share in 1u8..=100,
            wanted in 1usize..2000,
        ) {
            let most = most_out(share, wanted);
            prop_assert!(most == 1 || most * 100 <= wanted * usize::from(share));
            prop_assert!((1..=wanted).contains(&most));
        }
    }
}
