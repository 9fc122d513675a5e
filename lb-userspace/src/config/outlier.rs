//! Outlier ejection of a service's instances, or of those of services without settings of their own.

use std::time::Duration;

use super::{
    forms::{Decimal, Fraction, Number, Period, Share, Switch, WholeSeconds},
    origin::Sourced,
    reader::Section,
};
use crate::model::OutlierSpec;

const FAILURES: Number<u32> = Number {
    min: 0,
    max: 1000,
    example: 5,
};

const DEVIATIONS: Decimal = Decimal {
    min: 0,
    max: 10_000,
    example: "1.9",
};

const FACTOR: Decimal = Decimal {
    min: 0,
    max: 100_000,
    example: "3",
};

const REQUESTS: Number<u32> = Number {
    min: 1,
    max: 1_000_000,
    example: 100,
};

const WINDOW: WholeSeconds = WholeSeconds {
    min: 1,
    max: 60,
    example: "10s",
};

const MOST: Fraction = Fraction { example: "0.5" };

const BASE: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(3600),
    example: "30s",
};

const LONGEST: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(24 * 3600),
    example: "5m",
};

/// The settings of outlier ejection, each with its source.
#[derive(Clone, Debug)]
pub(super) struct OutlierSettings {
    enabled: Sourced<bool>,
    consecutive_failures: Sourced<u32>,
    success_rate: Sourced<u32>,
    deviations: Sourced<u32>,
    latency_factor: Sourced<u32>,
    min_requests: Sourced<u32>,
    window: Sourced<Duration>,
    max_ejected: Sourced<u8>,
    base_time: Sourced<Duration>,
    max_time: Sourced<Duration>,
}

impl OutlierSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = OutlierSpec::default();
        Self {
            enabled: Sourced::unset(true),
            consecutive_failures: Sourced::unset(model.consecutive_failures),
            success_rate: Sourced::unset(model.success_rate),
            deviations: Sourced::unset(model.deviations),
            latency_factor: Sourced::unset(model.latency_factor),
            min_requests: Sourced::unset(model.min_requests),
            window: Sourced::unset(model.window),
            max_ejected: Sourced::unset(model.max_ejected),
            base_time: Sourced::unset(model.base_time),
            max_time: Sourced::unset(model.max_time),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            consecutive_failures: t.value(
                "consecutive_failures",
                &FAILURES,
                &self.consecutive_failures,
            ),
            success_rate: t.value("success_rate", &Share, &self.success_rate),
            deviations: t.value("deviations", &DEVIATIONS, &self.deviations),
            latency_factor: t.value("latency_factor", &FACTOR, &self.latency_factor),
            min_requests: t.value("min_requests", &REQUESTS, &self.min_requests),
            window: t.value("window", &WINDOW, &self.window),
            max_ejected: t.value("max_ejected", &MOST, &self.max_ejected),
            base_time: t.value("base_time", &BASE, &self.base_time),
            max_time: t.value("max_time", &LONGEST, &self.max_time),
        }
    }

    /// The ejection, or `None` when it is off.
    pub(super) fn build(&self) -> Option<OutlierSpec> {
        self.enabled.value.then_some(OutlierSpec {
            consecutive_failures: self.consecutive_failures.value,
            success_rate: self.success_rate.value,
            deviations: self.deviations.value,
            latency_factor: self.latency_factor.value,
            min_requests: self.min_requests.value,
            window: self.window.value,
            max_ejected: self.max_ejected.value,
            base_time: self.base_time.value,
            max_time: self.max_time.value,
        })
    }
}
