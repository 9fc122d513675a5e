//! The stream of events, read as a client reads it.

use std::collections::BTreeSet;

use axum::response::Response;

use super::*;
use crate::{
    api::types::Event as Document,
    model::AdminState,
    registry::{Event, Happening},
};

const EVENTS: &str = "/api/v1/loadbalancer/events";

/// A stream under way.
struct Stream {
    body: Body,
    text: String,
}

/// One event as the stream has it.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    id: u64,
    kind: String,
    data: Value,
}

impl Stream {
    async fn open(world: &World, path: &str, last: Option<u64>) -> Self {
        let mut request = local(Method::GET, path, Body::empty());
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.into());
        }
        let response = answer(world, request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self {
            body: response.into_body(),
            text: String::new(),
        };
        // The greeting comes at once, so that a client knows that it is connected.
        stream.more().await;
        assert!(
            stream.text.starts_with("retry: 2000\n: "),
            "{}",
            stream.text
        );
        stream.text.clear();
        stream
    }

    /// Reads another piece; false at the end.
    async fn more(&mut self) -> bool {
        let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await;
        let Some(frame) = frame.expect("the stream says nothing") else {
            return false;
        };
        let data = frame.unwrap().into_data().unwrap();
        self.text.push_str(std::str::from_utf8(&data).unwrap());
        true
    }

    /// The next events, so many of them.
    async fn next(&mut self, count: usize) -> Vec<Got> {
        loop {
            let events = events(&self.text);
            if events.len() >= count {
                assert_eq!(events.len(), count, "{}", self.text);
                self.text.clear();
                return events;
            }
            // Heartbeats are no sign that more will come.
            assert!(!self.text.contains(": heartbeat"), "{}", self.text);
            assert!(
                self.more().await,
                "the stream has ended after {}",
                self.text
            );
        }
    }
}

fn events(text: &str) -> Vec<Got> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data: "));
    blocks
        .map(|block| {
            let lines: Vec<_> = block.lines().collect();
            let [id, kind, data] = lines[..] else {
                panic!("{block}");
            };
            Got {
                id: id.strip_prefix("id: ").unwrap().parse().unwrap(),
                kind: kind.strip_prefix("event: ").unwrap().to_owned(),
                data: serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
            }
        })
        .collect()
}

async fn answer(world: &World, request: Request<Body>) -> Response {
    world.router().oneshot(request).await.unwrap()
}

fn admin(world: &World, state: AdminState) {
    let change = Change::Admin {
        service: name("main-backend"),
        instance: B.to_owned(),
        state,
    };
    world.registry.apply(change).unwrap();
}

fn publish(world: &World, count: usize) {
    let some = (0..count).map(|_| Happening::State {
        revision: 1,
        event: Event::RoutesChanged,
    });
    world.registry.feed().publish_all(some);
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens() {
    let world = World::new();
    let mut stream = Stream::open(&world, EVENTS, None).await;
    admin(&world, AdminState::Draining);
    let events = stream.next(1).await;
    assert_eq!(events[0].kind, "admin_changed");
    let document: Document = serde_json::from_value(events[0].data.clone()).unwrap();
    assert_eq!(document.sequence, events[0].id);
    assert_eq!(document.kind, "admin_changed");
    assert_eq!(document.revision, Some(2));
    assert_eq!(document.service.as_deref(), Some("main-backend"));
    assert_eq!(document.instance.as_deref(), Some(B));
    assert_eq!(document.data["admin"], "draining");
    humantime::parse_rfc3339(&document.timestamp).unwrap();

    world.health(
        &world.instance("main-backend", 0),
        Health::Unhealthy,
        "\"no\"\nroute",
    );
    world.state.reload("test").await.unwrap();
    let events = stream.next(2).await;
    assert_eq!(events[0].kind, "health_changed");
    assert_eq!(events[0].data["data"]["reason"], "\"no\"\nroute");
    assert_eq!(events[1].kind, "reloaded");
    assert_eq!(events[1].id, events[0].id + 1);
}

#[tokio::test]
async fn a_client_wants_some_services_and_types_and_gets_no_others() {
    let world = World::new();
    let of = |query: &str| format!("{EVENTS}?{query}");
    let mut ocr = Stream::open(&world, &of("service=ocr-service"), None).await;
    let mut both = Stream::open(&world, &of("type=reset&type=reloaded"), None).await;
    admin(&world, AdminState::Draining);
    let change = Change::Algorithm {
        service: name("ocr-service"),
        algorithm: Algorithm::RoundRobin,
    };
    world.registry.apply(change).unwrap();
    world.registry.apply(Change::Reset).unwrap();
    // There and, by the reset, back.
    for event in ocr.next(2).await {
        assert_eq!(event.data["service"], "ocr-service");
    }
    assert_eq!(both.next(1).await[0].kind, "reset");
    for (query, known) in [
        ("type=helth", "health_changed"),
        ("after=x", "number"),
        ("after=-1", "number"),
        ("servce=a", "service"),
    ] {
        let got = world.ask(Method::GET, &of(query)).await;
        assert!(got.problem(400)["detail"].as_str().unwrap().contains(known));
    }
}

#[tokio::test]
async fn who_was_cut_off_goes_on_where_it_was() {
    let world = World::new();
    let mut stream = Stream::open(&world, EVENTS, None).await;
    admin(&world, AdminState::Draining);
    let seen = stream.next(1).await[0].id;
    drop(stream);
    admin(&world, AdminState::Disabled);
    admin(&world, AdminState::Enabled);
    for (path, last) in [
        (EVENTS.to_owned(), Some(seen)),
        (format!("{EVENTS}?after={seen}"), None),
        // What a query says beats what the browser remembers.
        (format!("{EVENTS}?after={seen}"), Some(seen + 1)),
    ] {
        let events = Stream::open(&world, &path, last).await.next(2).await;
        assert_eq!((events[0].id, events[1].id), (seen + 1, seen + 2));
        assert_eq!(events[0].data["data"]["admin"], "disabled");
    }
    // From a run before this one: nobody knows what was missed.
    let mut stream = Stream::open(&world, EVENTS, Some(17)).await;
    let first = loop {
        let events = events(&stream.text);
        if let Some(first) = events.into_iter().next() {
            break first;
        }
        stream.more().await;
    };
    assert_eq!(
        (first.kind.as_str(), &first.data),
        ("lost", &serde_json::json!({}))
    );
}

#[tokio::test]
async fn a_reader_that_is_too_slow_loses_events_and_holds_up_nobody() {
    let world = World::new();
    let mut slow = Stream::open(&world, EVENTS, None).await;
    let before = world.registry.feed().newest();
    // Many more than are kept; the stream's task gets its turn in between.
    for _ in 0..40 {
        publish(&world, 1000);
        tokio::task::yield_now().await;
    }
    admin(&world, AdminState::Draining);
    assert_eq!(world.registry.feed().newest(), before + 40_001);
    let (mut next, mut lost) = (before + 1, 0);
    while next <= before + 40_001 {
        for event in events(&std::mem::take(&mut slow.text)) {
            if event.kind == "lost" {
                let missed = event.data["lost"].as_u64().unwrap();
                lost += missed;
                next += missed;
                assert_eq!(event.id, next - 1);
            } else {
                assert_eq!(event.id, next);
                next += 1;
            }
        }
        if next <= before + 40_001 {
            assert!(slow.more().await);
        }
    }
    assert!(lost > 30_000, "{lost}");
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_lb() {
    let world = World::new();
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(Stream::open(&world, EVENTS, None).await);
    }
    let refused = world.ask(Method::GET, EVENTS).await;
    assert_eq!(
        refused.problem(503)["type"],
        "urn:lb:problem:too-many-streams"
    );
    // One that leaves makes room, without anything having to happen.
    drop(streams.pop());
    let room = async {
        loop {
            let request = local(Method::GET, EVENTS, Body::empty());
            if answer(&world, request).await.status() == 200 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), room)
        .await
        .unwrap();
    world.state.stop();
    for stream in &mut streams {
        assert!(!stream.more().await, "{}", stream.text);
    }
    let refused = world.ask(Method::GET, EVENTS).await;
    assert_eq!(refused.problem(503)["type"], "urn:lb:problem:stopping");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_heartbeats_that_carry_the_number() {
    let world = World::new();
    let mut stream = Stream::open(&world, &format!("{EVENTS}?type=reset"), None).await;
    publish(&world, 3);
    assert!(stream.more().await);
    let newest = world.registry.feed().newest();
    assert_eq!(stream.text, format!(": heartbeat\nid: {newest}\n\n"));
}

#[tokio::test]
async fn changes_of_the_packet_path_are_events() {
    let world = World::new();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let watching = tokio::spawn(watch_packet_path(world.state.clone(), stopped));
    let mut stream = Stream::open(&world, EVENTS, None).await;
    let report = |mode| Report {
        mode,
        at: Timestamp(u64::MAX),
        ..Report::default()
    };
    // Figures alone are no change.
    for mode in [Some(PathMode::Native), Some(PathMode::Native), None] {
        world.reporter.publish(report(mode));
        tokio::task::yield_now().await;
    }
    let events = stream.next(2).await;
    let modes = events
        .iter()
        .map(|event| event.data["data"]["mode"].clone());
    let modes: BTreeSet<_> = modes.map(|mode| mode.to_string()).collect();
    assert_eq!(
        modes.into_iter().collect::<Vec<_>>(),
        ["\"native\"", "null"]
    );
    assert_eq!(events[0].kind, "packet_path_changed");
    watching.abort();
}
