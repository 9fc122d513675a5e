//! `/performance`: exact counts and near quantiles of a window, and queries that make no sense.

use super::*;

const PATH: &str = "/api/v1/loadbalancer/performance";

async fn performance(world: &World, query: &str) -> Value {
    world
        .ask(Method::GET, &format!("{PATH}{query}"))
        .await
        .data()
}

fn near(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!(
        (value - expected).abs() <= expected / 8.0,
        "{value}, expected {expected}"
    );
}

#[tokio::test]
async fn a_window_is_about_what_happened_in_it() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    world.serve(&b, Outcome::Failure, 10, 100);
    // Two minutes later those ten are in the long windows alone.
    world.clock.advance(Duration::from_secs(120));
    world.serve(&a, Outcome::Success, 98, 10);
    world.serve(&a, Outcome::Failure, 2, 1000);

    let minute = performance(&world, "?window=1m&service=main-backend").await;
    assert_eq!(minute["window"], "1m");
    let total = &minute["total"];
    assert_eq!(
        (&total["requests"], &total["failures"]),
        (&100.into(), &2.into())
    );
    assert_eq!(total["error_rate"], 0.02);
    near(&total["mean_ms"], 29.8);
    near(&total["p50_ms"], 10.0);
    near(&total["p95_ms"], 10.0);
    near(&total["p99_ms"], 1000.0);
    assert_eq!(total["max_ms"], 1000.0);
    let covered = minute["covered_seconds"].as_f64().unwrap();
    assert!((59.0..=60.0).contains(&covered), "{covered}");
    near(&total["request_rate"], 100.0 / covered);
    near(&total["throughput"], 98.0 / covered);
    let service = &minute["services"][0];
    assert_eq!(
        (&service["service"], &service["requests"]),
        (&"main-backend".into(), &100.into())
    );
    assert_eq!(service["instances"][0]["instance"], A);
    assert_eq!(service["instances"][0]["requests"], 100);
    let idle = &service["instances"][1];
    assert_eq!(
        (&idle["requests"], &idle["request_rate"]),
        (&0.into(), &0.0.into())
    );
    assert!(idle.get("p99_ms").is_none() && idle.get("error_rate").is_none());

    let hour = performance(&world, "?window=1h").await;
    assert_eq!(hour["total"]["requests"], 110);
    assert_eq!(hour["services"].as_array().unwrap().len(), 2);
    // The process is younger than an hour.
    assert!(hour["covered_seconds"].as_f64().unwrap() < 230.0);
    let short = performance(&world, "?window=1s").await;
    assert_eq!(short["total"]["requests"], 1);
    assert_eq!(performance(&world, "/").await["window"], "1m");
}

#[tokio::test]
async fn queries_are_read_or_refused() {
    let world = World::new();
    for window in ["1s", "30s", "5m", "1h", "60m", "1m%2030s"] {
        performance(&world, &format!("?window={window}")).await;
    }
    for (query, pointer) in [
        ("?window=0s", "window"),
        ("?window=1500ms", "window"),
        ("?window=61m", "window"),
        ("?window=5", "window"),
        ("?window=", "window"),
        ("?window=a%22b", "window"),
        ("?window=1m&window=2m", "window"),
        ("?widow=1m", ""),
    ] {
        let got = world.ask(Method::GET, &format!("{PATH}{query}")).await;
        let problem = got.problem(400);
        assert_eq!(problem["type"], "urn:lb:problem:bad-query", "{query}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
    let got = world.ask(Method::GET, &format!("{PATH}?window=5")).await;
    let error = got.problem(400)["error"].to_string();
    assert!(
        error.contains("from 1s to 1h") && error.contains("found"),
        "{error}"
    );
    let got = world
        .ask(Method::GET, &format!("{PATH}?service=nobody"))
        .await;
    assert_eq!(got.problem(404)["known"][0], "main-backend");
}
