//! What the resources say after real requests.

use serde_json::json;

use super::*;
use crate::{
    l7::GatewayStats,
    model::{Reason, RetryCause},
};

#[tokio::test]
async fn figures_are_those_of_the_counters() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    world.serve(&a, Outcome::Success, 3, 10);
    world.serve(&a, Outcome::Failure, 1, 20);
    world.serve(&b, Outcome::Success, 12, 5);
    let _held = b.begin(Algorithm::Adaptive, 0, &world.clock);
    let service = Arc::clone(world.registry.snapshot().service("main-backend").unwrap());
    service.stats.answered(Reason::ConnectFailed);
    service.stats.answered(Reason::ConnectFailed);
    service.stats.retries.made(RetryCause::Status);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    b.kernel.connections.store(4, relaxed);
    b.kernel.bytes_in.store(4_000, relaxed);
    a.kernel.dropped.store(1, relaxed);
    b.kernel.dropped.store(2, relaxed);

    let stats = world.get("/stats/main-backend").await;
    let requests = &stats["requests"];
    assert_eq!(requests["total"], 16);
    assert_eq!(
        (&requests["successes"], &requests["failures"]),
        (&json!(15), &json!(1))
    );
    assert_eq!(requests["success_rate"], 15.0 / 16.0);
    assert_eq!(requests["in_flight"], 1);
    assert_eq!(requests["mean_latency_ms"], 6.875);
    assert_eq!(requests["last_10s"]["requests"], 16);
    // The clock stands at 100.61 s: nine whole seconds and 0.61 of the running one.
    assert_eq!(requests["last_10s"]["requests_per_second"], 1.665);
    assert_eq!(requests["last_60s"]["failures"], 1);
    assert_eq!(stats["retries"], 1);
    let causes = json!([{"reason": "status", "count": 1}]);
    assert_eq!(stats["retry_causes"], causes);
    assert_eq!(stats["retry_refusals"], json!([]));
    let answers = json!([{"reason": "connect_failed", "status": 502, "count": 2}]);
    assert_eq!(stats["answers"], answers);
    assert_eq!(stats["kernel"]["connections"], 4);
    assert_eq!(stats["kernel"]["dropped"], 3);
    let shares = stats["shares"].as_array().unwrap();
    assert_eq!(shares[0]["weight"], 0.25);
    assert_eq!(shares[0]["request_share"], 0.25);
    assert_eq!(shares[1]["request_share_60s"], 0.75);
    assert_eq!(shares[1]["connection_share"], 1.0);

    let one = world.get(&format!("/instances/main-backend/{A}")).await;
    assert_eq!(one["requests"]["total"], 4);
    assert_eq!(one["requests"]["mean_latency_ms"], 12.5);
    // Peak EWMA: the failure's 20 ms, less 60 ms of decay.
    assert_eq!(one["requests"]["ewma_latency_ms"], 19.88);
    assert_eq!(one["requests"]["success_rate"], 0.75);

    let gateway = Arc::new(GatewayStats::default());
    gateway.answers.answered(Reason::NoRoute);
    world.state.set_gateway(gateway);
    world.clock.advance(Duration::from_secs(30));
    let later = world.get("/stats").await;
    assert_eq!(later["requests"]["total"], 16);
    assert_eq!(later["requests"]["last_10s"]["requests"], 0);
    assert_eq!(later["requests"]["last_10s"].get("success_rate"), None);
    assert_eq!(later["requests"]["last_60s"]["requests"], 16);
    assert_eq!(later["retries"], 1);
    assert_eq!(later["instances"]["total"], 3);
    let answers = json!([{"reason": "no_route", "status": 404, "count": 1}]);
    assert_eq!(
        later["gateway"],
        json!({"accepted": 0, "open": 0, "answers": answers})
    );
    assert_eq!(later["services"][0]["service"], "main-backend");
}

#[tokio::test]
async fn an_instance_shows_every_state_it_is_in() {
    let world = World::new();
    let b = world.instance("main-backend", 1);
    world.health(&b, Health::Unhealthy, "connection refused");
    let one = world.get(&format!("/instances/main-backend/{B}")).await;
    assert_eq!(one["health"], "unhealthy");
    assert_eq!(one["health_detail"], "connection refused");
    assert_eq!(one["available"], false);
    assert_eq!(one["weight"], 30);
    assert_eq!(one["effective_weight"], 0.0);
    assert_eq!(one["admin"], "enabled");
    assert_eq!(one["address"], "127.0.0.1:8081");
    assert_eq!(one.get("drained"), None);
    let list = world.get("/instances/main-backend").await;
    assert_eq!(list["instances"][0]["effective_weight"], 10.0);
    assert_eq!(list["instances"][0]["score"], 1.0);
    assert_eq!(list["instances"][1], one);
    assert_eq!(
        world.get("/instances").await["instances"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_drain_is_over_when_requests_and_connections_are() {
    let world = World::new();
    let b = world.instance("main-backend", 1);
    let request = b.begin(Algorithm::Adaptive, 0, &world.clock);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    b.kernel.live.store(1, relaxed);
    let path = format!("/instances/main-backend/{B}");
    let drained = async || world.get(&path).await["drained"].clone();
    let answer = world.post(&format!("{path}/drain")).await.data();
    assert_eq!(
        (&answer["admin"], &answer["drained"]),
        (&json!("draining"), &json!(false))
    );
    drop(request);
    assert_eq!(drained().await, false);
    b.kernel.live.store(0, relaxed);
    assert_eq!(drained().await, true);
    // Asking for what already is changes nothing and is no mistake.
    let revision = world.registry.snapshot().revision;
    assert_eq!(world.post(&format!("{path}/drain")).await.status, 200);
    assert_eq!(world.registry.snapshot().revision, revision);
}

#[tokio::test]
async fn a_drain_is_judged_by_figures_of_just_now() {
    let world = World::new();
    let ocr = world.instance("ocr-service", 0);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let path = "/instances/ocr-service/127.0.0.1:8004";
    world.post(&format!("{path}/drain")).await;
    let old = Report {
        at: Timestamp(0),
        ..(*world.state.report()).clone()
    };
    world.reporter.publish(old.clone());
    // The connection that the kernel's maps hold has not been read so far.
    let worker = async {
        world.reporter.asked().await;
        ocr.kernel.live.store(1, relaxed);
        let at = world.clock.now();
        world.reporter.publish(Report { at, ..old });
    };
    let (shown, ()) = tokio::join!(world.get(path), worker);
    assert_eq!(shown["drained"], false);
}

#[tokio::test]
async fn algorithms_change_under_way_and_keep_the_counters() {
    let world = World::new();
    let a = world.instance("main-backend", 0);
    world.serve(&a, Outcome::Success, 7, 1);
    let mut previous = "adaptive".to_owned();
    for algorithm in Algorithm::ALL {
        let body = json!({ "algorithm": algorithm.as_str() }).to_string();
        let got = world.put("/algorithms/main-backend", &body).await;
        let data = got.data();
        assert_eq!(data["algorithm"], algorithm.as_str());
        assert_eq!(data["previous"], previous.as_str());
        assert_eq!(data["available"].as_array().unwrap().len(), 7);
        let snapshot = world.registry.snapshot();
        assert_eq!(
            snapshot.service("main-backend").unwrap().spec.algorithm,
            algorithm
        );
        let total = &world.get("/stats/main-backend").await["requests"]["total"];
        assert_eq!(*total, 7);
        previous = algorithm.as_str().to_owned();
    }
    let all = world.get("/algorithms").await;
    assert_eq!(all["algorithms"].as_array().unwrap().len(), 7);
    let services = json!([
        {"service": "main-backend", "algorithm": "adaptive"},
        {"service": "ocr-service", "algorithm": "consistent_hash"},
    ]);
    assert_eq!(all["services"], services);
    let one = world.get("/algorithms/ocr-service").await;
    assert_eq!(one["hash_key"], "header x-user");
    assert_eq!(one.get("previous"), None);
}

#[tokio::test]
async fn health_tells_the_gateway_from_the_services() {
    let world = World::new();
    let far = SocketAddr::from(([192, 0, 2, 7], 1));
    let gateway = async || {
        let request = Request::get("/health").body(Body::empty()).unwrap();
        world.send(with_peer(request, far)).await
    };
    assert_eq!(gateway().await.data()["status"], "healthy");
    assert_eq!(world.get("/health").await["status"], "healthy");

    let b = world.instance("main-backend", 1);
    world.health(&b, Health::Unhealthy, "refused");
    assert_eq!(gateway().await.data()["status"], "healthy");
    let health = world.get("/health").await;
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["services"][0]["status"], "degraded");
    assert_eq!(
        health["services"][0]["unhealthy"],
        json!([format!("{B}: refused")])
    );
    assert_eq!(health["services"][1]["status"], "healthy");

    let a = world.instance("main-backend", 0);
    world.health(&a, Health::Unhealthy, "refused");
    let got = gateway().await;
    assert_eq!(got.status, 200);
    let data = got.data();
    assert_eq!(data["status"], "degraded");
    assert_eq!(
        (&data["services"], &data["serving"]),
        (&json!(2), &json!(1))
    );
    assert!(
        !got.body.contains("8081"),
        "strangers see no instances: {}",
        got.body
    );

    // An instance that an operator took out is no fault, a service without any is.
    world
        .post("/instances/ocr-service/127.0.0.1:8004/disable")
        .await;
    assert_eq!(world.get("/health").await["status"], "unhealthy");

    world.state.stop();
    let got = gateway().await;
    assert_eq!(got.status, 503);
    assert_eq!(got.json()["data"]["status"], "stopping");
}

#[tokio::test]
async fn the_configuration_in_force_can_be_read() {
    let world = World::new();
    let services = world.get("/services").await;
    let main = &services["services"][0];
    assert_eq!(
        main["routes"],
        json!(["/api/v1/auth/*", "*.example.org/exact"])
    );
    assert_eq!(main["health_check"]["probe"], "http GET /health → 200-399");
    assert_eq!(main["health_check"]["interval_ms"], 5000);
    assert_eq!(main["timeouts"]["request_ms"], 30_000);
    let ocr = &services["services"][1];
    assert_eq!(ocr["vips"], json!(["udp/192.0.2.1:53"]));
    assert_eq!(ocr.get("health_check"), None);
    let routes = world.get("/routes").await;
    let second = json!({"host": "*.example.org", "path": "/exact", "service": "main-backend"});
    assert_eq!(routes["routes"][1], second);
    let vips = world.get("/vips").await;
    assert_eq!(vips["vips"][0]["forwarding"], "l2dsr");
    assert_eq!(vips["vips"][0]["port"], 53);
}

#[tokio::test]
async fn the_packet_path_reports_what_it_does() {
    let world = World::new();
    let datapath = world.get("/datapath").await;
    assert_eq!(
        (&datapath["attached"], &datapath["mode"]),
        (&json!(true), &json!("generic"))
    );
    assert_eq!(
        datapath["interfaces"],
        json!([{"interface": "eth0", "mode": "generic"}])
    );
    let packets = json!({"received": 100, "forwarded": 60, "passed": 37, "dropped": 3});
    assert_eq!(datapath["packets"], packets);
    let ttl = json!({"number": 22, "counter": "ttl_expired", "kind": "dropped", "count": 3});
    assert!(
        datapath["counters"].as_array().unwrap().contains(&ttl),
        "{datapath}"
    );
    assert_eq!(datapath["vips"][0]["vip"], "udp/192.0.2.1:53");
    assert_eq!(datapath["vips"][0]["bytes_in"], 6_000);
    assert_eq!(datapath["vips"][0]["live"], 4);
    assert_eq!(datapath["connections"]["max"], 1000);
    assert_eq!(datapath["tables"], json!({"used": 1, "max": 63}));
    assert_eq!(world.get("/health").await["status"], "healthy");

    let mut broken = (*world.state.report()).clone();
    broken.reconcile.error = Some("no memory".to_owned());
    broken.warnings = vec!["no route to 10.0.0.9\nfor many reasons".to_owned()];
    broken.vips[0].live = None;
    world.reporter.publish(broken);
    // Before the first walk is over nobody knows, which is not the same as none.
    let datapath = world.get("/datapath").await;
    assert_eq!(datapath["vips"][0].get("live"), None);
    let problems = &world.get("/health").await["problems"];
    let expected = json!([
        "the kernel does not hold the current state: no memory",
        "no route to 10.0.0.9",
    ]);
    assert_eq!(*problems, expected);

    let reason = "not root".to_owned();
    let off = Report {
        reason,
        ..Report::default()
    };
    world.reporter.publish(off);
    let datapath = world.get("/datapath").await;
    assert_eq!(
        (&datapath["attached"], &datapath["reason"]),
        (&json!(false), &json!("not root"))
    );
    assert_eq!(datapath.get("mode"), None);
    relayed_without_being_asked_for(&world).await;
    let health = world.ask(Method::GET, "/health").await;
    assert_eq!(health.data()["status"], "degraded");
    assert!(!health.body.contains("not root"));
    let health = world.get("/health").await;
    assert!(
        health["problems"][0]
            .as_str()
            .unwrap()
            .ends_with("not root"),
        "{health}"
    );
}

#[tokio::test]
async fn a_reload_tells_what_it_did() {
    let world = World::with_reload(Arc::new(|_| {
        Box::pin(async {
            Ok(Reloaded {
                revision: 9,
                configuration: 7,
                changes: vec!["routes changed".to_owned()],
                needs_restart: vec!["workers".to_owned()],
                ..Reloaded::default()
            })
        })
    }));
    let got = world
        .ask(Method::POST, "/api/v1/admin/loadbalancer/reload")
        .await;
    let done = json!({
        "revision": 9,
        "config_revision": 7,
        "changes": ["routes changed"],
        "needs_restart": ["workers"]
    });
    assert_eq!(got.data(), done);
    assert_eq!(world.get("/health").await["last_reload"]["success"], true);
    let metrics = world.ask(Method::GET, "/metrics").await.body;
    assert!(
        metrics.contains("lb_reloads_total{result=\"applied\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn recoveries_are_listed_and_forced() {
    use crate::model::Health;

    let world = World::new();
    assert_eq!(world.get("/recovery").await["recoveries"], json!([]));
    let b = world.instance("main-backend", 1);
    world.health(&b, Health::Unhealthy, "refused");
    world.health(&b, Health::Healthy, "200");
    let waiting = &world.get("/recovery").await["recoveries"][0];
    assert_eq!(waiting["recovery"]["state"], "waiting");
    assert_eq!(waiting["effective_weight"], 0.0);
    world.recover();
    let climbing = &world.get("/recovery/").await["recoveries"][0];
    assert_eq!(
        climbing["recovery"],
        json!({"state": "climbing", "share": 0.1, "relapses": 0, "due_in_seconds": 30.0})
    );
    assert_eq!(
        (&climbing["instance"], &climbing["weight"]),
        (&json!(B), &json!(30))
    );
    assert_eq!(climbing["effective_weight"], 3.0);
    assert_eq!(climbing["settings"]["threshold"], 0.8);

    let one = world.get(&format!("/instances/main-backend/{B}")).await;
    assert_eq!(one["recovery"]["share"], 0.1);
    let path = format!("/recovery/main-backend/{B}");
    for _ in 0..2 {
        let forced = world.post(&format!("{path}/force")).await.data();
        assert_eq!(forced["effective_weight"], 30.0);
        assert_eq!(forced.get("recovery"), None);
    }
    assert_eq!(world.get("/recovery").await["recoveries"], json!([]));
    for (method, path, status) in [
        (Method::GET, format!("{path}/force"), 405),
        (Method::POST, path, 404),
        (
            Method::POST,
            "/recovery/main-backend/127.0.0.1:9/force".to_owned(),
            404,
        ),
        (Method::POST, format!("/recovery/nobody/{B}/force"), 404),
    ] {
        let path = format!("/api/v1/loadbalancer{path}");
        world.ask(method, &path).await.problem(status);
    }
}

/// A relay that stands in for the kernel path is a problem by itself; one that was asked for is none.
async fn relayed_without_being_asked_for(world: &World) {
    for (reason, status) in [("", "healthy"), ("not root", "degraded")] {
        let mut report = Report {
            mode: Some(PathMode::Relay),
            reason: reason.to_owned(),
            ..Report::default()
        };
        report.reconcile.revision = 1;
        world.reporter.publish(report.clone());
        let datapath = world.get("/datapath").await;
        assert_eq!(
            (&datapath["attached"], &datapath["mode"]),
            (&json!(false), &json!("relay"))
        );
        let problems = world.get("/health").await["problems"].to_string();
        let says = problems.contains("relayed by the daemon, because the kernel path is not there");
        assert_eq!(says, !reason.is_empty(), "{problems}");
        let health = world.ask(Method::GET, "/health").await;
        let problems = health.data()["problems"].to_string();
        assert_eq!(problems.contains("relayed"), status == "degraded");
        // Another lb may serve what a relay cannot.
        for (unserved, reasons) in [(0, 0), (1, 1)] {
            report.unserved = unserved;
            world.reporter.publish(report.clone());
            let ready = world.ask(Method::GET, "/readyz").await.body;
            assert_eq!(ready.matches("packet path").count(), reasons, "{ready}");
        }
    }
}
