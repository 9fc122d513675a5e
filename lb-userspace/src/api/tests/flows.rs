//! `/flows`: queries are read or refused, streams begin and end, and who may see what.

use axum::response::Response;
use lb_common::Counter;

use super::*;
use crate::{
    api::access::tests::token,
    l4::{Tape, recorded},
    model::AuditLogSpec,
};

const PATH: &str = "/api/v1/loadbalancer/flows";

/// An API over a packet path that tests record for.
fn followed() -> (World, Tape) {
    World::followed(Access::new(spec().into(), Audit::to_log()))
}

fn spec() -> AccessSpec {
    AccessSpec {
        tokens: vec![
            token("looks", "read", Role::Read),
            token("works", "operate", Role::Operate),
        ],
        ..AccessSpec::default()
    }
}

/// A request from elsewhere, with a token.
fn far(shown: &str, query: &str) -> Request<Body> {
    let request = Request::get(format!("{PATH}{query}"))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {shown}"));
    let far = SocketAddr::from(([192, 0, 2, 7], 4000));
    with_peer(request.body(Body::empty()).unwrap(), far)
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
        let got = world.send(far(shown, query)).await;
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

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_makes_room_for_others() {
    let (world, tape) = followed();
    let mut streams = Vec::new();
    for _ in 0..l4::MOST_FOLLOWERS {
        streams.push(open(&world, "").await);
    }
    // To the first alone, and no more than the bell can ring unheard.
    for _ in 0..200 {
        tape.record(recorded(Counter::DropTtl, 1));
    }
    let begun = tokio::time::Instant::now();
    let gone = async |place: usize| {
        while tape.follower(place) != lb_common::Follower::default() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed().as_secs()
    };
    assert_eq!(gone(0).await, 30);
    let other = open(&world, "").await;
    // For the others there is nothing but a sign of life, after a while.
    assert_eq!(gone(1).await, 45);
    drop(other);
    let text = rest(streams.swap_remove(0)).await;
    // What was there for it is not: it has waited for room all the time.
    assert!(text.starts_with(": flow events of lb\n\n"), "{text}");
    let last = "event: ended\ndata: {\"why\":\"nothing was read for 30 seconds\"}\n\n";
    assert!(text.ends_with(last), "{text}");
}

#[tokio::test(start_paused = true)]
async fn who_reads_stays() {
    let (world, tape) = followed();
    let reading = tokio::spawn(open(&world, "").await.into_body().collect());
    for _ in 0..10 {
        for _ in 0..100 {
            tape.record(recorded(Counter::DropTtl, 1));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(!reading.is_finished());
    world.state.stop();
    let text = reading.await.unwrap().unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.matches("event: flow").count(), 1000);
    assert!(text.contains(": heartbeat") && text.ends_with("{\"why\":\"lb stops\"}\n\n"));
}

#[tokio::test]
async fn a_stream_ends_when_whoever_has_asked_may_no_more() {
    let gone = AccessSpec {
        tokens: vec![token("looks", "read", Role::Read)],
        ..AccessSpec::default()
    };
    let of = |shown, role| AccessSpec {
        tokens: vec![spec().tokens.remove(0), token("works", shown, role)],
        ..AccessSpec::default()
    };
    for (rule, ends) in [
        (gone, ["?bytes=true", ""].as_slice()),
        // Another secret is somebody else.
        (of("other", Role::Operate), &["?bytes=true", ""]),
        (of("operate", Role::Read), &["?bytes=true"]),
    ] {
        let (world, _tape) = followed();
        let ask = async |shown, query| {
            let answer = world.router().oneshot(far(shown, query)).await.unwrap();
            assert_eq!(answer.status(), 200);
            answer
        };
        let stays = ask("read", "?seconds=1").await;
        let mut streams = Vec::new();
        for query in ends {
            streams.push(ask("operate", query).await);
        }
        // Nothing is different.
        world.state.access().replace(spec().into());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let figures = world.state.packet_path().flow_figures().unwrap();
        assert_eq!(figures.followers, 1 + ends.len());
        world.state.access().replace(rule.into());
        for stream in streams {
            let text = rest(stream).await;
            assert!(text.contains("may no longer see it"), "{text}");
        }
        let text = rest(stays).await;
        assert!(!text.contains("event: ended"), "{text}");
    }
}

#[tokio::test]
async fn the_audit_log_has_who_has_seen_what_users_have_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (audit, writer) = Audit::open(&AuditLogSpec {
        path: Some(path.clone()),
    })
    .unwrap();
    let (world, tape) = World::followed(Access::new(spec().into(), audit));
    let ask = async |shown, query| {
        let answer = world.router().oneshot(far(shown, query)).await.unwrap();
        for _ in 0..3 {
            tape.record(recorded(Counter::DropTtl, 0xff));
        }
        rest(answer).await
    };
    ask("read", "?count=1").await;
    ask("operate", "?bytes=true&verdict=dropped&count=2").await;
    ask("operate", "?bytes=true&bytes=true").await;
    // The last line is written when the stream is over.
    tokio::time::sleep(Duration::from_millis(50)).await;
    writer.unwrap().finish(Duration::from_secs(10));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in &lines {
        assert_eq!(line["message"], "stream of packet bytes");
        assert_eq!(
            (&line["caller"], &line["role"]),
            (&"token works".into(), &"operate".into())
        );
        assert_eq!(line["peer"], "192.0.2.7:4000");
        assert_eq!(line["filter"], "bytes=true&verdict=dropped&count=2");
    }
    assert_eq!(
        (&lines[0]["stream"], lines[0].get("events")),
        (&"begins".into(), None)
    );
    assert_eq!(
        (&lines[1]["stream"], &lines[1]["events"]),
        (&"ends".into(), &2.into())
    );
    assert_eq!(lines[1]["reason"], "enough");
}
