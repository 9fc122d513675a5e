//! Gradual recovery of a service's instances, or of those of services without settings of their own.

use std::time::Duration;

use super::{
    forms::{Fraction, Period, Switch},
    origin::Sourced,
    reader::Section,
};
use crate::model::RecoverySpec;

const SHARE: Fraction = Fraction { example: "0.1" };

const RATE: Fraction = Fraction { example: "0.8" };

const INTERVAL: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(3600),
    example: "30s",
};

const WAIT: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(24 * 3600),
    example: "5m",
};

/// The settings of a recovery, each with its source.
#[derive(Clone, Debug)]
pub(super) struct RecoverySettings {
    enabled: Sourced<bool>,
    threshold: Sourced<u8>,
    start: Sourced<u8>,
    step: Sourced<u8>,
    interval: Sourced<Duration>,
    max_wait: Sourced<Duration>,
}

impl RecoverySettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = RecoverySpec::default();
        Self {
            enabled: Sourced::unset(true),
            threshold: Sourced::unset(model.threshold),
            start: Sourced::unset(model.start),
            step: Sourced::unset(model.step),
            interval: Sourced::unset(model.interval),
            max_wait: Sourced::unset(model.max_wait),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            threshold: t.value("threshold", &RATE, &self.threshold),
            start: t.value("start", &SHARE, &self.start),
            step: t.value("step", &SHARE, &self.step),
            interval: t.value("interval", &INTERVAL, &self.interval),
            max_wait: t.value("max_wait", &WAIT, &self.max_wait),
        }
    }

    /// The recovery, or `None` when it is off.
    pub(super) fn build(&self) -> Option<RecoverySpec> {
        self.enabled.value.then_some(RecoverySpec {
            threshold: self.threshold.value,
            start: self.start.value,
            step: self.step.value,
            interval: self.interval.value,
            max_wait: self.max_wait.value,
        })
    }
}
