//! `/breakers`: what is shown of circuit breakers, orders to them, and advice.

use serde_json::json;

use super::*;
use crate::{
    model::{BreakerSpec, BreakerState, GateState},
    resilience::{Report as Ended, Verdict, breaker},
};

/// What the list says of an instance of the main backend.
async fn of(world: &World, position: usize) -> Value {
    world.get("/breakers/main-backend").await["instances"][position]["breaker"].clone()
}

/// A request to an instance that fails, for its breaker.
fn fail(world: &World, position: usize) {
    let instance = world.instance("main-backend", position);
    world.serve(&instance, Outcome::Failure, 1, 1);
    let now = world.clock.now();
    instance.blame(0, now, true);
    let (verdict, chance) = (Verdict::Failure, 0);
    let report = Ended {
        verdict,
        began: now,
        now,
        chance,
    };
    let window = |seconds| instance.blamed(now, seconds);
    breaker::ended(
        &instance.gate,
        &BreakerSpec::default(),
        &report,
        window,
        |_| true,
    );
}

#[tokio::test]
async fn a_breaker_is_shown_as_it_goes_by_its_rules() {
    let world = World::new();
    let list = world.get("/breakers").await;
    let main = &list["services"][0];
    assert_eq!(main["service"], "main-backend");
    assert_eq!(
        (&main["all_open"], main.get("rules")),
        (&json!("refuse"), None)
    );
    assert_eq!(
        main["instance_rules"],
        json!({
            "consecutive_failures": 7, "failure_ratio": 0.5, "window_seconds": 10,
            "min_requests": 20, "open_seconds": 2.0, "max_open_seconds": 60.0,
            "probes": 1, "successes": 2,
        })
    );
    (0..3).for_each(|_| fail(&world, 1));
    assert_eq!(
        of(&world, 1).await,
        json!({
            "state": "closed", "held": false, "consecutive_failures": 3,
            "window": {"requests": 3, "failures": 3},
            "transitions": {"open": 0, "half_open": 0, "closed": 0},
        })
    );
    (0..4).for_each(|_| fail(&world, 1));
    world.clock.advance(Duration::from_millis(600));
    let open = of(&world, 1).await;
    assert_eq!(
        open,
        json!({
            "state": "open", "held": false, "probe_in_seconds": 1.4, "opened_in_a_row": 1,
            "transitions": {"open": 1, "half_open": 0, "closed": 0},
        })
    );
    let one = world.get(&format!("/instances/main-backend/{B}")).await;
    assert_eq!(one["breaker"], open);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(of(&world, 1).await["state"], "half_open");
    let metrics = world.ask(Method::GET, "/metrics").await.body;
    for line in [
        format!(
            "lb_instance_breaker_state{{service=\"main-backend\",instance=\"{B}\",state=\"half_open\"}} 1\n"
        ),
        format!(
            "lb_instance_breaker_transitions_total{{service=\"main-backend\",instance=\"{B}\",to=\"open\"}} 1\n"
        ),
        "lb_service_breaker_state{service=\"main-backend\",state=\"closed\"} 1\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn an_operator_holds_breakers_and_lets_go() {
    let world = World::new();
    let gate = |at| world.instance("main-backend", at).gate.state();
    let held = |at: usize| {
        let snapshot = world.registry.snapshot();
        snapshot.service("main-backend").unwrap().statuses[at].breaker
    };
    for name in [B, "http:/127.0.0.1:8081", "127.0.0.1:8081/"] {
        let path = format!("/breakers/main-backend/{name}");
        let data = world.post(&format!("{path}/open")).await.data();
        let breaker = &data["instances"][1]["breaker"];
        assert_eq!(
            (&breaker["state"], &breaker["held"]),
            (&json!("open"), &json!(true))
        );
        // The kernel's weights follow before the answer.
        assert_eq!(held(1), BreakerState::Open);
        assert_eq!(gate(0), GateState::NEW);
        let data = world.post(&format!("{path}/close")).await.data();
        assert_eq!(data["instances"][1]["breaker"]["state"], "closed");
        assert_eq!(gate(1), GateState::HeldClosed);
        let data = world.post(&format!("{path}/reset/")).await.data();
        assert_eq!(data["instances"][1]["breaker"]["held"], false);
        assert_eq!(held(1), BreakerState::Closed);
    }
    assert_eq!(
        world.get("/services").await["services"][0].get("breaker"),
        None
    );
    let data = world.post("/breakers/main-backend/open").await.data();
    assert_eq!(data["breaker"]["state"], "open");
    let service = &world.get("/services").await["services"][0];
    assert_eq!(service["breaker"]["held"], true);
    world.post("/breakers/main-backend/reset").await.data();
    let guard = Arc::clone(
        &world
            .registry
            .snapshot()
            .service("main-backend")
            .unwrap()
            .guard,
    );
    assert!(guard.gate.is_closed());
    for (method, path, status) in [
        (Method::GET, "/breakers/main-backend/open", 405),
        (Method::POST, "/breakers/main-backend", 405),
        (Method::POST, "/breakers/main-backend/shut", 404),
        (Method::POST, "/breakers/main-backend/127.0.0.1:9/open", 404),
        (Method::POST, "/breakers/nobody/open", 404),
        (Method::GET, "/breakers/nobody", 404),
    ] {
        let path = format!("/api/v1/loadbalancer{path}");
        world.ask(method, &path).await.problem(status);
    }
}

#[tokio::test]
async fn advice_is_heard_where_there_is_a_breaker_to_hear_it() {
    let world = World::new();
    let advise = async |body: &str| {
        let path = "/breakers/main-backend/advise";
        world.with_body(Method::POST, path, body).await
    };
    advise(r#"{"works": false}"#).await.problem(409);
    let mut wanted = desired();
    let main = wanted.services.iter_mut();
    let main = main.filter(|spec| spec.name.as_str() == "main-backend");
    main.for_each(|spec| spec.breakers.service = Some(BreakerSpec::of_service()));
    world
        .registry
        .apply(Change::Configure(Box::new(wanted)))
        .unwrap();
    let data = advise(r#"{"works": false, "seconds": 5}"#).await.data();
    assert_eq!(data["breaker"]["state"], "half_open");
    assert_eq!(data["advised_for_seconds"], 5.0);
    assert_eq!(data["rules"]["min_requests"], 50);
    let data = advise(r#"{"works": true}"#).await.data();
    assert_eq!(data["breaker"]["state"], "closed");
    assert_eq!(data.get("advised_for_seconds"), None);
    for body in [
        r#"{"works": false, "seconds": 0}"#,
        r#"{"works": 1}"#,
        "{}",
        r#"{"works": true, "x": 1}"#,
    ] {
        advise(body).await.problem(400);
    }
}
