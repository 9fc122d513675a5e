//! Spans in the JSON form of the OpenTelemetry protocol (OTLP 1, HTTP with JSON).
//!
//! The form is an official one that every collector reads, and it needs nothing but serde_json; the
//! OpenTelemetry crates would bring a pipeline of their own, with queues and timers where lb's must
//! be. Numbers of 64 bits are texts and ids hexadecimal, as the protocol has it.
//!
//! Attributes are those of the HTTP semantic conventions (stable since 1.23), and lb's own where
//! they have none: `lb.service`, `lb.instance`, `lb.algorithm`, `lb.reason`.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    l7::{Ending, SpanRecord, TryEnd, TryRecord},
    model::{Algorithm, ServiceName},
};

/// What `kind` says of a span.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

/// What `status.code` says of a span that went wrong.
const ERROR: u8 = 2;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Resource<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Debug, Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Span<'a>>,
}

#[derive(Debug, Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'a str>,
    flags: u8,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u8,
}

#[derive(Debug, Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Debug, Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(Cow<'a, str>),
    #[serde(rename = "intValue")]
    Number(String),
}

/// Attributes under construction.
struct Attributes<'a>(Vec<Attribute<'a>>);

impl<'a> Attributes<'a> {
    fn text(&mut self, key: &'static str, text: impl Into<Option<&'a str>>) {
        if let Some(text) = text.into() {
            let value = Value::Text(text.into());
            self.0.push(Attribute { key, value });
        }
    }

    fn owned(&mut self, key: &'static str, text: String) {
        let value = Value::Text(text.into());
        self.0.push(Attribute { key, value });
    }

    fn number(&mut self, key: &'static str, number: u64) {
        let value = Value::Number(number.to_string());
        self.0.push(Attribute { key, value });
    }
}

/// The records as a request to a collector.
pub(super) fn encode(records: &[SpanRecord], service: &str) -> Option<Vec<u8>> {
    let mut resource = Attributes(Vec::new());
    resource.text("service.name", service);
    resource.text("service.version", env!("CARGO_PKG_VERSION"));
    let export = Export {
        resource_spans: [ResourceSpans {
            resource: Resource {
                attributes: resource.0,
            },
            scope_spans: [ScopeSpans {
                scope: Scope {
                    name: "lb",
                    version: env!("CARGO_PKG_VERSION"),
                },
                spans: records.iter().flat_map(spans).collect(),
            }],
        }],
    };
    // Texts and numbers always have a form in JSON.
    serde_json::to_vec(&export).ok()
}

/// The spans of a request: its own, and one for each try.
fn spans(record: &SpanRecord) -> impl Iterator<Item = Span<'_>> {
    let began = record.ended.checked_sub(record.duration);
    let began = began.unwrap_or(UNIX_EPOCH);
    let tries = record.tries.iter().enumerate();
    let tries = tries.map(move |(number, one)| attempt(record, one, number, began));
    std::iter::once(request(record, began)).chain(tries)
}

fn request(record: &SpanRecord, began: SystemTime) -> Span<'_> {
    let closed = &record.closed;
    let status = closed.ending.status();
    let mut all = Attributes(Vec::new());
    let method = method(closed.method.as_str());
    all.text("http.request.method", method);
    if method == OTHER {
        all.text("http.request.method_original", closed.method.as_str());
    }
    all.text("url.scheme", "http");
    all.text("url.path", &*closed.path);
    all.text("http.route", closed.route.as_deref());
    all.text("network.protocol.version", "1.1");
    all.owned("client.address", closed.client.to_string());
    if let Some(host) = &closed.host {
        let (name, port) = host_and_port(host);
        all.text("server.address", name);
        if let Some(port) = port {
            all.number("server.port", port.into());
        }
    }
    let gone = closed.ending == Ending::ClientGone;
    if !gone {
        all.number("http.response.status_code", status.into());
    }
    let reason = match closed.ending {
        Ending::Refused(reason) => Some(reason.label()),
        Ending::ClientGone => Some("client_gone"),
        Ending::Answered(_) if !closed.complete => Some("cut_off"),
        Ending::Answered(_) => None,
    };
    all.text("lb.reason", reason);
    all.text(
        "lb.service",
        closed.service.as_ref().map(ServiceName::as_str),
    );
    let algorithm = closed.algorithm.map(Algorithm::as_str);
    all.text("lb.algorithm", algorithm);
    let last = record.tries.last();
    all.text("lb.instance", last.map(|one| one.instance.endpoint.name()));
    // A server's span is in error from 500 on, and when there was no whole answer.
    let failed = status >= 500 || gone || !closed.complete;
    if failed {
        match reason {
            Some(reason) => all.text("error.type", reason),
            None => all.owned("error.type", status.to_string()),
        }
    }
    Span {
        trace_id: record.trace.to_string(),
        span_id: record.span.to_string(),
        parent_span_id: record.parent.map(|parent| parent.to_string()),
        trace_state: record.state.as_deref(),
        flags: record.flags,
        name: match &closed.route {
            Some(route) => format!("{} {route}", name(method)),
            None => name(method).to_owned(),
        },
        kind: SERVER,
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(record.ended),
        attributes: all.0,
        status: failed.then_some(Status { code: ERROR }),
    }
}

fn attempt<'a>(
    record: &'a SpanRecord,
    one: &'a TryRecord,
    number: usize,
    began: SystemTime,
) -> Span<'a> {
    let closed = &record.closed;
    let endpoint = &one.instance.endpoint;
    let address = endpoint.address();
    let mut all = Attributes(Vec::new());
    let method = method(closed.method.as_str());
    all.text("http.request.method", method);
    all.owned("url.full", format!("http://{address}{}", closed.path));
    all.text("network.protocol.version", "1.1");
    all.owned("server.address", address.ip().to_string());
    all.number("server.port", address.port().into());
    if number > 0 {
        all.number("http.request.resend_count", number as u64);
    }
    let error = match one.end {
        TryEnd::Answered(status) => {
            all.number("http.response.status_code", status.into());
            // A client's span is in error from 400 on.
            (status >= 400).then(|| status.to_string())
        }
        TryEnd::Failed(reason) => {
            all.text("lb.reason", reason.label());
            Some(reason.label().to_owned())
        }
        TryEnd::Cancelled => {
            all.text("lb.reason", "cancelled");
            None
        }
    };
    let failed = error.is_some();
    if let Some(error) = error {
        all.owned("error.type", error);
    }
    all.text("lb.service", one.instance.service.as_str());
    all.text("lb.instance", endpoint.name());
    Span {
        trace_id: record.trace.to_string(),
        span_id: one.span.to_string(),
        parent_span_id: Some(record.span.to_string()),
        trace_state: record.state.as_deref(),
        flags: record.flags,
        name: name(method).to_owned(),
        kind: CLIENT,
        start_time_unix_nano: nanos(began + one.began),
        end_time_unix_nano: nanos(began + one.ended),
        attributes: all.0,
        status: failed.then_some(Status { code: ERROR }),
    }
}

/// What the conventions call a method that they do not know: names must be few.
const OTHER: &str = "_OTHER";

fn method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            method
        }
        _ => OTHER,
    }
}

fn name(method: &str) -> &str {
    if method == OTHER { "HTTP" } else { method }
}

fn host_and_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

fn nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::Method;
    use serde_json::json;

    use super::*;
    use crate::{
        l7::{ClosedSpan, SpanId, TraceId},
        model::{Endpoint, Instance, InstanceId, Reason, ServiceLoad},
    };

    fn instance(text: &str) -> Arc<Instance> {
        let id = InstanceId {
            index: 1,
            generation: 0,
        };
        let (service, endpoint) = (ServiceName::new("shop").unwrap(), Endpoint::parse(text));
        let load = Arc::new(ServiceLoad::new(1));
        Arc::new(Instance::new(id, service, endpoint.unwrap(), load))
    }

    fn record() -> SpanRecord {
        let ms = Duration::from_millis;
        let one = |span, began, ended, text, end| TryRecord {
            span: SpanId([span; 8]),
            began: ms(began),
            ended: ms(ended),
            instance: instance(text),
            end,
        };
        SpanRecord {
            trace: TraceId([0xab; 16]),
            span: SpanId([1; 8]),
            parent: Some(SpanId([9; 8])),
            flags: 1,
            state: Some("a=1".into()),
            ended: UNIX_EPOCH + ms(1_705_315_800_500),
            duration: ms(500),
            tries: vec![
                one(
                    2,
                    1,
                    2,
                    "http://127.0.0.1:1",
                    TryEnd::Failed(Reason::ConnectFailed),
                ),
                one(3, 100, 400, "http://127.0.0.1:2", TryEnd::Answered(503)),
                one(4, 410, 490, "http://127.0.0.1:1", TryEnd::Cancelled),
            ],
            closed: ClosedSpan {
                method: Method::GET,
                path: "/shop/1".into(),
                host: Some("shop.example:8000".into()),
                client: [192, 0, 2, 1].into(),
                route: Some("/shop/*".into()),
                service: Some(ServiceName::new("shop").unwrap()),
                algorithm: Some(Algorithm::Adaptive),
                ending: Ending::Answered(503),
                complete: true,
            },
        }
    }

    /// An attribute of a span, however its value is written.
    fn attribute(span: &serde_json::Value, key: &str) -> Option<String> {
        let list = span["attributes"].as_array().unwrap();
        let value = &list.iter().find(|one| one["key"] == key)?["value"];
        let value = value.get("stringValue").or(value.get("intValue")).unwrap();
        Some(value.as_str().unwrap().to_owned())
    }

    #[test]
    fn a_request_is_a_span_with_one_below_it_for_each_try() {
        let json = encode(&[record()], "edge").unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let resource = &json["resourceSpans"][0]["resource"];
        assert_eq!(attribute(resource, "service.name").as_deref(), Some("edge"));
        let spans = json["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap();
        assert_eq!(spans.len(), 4);
        let first = &spans[0];
        assert_eq!(first["traceId"], "ab".repeat(16));
        assert_eq!(first["spanId"], "01".repeat(8));
        assert_eq!(first["parentSpanId"], "09".repeat(8));
        assert_eq!(first["traceState"], "a=1");
        assert_eq!(
            (&first["name"], &first["kind"]),
            (&json!("GET /shop/*"), &json!(2))
        );
        assert_eq!(first["startTimeUnixNano"], "1705315800000000000");
        assert_eq!(first["endTimeUnixNano"], "1705315800500000000");
        assert_eq!(first["status"]["code"], 2);
        for (key, expected) in [
            ("http.request.method", "GET"),
            ("url.path", "/shop/1"),
            ("http.route", "/shop/*"),
            ("client.address", "192.0.2.1"),
            ("server.address", "shop.example"),
            ("server.port", "8000"),
            ("http.response.status_code", "503"),
            ("error.type", "503"),
            ("lb.service", "shop"),
            ("lb.algorithm", "adaptive"),
            ("lb.instance", "http://127.0.0.1:1"),
        ] {
            assert_eq!(attribute(first, key).as_deref(), Some(expected), "{key}");
        }
        assert_eq!(attribute(first, "lb.reason"), None);
        for (span, expected) in spans[1..].iter().zip([
            (None, Some("connect_failed"), "1705315800001000000"),
            (Some("503"), None, "1705315800100000000"),
            (None, Some("cancelled"), "1705315800410000000"),
        ]) {
            assert_eq!(span["parentSpanId"], "01".repeat(8));
            assert_eq!((&span["name"], &span["kind"]), (&json!("GET"), &json!(3)));
            let status = attribute(span, "http.response.status_code");
            let reason = attribute(span, "lb.reason");
            let found = (status.as_deref(), reason.as_deref());
            assert_eq!(found, (expected.0, expected.1));
            assert_eq!(span["startTimeUnixNano"], expected.2);
        }
        let resent = |span| attribute(span, "http.request.resend_count");
        assert_eq!(resent(&spans[1]), None);
        assert_eq!(resent(&spans[3]).as_deref(), Some("2"));
        assert_eq!(spans[3].get("status"), None);
        let full = attribute(&spans[2], "url.full");
        assert_eq!(full.as_deref(), Some("http://127.0.0.1:2/shop/1"));
    }

    #[test]
    fn what_lb_answers_itself_has_a_reason_and_odd_methods_no_name() {
        let mut record = record();
        record.tries.clear();
        record.parent = None;
        record.closed.method = Method::from_bytes(b"BREW").unwrap();
        record.closed.ending = Ending::Refused(Reason::NoRoute);
        (record.closed.service, record.closed.route) = (None, None);
        let json = encode(&[record], "lb").unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let spans = json["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap();
        let [span] = spans.as_slice() else {
            panic!("{json}");
        };
        assert_eq!(span.get("parentSpanId"), None);
        assert_eq!(span["name"], "HTTP");
        let text = |key| attribute(span, key);
        assert_eq!(text("http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(
            text("http.request.method_original").as_deref(),
            Some("BREW")
        );
        assert_eq!(text("lb.reason").as_deref(), Some("no_route"));
        // 404 is the client's error, not the server's.
        assert_eq!(span.get("status"), None);
        assert_eq!(text("error.type"), None);
    }

    #[test]
    fn hosts_are_taken_apart() {
        for (host, expected) in [
            ("a", ("a", None)),
            ("a:80", ("a", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some(80))),
        ] {
            assert_eq!(host_and_port(host), expected);
        }
    }
}
