//! What lb says that it would do with a packet is what it does.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::client::udp::echo;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;
use serde_json::Value;

/// Last part of an address that the gateway serves.
const GATEWAY: u8 = 120;

/// Flows that are asked about before there are any.
const FLOWS: u16 = 6;

fn explain(scene: &Scene, from: SocketAddr, to: SocketAddr, more: &str) -> Result<Value> {
    let path = format!("/explain/flow?source={from}&destination={to}{more}");
    scene.daemon.get(&path)
}

/// The address of the instance on the host with this name, `i1` or `i2`.
fn endpoint(host: &str, port: u16, family: Family) -> Result<String> {
    let number: u8 = host.trim_start_matches('i').parse()?;
    Ok(SocketAddr::new(address(10 + number, family), port).to_string())
}

fn connect(target: SocketAddr) -> Result<(TcpStream, String)> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok((stream, line.trim_end().to_owned()))
}

fn scene() -> Result<Scene> {
    let gateway = format!(
        "[]\nvips = [\"{}:8000-8003\"]",
        address(GATEWAY, Family::V4)
    );
    let mut configuration = Configuration::new(&gateway).packets();
    for (forwarding, number) in [("nat", NAT), ("l2dsr", DSR)] {
        let settings = format!(
            "forwarding = \"{forwarding}\"\nalgorithm = \"consistent_hash\"\nhash_key = \"flow\""
        );
        let udp = format!("{forwarding}-udp");
        configuration = configuration
            .service(forwarding, instance::TCP, &[1, 1], &settings)
            .service(&udp, instance::UDP, &[1, 1], &settings)
            .vips(number, instance::TCP, "tcp", forwarding)
            .vips(number, instance::UDP, "udp", &udp);
    }
    Scene::new(2, configuration.text())
}

#[test]
#[ignore = "needs root"]
fn flows_go_where_they_were_said_to_go() -> Result<()> {
    let scene = scene()?;
    let client = &scene.topology.client.namespace;
    for (number, family) in [NAT, DSR].iter().flat_map(|n| FAMILIES.map(|f| (*n, f))) {
        let target = SocketAddr::new(address(number, family), instance::UDP);
        for flow in 0..FLOWS {
            let from = SocketAddr::new(address(2, family), 21_000 + flow);
            let told = explain(&scene, from, target, "&protocol=udp")?;
            ensure!(
                told["verdict"] == "forwarded" && told["connection"]["state"] == "new",
                "{target}: {told}"
            );
            let name = client.enter(|| echo(from, target))??;
            let instance = endpoint(&name, instance::UDP, family)?;
            ensure!(told["instance"] == *instance, "{name} answers, told {told}");
            let again = explain(&scene, from, target, "&protocol=udp")?;
            ensure!(
                again["connection"]["state"] == "remembered" && again["instance"] == *instance,
                "{again}"
            );
            let sent = again["sent"]["destination"].as_str().unwrap_or_default();
            let leaves = if number == NAT {
                instance
            } else {
                target.to_string()
            };
            ensure!(sent == leaves, "expected {leaves}, found {again}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_are_told_by_what_is_known_of_them() -> Result<()> {
    let scene = scene()?;
    let client = &scene.topology.client.namespace;
    for (number, state) in [(NAT, "remembered"), (DSR, "settled")] {
        let target = SocketAddr::new(address(number, Family::V4), instance::TCP);
        let (stream, name) = client.enter(|| connect(target))??;
        let told = explain(&scene, stream.local_addr()?, target, "&flags=ack")?;
        let instance = endpoint(&name, instance::TCP, Family::V4)?;
        ensure!(
            told["connection"]["state"] == state && told["instance"] == *instance,
            "{target}: {name} answered, told {told}"
        );
        ensure!(told["slot"]["current"] == *instance, "{told}");
        let shares = told["candidates"].as_array().into_iter().flatten();
        let sum: f64 = shares.filter_map(|one| one["share"].as_f64()).sum();
        ensure!((sum - 1.0).abs() < 0.01, "{told}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_is_not_forwarded_is_told_with_its_reason_and_asking_changes_nothing() -> Result<()> {
    let scene = scene()?;
    let from = SocketAddr::new(address(2, Family::V4), 22_000);
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let figures = |name: &str| -> Result<[u64; 3]> {
        Scene::age_figures();
        let told = scene.daemon.get(name)?;
        let of = |field: &str| told["packets"][field].as_u64().unwrap_or_default();
        let opened = told["counters"].as_array().into_iter().flatten();
        let opened = opened.filter(|one| one["counter"] == "connections_opened");
        let opened = opened.map(|one| one["count"].as_u64());
        let opened: Option<u64> = opened.sum();
        let opened = opened.context("no counter of connections")?;
        Ok([of("forwarded"), of("dropped"), opened])
    };
    let before = figures("/datapath")?;
    let told = explain(&scene, from, target, "")?;
    ensure!(told["verdict"] == "forwarded", "{told}");
    let told = explain(&scene, from, target, "&flags=rst")?;
    ensure!(
        told["verdict"] == "dropped" && told["counter"] == "stray_reset",
        "{told}"
    );
    let elsewhere = SocketAddr::new(address(NAT, Family::V4), 9);
    let told = explain(&scene, from, elsewhere, "")?;
    ensure!(
        told["verdict"] == "passed" && told["counter"] == "not_vip" && told.get("vip").is_none(),
        "{told}"
    );
    for (port, vip) in [(8001, Some("10.77.0.120:8000-8003")), (8004, None)] {
        let gateway = SocketAddr::new(address(GATEWAY, Family::V4), port);
        let told = explain(&scene, from, gateway, "")?;
        ensure!(told["verdict"] == "passed", "{told}");
        let found = told.get("gateway_vip").and_then(Value::as_str);
        ensure!(found == vip, "{told}");
    }
    for host in ["i1", "i2"] {
        let instance = endpoint(host, instance::TCP, Family::V4)?;
        scene
            .daemon
            .post(&format!("/instances/nat/{instance}/drain"))?;
    }
    scene.settle()?;
    let told = explain(&scene, from, target, "")?;
    ensure!(
        told["verdict"] == "dropped"
            && told["counter"] == "no_instance"
            && told["candidates"][0]["excluded"] == "draining"
            && told["candidates"][2]["excluded"] == "other_family",
        "{told}"
    );
    let (source, destination) = (from.to_string(), target.to_string());
    let text = scene.daemon.cli(&["explain", &source, &destination])?;
    for part in ["dropped (no_instance)", "draining", "nat"] {
        ensure!(text.contains(part), "expected {part:?} in\n{text}");
    }
    let after = figures("/datapath")?;
    ensure!(before == after, "{before:?} before, {after:?} after");
    let wrong = scene
        .daemon
        .cli(&["explain", &source, &destination, "--interface", "lo"]);
    ensure!(wrong.is_err(), "an interface that lb is not attached to");
    Ok(())
}
