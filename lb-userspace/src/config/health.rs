//! The health check of a service, or the one that services without their own have.

use std::time::Duration;

use super::{
    forms::{Choice, Number, Period, Switch, show_duration},
    origin::Sourced,
    reader::Section,
    values::{PROBE_HOST, PROBE_PATH, STATUS},
};
use crate::model::{HealthCheckSpec, Probe};

/// What a check sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Http,
}

const KIND: Choice<Kind> = Choice {
    choices: &[Kind::Tcp, Kind::Http],
    name: |kind| match kind {
        Kind::Tcp => "tcp",
        Kind::Http => "http",
    },
};

const INTERVAL: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(3600),
    example: "5s",
};

const TIMEOUT: Period = Period {
    min: Duration::from_millis(10),
    max: Duration::from_secs(3600),
    example: "2s",
};

const COUNT: Number<u32> = Number {
    min: 1,
    max: 1000,
    example: 3,
};

const PORT: Number<u16> = Number {
    min: 1,
    max: u16::MAX,
    example: 8080,
};

/// Status that passes when none is configured.
const ANY_GOOD_STATUS: (u16, u16) = (200, 399);

/// The settings of a check, each with its source.
#[derive(Clone, Debug)]
pub(super) struct HealthSettings {
    enabled: Sourced<bool>,
    kind: Sourced<Kind>,
    path: Sourced<String>,
    status: Sourced<(u16, u16)>,
    host: Sourced<Option<String>>,
    interval: Sourced<Duration>,
    timeout: Sourced<Duration>,
    rise: Sourced<u32>,
    fall: Sourced<u32>,
    port: Sourced<Option<u16>>,
}

/// Settings that only an http check has; one of them makes a check without a type an http one.
const HTTP_ONLY: [&str; 3] = ["path", "status", "host"];

impl HealthSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = HealthCheckSpec::default();
        Self {
            enabled: Sourced::unset(true),
            kind: Sourced::unset(Kind::Tcp),
            path: Sourced::unset("/".to_owned()),
            status: Sourced::unset(ANY_GOOD_STATUS),
            host: Sourced::unset(None),
            interval: Sourced::unset(model.interval),
            timeout: Sourced::unset(model.timeout),
            rise: Sourced::unset(model.rise),
            fall: Sourced::unset(model.fall),
            port: Sourced::unset(model.port),
        }
    }

    /// Reads a table; `self` holds for what it does not say. `udp_only` says that only UDP VIPs
    /// lead to the service: a check over TCP would find it dead by mistake, so there is none
    /// unless somebody asks for it.
    pub(super) fn read(&self, t: &mut Section<'_, '_>, udp_only: bool) -> Self {
        let mut enabled = self.enabled.clone();
        enabled.value &= enabled.is_set() || !udp_only;
        let http = HTTP_ONLY.into_iter().find(|key| t.has(key));
        let kind = match http {
            Some(_) => Sourced::unset(Kind::Http),
            None => self.kind.clone(),
        };
        let interval = t.value("interval", &INTERVAL, &self.interval);
        // A shorter interval shortens the default timeout: nobody has asked for that one.
        let mut timeout = self.timeout.clone();
        if !timeout.is_set() {
            timeout.value = timeout.value.min(interval.value);
        }
        let read = Self {
            enabled: t.value("enabled", &Switch, &enabled),
            kind: t.value("type", &KIND, &kind),
            path: t.value("path", &PROBE_PATH, &self.path),
            status: t.value("status", &STATUS, &self.status),
            host: t.optional("host", &PROBE_HOST, &self.host, "the endpoint's"),
            timeout: t.value("timeout", &TIMEOUT, &timeout),
            interval,
            rise: t.value("rise", &COUNT, &self.rise),
            fall: t.value("fall", &COUNT, &self.fall),
            port: t.optional("port", &PORT, &self.port, "the endpoint's"),
        };
        read.check_times(t);
        if let (Some(key), Kind::Tcp) = (http, read.kind.value) {
            let expected = format!("\"http\", because {key} is set");
            t.reader().contradiction(&read.kind, "\"tcp\"", expected);
        }
        read
    }

    /// A check must be over when the next one starts. The setting that is made here is to blame.
    fn check_times(&self, t: &mut Section<'_, '_>) {
        let (interval, timeout) = (self.interval.value, self.timeout.value);
        if timeout <= interval {
            return;
        }
        let text = |duration| format!("{:?}", show_duration(duration));
        if t.has("timeout") {
            let expected = format!("at most the interval, {}", text(interval));
            t.reader()
                .contradiction(&self.timeout, text(timeout), expected);
        } else if t.has("interval") {
            let expected = format!("at least the timeout, {}", text(timeout));
            t.reader()
                .contradiction(&self.interval, text(interval), expected);
        }
    }

    /// The check, or `None` when it is off.
    pub(super) fn build(&self) -> Option<HealthCheckSpec> {
        if !self.enabled.value {
            return None;
        }
        let probe = match self.kind.value {
            Kind::Tcp => Probe::Tcp,
            Kind::Http => Probe::Http {
                path: self.path.value.clone(),
                status: self.status.value,
                host: self.host.value.clone(),
            },
        };
        Some(HealthCheckSpec {
            probe,
            interval: self.interval.value,
            timeout: self.timeout.value,
            rise: self.rise.value,
            fall: self.fall.value,
            port: self.port.value,
        })
    }
}
