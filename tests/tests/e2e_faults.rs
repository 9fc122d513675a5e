//! Instances that are in trouble: how soon traffic leaves them, by what they are found, and how it
//! comes back.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::Method;
use lb_tests::algorithms::{self, asked, endless, http_of, services, set};
use lb_tests::cleanup;
use lb_tests::client::http;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::instance::{self, Instance};
use lb_tests::scene::{Configuration, Scene, address};
use lb_tests::topology::Family;
use serde_json::Value;

/// The instance that is in trouble.
const BAD: &str = "10.77.0.11:8080";

/// Breakers would take a bad instance away as well: here it is ejections that are looked at.
const NO_BREAKER: &str = "breaker = { enabled = false }";

#[test]
#[ignore = "needs root"]
fn an_instance_that_fails_at_once_gets_next_to_nothing_under_every_algorithm() -> Result<()> {
    let scene = Scene::new(3, algorithms::configuration(None, NO_BREAKER).text())?;
    let loads: Vec<Load> = services()
        .map(|service| endless(&scene, &service, 2, Duration::from_millis(1)))
        .collect();
    let flowing = cleanup::within(Duration::from_secs(5), || {
        loads.iter().all(|load| load.sent() > 50)
    });
    ensure!(flowing, "the load does not begin");
    set(&scene, http_of(11), "status/500")?;
    std::thread::sleep(Duration::from_secs(2));
    let before = scene.daemon.get("/stats")?;
    std::thread::sleep(Duration::from_secs(1));
    let after = scene.daemon.get("/stats")?;
    for load in loads {
        load.stop()?;
    }
    for service in services() {
        let ((bad, all), (later_bad, later_all)) =
            (asked(&before, &service)?, asked(&after, &service)?);
        let (bad, all) = (later_bad - bad, later_all - all);
        ensure!(
            all >= 50.0 && bad <= all / 100.0,
            "{service}: {bad} of {all} requests went to the bad instance"
        );
        let one = scene.daemon.get(&format!("/instances/{service}/{BAD}"))?;
        let failures = one["requests"]["failures"].as_f64().unwrap_or_default();
        // Algorithms that go by load and latency may have left it before it failed often enough.
        let asked = !["least-connections", "least-response-time", "adaptive"].contains(&&*service);
        if asked || failures >= 5.0 {
            ensure!(
                one["ejected"]["by"] == "consecutive_failures" && one["available"] == false,
                "{service}: {one}"
            );
            // It was asked until it had failed five times and was silent for longer than a busy
            // instance would be, which is a seventh of a second at a hundred requests a second.
            ensure!((5.0..=60.0).contains(&failures), "{service}: {one}");
        }
    }
    let health = scene.daemon.get("/health")?;
    ensure!(
        health.to_string().contains(" failures in a row"),
        "{health}"
    );
    let metrics = scene.daemon.cli(&["metrics"])?;
    let total = format!(
        "lb_instance_ejections_total{{service=\"round-robin\",instance=\"{BAD}\",detector=\"consecutive_failures\"}} 1"
    );
    ensure!(metrics.contains(&total), "{metrics}");
    // An operator who knows better.
    let back = scene
        .daemon
        .post(&format!("/instances/round-robin/{BAD}/uneject"))?;
    ensure!(
        back["ejected"].is_null() && back["recovery"].is_object(),
        "{back}"
    );
    let log = scene.daemon.log();
    ensure!(log.contains("instance ejected"), "{log}");
    Ok(())
}

/// Ways to be bad, each with the port of an instance of its own, and what finds it.
const TROUBLE: [(&str, u16, &str); 4] = [
    ("killed", 9001, "consecutive_failures"),
    ("paused", 9002, "consecutive_failures"),
    ("slow", 9003, "latency"),
    ("unsteady", 9004, "success_rate"),
];

#[test]
#[ignore = "needs root"]
fn whoever_is_killed_paused_slow_or_unsteady_is_found_and_comes_back() -> Result<()> {
    let mut configuration = Configuration::new("[\"0.0.0.0:80\"]");
    for (name, port, _) in TROUBLE {
        let good = [12, 13]
            .map(|host| format!("\"{}\"", http_of(host)))
            .join(", ");
        configuration = configuration
            .with(&format!(
                "[services.{name}]\ninstances = [\"10.77.0.11:{port}\", {good}]\n{NO_BREAKER}\n\
                 timeouts = {{ request = \"600ms\" }}\nretry = {{ max = 0 }}\n\
                 outlier = {{ window = \"2s\", min_requests = 20, base_time = \"1s\", \
                 latency_factor = 4 }}\nrecovery = {{ interval = \"200ms\", step = 0.9 }}"
            ))
            .route(&format!("/{name}"), name);
    }
    let mut scene = Scene::new(3, configuration.text())?;
    let host = scene.host("i1")?.clone();
    let start = |(name, port, _): &(&str, u16, &str)| {
        let at = SocketAddr::new(IpAddr::V4(host.v4), *port);
        Instance::start_http(&host, name, at)
    };
    let mut bad: Vec<Instance> = TROUBLE.iter().map(start).collect::<Result<_>>()?;
    let loads: Vec<Load> = TROUBLE
        .iter()
        .map(|(name, ..)| endless(&scene, name, 4, Duration::from_millis(5)))
        .collect();
    // Evidence of latencies and rates takes a whole window.
    std::thread::sleep(Duration::from_millis(2500));
    let at = |port| SocketAddr::new(address(11, Family::V4), port);
    bad[0].kill()?;
    bad[1].pause()?;
    set(&scene, at(TROUBLE[2].1), "delay/60")?;
    set(&scene, at(TROUBLE[3].1), "failing/30")?;
    let begun = Instant::now();
    for (name, port, detector) in TROUBLE {
        let path = format!("/instances/{name}/10.77.0.11:{port}");
        let limit = Duration::from_secs(6).saturating_sub(begun.elapsed());
        let metric = format!(
            "lb_instance_ejections_total{{service=\"{name}\",instance=\"10.77.0.11:{port}\",detector=\"{detector}\"}}"
        );
        let found = cleanup::within(limit, || {
            let metrics = scene.daemon.cli(&["metrics"]).unwrap_or_default();
            let mut lines = metrics.lines();
            lines.any(|line| line.starts_with(&metric) && !line.ends_with(" 0"))
        });
        ensure!(
            found,
            "{name} is not ejected by {detector}: {}\n{}",
            scene.daemon.get(&path)?,
            scene.daemon.log()
        );
    }
    // Nobody who is busy refuses connections: five failures are enough, and what was under way.
    let killed = scene.daemon.get("/instances/killed/10.77.0.11:9001")?;
    let failures = killed["requests"]["failures"].as_f64().unwrap_or_default();
    ensure!((5.0..=20.0).contains(&failures), "{killed}");
    bad[0] = start(&TROUBLE[0])?;
    bad[1].resume()?;
    set(&scene, at(TROUBLE[2].1), "delay/0")?;
    set(&scene, at(TROUBLE[3].1), "failing/0")?;
    for (name, port, _) in TROUBLE {
        let path = format!("/instances/{name}/10.77.0.11:{port}");
        let back = |one: &Value| {
            one["ejected"].is_null() && one["recovery"].is_null() && one["available"] == true
        };
        // It may have been ejected twice, and so for two seconds.
        scene.daemon.wait_for(&path, Duration::from_secs(6), back)?;
    }
    for (load, (name, ..)) in loads.into_iter().zip(TROUBLE) {
        let all = load.stop()?;
        ensure!(all.of(name) > 0, "{name}: {all}");
    }
    scene.instances.append(&mut bad);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn who_joins_starts_slowly_and_a_service_of_which_none_is_left_fails_open() -> Result<()> {
    let configuration = |weights: &[u16]| {
        Configuration::new("[\"0.0.0.0:80\"]")
            .service_over(
                &[Family::V4],
                "shop",
                instance::HTTP,
                weights,
                "slow_start = { enabled = true, window = \"20s\" }\n\
                 health_check = { enabled = true, type = \"http\", interval = \"200ms\", \
                 timeout = \"150ms\", rise = 1, fall = 2 }",
            )
            .route("/shop", "shop")
    };
    let scene = Scene::new(3, configuration(&[10, 10]).text())?;
    let requests = |count| {
        let plan = Plan::requests(scene.gateway(80), "/shop/{}", count);
        load::run(&scene.topology.client.namespace, &plan)
    };
    let tally = requests(40)?;
    ensure!(
        (tally.share("i1") - 0.5).abs() < 0.1,
        "nobody starts slowly with the daemon: {tally}"
    );
    scene
        .daemon
        .configure(configuration(&[10, 10, 10]).text())?;
    scene.daemon.cli(&["reload"])?;
    let tally = requests(210)?;
    ensure!((tally.share("i3") - 1.0 / 21.0).abs() < 0.02, "{tally}");
    let path = "/instances/shop/10.77.0.13:8080";
    let one = scene.daemon.get(path)?;
    ensure!(one["slow_start"]["share"] == 0.1, "{one}");
    scene.daemon.wait_for(path, Duration::from_secs(4), |one| {
        one["slow_start"]["share"].as_f64() > Some(0.1)
    })?;
    let forced = scene.daemon.post("/recovery/shop/10.77.0.13:8080/force")?;
    ensure!(forced["slow_start"].is_null(), "{forced}");
    let tally = requests(300)?;
    ensure!((tally.share("i3") - 1.0 / 3.0).abs() < 0.02, "{tally}");

    // All checks fail, although the instances answer: that is better than nobody who answers.
    for host in 11..=13 {
        set(&scene, http_of(host), "status/404")?;
    }
    let health = scene
        .daemon
        .wait_for("/health", Duration::from_secs(4), |health| {
            health["services"][0]["fail_open"] == "none_left"
        })?;
    ensure!(health["services"][0]["status"] == "unhealthy", "{health}");
    let namespace = &scene.topology.client.namespace;
    let answer = http::request(namespace, scene.gateway(80), Method::GET, "/shop", "")?;
    ensure!(
        answer.status == 404 && answer.instance().is_some(),
        "expected an instance's answer, found {answer:?}"
    );
    let metrics = scene.daemon.cli(&["metrics"])?;
    let metric = "lb_service_fail_open{service=\"shop\",reason=\"none_left\"} 1";
    ensure!(metrics.contains(metric), "{metrics}");
    let explained = scene.daemon.get("/explain?url=/shop")?;
    ensure!(explained["fail_open"] == "none_left", "{explained}");
    let log = scene.daemon.log();
    ensure!(log.contains("service fails open"), "{log}");
    Ok(())
}
