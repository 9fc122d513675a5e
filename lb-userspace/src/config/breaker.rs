//! Circuit breakers of a service, or of those without settings of their own.

use std::time::Duration;

use super::{
    forms::{Choice, Fraction, Number, Period, Switch},
    origin::Sourced,
    reader::Section,
};
use crate::model::{AllOpen, BreakerSpec, BreakersSpec};

const FAILURES: Number<u16> = Number {
    min: 0,
    max: 10_000,
    example: 5,
};

const RATIO: Fraction = Fraction { example: "0.5" };

const WINDOW: Period = Period {
    min: Duration::from_secs(1),
    max: Duration::from_secs(60),
    example: "10s",
};

const REQUESTS: Number<u32> = Number {
    min: 1,
    max: 1_000_000,
    example: 20,
};

const OPEN: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(24 * 3600),
    example: "5s",
};

const PROBES: Number<u8> = Number {
    min: 1,
    max: 100,
    example: 2,
};

const MOST: Fraction = Fraction { example: "0.5" };

const ALL_OPEN: Choice<AllOpen> = Choice {
    choices: &AllOpen::ALL,
    name: AllOpen::as_str,
};

/// The settings of one kind of breaker, each with its source.
#[derive(Clone, Debug)]
struct Rules {
    enabled: Sourced<bool>,
    /// There are none for breakers that go by the share alone.
    failures: Option<Sourced<u16>>,
    ratio: Sourced<u8>,
    window: Sourced<Duration>,
    min_requests: Sourced<u32>,
    open: Sourced<Duration>,
    max_open: Sourced<Duration>,
    probes: Sourced<u8>,
    successes: Sourced<u8>,
}

impl Rules {
    fn unset(enabled: bool, model: &BreakerSpec) -> Self {
        Self {
            enabled: Sourced::unset(enabled),
            failures: (model.failures > 0).then(|| Sourced::unset(model.failures)),
            ratio: Sourced::unset(model.ratio),
            window: Sourced::unset(model.window),
            min_requests: Sourced::unset(model.min_requests),
            open: Sourced::unset(model.open),
            max_open: Sourced::unset(model.max_open),
            probes: Sourced::unset(model.probes),
            successes: Sourced::unset(model.successes),
        }
    }

    fn read(&self, t: &mut Section<'_, '_>) -> Self {
        let failures = self.failures.as_ref();
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            failures: failures.map(|own| t.value("consecutive_failures", &FAILURES, own)),
            ratio: t.value("failure_ratio", &RATIO, &self.ratio),
            window: t.value("window", &WINDOW, &self.window),
            min_requests: t.value("min_requests", &REQUESTS, &self.min_requests),
            open: t.value("open_time", &OPEN, &self.open),
            max_open: t.value("max_open_time", &OPEN, &self.max_open),
            probes: t.value("probes", &PROBES, &self.probes),
            successes: t.value("successes", &PROBES, &self.successes),
        }
    }

    fn build(&self) -> Option<BreakerSpec> {
        self.enabled.value.then_some(BreakerSpec {
            failures: self.failures.as_ref().map_or(0, |own| own.value),
            ratio: self.ratio.value,
            window: self.window.value,
            min_requests: self.min_requests.value,
            open: self.open.value,
            // Who makes the first time longer than the default limit wants that time.
            max_open: self.max_open.value.max(self.open.value),
            probes: self.probes.value,
            successes: self.successes.value,
        })
    }
}

/// The settings of all breakers of a service.
#[derive(Clone, Debug)]
pub(super) struct BreakerSettings {
    instance: Rules,
    service: Rules,
    all_open: Sourced<AllOpen>,
    max_out: Sourced<u8>,
}

impl BreakerSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            instance: Rules::unset(true, &BreakerSpec::default()),
            service: Rules::unset(false, &BreakerSpec::of_service()),
            all_open: Sourced::unset(AllOpen::default()),
            max_out: Sourced::unset(BreakersSpec::default().max_out),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            instance: self.instance.read(t),
            service: t.table("service", |t| self.service.read(t)),
            all_open: t.value("all_open", &ALL_OPEN, &self.all_open),
            max_out: t.value("max_out", &MOST, &self.max_out),
        }
    }

    /// The breakers.
    pub(super) fn build(&self) -> BreakersSpec {
        BreakersSpec {
            instance: self.instance.build(),
            service: self.service.build(),
            all_open: self.all_open.value,
            max_out: self.max_out.value,
        }
    }
}
