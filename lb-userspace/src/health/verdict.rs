//! From results of checks to the health of an instance: rise and fall, no I/O.
//!
//! The first result decides at once: an instance that is down when lb starts must not get
//! requests until it has failed often enough, nor one that is up wait to be counted. After that,
//! `rise` passes in a row make an unhealthy instance healthy and `fall` failures in a row a
//! healthy one unhealthy, so that one lost packet moves no traffic.

use crate::model::Health;

/// The health of one instance and what speaks against it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    health: Health,
    rise: u32,
    fall: u32,
    /// Results in a row that contradict `health`.
    against: u32,
}

impl Verdict {
    /// Goes on from `health`. `rise` and `fall` below 1 count as 1.
    pub(super) fn new(health: Health, rise: u32, fall: u32) -> Self {
        Self {
            health,
            rise: rise.max(1),
            fall: fall.max(1),
            against: 0,
        }
    }

    /// Whether the instance was down by the results so far.
    pub(super) const fn is_down(&self) -> bool {
        matches!(self.health, Health::Unhealthy)
    }

    /// Takes a result into account; the new health when it changes.
    pub(super) fn observe(&mut self, passed: bool) -> Option<Health> {
        let (found, needed) = if passed {
            (Health::Healthy, self.rise)
        } else {
            (Health::Unhealthy, self.fall)
        };
        if found == self.health {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.health != Health::Unknown && self.against < needed {
            return None;
        }
        self.health = found;
        self.against = 0;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rises_and_falls_by_runs() {
        let mut verdict = Verdict::new(Health::Unknown, 2, 3);
        let seen: Vec<_> = [
            true, false, false, true, false, false, false, false, true, false, true, true,
        ]
        .into_iter()
        .map(|passed| verdict.observe(passed))
        .collect();
        let (up, down) = (Some(Health::Healthy), Some(Health::Unhealthy));
        assert_eq!(
            seen,
            [
                up, None, None, None, None, None, down, None, None, None, None, up
            ]
        );
    }

    #[test]
    fn the_first_failure_decides_too_and_a_known_health_is_kept() {
        let mut verdict = Verdict::new(Health::Unknown, 2, 3);
        assert_eq!(verdict.observe(false), Some(Health::Unhealthy));
        let mut verdict = Verdict::new(Health::Healthy, 2, 2);
        assert_eq!(verdict.observe(false), None);
        assert_eq!(verdict.observe(false), Some(Health::Unhealthy));
    }

    proptest! {
        /// The machine says what the last results say, found by looking at all of them.
        #[test]
        fn health_follows_the_last_run_that_was_long_enough(
            results in prop::collection::vec(any::<bool>(), 1..200),
            rise in 0u32..5,
            fall in 0u32..5,
        ) {
            let mut verdict = Verdict::new(Health::Unknown, rise, fall);
            let mut health = Health::Unknown;
            for (i, passed) in results.iter().enumerate() {
                if let Some(changed) = verdict.observe(*passed) {
                    prop_assert_ne!(changed, health);
                    health = changed;
                }
                let run = results[..=i].iter().rev().take_while(|r| *r == passed).count() as u32;
                let long_enough = run >= if *passed { rise } else { fall };
                let said = if *passed { Health::Healthy } else { Health::Unhealthy };
                if long_enough || i == 0 {
                    prop_assert_eq!(health, said);
                }
            }
        }
    }
}
