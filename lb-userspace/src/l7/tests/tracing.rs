//! Trace headers through the proxy, and what is recorded of requests.

use super::*;
use crate::{
    l7::{Ending, SpanRecord, Spans, TryEnd},
    model::{TraceTrust, TracingSpec},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// An instance that says what it was told of traces.
fn echo() -> Stub {
    Stub::answering(|request| {
        let field = |name| request.field(name).unwrap_or("-").to_owned();
        let fields = ["traceparent", "tracestate", "x-trace-id"].map(field);
        ok(&fields.join(" "))
    })
}

fn traced(instances: &[SocketAddr], spec: TracingSpec) -> Gateway {
    let mut desired = everything_to(instances);
    desired.gateway.tracing = spec;
    Gateway::of(desired)
}

fn on() -> TracingSpec {
    TracingSpec {
        enabled: true,
        record: true,
        ..TracingSpec::default()
    }
}

/// What an instance is told of a request with these fields: parts of `traceparent`, `tracestate`
/// and the id.
fn told(client: &mut Peer, fields: &str) -> (Vec<String>, String, String) {
    client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let answer = client.answer();
    let parts: Vec<&str> = answer.text().split(' ').collect();
    let [parent, state, id] = parts.as_slice() else {
        panic!("{}", answer.text());
    };
    let parent = parent.split('-').map(str::to_owned).collect();
    (parent, (*state).to_owned(), (*id).to_owned())
}

fn with_parent(flags: &str) -> String {
    format!("Traceparent: 00-{TRACE}-{PARENT}-{flags}\r\nTracestate: a=1,b=2\r\n")
}

/// The next record.
fn next(spans: &mut Spans) -> SpanRecord {
    let mut found = None;
    eventually("a record", || {
        found = spans.take();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn without_tracing_headers_go_through_untouched() {
    let stub = echo();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let (parent, state, id) = told(&mut client, &with_parent("01"));
    assert_eq!(parent, ["00", TRACE, PARENT, "01"]);
    assert_eq!((&*state, &*id), ("a=1,b=2", "-"));
    // Also what is none.
    let (parent, ..) = told(&mut client, "Traceparent: junk\r\n");
    assert_eq!(parent, ["junk"]);
}

#[test]
fn a_trace_goes_on_with_a_span_of_lbs_own() {
    let stub = echo();
    let gateway = traced(&[stub.address], on());
    let mut spans = gateway.proxy.as_ref().unwrap().take_spans().unwrap();
    let mut client = gateway.connect();
    let (parent, state, id) = told(&mut client, &with_parent("01"));
    assert_eq!(parent[..2], ["00", TRACE]);
    assert_eq!(parent[3], "01");
    assert_eq!((&*state, &*id), ("a=1,b=2", TRACE));
    let record = next(&mut spans);
    assert_eq!(record.trace.to_string(), TRACE);
    assert_eq!(record.parent.unwrap().to_string(), PARENT);
    assert_eq!(record.state.as_deref(), Some("a=1,b=2"));
    assert_eq!(record.closed.ending, Ending::Answered(200));
    assert_eq!(record.closed.route.as_deref(), Some("/*"));
    assert_eq!(record.closed.host.as_deref(), Some("a"));
    // The instance is told of the span of its try.
    let [one] = record.tries.as_slice() else {
        panic!("{record:?}");
    };
    assert_eq!(one.span.to_string(), parent[2]);
    assert_ne!(one.span, record.span);
    assert_eq!(one.end, TryEnd::Answered(200));
    assert!(Arc::ptr_eq(&one.instance, &gateway.instance(0)));
    assert!(one.began <= one.ended && one.ended <= record.duration);

    // A parent that is not sampled decides, too: nothing is recorded, and its trace goes on.
    let (parent, state, _) = told(&mut client, &with_parent("00"));
    assert_eq!((&*parent[1], &*parent[3]), (TRACE, "00"));
    assert_ne!(parent[2], PARENT);
    assert_eq!(state, "a=1,b=2");
    told(&mut client, &with_parent("01"));
    assert_eq!(next(&mut spans).flags, 1);
    assert!(spans.take().is_none());
}

#[test]
fn a_trace_begins_where_none_comes_in() {
    let stub = echo();
    let mut gateway = traced(&[stub.address], on());
    let mut spans = gateway.proxy.as_ref().unwrap().take_spans().unwrap();
    let mut client = gateway.connect();
    let mut seen = std::collections::HashSet::new();
    let bad = format!("Traceparent: 00-{TRACE}-{PARENT}\r\nTracestate: a=1\r\n");
    let twice = with_parent("01") + &with_parent("01");
    for fields in ["", "Tracestate: a=1\r\n", &bad, &twice] {
        let (parent, state, id) = told(&mut client, fields);
        assert_eq!((parent.len(), &*parent[0], &*parent[3]), (4, "00", "01"));
        assert_eq!((parent[1].len(), parent[2].len()), (32, 16));
        assert!(seen.insert(parent[1].clone()) && parent[1] != TRACE);
        // What was said of another trace says nothing about this one.
        assert_eq!((&*state, &*id), ("-", &*parent[1]), "{fields}");
        let record = next(&mut spans);
        assert_eq!((record.parent, record.state), (None, None));
        assert_eq!(record.trace.to_string(), parent[1]);
    }
    // Nothing is sampled: the trace is there, and says so.
    gateway.reload(|desired| desired.gateway.tracing.sample = 0);
    let (parent, ..) = told(&mut client, "");
    assert_eq!(parent[3], "00");
    assert!(spans.take().is_none());
}

#[test]
fn who_is_not_trusted_says_nothing_about_traces() {
    let stub = echo();
    let sent = with_parent("01") + "X-Trace-Id: mine\r\n";
    let spec = TracingSpec {
        trust: TraceTrust::Proxies,
        ..TracingSpec::default()
    };
    let mut gateway = traced(&[stub.address], spec);
    let mut client = gateway.connect();
    let (parent, state, id) = told(&mut client, &sent);
    assert_eq!(
        (parent.join("-"), &*state, &*id),
        ("-".to_owned(), "-", "-")
    );
    gateway.reload(|desired| desired.gateway.tracing.enabled = true);
    let (parent, state, id) = told(&mut client, &sent);
    assert_ne!(parent[1], TRACE);
    assert_eq!((&*state, &*id), ("-", &*parent[1]));
    // A proxy that is trusted is believed, when proxies are.
    gateway.reload(|desired| {
        desired.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let mut client = gateway.connect();
    assert_eq!(told(&mut client, &sent).0[1], TRACE);
    gateway.reload(|desired| desired.gateway.tracing.trust = TraceTrust::None);
    assert_ne!(told(&mut client, &sent).0[1], TRACE);
}

#[test]
fn each_try_has_a_span_and_what_lb_answers_has_none_below() {
    let nobody = unused_address();
    let stub = echo();
    let mut desired = everything_to(&[nobody, stub.address]);
    desired.gateway.tracing = on();
    desired.services[0].breakers.instance = None;
    let mut gateway = Gateway::of(desired);
    let mut spans = gateway.proxy.as_ref().unwrap().take_spans().unwrap();
    let mut client = gateway.connect();
    let mut retried = None;
    for _ in 0..4 {
        let (parent, ..) = told(&mut client, "");
        let record = next(&mut spans);
        if record.tries.len() == 2 {
            retried = Some((parent, record));
        }
    }
    let (parent, record) = retried.expect("a request that nobody's address was tried for");
    let [first, second] = record.tries.as_slice() else {
        panic!("{record:?}");
    };
    assert_eq!(first.end, TryEnd::Failed(Reason::ConnectFailed));
    assert_eq!(first.instance.endpoint.address(), nobody);
    assert_eq!(second.end, TryEnd::Answered(200));
    assert_eq!(second.span.to_string(), parent[2]);
    assert!(first.ended <= second.began);

    gateway.reload(|desired| desired.routes.clear());
    assert_eq!(client.get("/").status(), 404);
    let record = next(&mut spans);
    assert_eq!(record.closed.ending, Ending::Refused(Reason::NoRoute));
    assert!(record.tries.is_empty() && record.closed.service.is_none());
}

#[test]
fn a_try_that_nobody_waits_for_any_more_is_cancelled() {
    let (asked, was_asked) = std::sync::mpsc::channel();
    let stub = Stub::new(move |mut peer| {
        let _ = peer.request();
        asked.send(()).unwrap();
        let _ = peer.is_closed();
    });
    let gateway = traced(&[stub.address], on());
    let mut spans = gateway.proxy.as_ref().unwrap().take_spans().unwrap();
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    was_asked.recv_timeout(PATIENCE).unwrap();
    drop(client);
    let record = next(&mut spans);
    assert_eq!(record.closed.ending, Ending::ClientGone);
    assert_eq!(record.tries[0].end, TryEnd::Cancelled);
}
