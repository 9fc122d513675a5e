//! Flows of UDP whose instance fails its checks, and connections that fall silent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::cleanup;
use lb_tests::client::udp::echo;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, NAT, Scene, address};
use lb_tests::topology::Family;
use serde_json::Value;

/// Flows of each VIP; among so many there are some of each instance.
const FLOWS: u16 = 12;
const SOON: Duration = Duration::from_secs(10);

fn target(number: u8) -> SocketAddr {
    SocketAddr::new(address(number, Family::V4), instance::UDP)
}

fn client(flow: u16) -> SocketAddr {
    SocketAddr::new(address(2, Family::V4), 23_000 + flow)
}

fn explain(scene: &Scene, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    let path = format!("/explain/flow?source={from}&destination={to}&protocol=udp");
    scene.daemon.get(&path)
}

#[test]
#[ignore = "needs root"]
fn flows_stay_with_an_instance_that_fails_or_move_as_the_service_says() -> Result<()> {
    // The checks ask the instances' TCP port, which falls silent with the host.
    let service = |udp_flows: &str| {
        format!(
            "forwarding = \"nat\"\nudp_flows = \"{udp_flows}\"\n\
             health_check = {{ enabled = true, type = \"tcp\", port = {}, interval = \"200ms\", \
             timeout = \"150ms\", rise = 1, fall = 2 }}",
            instance::TCP
        )
    };
    let configuration = Configuration::new("[]")
        .packets()
        .service("moves", instance::UDP, &[1, 1], &service("move"))
        .service("stays", instance::UDP, &[1, 1], &service("stay"))
        .vips(NAT, instance::UDP, "udp", "moves")
        .vips(DSR, instance::UDP, "udp", "stays");
    let mut scene = Scene::new(2, configuration.text())?;
    let second = SocketAddr::new(address(12, Family::V4), instance::UDP).to_string();
    let flows = |scene: &Scene, number: u8| -> Result<Vec<u16>> {
        scene.topology.client.namespace.enter(|| {
            let names = (0..FLOWS).map(|flow| Ok((flow, echo(client(flow), target(number))?)));
            let names: Vec<_> = names.collect::<Result<_>>()?;
            let of_second = names.into_iter().filter(|(_, name)| name == "i2");
            Ok(of_second.map(|(flow, _)| flow).collect())
        })?
    };
    let (moving, staying) = (flows(&scene, NAT)?, flows(&scene, DSR)?);
    ensure!(!moving.is_empty() && !staying.is_empty());
    scene.kill("i2")?;
    for service in ["moves", "stays"] {
        let path = format!("/instances/{service}/{second}");
        let down = |one: &Value| one["health"] == "unhealthy";
        scene.daemon.wait_for(&path, SOON, down)?;
    }
    scene.settle()?;
    for flow in &moving {
        let told = explain(&scene, client(*flow), target(NAT))?;
        ensure!(told["instance"] != *second, "{told}");
    }
    for flow in &staying {
        let told = explain(&scene, client(*flow), target(DSR))?;
        ensure!(
            told["instance"] == *second && told["connection"]["state"] == "remembered",
            "{told}"
        );
    }
    // A new flow goes to whoever is well; and whoever is told to go leaves.
    let told = explain(&scene, client(500), target(DSR))?;
    ensure!(told["instance"] != *second, "{told}");
    scene.revive("i2")?;
    for flow in &staying {
        let name = scene
            .topology
            .client
            .namespace
            .enter(|| echo(client(*flow), target(DSR)))??;
        ensure!(name == "i2", "flow {flow} has moved to {name}");
    }
    scene
        .daemon
        .post(&format!("/instances/stays/{second}/disable"))?;
    scene.settle()?;
    for flow in &staying {
        let name = scene
            .topology
            .client
            .namespace
            .enter(|| echo(client(*flow), target(DSR)))??;
        ensure!(name == "i1", "flow {flow} has stayed at {name}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_service_says_when_its_connections_are_forgotten() -> Result<()> {
    let configuration = Configuration::new("[]")
        .packets()
        .service(
            "brief",
            instance::UDP,
            &[1],
            "forwarding = \"nat\"\nidle_timeout = \"1s\"",
        )
        .service("usual", instance::UDP, &[1], "forwarding = \"nat\"")
        .vips(NAT, instance::UDP, "udp", "brief")
        .vips(DSR, instance::UDP, "udp", "usual");
    let scene = Scene::new(1, configuration.text())?;
    for number in [NAT, DSR] {
        scene
            .topology
            .client
            .namespace
            .enter(|| echo(client(0), target(number)))??;
    }
    let state = |number: u8| -> Result<Value> {
        let told = explain(&scene, client(0), target(number))?;
        Ok(told["connection"]["state"].clone())
    };
    ensure!(state(NAT)? == "remembered" && state(DSR)? == "remembered");
    let forgotten = cleanup::within(SOON, || state(NAT).is_ok_and(|state| state == "new"));
    ensure!(forgotten, "{}", state(NAT)?);
    ensure!(state(DSR)? == "remembered");
    Ok(())
}
