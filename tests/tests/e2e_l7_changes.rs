//! Reloads and the end of the daemon, seen by the clients of the proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Method;
use lb_tests::client::curl::curl;
use lb_tests::client::http;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::netns::Namespace;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use lb_tests::{cleanup, instance};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PROMPT: Duration = Duration::from_secs(3);

/// A shop of two instances, one of which may weigh something else.
fn shop(listen: &str, first: u16) -> Configuration {
    Configuration::new(listen)
        .service_over(&[Family::V4], "shop", instance::HTTP, &[first, 10], "")
        .route("/shop", "shop")
}

fn endless(scene: &Scene) -> Load {
    let plan = Plan {
        requests: None,
        pause: Duration::from_millis(1),
        ..Plan::requests(scene.gateway(80), "/shop/{}", 0)
    };
    load::start(&scene.topology.client.namespace, plan)
}

fn more(load: &Load, count: u64) -> Result<()> {
    let goal = load.sent() + count;
    let done = cleanup::within(Duration::from_secs(10), || load.sent() >= goal);
    ensure!(done, "{count} more requests take more than ten seconds");
    Ok(())
}

/// Writes a configuration, sends SIGHUP, and waits until it was obeyed; how the reload went.
fn reload(scene: &mut Scene, configuration: &str) -> Result<Value> {
    let before = scene.daemon.get("/health")?["last_reload"].clone();
    scene.daemon.configure(configuration)?;
    scene.daemon.process()?.signal(Signal::SIGHUP)?;
    let after = scene.daemon.wait_for("/health", PROMPT, |health| {
        health["last_reload"].is_object() && health["last_reload"] != before
    })?;
    Ok(after["last_reload"].clone())
}

fn connects(namespace: &Namespace, target: SocketAddr) -> Result<bool> {
    namespace.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_ok())
}

#[test]
#[ignore = "needs root"]
fn a_reload_changes_weights_and_listeners_under_load() -> Result<()> {
    let mut scene = Scene::new(2, shop("[\"0.0.0.0:80\"]", 10).text())?;
    let load = endless(&scene);
    more(&load, 200)?;
    let at = [scene.gateway(80), scene.gateway(81)];
    let six = SocketAddr::new(scene.topology.balancer.v6.into(), 82);
    let changed = shop("[\"0.0.0.0:80\", \"0.0.0.0:81\", \"[::]:82\"]", 0);
    let outcome = reload(&mut scene, changed.text())?;
    ensure!(outcome["success"] == true, "{outcome}");
    for target in [at[0], at[1], six] {
        let plan = Plan::requests(target, "/shop/{}", 40);
        let tally = load::run(&scene.topology.client.namespace, &plan)?;
        ensure!(tally.of("i2") == 40, "{target}: {tally}");
    }
    // Without the listener that the load uses no longer than it needs to be seen.
    let outcome = reload(&mut scene, shop("[\"0.0.0.0:80\"]", 30).text())?;
    ensure!(outcome["success"] == true, "{outcome}");
    let closed = cleanup::within(PROMPT, || {
        connects(&scene.topology.client.namespace, at[1]).is_ok_and(|open| !open)
    });
    ensure!(closed, "{} is still open", at[1]);
    more(&load, 200)?;
    let all = load.stop()?;
    ensure!(all.failures().is_empty(), "{all}");
    let plan = Plan::requests(at[0], "/shop/{}", 400);
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!((tally.share("i1") - 0.75).abs() < 0.03, "{tally}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_bad_reload_changes_nothing_and_says_what_is_wrong() -> Result<()> {
    let mut scene = Scene::new(2, shop("[\"0.0.0.0:80\"]", 10).text())?;
    scene
        .daemon
        .put("/algorithms/shop", &json!({"algorithm": "round_robin"}))?;
    let before = scene.daemon.get("/services")?;
    let revision = scene.daemon.get("/health")?["revision"].clone();
    let bad = shop("[\"0.0.0.0:81\"]", 10)
        .with("timeouts.request = \"30\"\ncolour = \"red\"")
        .text()
        .replace("service = \"shop\"\n", "service = \"shed\"\n");
    let outcome = reload(&mut scene, &bad)?;
    ensure!(outcome["success"] == false, "{outcome}");
    let told = outcome["error"].as_str().unwrap_or_default();
    ensure!(told.contains("3 faults"), "{outcome}");
    let log = scene.daemon.log();
    ensure!(
        log.contains("nothing has changed") && log.contains("shed"),
        "{log}"
    );

    // The same over REST and on the command line, with every fault.
    let refused = curl(
        &scene.topology.balancer.namespace,
        &[
            "--request",
            "POST",
            "http://127.0.0.1:7700/api/v1/admin/loadbalancer/reload",
        ],
    )?;
    let body: Value = serde_json::from_str(&refused.body)?;
    let faults = body["errors"].as_array().map_or(0, Vec::len);
    ensure!(refused.status == 422 && faults == 3, "{refused:?}");
    let shown = scene
        .daemon
        .cli(&["reload"])
        .err()
        .map(|error| format!("{error:#}"));
    let shown = shown.unwrap_or_default();
    ensure!(
        shown.contains("shed") && shown.contains("colour"),
        "{shown}"
    );

    let after = scene.daemon.get("/services")?;
    ensure!(before == after, "{before} became {after}");
    let health = scene.daemon.get("/health")?;
    ensure!(health["revision"] == revision, "{revision}: {health}");
    ensure!(
        !connects(&scene.topology.client.namespace, scene.gateway(81))?,
        "a listener more"
    );
    let plan = Plan::requests(scene.gateway(80), "/shop/{}", 20);
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(tally.total() == 20, "{tally}");
    let metrics = scene.daemon.cli(&["metrics"])?;
    ensure!(
        metrics.contains("lb_reloads_total{result=\"refused\"} 3"),
        "{metrics}"
    );

    // Mended, it is taken, and what was set at run time is kept.
    let outcome = reload(&mut scene, shop("[\"0.0.0.0:80\"]", 10).text())?;
    ensure!(outcome["success"] == true, "{outcome}");
    let algorithm = scene.daemon.get("/algorithms/shop")?;
    ensure!(algorithm["algorithm"] == "round_robin", "{algorithm}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_ends_lets_requests_finish() -> Result<()> {
    let mut scene = Scene::new(2, shop("[\"0.0.0.0:80\"]", 10).text())?;
    let gateway = scene.gateway(80);
    let slow = Plan {
        clients: 6,
        ..Plan::requests(gateway, "/shop/{}?delay=1500", 6)
    };
    let slow = load::start(&scene.topology.client.namespace, slow);
    scene.daemon.wait_for("/stats/shop", PROMPT, |stats| {
        stats["requests"]["in_flight"] == 6
    })?;
    let start = Instant::now();
    scene.daemon.process()?.signal(Signal::SIGTERM)?;
    let refused = cleanup::within(Duration::from_millis(1000), || {
        connects(&scene.topology.client.namespace, gateway).is_ok_and(|open| !open)
    });
    ensure!(refused, "new connections are still taken");
    let health = curl(
        &scene.topology.balancer.namespace,
        &["http://127.0.0.1:7700/health"],
    )?;
    ensure!(
        health.status == 503 && health.body.contains("stopping"),
        "{health:?}"
    );
    let all = slow.finish()?;
    ensure!(all.failures().is_empty() && all.total() == 6, "{all}");
    let status = scene.daemon.process()?.wait(Duration::from_secs(5));
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    // Not the whole patience: the last request is the end.
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// A connection that has become a tunnel.
struct Tunnel(TcpStream);

impl Tunnel {
    fn open(namespace: &Namespace, target: SocketAddr, path: &str) -> Result<(Self, String)> {
        namespace.enter(|| {
            let mut stream = TcpStream::connect_timeout(&target, PROMPT)?;
            stream.set_read_timeout(Some(PROMPT))?;
            stream.set_nodelay(true)?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: lb.test\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).context("no head")?;
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            ensure!(head.starts_with("http/1.1 101 "), "{head}");
            let name = head
                .lines()
                .find_map(|line| line.strip_prefix("x-instance: "));
            let name = name.context("no name")?.to_owned();
            Ok((Self(stream), name))
        })?
    }

    fn echo(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes())?;
        let mut back = vec![0; text.len()];
        self.0
            .read_exact(&mut back)
            .with_context(|| format!("no echo of {text:?}"))?;
        ensure!(back == text.as_bytes(), "{text:?} became {back:?}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root"]
fn tunnels_outlive_reloads_and_drains() -> Result<()> {
    let listen = "[\"0.0.0.0:80\"]\ndrain_timeout = \"1s\"";
    let mut scene = Scene::new(2, shop(listen, 10).text())?;
    let client = scene.topology.client.namespace.clone();
    let (mut tunnel, name) = Tunnel::open(&client, scene.gateway(80), "/shop/ws")?;
    tunnel.echo("first")?;
    let refused = Tunnel::open(&client, scene.gateway(80), "/nowhere").err();
    let refused = refused.ok_or_else(|| anyhow!("a tunnel without a route"))?;
    ensure!(format!("{refused:#}").contains("404"), "{refused:#}");

    let outcome = reload(&mut scene, shop(listen, 0).text())?;
    ensure!(outcome["success"] == true, "{outcome}");
    tunnel.echo("after a reload")?;
    scene
        .daemon
        .put("/algorithms/shop", &json!({"algorithm": "adaptive"}))?;
    let number = if name == "i1" { 11 } else { 12 };
    let path = format!("/instances/shop/10.77.0.{number}:8080");
    let drained = scene.daemon.post(&format!("{path}/drain"))?;
    ensure!(
        drained["drained"] == false && drained["requests"]["in_flight"] == 1,
        "{drained}"
    );
    tunnel.echo("while its instance drains")?;
    let large = "0123456789abcdef".repeat(4096);
    tunnel.echo(&large)?;

    // Nobody tells a tunnel to end, so the daemon's patience does.
    let start = Instant::now();
    scene.daemon.process()?.signal(Signal::SIGTERM)?;
    std::thread::sleep(Duration::from_millis(300));
    tunnel.echo("while the daemon ends")?;
    ensure!(
        matches!(tunnel.0.read(&mut [0]), Ok(0) | Err(_)),
        "the tunnel goes on"
    );
    let status = scene.daemon.process()?.wait(PROMPT);
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    let took = start.elapsed();
    ensure!(
        took > Duration::from_millis(900) && took < PROMPT,
        "{took:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_listener_that_is_taken_is_served_once_it_is_free() -> Result<()> {
    let mut scene = Scene::new(2, shop("[\"0.0.0.0:80\"]", 10).text())?;
    let balancer = scene.topology.balancer.namespace.clone();
    let client = &scene.topology.client.namespace.clone();
    let squatter = balancer.enter(|| std::net::TcpListener::bind("0.0.0.0:81"))??;
    let outcome = reload(
        &mut scene,
        shop("[\"0.0.0.0:80\", \"0.0.0.0:81\"]", 10).text(),
    )?;
    ensure!(outcome["success"] == true, "{outcome}");
    let told = cleanup::within(PROMPT, || scene.daemon.log().contains("0.0.0.0:81"));
    ensure!(told, "{}", scene.daemon.log());
    drop(squatter);
    let target = scene.gateway(81);
    let mut last = None;
    let served = cleanup::within(PROMPT, || {
        last = Some(http::request(client, target, Method::GET, "/shop", ""));
        matches!(&last, Some(Ok(answer)) if answer.status.is_success())
    });
    ensure!(served, "{last:?}\n{}", scene.daemon.log());
    Ok(())
}
