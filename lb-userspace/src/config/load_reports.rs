//! What instances say of their own load: whether lb listens, and what it makes of it.

use std::time::Duration;

use super::{
    forms::{Form, Pattern, Period, Refused, Switch, between},
    origin::Sourced,
    reader::Section,
    tree::Node,
    values::is_token,
};
use crate::model::{LoadReportSpec, ReportTimes};

const HEADER: Pattern<String> = Pattern {
    expected: "the name of a header",
    example: "endpoint-load-metrics",
    numbers: false,
    secret: false,
    parse: |text| match is_token(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Refused::default()),
    },
    show: Clone::clone,
};

const BLACKOUT: Period = Period {
    min: Duration::ZERO,
    max: Duration::from_secs(3600),
    example: "10s",
};

const EXPIRY: Period = Period {
    min: Duration::from_secs(1),
    max: Duration::from_secs(24 * 3600),
    example: "3m",
};

/// The settings of load reports, each with its source.
#[derive(Clone, Debug)]
pub(super) struct LoadReportSettings {
    enabled: Sourced<bool>,
    header: Sourced<String>,
    strip: Sourced<bool>,
    blackout: Sourced<Duration>,
    expiry: Sourced<Duration>,
    error_penalty: Sourced<u16>,
    weighted_round_robin: Sourced<bool>,
}

impl LoadReportSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = LoadReportSpec::default();
        Self {
            enabled: Sourced::unset(false),
            header: Sourced::unset(model.header),
            strip: Sourced::unset(model.strip),
            blackout: Sourced::unset(model.times.blackout),
            expiry: Sourced::unset(model.times.expiry),
            error_penalty: Sourced::unset(model.error_penalty),
            weighted_round_robin: Sourced::unset(model.weighted_round_robin),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            header: t.value("header", &HEADER, &self.header),
            strip: t.value("strip", &Switch, &self.strip),
            blackout: t.value("blackout", &BLACKOUT, &self.blackout),
            expiry: t.value("expiry", &EXPIRY, &self.expiry),
            error_penalty: t.value("error_penalty", &Penalty, &self.error_penalty),
            weighted_round_robin: t.value(
                "weighted_round_robin",
                &Switch,
                &self.weighted_round_robin,
            ),
        }
    }

    /// What is listened to, or `None` when nothing is.
    pub(super) fn build(&self) -> Option<LoadReportSpec> {
        self.enabled.value.then(|| LoadReportSpec {
            strip: self.strip.value,
            times: ReportTimes {
                blackout: self.blackout.value,
                expiry: self.expiry.value,
            },
            error_penalty: self.error_penalty.value,
            weighted_round_robin: self.weighted_round_robin.value,
            ..LoadReportSpec::in_field(self.header.value.clone())
        })
    }
}

/// What failing everything costs, held in percent of what being fully used costs.
#[derive(Clone, Copy, Debug)]
struct Penalty;

impl Form for Penalty {
    type Value = u16;

    fn expected(&self) -> String {
        "a number from 0 to 100 in hundredths".to_owned()
    }

    fn example(&self) -> String {
        "1.0".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u16, Refused> {
        let hundredths = node.as_number().ok_or_else(Refused::default)? * 100.0;
        let whole = hundredths.round();
        if (hundredths - whole).abs() < 1e-6 && (0.0..=10_000.0).contains(&whole) {
            Ok(whole as u16)
        } else {
            Err(Refused::default())
        }
    }

    fn show(&self, value: &u16) -> String {
        (f64::from(*value) / 100.0).to_string()
    }

    fn schema(&self) -> serde_json::Value {
        between(0.0, 100.0)
    }
}
