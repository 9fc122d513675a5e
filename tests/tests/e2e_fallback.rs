//! A service that serves in the place of another one, for requests and for packets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use lb_tests::client::{held::Held, http, tcp};
use lb_tests::instance;
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);

/// `shop` and `wire` are served by `i1`; `sorry` and `spare` by `i2` (their first has no weight).
fn configuration() -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .packets()
        .service_over(
            &[Family::V4],
            "shop",
            instance::HTTP,
            &[1],
            "fallback = \"sorry\"",
        )
        .service_over(&[Family::V4], "sorry", instance::HTTP, &[0, 1], "")
        .service(
            "wire",
            instance::TCP,
            &[1],
            "fallback = \"spare\"\nforwarding = \"nat\"",
        )
        .service("spare", instance::TCP, &[0, 1], "forwarding = \"nat\"")
        .route("/shop", "shop")
        .vips(NAT, instance::TCP, "tcp", "wire")
}

#[test]
#[ignore = "needs root"]
fn requests_and_packets_go_to_the_fallback_and_come_back() -> Result<()> {
    let scene = Scene::new(2, configuration().text())?;
    let client = &scene.topology.client.namespace;
    let ask = || http::request(client, scene.gateway(80), Method::GET, "/shop", "");
    let vip = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let first = |service: &str, port: u16| {
        let endpoint = SocketAddr::new(address(11, Family::V4), port);
        format!("/instances/{service}/{endpoint}")
    };
    let (shop, wire) = (first("shop", instance::HTTP), first("wire", instance::TCP));
    ensure!(ask()?.instance() == Some("i1"));
    let own = Held::open(client, vip, 10)?;
    ensure!(own.opened().of("i1") == 10, "{}", own.opened());

    scene.daemon.post(&format!("{shop}/drain"))?;
    scene.daemon.post(&format!("{wire}/drain"))?;
    scene.settle()?;
    ensure!(ask()?.instance() == Some("i2"));
    let tally = tcp::connections(client, vip, 20)?;
    ensure!(tally.of("i2") == 20, "{tally}");
    let elsewhere = Held::open(client, vip, 10)?;
    let health = scene.daemon.get("/health")?;
    let health = health["services"].as_array().cloned().unwrap_or_default();
    let health: Vec<_> = health
        .iter()
        .filter(|one| one["service"] == "shop")
        .collect();
    ensure!(
        health[0]["served_by"] == "sorry" && health[0]["status"] == "degraded",
        "{health:?}"
    );
    let stats = scene.daemon.cli(&["stats", "shop"])?;
    ensure!(stats.contains("sorry"), "{stats}");
    let metrics = scene.daemon.cli(&["metrics"])?;
    let line = "lb_service_diverted{service=\"shop\"} 1";
    ensure!(metrics.contains(line), "expected {line} in\n{metrics}");
    let explained = scene.daemon.get("/explain?url=/shop")?;
    ensure!(explained["service"] == "sorry", "{explained}");

    scene.daemon.post(&format!("{shop}/enable"))?;
    scene.daemon.post(&format!("{wire}/enable"))?;
    scene.settle()?;
    ensure!(ask()?.instance() == Some("i1"));
    let tally = tcp::connections(client, vip, 20)?;
    ensure!(tally.of("i1") == 20, "{tally}");
    // Whatever had begun anywhere has gone on there.
    for (held, name) in [(own, "i1"), (elsewhere, "i2")] {
        let closed = held.close()?;
        ensure!(
            closed.of(name) == 10 && closed.failures().is_empty(),
            "{closed}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_fallback_can_be_named_and_taken_back_at_run_time() -> Result<()> {
    let scene = Scene::new(2, configuration().text())?;
    let shop = "/services/shop";
    let wrong = scene
        .daemon
        .ask(Method::PATCH, shop, &json!({"fallback": "sory"}));
    let wrong = wrong
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(wrong.contains("perhaps \\\"sorry\\\""), "{wrong}");
    let used = scene
        .daemon
        .ask(Method::DELETE, "/services/sorry", &json!(null));
    ensure!(used.is_err(), "a fallback was removed under its service");
    scene
        .daemon
        .ask(Method::PATCH, shop, &json!({"fallback": null}))?;
    let endpoint = SocketAddr::new(address(11, Family::V4), instance::HTTP);
    scene
        .daemon
        .post(&format!("/instances/shop/{endpoint}/disable"))?;
    let client = &scene.topology.client.namespace;
    let ask = || http::request(client, scene.gateway(80), Method::GET, "/shop", "");
    ensure!(ask()?.status == 503);
    scene
        .daemon
        .cli(&["services", "set", "shop", "fallback=\"sorry\""])?;
    let serves = || ask().is_ok_and(|answer| answer.instance() == Some("i2"));
    ensure!(lb_tests::cleanup::within(SOON, serves), "{:?}", ask()?);
    Ok(())
}
