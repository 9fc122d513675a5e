//! Slow start: the share of an instance that joins a running service, as a function of time.
//!
//! Envoy's formula: `share = max(min, (t / window)^(1 / aggression))`, which for an aggression of 1
//! is HAProxy's straight line. A cold instance gets time to fill its caches, and a new one among
//! many is not buried under the connections that an algorithm by load owes it.
//!
//! The share is a quota like that of a recovery, for every algorithm and in both data planes. It
//! goes up in steps of [`STEP`] percent, because every change of a weight moves flows.

use std::time::Duration;

use super::weight::WHOLE;
use crate::model::{SlowStartSpec, Timestamp};

/// How much a share grows at a time, in percent of the weight, but for the first and the last.
pub const STEP: u8 = 5;

/// How far a slow start is; what is published of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Share of its weight that the instance has, in percent, below 100.
    pub share: u8,
    /// When it has all of it; `None` until it has begun.
    pub ends: Option<Timestamp>,
}

/// Share in percent of an instance that began `elapsed` ago: a multiple of [`STEP`] or the least
/// share, 100 from the end of the window on.
#[must_use]
pub fn share(elapsed: Duration, spec: &SlowStartSpec) -> u8 {
    if elapsed >= spec.window {
        return WHOLE;
    }
    let part = elapsed.as_secs_f64() / spec.window.as_secs_f64();
    let grown = part.powf(100.0 / f64::from(spec.aggression.max(1)));
    let steps = (grown * f64::from(WHOLE / STEP)) as u8;
    (steps * STEP).max(spec.min).min(WHOLE)
}

/// When the share of [`share`] next changes, after the beginning: the time of the step above it.
#[must_use]
pub fn next_step(elapsed: Duration, spec: &SlowStartSpec) -> Duration {
    let next = (share(elapsed, spec) / STEP + 1) * STEP;
    let part = (f64::from(next) / f64::from(WHOLE)).min(1.0);
    let time = spec
        .window
        .mul_f64(part.powf(f64::from(spec.aggression.max(1)) / 100.0));
    // The product may end a rounding error before the step.
    (time + Duration::from_micros(1)).min(spec.window)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec() -> SlowStartSpec {
        SlowStartSpec::default()
    }

    #[test]
    fn a_straight_line_in_steps() {
        for (seconds, percent) in [
            (0.0, 10),
            (2.9, 10),
            (4.5, 15),
            (6.0, 20),
            (15.0, 50),
            (29.9, 95),
            (30.0, 100),
            (99.0, 100),
        ] {
            assert_eq!(
                share(Duration::from_secs_f64(seconds), &spec()),
                percent,
                "{seconds}"
            );
        }
        let eager = SlowStartSpec {
            aggression: 200,
            ..spec()
        };
        assert_eq!(share(Duration::from_secs_f64(7.5), &eager), 50);
        let shy = SlowStartSpec {
            aggression: 50,
            ..spec()
        };
        assert_eq!(share(Duration::from_secs(15), &shy), 25);
    }

    proptest! {
        #[test]
        fn it_only_grows_and_the_next_step_is_the_next(
            ms in 0u64..40_000,
            more in 0u64..40_000,
            aggression in 10u32..1000,
            min in 1u8..=100,
        ) {
            let spec = SlowStartSpec { aggression, min, ..spec() };
            let elapsed = Duration::from_millis(ms);
            let now = share(elapsed, &spec);
            prop_assert!(now >= min && now <= WHOLE);
            prop_assert!(share(elapsed + Duration::from_millis(more), &spec) >= now);
            if now < WHOLE {
                let next = next_step(elapsed, &spec);
                prop_assert!(next > elapsed);
                prop_assert!(share(next, &spec) > now);
                let between = elapsed + (next - elapsed) / 2;
                prop_assert_eq!(share(between, &spec), now);
            }
        }
    }
}
