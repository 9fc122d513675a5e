//! The health check of a service, or the one that services without their own have.

use std::time::Duration;

use super::{
    forms::{Choice, Number, Period, Switch},
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
    enabled: Sourced<Option<bool>>,
    kind: Sourced<Option<Kind>>,
    path: Sourced<Option<String>>,
    status: Sourced<(u16, u16)>,
    host: Sourced<Option<String>>,
    interval: Sourced<Duration>,
    timeout: Sourced<Duration>,
    rise: Sourced<u32>,
    fall: Sourced<u32>,
    port: Sourced<Option<u16>>,
}

impl HealthSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = HealthCheckSpec::default();
        Self {
            enabled: Sourced::unset(None),
            kind: Sourced::unset(None),
            path: Sourced::unset(None),
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
    /// use the service, which a check over TCP would find dead by mistake.
    pub(super) fn read(&self, t: &mut Section<'_, '_>, udp_only: bool) -> Self {
        let enabled = if udp_only { "false" } else { "true" };
        let mut read = Self {
            enabled: t.optional("enabled", &Switch, &self.enabled, enabled),
            kind: t.optional(
                "type",
                &KIND,
                &self.kind,
                "\"http\" with a path, else \"tcp\"",
            ),
            path: t.optional("path", &PROBE_PATH, &self.path, "\"/\""),
            status: t.value("status", &STATUS, &self.status),
            host: t.optional("host", &PROBE_HOST, &self.host, "the endpoint's"),
            interval: t.value("interval", &INTERVAL, &self.interval),
            timeout: t.value("timeout", &TIMEOUT, &self.timeout),
            rise: t.value("rise", &COUNT, &self.rise),
            fall: t.value("fall", &COUNT, &self.fall),
            port: t.optional("port", &PORT, &self.port, "the endpoint's"),
        };
        read.check_times(t);
        if t.has("type") && read.kind.value == Some(Kind::Tcp) {
            for key in ["path", "status", "host"] {
                if t.has(key) {
                    let kind = read.kind.clone();
                    t.reader().contradiction(
                        &kind,
                        "\"tcp\"",
                        format!("\"http\", or no {key}: only an http check has one"),
                    );
                }
            }
        }
        read
    }

    fn check_times(&mut self, t: &mut Section<'_, '_>) {
        let (interval, timeout) = (self.interval.value, self.timeout.value);
        if timeout <= interval {
            return;
        }
        if self.timeout.is_set() {
            let found = format!("{:?}", super::forms::show_duration(timeout));
            let limit = super::forms::show_duration(interval);
            let expected = format!("at most the interval, {limit}");
            t.reader().contradiction(&self.timeout, found, expected);
        } else {
            // Nobody asked for the default that does not fit.
            self.timeout.value = interval;
        }
    }

    /// The check, or `None` when it is off.
    pub(super) fn build(&self, udp_only: bool) -> Option<HealthCheckSpec> {
        if !self.enabled.value.unwrap_or(!udp_only) {
            return None;
        }
        let path = self.path.value.clone();
        let kind = self.kind.value.unwrap_or(match path {
            Some(_) => Kind::Http,
            None => Kind::Tcp,
        });
        let probe = match kind {
            Kind::Tcp => Probe::Tcp,
            Kind::Http => Probe::Http {
                path: path.unwrap_or_else(|| "/".to_owned()),
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
