//! Slow start of instances that join at run time.

use std::time::Duration;

use super::{
    forms::{Decimal, Fraction, Period, Switch},
    origin::Sourced,
    reader::Section,
};
use crate::model::SlowStartSpec;

const WINDOW: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(3600),
    example: "30s",
};

const AGGRESSION: Decimal = Decimal {
    min: 1,
    max: 10_000,
    example: "1.5",
};

const MIN: Fraction = Fraction { example: "0.1" };

/// The settings of a slow start, each with its source.
#[derive(Clone, Debug)]
pub(super) struct SlowStartSettings {
    enabled: Sourced<bool>,
    window: Sourced<Duration>,
    aggression: Sourced<u32>,
    min: Sourced<u8>,
}

impl SlowStartSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = SlowStartSpec::default();
        Self {
            enabled: Sourced::unset(false),
            window: Sourced::unset(model.window),
            aggression: Sourced::unset(model.aggression),
            min: Sourced::unset(model.min),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            window: t.value("window", &WINDOW, &self.window),
            aggression: t.value("aggression", &AGGRESSION, &self.aggression),
            min: t.value("min", &MIN, &self.min),
        }
    }

    /// The slow start, or `None` when it is off.
    pub(super) fn build(&self) -> Option<SlowStartSpec> {
        self.enabled.value.then_some(SlowStartSpec {
            window: self.window.value,
            aggression: self.aggression.value,
            min: self.min.value,
        })
    }
}
