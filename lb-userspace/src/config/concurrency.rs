//! The limit of requests at once that follows what a service can do.

use super::{
    forms::{Fraction, Number, Switch},
    origin::Sourced,
    reader::Section,
};
use crate::model::ConcurrencySpec;

const REQUESTS: Number<u32> = Number {
    min: 1,
    max: 1_000_000,
    example: 100,
};

const TOLERANCE: Fraction = Fraction { example: "0.25" };

/// Each setting with its source.
#[derive(Clone, Debug)]
pub(super) struct ConcurrencySettings {
    enabled: Sourced<bool>,
    min: Sourced<u32>,
    max: Sourced<u32>,
    tolerance: Sourced<u8>,
}

impl ConcurrencySettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = ConcurrencySpec::default();
        Self {
            enabled: Sourced::unset(false),
            min: Sourced::unset(model.min),
            max: Sourced::unset(model.max),
            tolerance: Sourced::unset(model.tolerance),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            min: t.value("min", &REQUESTS, &self.min),
            max: t.value("max", &REQUESTS, &self.max),
            tolerance: t.value("tolerance", &TOLERANCE, &self.tolerance),
        }
    }

    /// The limit, or `None` when it is off.
    pub(super) fn build(&self) -> Option<ConcurrencySpec> {
        self.enabled.value.then_some(ConcurrencySpec {
            min: self.min.value,
            max: self.max.value,
            tolerance: self.tolerance.value,
        })
    }
}
