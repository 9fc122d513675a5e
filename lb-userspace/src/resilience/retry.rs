//! Whether a request that has failed is sent once more, and after what wait.
//!
//! **The wait** is exponential with full jitter: uniform between zero and
//! `min(max_backoff, backoff · factor^(n-1))` before retry `n` (AWS Architecture Blog,
//! "Exponential Backoff and Jitter", 2015, which finds that full jitter gives the least work and
//! the shortest time of the variants). It exists to spread in time what an overloaded service
//! gets. An instance that cannot be reached says nothing about the others, so the first retry that
//! leads away from one goes at once, as it does in nginx and HAProxy.
//!
//! **What is asked first**: whether the request may be repeated, then whether there is anywhere to
//! send it and time to do it, and last the budget, so that nothing is paid for a retry that does
//! not happen.

use std::time::Duration;

use crate::model::{RetryCause, RetryRefusal, RetrySpec, Timestamp};

/// A request whose last try has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How.
    pub cause: RetryCause,
    /// Retries that it has had.
    pub retries: u8,
    /// Whether it can be sent again: what is to say when it can not.
    pub again: Result<(), RetryRefusal>,
    /// When it must have its answer.
    pub deadline: Timestamp,
}

/// The wait before the next retry of `failed`, or why there is none. `chance` is 64 random bits.
/// Whether there is an instance, and the budget, are for the caller to ask afterwards.
///
/// # Errors
/// The reason against a retry that counts.
pub fn wait(
    spec: &RetrySpec,
    failed: &Failed,
    now: Timestamp,
    chance: u64,
) -> Result<Duration, RetryRefusal> {
    failed.again?;
    if failed.retries >= spec.max {
        return Err(RetryRefusal::Exhausted);
    }
    let at_once = spec.at_once && failed.retries == 0 && failed.cause != RetryCause::Status;
    let wait = if at_once {
        Duration::ZERO
    } else {
        jittered(most(spec, failed.retries), chance)
    };
    if now + wait >= failed.deadline {
        return Err(RetryRefusal::Deadline);
    }
    Ok(wait)
}

/// The wait before the same instance is tried again because there is no other: never none at all,
/// or a refused connection would be followed by two more within a millisecond.
#[must_use]
pub fn wait_for_same(spec: &RetrySpec, retries: u8, chance: u64) -> Duration {
    let most = most(spec, retries);
    most / 2 + jittered(most / 2, chance)
}

/// The longest wait after `retries` retries.
fn most(spec: &RetrySpec, retries: u8) -> Duration {
    let factor = f64::from(spec.factor.max(100)) / 100.0;
    let most = spec.backoff.as_secs_f64() * factor.powi(i32::from(retries));
    Duration::from_secs_f64(most.min(spec.max_backoff.as_secs_f64()))
}

/// Uniform from 0 to `most`.
fn jittered(most: Duration, chance: u64) -> Duration {
    most.mul_f64(chance as f64 / 2f64.powi(64))
}

/// How long an instance that has said `Retry-After` is left alone: at most as long as the service
/// allows, because an instance could ask for a year.
#[must_use]
pub fn rest(spec: &RetrySpec, asked: Duration) -> Duration {
    asked.min(spec.max_retry_after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALWAYS: Timestamp = Timestamp(u64::MAX);

    fn failed(cause: RetryCause, retries: u8) -> Failed {
        Failed {
            cause,
            retries,
            again: Ok(()),
            deadline: ALWAYS,
        }
    }

    #[test]
    fn the_guides_waits() {
        let spec = RetrySpec::default();
        let wait =
            |cause, retries, chance| wait(&spec, &failed(cause, retries), Timestamp(0), chance);
        let ms = Duration::from_millis;
        for cause in RetryCause::ALL {
            let first = if *cause == RetryCause::Status { 100 } else { 0 };
            let longest = wait(*cause, 0, u64::MAX).unwrap();
            assert_eq!(longest.as_millis(), ms(first).as_millis(), "{cause:?}");
            assert_eq!(wait(*cause, 1, 0), Ok(Duration::ZERO));
            assert_eq!(wait(*cause, 1, 1 << 63), Ok(ms(100)));
            assert_eq!(wait(*cause, 2, 0), Err(RetryRefusal::Exhausted));
        }
    }

    #[test]
    fn every_wait_can_be_asked_for() {
        let spec = RetrySpec {
            at_once: false,
            ..RetrySpec::default()
        };
        let failed = failed(RetryCause::ConnectFailed, 0);
        let half = wait(&spec, &failed, Timestamp(0), 1 << 63);
        assert_eq!(half, Ok(Duration::from_millis(50)));
    }

    #[test]
    fn what_may_not_be_repeated_is_not() {
        let spec = RetrySpec::default();
        let failed = Failed {
            again: Err(RetryRefusal::Body),
            ..failed(RetryCause::Status, 0)
        };
        let refused = wait(&spec, &failed, Timestamp(0), 0);
        assert_eq!(refused, Err(RetryRefusal::Body));
    }

    proptest! {
        #[test]
        fn waits_are_within_their_bounds_and_end_before_the_deadline(
            retries in 0u8..4,
            chance: u64,
            backoff in 1u64..5_000,
            factor in 100u16..=1000,
            longest in 1u64..10_000,
            left in 0u64..20_000_000,
            now in 0u64..1_000_000_000,
            at_once: bool,
        ) {
            let spec = RetrySpec {
                max: 4,
                backoff: Duration::from_millis(backoff),
                factor,
                max_backoff: Duration::from_millis(longest),
                at_once,
                ..RetrySpec::default()
            };
            let now = Timestamp(now);
            let deadline = now + Duration::from_micros(left);
            for cause in RetryCause::ALL {
                let failed = Failed { deadline, ..failed(*cause, retries) };
                match wait(&spec, &failed, now, chance) {
                    Ok(wait) => {
                        prop_assert!(wait <= spec.max_backoff);
                        let most = spec.backoff.mul_f64((f64::from(factor) / 100.0).powi(retries.into()));
                        prop_assert!(wait <= most + Duration::from_nanos(1));
                        prop_assert!(now + wait < deadline);
                    }
                    Err(refused) => prop_assert_eq!(refused, RetryRefusal::Deadline),
                }
            }
            let same = wait_for_same(&spec, retries, chance);
            prop_assert!(same <= spec.max_backoff && same > Duration::ZERO);
        }
    }
}
