//! `/config`, `/debug` and `/reset`.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    config::{self, Overrides, Sources},
    model::{Lesson, LoadReport},
    resilience::Factors,
};

const CONFIG: &str = "/api/v1/loadbalancer/config";
const DEBUG: &str = "/api/v1/admin/loadbalancer/debug";
const RESET: &str = "/api/v1/admin/loadbalancer/reset";

fn settings(variables: &[(&str, &str)]) -> Vec<config::Setting> {
    let env = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env: BTreeMap<_, _> = env.collect();
    config::load(&Sources::new(Overrides::default(), env))
        .unwrap()
        .settings
}

fn setting(config: &Value, path: &str) -> Value {
    let settings = config["settings"].as_array().unwrap();
    settings
        .iter()
        .find(|setting| setting["path"] == path)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn settings_are_shown_with_their_origin_and_without_secrets() {
    let later = [
        ("MAIN_BACKEND_HOSTS", "http://127.0.0.1:8080"),
        ("LB_WORKERS", "3"),
    ];
    let reload: Reload = Arc::new(move |_| {
        Box::pin(async move {
            Ok(Reloaded {
                needs_restart: vec!["gateway.workers".to_owned()],
                settings: settings(&later),
                ..Reloaded::default()
            })
        })
    });
    let world = World::with_reload(reload);
    world.state.configured(&settings(&[
        ("MAIN_BACKEND_HOSTS", "http://127.0.0.1:8080"),
        ("LB_DEFAULT_ALGORITHM", "least_connections"),
        ("LB_API_TOKEN", "hush-hush"),
        ("LB_WORKERS", "2"),
    ]));
    let got = world.ask(Method::GET, CONFIG).await;
    assert!(!got.body.contains("hush-hush"), "{}", got.body);
    let config = got.data();
    let token = setting(&config, "api.token");
    assert_eq!(token["value"], "(secret)");
    assert_eq!(token["origin"], "environment variable LB_API_TOKEN");
    assert_eq!(
        setting(&config, "gateway.header_timeout")["origin"],
        "default"
    );
    // The service was started with adaptive, which the variable does not say.
    let algorithm = setting(&config, "services.main-backend.algorithm");
    assert_eq!(algorithm["value"], "\"adaptive\"");
    assert_eq!(algorithm["origin"], "run time");
    assert_eq!(algorithm["configured"], "\"least_connections\"");

    world.state.reload("test").await.unwrap();
    let config = world.ask(Method::GET, CONFIG).await.data();
    let workers = setting(&config, "gateway.workers");
    assert_eq!(
        (&workers["value"], &workers["waiting"]),
        (&"2".into(), &"3".into())
    );
}

#[tokio::test]
async fn debug_tells_what_decisions_are_made_by() {
    let world = World::new();
    let a = world.instance("main-backend", 0);
    world.serve(&a, Outcome::Success, 1, 4);
    let _held = a.begin(Algorithm::Adaptive, 0, &world.clock);
    let debug = world.ask(Method::GET, DEBUG).await.data();
    assert_eq!(debug["revision"], world.registry.snapshot().revision);
    assert_eq!(
        (&debug["workers"], &debug["reset_revision"]),
        (&1.into(), &0.into())
    );
    assert_eq!(debug["datapath"]["attached"], true);
    let service = &debug["services"][0];
    assert_eq!(service["algorithm"], "adaptive");
    assert!(!service["balancer"].as_str().unwrap().is_empty());
    let member = &service["members"][0];
    assert_eq!(
        (&member["instance"], &member["in_flight"]),
        (&A.into(), &1.into())
    );
    assert_eq!(
        (&member["ewma_latency_ms"], &member["asked_seconds_ago"]),
        (&4.0.into(), &0.0.into())
    );
    assert_eq!(service["members"][1].get("asked_seconds_ago"), None);
}

#[tokio::test]
async fn a_reset_forgets_what_was_measured_and_set_and_nothing_else() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    world.serve(&a, Outcome::Failure, 5, 50);
    let held = a.begin(Algorithm::Adaptive, 0, &world.clock);
    a.measured.set_score(0.2);
    world.health(&b, Health::Unhealthy, "refused");
    let service = world
        .registry
        .snapshot()
        .service("main-backend")
        .unwrap()
        .name()
        .clone();
    for change in [
        Change::Algorithm {
            service: service.clone(),
            algorithm: Algorithm::RoundRobin,
        },
        Change::Admin {
            service,
            instance: A.to_owned(),
            state: AdminState::Draining,
        },
    ] {
        world.registry.apply(change).unwrap();
    }

    let done = world.ask(Method::POST, RESET).await.data();
    assert_eq!(
        (
            &done["instances"],
            &done["changes"].as_array().unwrap().len()
        ),
        (&3.into(), &2)
    );
    let snapshot = world.registry.snapshot();
    assert_eq!(
        (done["revision"].as_u64(), snapshot.reset),
        (Some(snapshot.revision), snapshot.revision)
    );
    let service = snapshot.service("main-backend").unwrap();
    assert_eq!(service.spec.algorithm, Algorithm::Adaptive);
    assert_eq!(service.statuses[0].admin, AdminState::Enabled);
    // The same instances, with nothing in their books but what is under way and what checks found.
    assert!(Arc::ptr_eq(&service.members[0].instance, &a));
    assert_eq!(a.totals_of_all(), Default::default());
    assert_eq!(a.window(world.clock.now(), 0, 60).requests, 0);
    assert_eq!((a.latency.get(world.clock.now()), a.asked()), (None, None));
    assert!((a.measured.score() - 1.0).abs() < f32::EPSILON);
    assert_eq!(
        (a.in_flight(), service.statuses[1].health),
        (1, Health::Unhealthy)
    );
    let path = "/api/v1/loadbalancer/performance?window=1h";
    let performance = world.ask(Method::GET, path).await.data();
    assert_eq!(performance["total"]["requests"], 0);
    // And it goes on counting.
    drop(held);
    world.serve(&a, Outcome::Success, 2, 1);
    assert_eq!(a.window(world.clock.now(), 0, 60).requests, 2);
    let performance = world.ask(Method::GET, path).await.data();
    assert_eq!(performance["total"]["requests"], 2);
}

fn lowered() -> Factors {
    Factors {
        measured: 0.25,
        reported: 0.5,
    }
}

#[tokio::test]
async fn a_reset_of_one_service_forgets_its_weights_and_nothing_else() {
    let world = World::new();
    let b = world.instance("main-backend", 1);
    let report = LoadReport {
        utilization: 0.5,
        rate: 20.0,
        errors: 0.0,
    };
    let now = world.clock.now();
    b.reports.record(now, report, Duration::from_secs(180));
    b.measured.learned.update(|_| {
        Some(Lesson {
            algorithm: Algorithm::Adaptive,
            factor: 0.25,
            evidence: now,
        })
    });
    let change = Change::Factors(vec![(b.id, lowered())]);
    world.registry.apply(change).unwrap();
    let path = "/api/v1/loadbalancer/algorithms/main-backend";
    let detail = world.ask(Method::GET, path).await.data();
    let second = &detail["weights"][1];
    assert_eq!(second["factor"], 0.25);
    assert_eq!(second["report"]["factor"], 0.5);
    assert_eq!(second["report"]["requests_per_second"], 20.0);
    assert!((second["learned"]["factor"].as_f64().unwrap() - 0.25).abs() < 1e-3);

    world.serve(&b, Outcome::Success, 3, 1);
    let detail = world
        .ask(Method::POST, &format!("{path}/reset"))
        .await
        .data();
    let second = &detail["weights"][1];
    assert_eq!(
        (&second["factor"], &second["report"]["factor"]),
        (&1.0.into(), &1.0.into())
    );
    assert_eq!(second.get("learned"), None);
    assert_eq!(second["effective_weight"], 30.0);
    assert_eq!(b.totals_of_all().successes, 3);
    let missing = "/api/v1/loadbalancer/algorithms/nothing/reset";
    assert_eq!(world.ask(Method::POST, missing).await.status, 404);
}

#[tokio::test]
async fn a_reset_forgets_measured_weights() {
    let world = World::new();
    let b = world.instance("main-backend", 1);
    let factor = || {
        let snapshot = world.registry.snapshot();
        snapshot.service("main-backend").unwrap().statuses[1]
            .factors
            .measured
    };
    let change = Change::Factors(vec![(b.id, lowered())]);
    world.registry.apply(change).unwrap();
    assert!(factor() < 0.5);
    let done = world.ask(Method::POST, RESET).await.data();
    assert_eq!(
        done["changes"][0],
        "measured weights of main-backend changed"
    );
    assert!((factor() - 1.0).abs() < f32::EPSILON);
}
