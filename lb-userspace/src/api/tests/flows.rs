//! `/flows`: queries are read or refused, streams begin and end, and who may see what.

use axum::response::Response;
use lb_common::Counter;

use super::*;
use crate::{
    api::access::tests::token,
    l4::{Tape, recorded},
};

const PATH: &str = "/api/v1/loadbalancer/flows";

/// An API over a packet path that tests record for.
fn followed() -> (World, Tape) {
    let spec = AccessSpec {
        tokens: vec![
            token("looks", "read", Role::Read),
            token("works", "operate", Role::Operate),
        ],
        ..AccessSpec::default()
    };
    World::followed(Access::new(spec.into(), Audit::to_log()))
}

async fn open(world: &World, query: &str) -> Response {
    let request = local(Method::GET, &format!("{PATH}{query}"), Body::empty());
    let response = world.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response
}

/// All of a stream that ends by itself.
async fn rest(response: Response) -> String {
    let body = tokio::time::timeout(Duration::from_secs(20), response.into_body().collect());
    let body = body.await.expect("it does not end").unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn queries_are_read_or_refused() {
    let (world, _tape) = followed();
    for (query, pointer, expected) in [
        ("verdict=drop", "verdict", "forwarded, dropped or passed"),
        ("reason=routes", "reason", "no_instance"),
        (
            "verdict=passed&reason=no_instance",
            "reason",
            "of the verdict",
        ),
        ("vip=192.0.2.1:53", "vip", "udp/192.0.2.1:53"),
        ("service=main", "service", "main-backend"),
        ("source=10.0.0.1/8", "source", "10.0.0.0/8"),
        ("new=yes", "new", "true or false"),
        ("sample=0", "sample", "from 1"),
        ("count=-1", "count", "whole number"),
        ("seconds=86401", "seconds", "86400"),
        ("bytes=1", "bytes", "true or false"),
        ("verdicts=dropped", "", "verdict, reason"),
        ("new=true&new=true", "new", "once"),
    ] {
        let got = world.ask(Method::GET, &format!("{PATH}?{query}")).await;
        let problem = got.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{query}: {detail}");
    }
}

#[tokio::test]
async fn nobody_can_follow_a_packet_path_that_is_not_there() {
    let world = World::new();
    let problem = world.ask(Method::GET, PATH).await.problem(409);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("expected a packet path"), "{detail}");
}

#[tokio::test]
async fn events_are_told_until_there_are_enough() {
    let (world, tape) = followed();
    let response = open(&world, "?count=2&verdict=dropped").await;
    assert!(tape.until() > 0);
    for _ in 0..5 {
        tape.record(recorded(Counter::DropNoInstance, 1));
    }
    let text = rest(response).await;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], ": flow events of lb");
    assert_eq!(lines[1..3], ["id: 1", "event: flow"]);
    assert_eq!(lines[4..6], ["id: 2", "event: flow"]);
    assert_eq!(lines.len(), 7, "{text}");
    let event = lines[3].strip_prefix("data: ").unwrap();
    let event: types::FlowEvent = serde_json::from_str(event).unwrap();
    assert_eq!(event.reason, "no_instance");
    assert_eq!(event.source.as_deref(), Some("198.51.100.7:40000"));
    assert_eq!(event.bytes, None);
    // Nobody follows any more.
    for _ in 0..10_000 {
        if tape.until() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("packets are still recorded");
}

#[tokio::test]
async fn a_stream_ends_in_time() {
    let (world, tape) = followed();
    let response = open(&world, "?seconds=1&bytes=true").await;
    tape.record(recorded(Counter::DropTtl, 1));
    let text = rest(response).await;
    assert!(text.contains("\"bytes\":\"BwcHBw==\""), "{text}");
}

#[tokio::test]
async fn who_goes_away_follows_no_longer() {
    let (world, tape) = followed();
    let response = open(&world, "").await;
    assert!(tape.until() > 0);
    drop(response);
    for _ in 0..10_000 {
        if tape.until() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("packets are still recorded");
}

#[tokio::test]
async fn bytes_are_for_those_who_operate() {
    let (world, _tape) = followed();
    for (shown, query, expected) in [
        ("read", "?seconds=1", 200),
        ("read", "?seconds=1&bytes=true", 403),
        ("operate", "?seconds=1&bytes=true", 200),
    ] {
        let request = Request::get(format!("{PATH}{query}"))
            .header("host", "localhost")
            .header("authorization", format!("Bearer {shown}"));
        let far = SocketAddr::from(([192, 0, 2, 7], 4000));
        let request = with_peer(request.body(Body::empty()).unwrap(), far);
        let got = world.send(request).await;
        assert_eq!(got.status, expected, "{shown} {query}: {}", got.body);
        if expected == 403 {
            let detail = got.problem(403)["detail"].to_string();
            assert!(detail.contains("operate"), "{detail}");
        }
    }
}

#[tokio::test]
async fn there_are_so_many_streams_and_they_end_with_lb() {
    let (world, _tape) = followed();
    let mut streams = Vec::new();
    for _ in 0..l4::MOST_FOLLOWERS {
        streams.push(open(&world, "").await);
    }
    let refused = world.ask(Method::GET, PATH).await.problem(503);
    assert_eq!(refused["type"], "urn:lb:problem:too-many-streams");
    world.state.stop();
    for stream in streams {
        // To its end.
        rest(stream).await;
    }
    let refused = world.ask(Method::GET, PATH).await;
    assert_eq!(refused.problem(503)["type"], "urn:lb:problem:stopping");
}
