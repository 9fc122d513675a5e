//! Systems beside lb: the circuit-breaker backend and the metrics backend.

use std::time::Duration;

use super::{
    forms::{Form, Number, Pattern, Period, Refused, Switch, show_duration},
    origin::Sourced,
    reader::Section,
};
use crate::model::{BreakerBackendSpec, HttpUrl, IntegrationSpec, MetricsBackendSpec};

/// Where a system beside lb is.
pub(super) const URL: Pattern<HttpUrl> = Pattern {
    expected: "an URL: http://HOST, http://HOST:PORT or http://HOST:PORT/PATH",
    example: "http://localhost:8080",
    numbers: false,
    secret: false,
    parse: |text| HttpUrl::parse(text).map_err(Refused::because),
    show: ToString::to_string,
};

/// A path that a service's name stands in.
const SERVICE_PATH: Pattern<String> = Pattern {
    expected: "a path with {service} in it",
    example: "/monitoring/circuit-breakers/{service}",
    numbers: false,
    secret: false,
    parse: |text| match is_path(text) && text.contains("{service}") {
        true => Ok(text.to_owned()),
        false => Err(Refused::default()),
    },
    show: Clone::clone,
};

/// A path.
pub(super) const PATH: Pattern<String> = Pattern {
    expected: "a path that begins with a slash",
    example: "/monitoring/metrics",
    numbers: false,
    secret: false,
    parse: |text| match is_path(text) {
        true => Ok(text.to_owned()),
        false => Err(Refused::default()),
    },
    show: Clone::clone,
};

/// Names of metrics.
const METRICS: Pattern<String> = Pattern {
    expected: "the name of a metric, or the beginning of names and *",
    example: "gateway_*",
    numbers: false,
    secret: false,
    parse: |text| {
        let name = text.strip_suffix('*').unwrap_or(text);
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match !text.is_empty() && name.bytes().all(fits) {
            true => Ok(text.to_owned()),
            false => Err(Refused::default()),
        }
    },
    show: Clone::clone,
};

/// From one question, or one collection, to the next.
const INTERVAL: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(3600),
    example: "10s",
};

/// The most that an exchange may take.
pub(super) const TIMEOUT: Period = Period {
    min: Duration::from_millis(10),
    max: Duration::from_secs(60),
    example: "2s",
};

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Reads `[integration]`; `serve_metrics` is whether there are metrics at all.
pub(super) fn read(root: &mut Section<'_, '_>, serve_metrics: bool) -> IntegrationSpec {
    root.table("integration", |t| IntegrationSpec {
        serve_metrics,
        breaker: t.table("circuit_breaker", breaker),
        metrics: t.table("metrics", metrics).filter(|_| serve_metrics),
        // In a section of their own.
        traces: None,
    })
}

fn breaker(t: &mut Section<'_, '_>) -> Option<BreakerBackendSpec> {
    let enabled = t.value("enabled", &Switch, &Sourced::unset(true)).value;
    let url = t.optional("url", &URL, &Sourced::unset(None), "none").value;
    let unset = Sourced::unset(Duration::from_secs(10));
    let check_interval = t.value("check_interval", &INTERVAL, &unset);
    let timeout = timeout(t, Duration::from_secs(2), &check_interval);
    let path = |text: &str| Sourced::unset(text.to_owned());
    let unset = path("/monitoring/circuit-breakers/{service}");
    let status_path = t.value("status_path", &SERVICE_PATH, &unset).value;
    let events = t.value("events", &Switch, &Sourced::unset(true)).value;
    let unset = path("/monitoring/circuit-breakers/{service}/events");
    let events_path = t.value("events_path", &SERVICE_PATH, &unset).value;
    let queue = t.value("queue", &QUEUE, &Sourced::unset(1000)).value;
    url.filter(|_| enabled).map(|url| BreakerBackendSpec {
        url,
        check_interval: check_interval.value,
        timeout,
        status_path,
        events_path: events.then_some(events_path),
        queue,
    })
}

fn metrics(t: &mut Section<'_, '_>) -> Option<MetricsBackendSpec> {
    let enabled = t.value("enabled", &Switch, &Sourced::unset(true)).value;
    let url = t.optional("url", &URL, &Sourced::unset(None), "none").value;
    let unset = Sourced::unset(Duration::from_secs(30));
    let interval = t.value("interval", &INTERVAL, &unset);
    let timeout = timeout(t, Duration::from_secs(5), &interval);
    let unset = Sourced::unset("/monitoring/metrics".to_owned());
    let path = t.value("path", &PATH, &unset).value;
    let unset = ["gateway_*", "lb_session*"].map(str::to_owned);
    let include = t.list("include", &METRICS, &unset);
    let queue = t.value("queue", &BATCHES, &Sourced::unset(20)).value;
    url.filter(|_| enabled).map(|url| MetricsBackendSpec {
        url,
        interval: interval.value,
        timeout,
        path,
        include: include.into_iter().map(|name| name.value).collect(),
        queue,
    })
}

/// Events of a service that wait.
const QUEUE: Number<usize> = Number {
    min: 1,
    max: 1_000_000,
    example: 1000,
};

/// Batches that wait.
const BATCHES: Number<usize> = Number {
    min: 1,
    max: 1000,
    example: 20,
};

/// How long an exchange may take: it must be over when the next one is due. A shorter interval
/// shortens the default, which nobody has asked for.
fn timeout(t: &mut Section<'_, '_>, unset: Duration, interval: &Sourced<Duration>) -> Duration {
    let unset = Sourced::unset(unset.min(interval.value));
    let timeout = t.value("timeout", &TIMEOUT, &unset);
    if timeout.value > interval.value {
        let text = |duration| format!("{:?}", show_duration(duration));
        let expected = format!("at most the interval, {}", text(interval.value));
        let found = TIMEOUT.show(&timeout.value);
        t.reader().contradiction(&timeout, found, expected);
    }
    timeout.value
}
