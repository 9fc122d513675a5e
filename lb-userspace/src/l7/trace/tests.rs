use std::time::Duration;

use hyper::Method;

use super::{record::CAPACITY, *};
use crate::{balance::Random, l7::access::Ending};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn parent(values: &[&str]) -> Option<Parent> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("traceparent", value.parse().unwrap());
    }
    Parent::of(&headers)
}

#[test]
fn only_a_valid_traceparent_is_one() {
    let good = format!("00-{ID}-00f067aa0ba902b7-01");
    let found = parent(&[&good]).unwrap();
    assert_eq!(found.trace.to_string(), ID);
    assert_eq!(found.span.to_string(), "00f067aa0ba902b7");
    assert_eq!(found.flags, SAMPLED);
    let later = format!("cc-{ID}-00f067aa0ba902b7-fe-what-comes");
    assert_eq!(parent(&[&later]).unwrap().flags, 0b10);
    for bad in [
        "",
        "00",
        &format!("ff-{ID}-00f067aa0ba902b7-01"),
        &format!("00-{ID}-00f067aa0ba902b7-01-more"),
        &format!("00-{ID}-0000000000000000-01"),
        &format!("00-{ID}-00f067aa0ba902b7"),
        &format!("00-{ID}-00f067aa0ba902b7-1"),
        &format!("0-{ID}-00f067aa0ba902b7-01"),
        &format!("00-{ID}0-00f067aa0ba902b7-01"),
        &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        &format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
    ] {
        assert_eq!(parent(&[bad]), None, "{bad}");
    }
    assert_eq!(parent(&[]), None);
    assert_eq!(parent(&[&good, &good]), None);
}

#[test]
fn traces_are_sampled_by_their_id_alone() {
    let ids = Ids(Random::new(7));
    for (sample, least, most) in [
        (0, 0, 0),
        (1, 0, 2),
        (250_000, 2300, 2700),
        (1_000_000, 10_000, 10_000),
    ] {
        let tracing = Tracing::new(&TracingSpec {
            sample,
            ..TracingSpec::default()
        });
        let taken = (0..10_000).filter(|_| tracing.samples(ids.trace())).count();
        assert!((least..=most).contains(&taken), "{sample}: {taken}");
    }
    // The bounds of the id, exactly.
    let half = Tracing::new(&TracingSpec {
        sample: 500_000,
        ..TracingSpec::default()
    });
    let of = |last: u64| {
        let mut id = [0xff; 16];
        id[8..].copy_from_slice(&last.to_be_bytes());
        TraceId(id)
    };
    assert!(half.samples(of(1 << 55)) && !half.samples(of((1 << 55) - 1)));
}

#[test]
fn what_does_not_fit_is_lost_and_counted() {
    let record = || SpanRecord {
        trace: TraceId([1; 16]),
        span: SpanId([2; 8]),
        parent: None,
        flags: SAMPLED,
        state: None,
        ended: SystemTime::UNIX_EPOCH,
        duration: Duration::ZERO,
        tries: Vec::new(),
        closed: Closed {
            method: Method::GET,
            path: "/".into(),
            host: None,
            client: [127, 0, 0, 1].into(),
            route: None,
            service: None,
            algorithm: None,
            ending: Ending::Answered(200),
            complete: true,
        },
    };
    let mut spans = Spans::none();
    let (first, second) = (spans.queue(), spans.queue());
    for _ in 0..CAPACITY + 3 {
        first.leave(record());
    }
    second.leave(record());
    let mut count = 0;
    while spans.take().is_some() {
        count += 1;
    }
    assert_eq!((count, spans.lost(), spans.lost()), (CAPACITY + 1, 3, 0));
}

#[test]
fn an_id_of_another_form_is_a_short_word() {
    let tracing = Tracing::new(&TracingSpec::default());
    let name = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-trace-id", value.parse().unwrap());
        tracing.name(&headers)
    };
    assert_eq!(name("gw-1-00000a").as_deref(), Some("gw-1-00000a"));
    for bad in ["", "two words", &"x".repeat(MOST_NAME + 1)] {
        assert_eq!(name(bad), None, "{bad:?}");
    }
}
