//! Systems beside lb, as the API tells of them.

use super::*;
use crate::{
    integration::Integrations,
    model::{BreakerState, IntegrationSpec},
};

fn one(all: &Value, name: &str) -> Value {
    let list = all["integrations"].as_array().unwrap();
    let found = list.iter().find(|one| one["integration"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {all}"))
        .clone()
}

#[tokio::test]
async fn each_exchange_is_told_with_how_it_fares() {
    let world = World::new();
    let nothing = world.get("/integrations").await;
    assert_eq!(nothing["integrations"], serde_json::json!([]));
    let none = Integrations::default();
    let off = World::new();
    off.state.set_integrations(Arc::new(none));
    let all = off.get("/integrations").await;
    assert_eq!(one(&all, "traces")["state"], "off");
    assert_eq!(one(&all, "traces").get("url"), None);

    let service = name("main-backend");
    let all = Integrations::exemplary(&service);
    world.state.set_integrations(Arc::new(all));
    let all = world.get("/integrations").await;
    let polls = one(&all, "circuit_breaker");
    assert_eq!(
        (&polls["state"], &polls["succeeded"]),
        (&"working".into(), &1.into())
    );
    assert_eq!(polls["url"], "http://127.0.0.1:9");
    humantime::parse_rfc3339(polls["last_success"].as_str().unwrap()).unwrap();
    assert_eq!(polls.get("error"), None);
    let metrics = one(&all, "metrics");
    assert_eq!(
        (&metrics["state"], &metrics["failed"]),
        (&"failing".into(), &1.into())
    );
    assert_eq!(metrics["dropped"], 7);
    assert!(metrics["error"].as_str().unwrap().starts_with("expected"));
    let word = &all["breakers"][0];
    assert_eq!(
        (&word["service"], &word["state"]),
        (&"main-backend".into(), &"open".into())
    );
    assert_eq!(word["missed"], 1);

    let health = world.get("/health").await;
    let problems = health["problems"].to_string();
    assert!(
        problems.contains("integration metrics: expected"),
        "{problems}"
    );
    assert!(
        problems.contains("service main-backend: all requests"),
        "{problems}"
    );
    // What everybody may ask says nothing of it.
    let open = world.ask(Method::GET, "/health").await;
    assert!(!open.body.contains("integration"), "{}", open.body);
}

#[tokio::test]
async fn a_service_that_is_refused_is_explained_and_listed() {
    let world = World::new();
    let snapshot = world.registry.snapshot();
    let guard = &snapshot.service("main-backend").unwrap().guard;
    let (now, minute) = (world.clock.now(), Duration::from_secs(60));
    crate::resilience::breaker::heard(guard, None, BreakerState::Open, minute, now);
    let listed = world.get("/breakers/main-backend").await;
    assert_eq!(listed["refused_for_seconds"], 60.0);
    assert_eq!(listed["breaker"]["state"], "closed");
    let told = world.get("/explain?url=/api/v1/auth/login").await;
    assert_eq!(told["refused"]["reason"], "breaker_backend_open", "{told}");
    world.clock.advance(minute);
    let listed = world.get("/breakers/main-backend").await;
    assert_eq!(listed.get("refused_for_seconds"), None);
}

#[tokio::test]
async fn metrics_can_be_switched_off() {
    let world = World::new();
    assert_eq!(world.ask(Method::GET, "/metrics").await.status, 200);
    let mut off = desired();
    off.integration = IntegrationSpec {
        serve_metrics: false,
        ..IntegrationSpec::default()
    };
    world
        .registry
        .apply(Change::Configure(Box::new(off)))
        .unwrap();
    let refused = world.ask(Method::GET, "/metrics").await;
    let problem = refused.problem(404);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("metrics.enabled")
    );
}
