//! Hedging of a service's requests, or of those of services without settings of their own.

use std::time::Duration;

use super::{
    forms::{Fraction, Pattern, Refused, Switch, show_duration},
    origin::Sourced,
    reader::Section,
};
use crate::model::{HedgeAfter, HedgeSpec};

const EXTRA: Fraction = Fraction { example: "0.02" };

const AFTER: Pattern<HedgeAfter> = Pattern {
    expected: "a quantile from p50 to p99, or a duration from 1ms to 1h",
    example: "p95",
    numbers: false,
    secret: false,
    parse: |text| {
        let text = text.trim();
        if let Some(percent) = text.strip_prefix('p') {
            let percent = percent.parse().ok().filter(|p| (50..=99).contains(p));
            return percent
                .map(HedgeAfter::Quantile)
                .ok_or_else(Refused::default);
        }
        let limits = Duration::from_millis(1)..=Duration::from_secs(3600);
        let time = humantime::parse_duration(text).ok();
        let time = time.filter(|time| limits.contains(time));
        time.map(HedgeAfter::Time).ok_or_else(Refused::default)
    },
    show: |after| match after {
        HedgeAfter::Quantile(percent) => format!("p{percent}"),
        HedgeAfter::Time(time) => show_duration(*time),
    },
};

/// The settings of hedging, each with its source.
#[derive(Clone, Debug)]
pub(super) struct HedgeSettings {
    enabled: Sourced<bool>,
    after: Sourced<HedgeAfter>,
    max_extra: Sourced<u8>,
}

impl HedgeSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = HedgeSpec::default();
        Self {
            enabled: Sourced::unset(false),
            after: Sourced::unset(model.after),
            max_extra: Sourced::unset(model.max_extra),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            after: t.value("after", &AFTER, &self.after),
            max_extra: t.value("max_extra", &EXTRA, &self.max_extra),
        }
    }

    /// The hedging, or `None` when it is off.
    pub(super) fn build(&self) -> Option<HedgeSpec> {
        self.enabled.value.then_some(HedgeSpec {
            after: self.after.value,
            max_extra: self.max_extra.value,
        })
    }
}
