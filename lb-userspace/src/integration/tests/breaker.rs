//! The circuit-breaker backend.

use serde_json::{Value, json};

use super::{
    peer::{Got, Manner, Peer},
    *,
};
use crate::model::{BreakerState, GateState};

const OPEN: Manner = Manner::Says(200, r#"{"state": "OPEN", "since": 17}"#);
const CLOSED: Manner = Manner::Says(200, r#"{"state": "closed"}"#);
const HALF_OPEN: Manner = Manner::Says(200, r#"{"state": "Half_Open"}"#);

/// Answers that mean nothing.
const LIES: [Manner; 9] = [
    Manner::Says(500, r#"{"state": "OPEN"}"#),
    Manner::Says(404, r#"{"state": "OPEN"}"#),
    Manner::Says(204, ""),
    Manner::Says(200, "OPEN"),
    Manner::Says(200, r#"{"state": "ajar"}"#),
    Manner::Says(200, r#"{"state": ["OPEN"]}"#),
    Manner::Writes("open\r\n\r\n"),
    Manner::Endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
    Manner::Endless(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        "{\"state\": \"OPEN\"}",
    ),
];

fn world(peer: &Peer) -> World {
    World::new(IntegrationSpec {
        breaker: Some(asks(peer)),
        ..IntegrationSpec::default()
    })
}

fn reporting(peer: &Peer, queue: usize) -> World {
    World::new(IntegrationSpec {
        breaker: Some(BreakerBackendSpec {
            events_path: Some("/cb/{service}/events".to_owned()),
            queue,
            ..asks(peer)
        }),
        ..IntegrationSpec::default()
    })
}

fn word(world: &World) -> Option<BreakerState> {
    let name = world.service().name().clone();
    world.integrations.breaker.word(&name)?.state
}

async fn says(world: &World, state: BreakerState) {
    eventually("the word is heard", || word(world) == Some(state)).await;
}

#[tokio::test]
async fn open_refuses_until_another_word() {
    let peer = Peer::new(CLOSED);
    let world = world(&peer);
    says(&world, BreakerState::Closed).await;
    assert!(!world.is_refused());
    assert_eq!(peer.got()[0].line, "GET /cb/web HTTP/1.1");
    peer.now(OPEN);
    says(&world, BreakerState::Open).await;
    assert!(world.is_refused());
    // It is a word about the service, and nothing that lb has found out.
    assert!(world.service().guard.gate.is_closed());
    peer.now(HALF_OPEN);
    says(&world, BreakerState::HalfOpen).await;
    assert!(!world.is_refused());
    eventually("probes are let through", || {
        let state = world.service().guard.gate.state();
        state.kind(world.clock.now()) == BreakerState::HalfOpen
    })
    .await;
    assert!(world.service().guard.advised(world.clock.now()).is_some());
    peer.now(CLOSED);
    says(&world, BreakerState::Closed).await;
    eventually("nothing is left", || {
        let guard = &world.service().guard;
        guard.gate.is_closed() && guard.advised(world.clock.now()).is_none()
    })
    .await;
    assert!(peer.connections() <= 2, "connections are not kept");
}

#[tokio::test]
async fn answers_without_meaning_say_nothing_against_a_service() {
    let peer = Peer::new(CLOSED);
    let world = world(&peer);
    let report = &world.integrations.breaker.polls;
    for lie in LIES {
        peer.now(lie.clone());
        let failed = report.failed();
        eventually("an answer was not understood", || {
            report.failed() > failed + 1
        })
        .await;
        assert!(!world.is_refused(), "{lie:?}");
        assert!(world.service().guard.gate.is_closed(), "{lie:?}");
        assert!(report.last().failing, "{lie:?}");
    }
    peer.now(CLOSED);
    eventually("it works again", || !report.last().failing).await;
    assert!(report.last().failure.is_some() && report.last().success.is_some());
}

#[tokio::test]
async fn what_was_said_is_forgotten_with_the_third_missed_poll() {
    let peer = Peer::new(OPEN);
    let mut world = world(&peer);
    says(&world, BreakerState::Open).await;
    let report = &world.integrations.breaker.polls;
    // The moment at which the backend has gone silent is between two polls.
    let failed = report.failed();
    peer.now(Manner::Says(500, ""));
    eventually("a poll is missed", || report.failed() > failed).await;
    eventually("it is forgotten", || !world.is_refused()).await;
    assert!(report.failed() >= failed + 3);
    assert_eq!(word(&world), None);
    // Gone altogether, and back.
    peer.now(OPEN);
    says(&world, BreakerState::Open).await;
    peer.goes();
    eventually("it is forgotten again", || !world.is_refused()).await;
    peer.comes_back();
    says(&world, BreakerState::Open).await;
    assert!(world.is_refused());
    // Without a backend nobody refuses any more.
    world.reload(|desired| desired.integration.breaker = None);
    eventually("it is taken back", || !world.is_refused()).await;
    let list = || world.integrations.breaker.words();
    eventually("nobody is asked", || list().is_empty()).await;
    assert_eq!(world.integrations.breaker.polls.last().url, None);
}

#[tokio::test]
async fn a_backend_that_never_answers_is_asked_and_not_waited_for() {
    let peer = Peer::new(Manner::Silent);
    let world = world(&peer);
    let report = &world.integrations.breaker.polls;
    eventually("three polls are missed", || report.failed() >= 3).await;
    assert!(!world.is_refused());
    peer.now(OPEN);
    says(&world, BreakerState::Open).await;
    peer.now(Manner::Silent);
    eventually("it is forgotten", || !world.is_refused()).await;
}

#[tokio::test]
async fn an_operator_and_another_adviser_are_not_overruled() {
    let peer = Peer::new(OPEN);
    let world = world(&peer);
    says(&world, BreakerState::Open).await;
    let held = GateState::HeldClosed;
    let guard = Arc::clone(&world.service().guard);
    guard.gate.update(|_| Some(held));
    assert!(!world.is_refused());
    guard
        .gate
        .update(|_| Some(GateState::closed(world.clock.now())));
    assert!(world.is_refused());
    peer.now(CLOSED);
    says(&world, BreakerState::Closed).await;
    // Who says that it works has nothing to say about what somebody else advises.
    let (now, minute) = (world.clock.now(), Duration::from_secs(60));
    crate::resilience::breaker::advise(&guard, Some(minute), now);
    let polls = world.integrations.breaker.polls.succeeded();
    let report = &world.integrations.breaker.polls;
    eventually("it is asked again", || report.succeeded() > polls + 1).await;
    assert!(guard.advised(world.clock.now()).is_some());
}

/// What was reported of an instance's outcomes of a kind.
fn reported(got: &[Got], instance: &str, event: &str) -> u64 {
    let posts = got.iter().filter(|got| got.line.starts_with("POST"));
    let events = posts.flat_map(|got| {
        let list: Vec<Value> = serde_json::from_str(&got.body).unwrap();
        list
    });
    events
        .filter(|one| one["instance"] == instance && one["event"] == event)
        .map(|one| one["count"].as_u64().unwrap())
        .sum()
}

#[tokio::test]
async fn outcomes_are_reported_as_differences() {
    let peer = Peer::new(CLOSED);
    let mut world = reporting(&peer, 100);
    let (first, second) = (world.instance(0), world.instance(1));
    says(&world, BreakerState::Closed).await;
    world.serve(&first, Outcome::Success, 5);
    world.serve(&second, Outcome::Failure, 2);
    let report = Arc::clone(&world.integrations);
    eventually("seven are reported", || {
        report.breaker.events.delivered() == 7
    })
    .await;
    let posts = |got: &Vec<Got>| got.iter().position(|got| got.line.starts_with("POST"));
    let got = peer.got();
    let post = &got[posts(&got).unwrap()];
    assert_eq!(post.line, "POST /cb/web/events HTTP/1.1");
    let one: Value = serde_json::from_str(&post.body).unwrap();
    let keys: Vec<_> = one[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["count", "event", "instance", "timestamp"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.unwrap().as_secs() - one[0]["timestamp"].as_u64().unwrap();
    assert!(age < 60, "{age}");

    world.serve(&first, Outcome::Success, 3);
    world.serve(&first, Outcome::Failure, 1);
    eventually("four more", || report.breaker.events.delivered() == 11).await;
    // An instance that goes has a last word.
    world.serve(&second, Outcome::Success, 4);
    world.reload(|desired| drop(desired.services[0].instances.pop()));
    eventually("its last four", || report.breaker.events.delivered() == 15).await;
    // What happens until the end is reported with it.
    world.serve(&first, Outcome::Success, 6);
    world.end().await;
    let got = peer.got();
    for (instance, event, count) in [
        ("127.0.0.1:1", "success", 14),
        ("127.0.0.1:1", "failure", 1),
        ("127.0.0.1:2", "success", 4),
        ("127.0.0.1:2", "failure", 2),
    ] {
        assert_eq!(reported(&got, instance, event), count, "{instance} {event}");
    }
    assert_eq!(report.breaker.events.dropped(), 0);
    assert_eq!(json!(report.breaker.events.waiting()), 0);
}

#[tokio::test]
async fn what_cannot_be_reported_waits_and_the_oldest_is_given_up() {
    let peer = Peer::new(Manner::Says(503, ""));
    let world = reporting(&peer, 3);
    let events = &world.integrations.breaker.events;
    let instance = world.instance(0);
    // The beginning is what is counted from.
    let polls = &world.integrations.breaker.polls;
    eventually("it has begun", || polls.failed() > 0).await;
    world.serve(&instance, Outcome::Success, 5);
    eventually("they wait", || events.waiting() == 5 && events.failed() > 1).await;
    // Each look that finds something adds an event: with the fourth the first is given up.
    for (waiting, dropped) in [(6, 0), (7, 0), (3, 5), (3, 6)] {
        world.serve(&instance, Outcome::Failure, 1);
        eventually("one more waits", || {
            (events.waiting(), events.dropped()) == (waiting, dropped)
        })
        .await;
    }
    assert_eq!(events.delivered(), 0);
    peer.now(CLOSED);
    eventually("the rest is reported", || events.delivered() == 3).await;
    assert_eq!((events.waiting(), events.dropped()), (0, 6));
    assert!(!events.last().failing);
}
