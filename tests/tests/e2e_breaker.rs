//! Circuit breakers: what an instance that fails is still asked, by requests and by packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::http;
use lb_tests::client::load::{self, Plan};
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, instance};
use serde_json::Value;

/// How long a breaker stays open the first time, less a fifth at most.
const OPEN: Duration = Duration::from_secs(2);

fn scene() -> Result<Scene> {
    let settings = "breaker = { consecutive_failures = 3, open_time = \"2s\", successes = 2 }\n\
                    retry = { max = 0 }\noutlier = { enabled = false }";
    let vip = address(NAT, Family::V4);
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .packets()
        .service_over(
            &[Family::V4],
            "shop",
            instance::HTTP,
            &[10, 10, 10],
            settings,
        )
        .route("/shop", "shop")
        .with(&format!(
            "[[vips]]\naddress = \"{vip}\"\nport = 80\nservice = \"shop\""
        ));
    Scene::new(3, configuration.text())
}

/// Asks the second instance itself, from its own host.
fn second(scene: &Scene, path: &str) -> Result<String> {
    let host = scene.host("i2")?;
    let target = SocketAddr::new(host.v4.into(), instance::HTTP);
    let answer = http::request(&host.namespace, target, Method::GET, path, "")?;
    Ok(answer.text())
}

/// How many requests the second instance has had.
fn asked(scene: &Scene) -> Result<u64> {
    let text = second(scene, "/_count")?;
    text.parse()
        .with_context(|| format!("expected a number, found {text:?}"))
}

/// Requests through the proxy one after another: how many of them failed.
fn requests(scene: &Scene, count: u64) -> Result<usize> {
    let plan = Plan {
        clients: 1,
        ..Plan::requests(scene.gateway(80), "/shop", count)
    };
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    Ok(tally.failures().len())
}

/// Whether one of thirty new connections through the VIP reaches the second instance.
fn packets_reach_it(scene: &Scene) -> Result<bool> {
    let vip = SocketAddr::new(address(NAT, Family::V4), 80);
    let client = &scene.topology.client.namespace;
    for _ in 0..30 {
        let answer = http::request(client, vip, Method::GET, "/", "")?;
        if answer.instance() == Some("i2") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |one| one["breaker"]["state"] == state
}

#[test]
#[ignore = "needs root"]
fn a_breaker_leaves_a_failing_instance_alone_until_its_probes_succeed() -> Result<()> {
    let scene = scene()?;
    let path = "/instances/shop/10.77.0.12:8080";
    ensure!(packets_reach_it(&scene)?, "the VIP leaves i2 out");
    let before = asked(&scene)?;
    second(&scene, "/_set/status/500")?;
    let begun = Instant::now();
    let failures = requests(&scene, 9)?;
    ensure!(failures == 3, "{failures} of 9 requests failed");
    scene.daemon.wait_for(path, OPEN, is("open"))?;
    // Packets follow, although there nobody has seen a failure.
    let left_out = cleanup::within(Duration::from_secs(1), || {
        packets_reach_it(&scene).is_ok_and(|reached| !reached)
    });
    ensure!(left_out, "the VIP still leads to i2");
    let by_packets = asked(&scene)? - before - 3;
    let failures = requests(&scene, 300)?;
    if begun.elapsed() < OPEN.mul_f64(0.8) {
        ensure!(
            failures == 0,
            "{failures} requests failed although the breaker is open"
        );
        let now = asked(&scene)?;
        ensure!(
            now == before + 3 + by_packets,
            "asked {now} times, {before} before"
        );
    }
    // The first probe fails, and nothing follows it.
    scene.daemon.wait_for(path, 2 * OPEN, is("half_open"))?;
    let failures = requests(&scene, 300)?;
    ensure!(
        failures == 1,
        "{failures} of 300 requests failed: one is a probe"
    );
    ensure!(
        asked(&scene)? == before + 4 + by_packets,
        "more than a probe"
    );
    let open = scene.daemon.get(path)?;
    ensure!(open["breaker"]["opened_in_a_row"] == 2, "{open}");
    // It is well again: two probes, then its share.
    second(&scene, "/_set/status/200")?;
    scene.daemon.wait_for(path, 3 * OPEN, is("half_open"))?;
    let failures = requests(&scene, 60)?;
    ensure!(failures == 0, "{failures} of 60 requests failed");
    let closed = scene.daemon.wait_for(path, OPEN, is("closed"))?;
    ensure!(
        closed["breaker"]["transitions"]["half_open"] == 2,
        "{closed}"
    );
    ensure!(requests(&scene, 60)? == 0, "failures after it has closed");
    let now = asked(&scene)?;
    ensure!(now >= before + 4 + by_packets + 20, "{now}: not its share");
    let back = cleanup::within(Duration::from_secs(1), || {
        packets_reach_it(&scene).unwrap_or(false)
    });
    ensure!(back, "the VIP leaves i2 out for good");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_operator_opens_a_breaker_in_both_data_planes() -> Result<()> {
    let scene = scene()?;
    let vip = SocketAddr::new(address(NAT, Family::V4), 80);
    let client = &scene.topology.client.namespace;
    let said = scene
        .daemon
        .cli(&["breakers", "open", "shop", "10.77.0.12:8080"])?;
    ensure!(said.contains("is held open"), "{said}");
    // Answered when the kernel follows it.
    ensure!(!packets_reach_it(&scene)?, "the VIP still leads to i2");
    let before = asked(&scene)?;
    ensure!(
        requests(&scene, 60)? == 0 && asked(&scene)? == before,
        "requests reach i2"
    );
    for number in [11, 13] {
        let instance = format!("10.77.0.{number}:8080");
        scene.daemon.cli(&["breakers", "open", "shop", &instance])?;
    }
    // Nobody is left: the proxy says so, the kernel takes all as before.
    let answer = http::request(client, scene.gateway(80), Method::GET, "/shop", "")?;
    ensure!(
        answer.status == 503 && answer.text() == "breaker_open",
        "{answer:?}"
    );
    ensure!(
        packets_reach_it(&scene)?,
        "no packets although nobody else is left"
    );
    scene.daemon.cli(&["breakers", "open", "shop"])?;
    let answer = http::request(client, scene.gateway(80), Method::GET, "/shop", "")?;
    ensure!(answer.text() == "service_breaker_open", "{answer:?}");
    ensure!(http::request(client, vip, Method::GET, "/", "")?.status == 200);
    for target in [vec!["shop"], vec!["shop", "10.77.0.12:8080"]] {
        scene
            .daemon
            .cli(&[&["breakers", "reset"], &target[..]].concat())?;
    }
    let before = asked(&scene)?;
    ensure!(
        requests(&scene, 6)? == 0 && asked(&scene)? == before + 6,
        "i2 alone serves"
    );
    Ok(())
}
