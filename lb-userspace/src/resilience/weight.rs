//! The effective weight: one function for both data planes.
//!
//! configured weight × admin state × health × ejection × share × factors. A weight, a drain, an ejection
//! or a failed check means the same thing to a packet and to a request because both data planes get the
//! result of this function and nothing else.

use crate::model::{AdminState, Algorithm, Health};

/// The factor is quantised to steps of `1 / STEPS`: a Maglev table moves flows whenever a weight
/// changes, so slow drifts of a measurement must not reach it.
pub const STEPS: u32 = 16;

/// A whole share, in percent.
pub const WHOLE: u8 = 100;

/// Effective weight of a configured weight of 1 at full strength: steps of the factor times percent
/// of the share, so that no product of the two is rounded.
pub const UNIT: u32 = STEPS * WHOLE as u32;

/// What the effective weight depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightInputs {
    /// Configured weight, 0 to 65535.
    pub configured: u16,
    /// The service's algorithm.
    pub algorithm: Algorithm,
    /// What the operator wants.
    pub admin: AdminState,
    /// What the checks say.
    pub health: Health,
    /// Whether it is ejected.
    pub ejected: bool,
    /// Share of the weight that the instance has while it recovers or starts slowly, in percent; 100
    /// is all of it, 0 none yet.
    pub share: u8,
    /// Factors of the weight; 1 leaves it as it is.
    pub factors: Factors,
}

/// What is made of a weight by what is known of an instance, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// By what lb has measured. Algorithms that measure at each pick leave it out.
    pub measured: f32,
    /// By what the instance says of its own load.
    pub reported: f32,
}

impl Factors {
    /// What leaves a weight as it is.
    pub const NONE: Self = Self {
        measured: 1.0,
        reported: 1.0,
    };

    /// Without what lb has measured.
    #[must_use]
    pub const fn unmeasured(self) -> Self {
        Self {
            measured: 1.0,
            ..self
        }
    }

    /// Both together in steps of `1 / STEPS`.
    fn steps(self) -> u32 {
        let both = self.measured.clamp(0.0, 1.0) * self.reported.clamp(0.0, 1.0);
        (both * STEPS as f32).round() as u32
    }
}

/// The weight that an instance has in both data planes, 0 to 65535 × [`UNIT`]. 0 takes no new
/// traffic; an instance that takes any has at least 1, because without traffic nothing would ever
/// be measured again.
#[must_use]
pub fn effective_weight(inputs: &WeightInputs) -> u32 {
    if inputs.configured == 0
        || inputs.admin != AdminState::Enabled
        || inputs.health == Health::Unhealthy
        || inputs.ejected
        || inputs.share == 0
    {
        return 0;
    }
    let configured = match inputs.algorithm {
        Algorithm::RoundRobin => 1,
        _ => u32::from(inputs.configured),
    };
    configured * inputs.factors.steps().max(1) * u32::from(inputs.share.min(WHOLE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inputs() -> WeightInputs {
        WeightInputs {
            configured: 10,
            algorithm: Algorithm::WeightedRoundRobin,
            admin: AdminState::Enabled,
            health: Health::Healthy,
            ejected: false,
            share: WHOLE,
            factors: Factors::NONE,
        }
    }

    #[test]
    fn states_that_exclude_win_over_everything() {
        assert_eq!(effective_weight(&inputs()), 10 * UNIT);
        for excluded in [
            WeightInputs {
                admin: AdminState::Draining,
                ..inputs()
            },
            WeightInputs {
                admin: AdminState::Disabled,
                ..inputs()
            },
            WeightInputs {
                health: Health::Unhealthy,
                ..inputs()
            },
            WeightInputs {
                ejected: true,
                ..inputs()
            },
            WeightInputs {
                configured: 0,
                ..inputs()
            },
            WeightInputs {
                share: 0,
                ..inputs()
            },
        ] {
            assert_eq!(effective_weight(&excluded), 0, "{excluded:?}");
        }
    }

    #[test]
    fn round_robin_ignores_weights_but_not_zero() {
        let algorithm = Algorithm::RoundRobin;
        assert_eq!(
            effective_weight(&WeightInputs {
                algorithm,
                ..inputs()
            }),
            UNIT
        );
        assert_eq!(
            effective_weight(&WeightInputs {
                algorithm,
                configured: 0,
                ..inputs()
            }),
            0
        );
    }

    proptest! {
        #[test]
        fn a_share_is_exact_to_a_percent(configured in 1u16.., share in 1u8..=100) {
            let weight = effective_weight(&WeightInputs { configured, share, ..inputs() });
            let whole = effective_weight(&WeightInputs { configured, ..inputs() });
            prop_assert_eq!(u64::from(weight) * 100, u64::from(whole) * u64::from(share));
        }

        #[test]
        fn factors_lower_but_never_exclude(
            configured in 1u16..,
            measured in -1.0f32..2.0,
            reported in -1.0f32..2.0,
        ) {
            let factors = Factors { measured, reported };
            let weight = effective_weight(&WeightInputs { configured, factors, ..inputs() });
            prop_assert!(weight >= u32::from(configured));
            prop_assert!(weight <= u32::from(configured) * UNIT);
        }
    }
}
