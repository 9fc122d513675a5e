//! Limits of connections, counted where they arrive: as sockets of the instances.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::http;
use lb_tests::client::load::{self, Plan};
use lb_tests::client::{held::Held, tcp};
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, command, instance};

const INSTANCES: [&str; 2] = ["i1", "i2"];

/// Connections that an instance has open to a port of its own, as its system counts them. It looks at one
/// after the other, so one that has closed and one that was opened in its place may both be seen; the
/// lesser of two counts is what there was.
fn sockets(scene: &Scene, name: &str, port: u16) -> Result<usize> {
    let namespace = &scene.host(name)?.namespace;
    let count = || -> Result<usize> {
        let mut ss = namespace.command("ss");
        ss.args(["-Htn", "state", "established", &format!("sport = :{port}")]);
        Ok(command::output(&mut ss)?.lines().count())
    };
    Ok(count()?.min(count()?))
}

fn all_sockets(scene: &Scene, port: u16) -> Result<[usize; 2]> {
    Ok([
        sockets(scene, INSTANCES[0], port)?,
        sockets(scene, INSTANCES[1], port)?,
    ])
}

#[test]
#[ignore = "needs root"]
fn the_proxy_has_no_connection_too_many_open_to_an_instance() -> Result<()> {
    let service = |all: Configuration, name: &str, settings: &str| {
        all.service_over(&[Family::V4], name, instance::HTTP, &[1, 1], settings)
            .route(&format!("/{name}"), name)
    };
    let all = Configuration::new("[\"0.0.0.0:80\"]");
    let all = service(
        all,
        "waits",
        "limits = { max_connections = 7, instance_max_connections = 4 }\n\
         queue = { size = 500, timeout = \"9s\", target = \"5s\", interval = \"9s\" }",
    );
    let scene = Scene::new(2, all.text())?;
    let plan = Plan {
        clients: 24,
        requests: None,
        ..Plan::requests(scene.gateway(80), "/waits/{}?delay=20", 0)
    };
    let load = load::start(&scene.topology.client.namespace, plan);
    let (end, mut most) = (Instant::now() + Duration::from_secs(2), [0; 3]);
    while Instant::now() < end {
        let [a, b] = all_sockets(&scene, instance::HTTP)?;
        // Read one after the other, so their sum is of no one moment; that is looked at below.
        most = [most[0].max(a), most[1].max(b), most[2].max(a + b)];
    }
    let shown = scene.daemon.get("/limits")?;
    let tally = load.stop()?;
    ensure!(tally.failures().is_empty(), "{tally}");
    ensure!(
        most[0] <= 4 && most[1] <= 4 && most[2] >= 6,
        "sockets at the instances: {most:?}"
    );
    let shown = &shown["services"][0];
    ensure!(
        shown["max_connections"] == 7 && shown["connections"].as_u64() <= Some(7),
        "{shown}"
    );
    let metrics = scene.daemon.cli(&["metrics"])?;
    for line in [
        "lb_service_max_connections{service=\"waits\"} 7",
        "lb_instance_max_connections{service=\"waits\",instance=\"10.77.0.11:8080\"} 4",
    ] {
        ensure!(metrics.contains(line), "{line}:\n{metrics}");
    }
    // Once it is quiet, what is kept is what the instances see.
    let kept = cleanup::within(Duration::from_secs(3), || {
        let open = |path: &str| {
            let one = scene.daemon.get(&format!("/instances/waits/{path}")).ok()?;
            let connections = &one["connections"];
            let idle = connections["open"] == connections["idle"];
            connections["open"].as_u64().filter(|_| idle)
        };
        let (a, b) = (open("10.77.0.11:8080"), open("10.77.0.12:8080"));
        let seen = all_sockets(&scene, instance::HTTP).unwrap_or_default();
        a == Some(seen[0] as u64) && b == Some(seen[1] as u64)
    });
    ensure!(kept, "{}", scene.daemon.get("/instances")?);

    // Without a queue, and with everything in use: an answer that says why.
    let refusing = service(
        Configuration::new("[\"0.0.0.0:80\"]"),
        "waits",
        "limits = { instance_max_connections = 1 }\nretry = { max = 0 }",
    );
    scene.daemon.configure(refusing.text())?;
    scene.daemon.cli(&["reload"])?;
    let slow = Plan {
        clients: 8,
        ..Plan::requests(scene.gateway(80), "/waits/{}?delay=1500", 8)
    };
    let load = load::start(&scene.topology.client.namespace, slow);
    let client = &scene.topology.client.namespace;
    let target = scene.gateway(80);
    let mut refused = None;
    cleanup::within(Duration::from_secs(1), || {
        let answer = http::request(client, target, Method::GET, "/waits/", "");
        refused = answer.ok().filter(|answer| answer.status == 503);
        refused.is_some()
    });
    let refused = refused.context("nothing is refused")?;
    let status = refused.headers.get("proxy-status");
    let status = status.and_then(|value| value.to_str().ok());
    ensure!(
        status.is_some_and(|text| text.contains("details=\"connection_limit\"")),
        "{refused:?}"
    );
    let explained = scene.daemon.get("/explain?url=/waits")?;
    load.finish()?;
    ensure!(
        explained["refused"]["reason"] == "connection_limit"
            && explained["candidates"][0]["excluded"] == "no_connection",
        "{explained}"
    );
    let metrics = scene.daemon.cli(&["metrics"])?;
    let line = "lb_answers_total{service=\"waits\",reason=\"connection_limit\"}";
    let count = metrics.lines().find_map(|found| found.strip_prefix(line));
    ensure!(count.is_some_and(|count| count.trim() != "0"), "{metrics}");
    Ok(())
}

/// A service behind a VIP whose connections can be held.
fn held(settings: &str) -> Configuration {
    Configuration::new("[]")
        .packets()
        .service_over(&[Family::V4], "echo", instance::TCP, &[1, 1], settings)
        .with(&format!(
            "[[vips]]\naddress = \"{}\"\nport = {}\nservice = \"echo\"",
            address(NAT, Family::V4),
            instance::TCP
        ))
}

fn vip() -> SocketAddr {
    SocketAddr::new(address(NAT, Family::V4), instance::TCP)
}

#[test]
#[ignore = "needs root"]
fn the_kernel_gives_no_instance_a_connection_too_many() -> Result<()> {
    let scene = Scene::new(2, held("limits = { instance_max_connections = 6 }").text())?;
    let client = &scene.topology.client.namespace;
    let held_open = Held::open(client, vip(), 12)?;
    ensure!(
        all_sockets(&scene, instance::TCP)? == [6, 6],
        "{:?}",
        all_sockets(&scene, instance::TCP)?
    );
    // Nobody gets in, and nobody who is in is disturbed.
    ensure!(tcp::connections(client, vip(), 1)?.total() == 0);
    let datapath = scene.daemon.cli(&["metrics"])?;
    let line = "lb_l4_packets_total{result=\"dropped\",reason=\"connection_limit\"}";
    let count = datapath.lines().find_map(|found| found.strip_prefix(line));
    ensure!(count.is_some_and(|count| count.trim() != "0"), "{datapath}");
    // A higher limit lets in as many more, a daemon that is started again keeps to it.
    scene
        .daemon
        .configure(held("limits = { instance_max_connections = 8 }").text())?;
    scene.daemon.cli(&["reload"])?;
    scene.settle()?;
    let more = Held::open(client, vip(), 4)?;
    ensure!(all_sockets(&scene, instance::TCP)? == [8, 8]);
    let (first, second) = (held_open.close()?, more.close()?);
    ensure!(
        first.total() == 12 && second.total() == 4,
        "{first}; {second}"
    );
    // What ends makes room.
    let again = Held::open(client, vip(), 16)?;
    ensure!(again.close()?.total() == 16);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_kernel_gives_a_service_no_connection_too_many() -> Result<()> {
    let limits = "limits = { max_connections = 9 }";
    let mut scene = Scene::new(2, held(limits).text())?;
    let open = |scene: &Scene, count| Held::open(&scene.topology.client.namespace, vip(), count);
    let first = open(&scene, 9)?;
    let seen = all_sockets(&scene, instance::TCP)?;
    ensure!(seen[0] + seen[1] == 9, "{seen:?}");
    ensure!(tcp::connections(&scene.topology.client.namespace, vip(), 1)?.total() == 0);
    // The next daemon has the same idea, and meanwhile the program goes on.
    scene.daemon.stop(Duration::from_secs(5))?;
    scene.daemon.start_again()?;
    scene.settle()?;
    ensure!(tcp::connections(&scene.topology.client.namespace, vip(), 1)?.total() == 0);
    let first = first.close()?;
    ensure!(first.total() == 9 && first.failures().is_empty(), "{first}");
    // All of it may be with one instance, when the other gets nothing.
    scene.daemon.post("/instances/echo/10.77.0.12:7000/drain")?;
    scene.settle()?;
    std::thread::sleep(Duration::from_millis(300));
    let second = open(&scene, 9)?;
    ensure!(all_sockets(&scene, instance::TCP)? == [9, 0]);
    ensure!(second.close()?.total() == 9);
    Ok(())
}
