//! `[tracing]`: whose traces are gone on with, which are recorded, and who gets them.

use std::time::Duration;

use super::{
    forms::{Choice, Number, Pattern, Period, Refused, Share, Switch},
    integration::{TIMEOUT, URL},
    origin::Sourced,
    reader::Section,
    values::is_token,
};
use crate::model::{TraceBackendSpec, TraceTrust, TracingSpec};

const TRUST: Choice<TraceTrust> = Choice {
    choices: &TraceTrust::ALL,
    name: TraceTrust::as_str,
};

/// The header that gives instances the trace id of the access log.
const ID_HEADER: Pattern<Option<String>> = Pattern {
    expected: "the name of a header field, or \"off\"",
    example: "x-trace-id",
    numbers: false,
    secret: false,
    parse: |text| match text {
        "off" => Ok(None),
        // These have meanings of their own.
        "traceparent" | "tracestate" => Err(Refused::default()),
        name if is_token(name) => Ok(Some(name.to_ascii_lowercase())),
        _ => Err(Refused::default()),
    },
    show: |name| name.clone().unwrap_or_else(|| "off".to_owned()),
};

/// What lb calls itself among the services of a trace.
const SERVICE_NAME: Pattern<String> = Pattern {
    expected: "1 to 255 characters without control characters",
    example: "edge-lb",
    numbers: false,
    secret: false,
    parse: |text| {
        let text = text.trim();
        let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// Path that traces go to.
const PATH: Pattern<String> = Pattern {
    example: "/v1/traces",
    ..super::integration::PATH
};

const INTERVAL: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(60),
    example: "1s",
};

const BATCHES: Number<usize> = Number {
    min: 1,
    max: 1000,
    example: 20,
};

/// Reads `[tracing]`.
pub(super) fn read(root: &mut Section<'_, '_>) -> (TracingSpec, Option<TraceBackendSpec>) {
    root.table("tracing", |t| {
        let unset = TracingSpec::default();
        let endpoint = t.optional("otlp_endpoint", &URL, &Sourced::unset(None), "none");
        let none = Sourced::unset(None);
        // Whoever wants traces collected wants lb to take part in them.
        let enabled = t.optional("enabled", &Switch, &none, "with otlp_endpoint");
        let enabled = enabled.value.unwrap_or(endpoint.value.is_some());
        let spec = TracingSpec {
            enabled,
            trust: t.value("trust", &TRUST, &Sourced::unset(unset.trust)).value,
            id_header: t
                .value("id_header", &ID_HEADER, &Sourced::unset(unset.id_header))
                .value,
            sample: t
                .value("sample_ratio", &Share, &Sourced::unset(unset.sample))
                .value,
            record: enabled && endpoint.value.is_some(),
        };
        let text = |text: &str| Sourced::unset(text.to_owned());
        let path = t.value("otlp_path", &PATH, &text("/v1/traces")).value;
        let service_name = t.value("service_name", &SERVICE_NAME, &text("lb")).value;
        let unset = Sourced::unset(Duration::from_secs(1));
        let interval = t.value("interval", &INTERVAL, &unset).value;
        let unset = Sourced::unset(Duration::from_secs(5));
        let timeout = t.value("timeout", &TIMEOUT, &unset).value;
        let queue = t.value("queue", &BATCHES, &Sourced::unset(20)).value;
        let backend = endpoint.value.filter(|_| enabled);
        let backend = backend.map(|url| TraceBackendSpec {
            url,
            path,
            service_name,
            interval,
            timeout,
            queue,
        });
        (spec, backend)
    })
}
