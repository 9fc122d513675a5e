//! What is told of the sources of instances.

use serde_json::json;

use super::*;
use crate::{
    discovery::{SourceReport, SourceState},
    model::SourceSpec,
};

/// A source that has failed since it answered, and one that nobody has asked so far.
pub(super) fn has_sources(world: &World) {
    let handle = world.state.discovery();
    let dns = SourceSpec::Dns {
        host: "web.internal".into(),
        port: 8080,
    };
    let srv = SourceSpec::Srv {
        name: "_api._tcp.internal".into(),
    };
    let key = (name("main-backend"), dns);
    handle.add(key.clone());
    handle.add((name("ocr-service"), srv));
    let now = world.clock.now();
    let found = InstanceSpec {
        max_requests: Some(7),
        ..InstanceSpec::new(Endpoint::parse("10.0.0.5:8080").unwrap(), 3)
    };
    handle.update(&key, |report| {
        *report = SourceReport {
            state: SourceState::Stale,
            instances: Some(Arc::from([found])),
            good: Some(Timestamp(now.0 - 60_000_000)),
            asked: Some(Timestamp(now.0 - 2_000_000)),
            next: Some(now + Duration::from_secs(28)),
            problem: Some("request timed out".to_owned()),
            successes: 9,
            failures: 4,
            failures_in_row: 2,
            took: Some(Duration::from_micros(1500)),
        };
    });
}

#[tokio::test]
async fn sources_tell_what_they_have_found_and_what_is_wrong() {
    let world = World::new();
    assert_eq!(
        world.get("/discovery").await,
        json!({"sources": [], "leaving": [], "refused": []})
    );
    has_sources(&world);
    let list = world.get("/discovery").await;
    assert_eq!(
        list["sources"][0],
        json!({
            "service": "main-backend", "kind": "dns", "source": "web.internal:8080",
            "state": "stale", "problem": "request timed out",
            "instances": [{"instance": "10.0.0.5:8080", "weight": 3, "max_requests": 7}],
            "good_seconds_ago": 60.0, "asked_seconds_ago": 2.0, "next_in_seconds": 28.0,
            "took_ms": 1.5, "successes": 9, "failures": 4, "failures_in_row": 2
        })
    );
    assert_eq!(list["sources"][1]["state"], "waiting");
    assert_eq!(list["sources"][1].get("good_seconds_ago"), None);

    let health = world.get("/health").await;
    assert_eq!(health["status"], "degraded");
    let told = "service main-backend: dns web.internal:8080: request timed out; 1 instances that it \
                named 60 s ago stay";
    let problems = health["problems"].as_array().unwrap();
    assert!(problems.contains(&json!(told)), "{health}");
}

#[tokio::test]
async fn a_refresh_wakes_who_asks() {
    let world = World::new();
    has_sources(&world);
    let woken = world.state.discovery().refreshed();
    let both = async { tokio::join!(woken, world.post("/discovery/refresh")) };
    let limit = Duration::from_secs(10);
    let (_, answer) = tokio::time::timeout(limit, both).await.unwrap();
    assert_eq!(answer.status, 200);
}
