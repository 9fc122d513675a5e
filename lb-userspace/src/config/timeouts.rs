//! Limits of time of a service's exchanges, or of those of services without settings of their own.

use std::time::Duration;

use super::{
    forms::{Form, Number, Period, Refused},
    origin::Sourced,
    reader::Section,
    tree::Node,
};
use crate::model::TimeoutSpec;

const TIMEOUT: Period = Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(24 * 3600),
    example: "30s",
};

/// The settings of timeouts, each with its source.
#[derive(Clone, Debug)]
pub(super) struct TimeoutSettings {
    connect: Sourced<Duration>,
    request: Sourced<Duration>,
    upload: Sourced<Duration>,
    response: Sourced<Duration>,
    attempt: Sourced<Option<Duration>>,
    idle: Sourced<Duration>,
    total: Sourced<Option<Duration>>,
    tunnel: Sourced<Duration>,
}

impl TimeoutSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = TimeoutSpec::default();
        Self {
            connect: Sourced::unset(model.connect),
            request: Sourced::unset(model.request),
            upload: Sourced::unset(model.upload),
            response: Sourced::unset(model.response),
            attempt: Sourced::unset(model.attempt),
            idle: Sourced::unset(model.idle),
            total: Sourced::unset(model.total),
            tunnel: Sourced::unset(model.tunnel),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            connect: t.value("connect", &TIMEOUT, &self.connect),
            request: t.value("request", &TIMEOUT, &self.request),
            upload: t.value("upload", &TIMEOUT, &self.upload),
            response: t.value("response", &TIMEOUT, &self.response),
            attempt: t.value("try", &OrOff(TIMEOUT), &self.attempt),
            idle: t.value("idle", &TIMEOUT, &self.idle),
            total: t.value("total", &OrOff(TIMEOUT), &self.total),
            tunnel: t.value("tunnel", &TIMEOUT, &self.tunnel),
        }
    }

    /// The timeouts.
    pub(super) fn build(&self) -> TimeoutSpec {
        TimeoutSpec {
            connect: self.connect.value,
            request: self.request.value,
            upload: self.upload.value,
            response: self.response.value,
            attempt: self.attempt.value,
            idle: self.idle.value,
            total: self.total.value,
            tunnel: self.tunnel.value,
        }
    }
}

/// A value of another form, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrOff<F>(pub(super) F);

/// A count of what one connection may have.
pub(super) const REQUESTS: Number<u64> = Number {
    min: 1,
    max: i64::MAX as u64,
    example: 1000,
};

impl<F: Form> Form for OrOff<F> {
    type Value = Option<F::Value>;

    fn expected(&self) -> String {
        format!("{}, or \"off\"", self.0.expected())
    }

    fn example(&self) -> String {
        self.0.example()
    }

    fn parse(&self, node: &Node) -> Result<Self::Value, Refused> {
        match node.as_text().map(str::trim) {
            Some("off") => Ok(None),
            _ => self.0.parse(node).map(Some),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        match value {
            Some(value) => self.0.show(value),
            None => "\"off\"".to_owned(),
        }
    }

    fn schema(&self) -> serde_json::Value {
        serde_json::json!({"anyOf": [self.0.schema(), {"const": "off"}]})
    }
}
