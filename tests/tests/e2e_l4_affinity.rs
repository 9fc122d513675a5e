//! Clients that stay with their instance: real ones, through the kernel and by a relay.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_tests::client::tcp;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;

const STAYS: &str = "algorithm = \"round_robin\"\n\
                     affinity = { enabled = true, sources = [\"address\"], ttl = \"1h\" }";
const NAMES: [&str; 3] = ["i1", "i2", "i3"];

/// The one instance of so many connections to a VIP.
fn only(scene: &Scene, target: SocketAddr, count: u32) -> Result<&'static str> {
    let client = &scene.topology.client.namespace;
    let seen = tcp::connections(client, target, count)?;
    ensure!(seen.failures().is_empty(), "{target}: {seen}");
    let whole = |name: &&str| seen.of(name) == u64::from(count);
    let found = NAMES.into_iter().find(whole);
    found.ok_or_else(|| anyhow::anyhow!("expected one instance for {target}: {seen}"))
}

fn endpoint(name: &str, family: Family) -> Result<String> {
    let number: u8 = name.trim_start_matches('i').parse()?;
    Ok(SocketAddr::new(address(10 + number, family), instance::TCP).to_string())
}

/// A client stays with an instance until it drains, and then with another.
fn stays(scene: &Scene, service: &str, target: SocketAddr, family: Family) -> Result<&'static str> {
    // The first one is remembered with its answer to the SYN-ACK.
    let first = only(scene, target, 1)?;
    ensure!(only(scene, target, 30)? == first, "{target}");
    let instance = endpoint(first, family)?;
    scene
        .daemon
        .cli(&["instances", "drain", service, &instance])?;
    scene.settle()?;
    let second = only(scene, target, 1)?;
    ensure!(second != first, "{target}");
    scene
        .daemon
        .cli(&["instances", "enable", service, &instance])?;
    scene.settle()?;
    ensure!(only(scene, target, 30)? == second, "{target}");
    Ok(second)
}

#[test]
#[ignore = "needs root"]
fn a_client_stays_in_the_kernel_and_through_restarts() -> Result<()> {
    let configuration = Configuration::new("[]")
        .packets()
        .service("nat", instance::TCP, &[1, 1, 1], STAYS)
        .service(
            "dsr",
            instance::TCP,
            &[1, 1, 1],
            &format!("{STAYS}\nforwarding = \"l2dsr\""),
        )
        .vips(NAT, instance::TCP, "tcp", "nat")
        .vips(DSR, instance::TCP, "tcp", "dsr");
    let mut scene = Scene::new(3, configuration.text())?;
    let mut places = Vec::new();
    for (number, service) in [(NAT, "nat"), (DSR, "dsr")] {
        for family in FAMILIES {
            let target = SocketAddr::new(address(number, family), instance::TCP);
            places.push((target, stays(&scene, service, target, family)?));
        }
    }
    scene.daemon.kill()?;
    scene.daemon.start_again()?;
    scene.settle()?;
    for (target, place) in &places {
        ensure!(only(&scene, *target, 30)? == *place, "{target}");
    }
    // So does what explains it.
    let (target, place) = places[0];
    let said = scene.daemon.get(&format!(
        "/explain/flow?source={}:40000&destination={target}",
        address(2, FAMILIES[0])
    ))?;
    ensure!(
        said.to_string().contains(&endpoint(place, FAMILIES[0])?),
        "{said}"
    );
    ensure!(said.to_string().contains("affinity_followed"), "{said}");
    // With other room for clients, too.
    let more = configuration
        .text()
        .replace("[datapath]\n", "[datapath]\nmax_affinity_clients = 2048\n");
    scene.daemon.configure(&more)?;
    scene.daemon.kill()?;
    scene.daemon.start_again()?;
    scene.settle()?;
    for (target, place) in &places {
        ensure!(only(&scene, *target, 30)? == *place, "{target}");
    }
    let datapath = scene.daemon.get("/datapath")?;
    ensure!(
        datapath["clients"]["max"] == 2048,
        "{}",
        datapath["clients"]
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_client_of_a_relay_stays_and_is_among_the_sessions() -> Result<()> {
    let configuration = Configuration::new("[]")
        .relayed()
        .service("web", instance::TCP, &[1, 1, 1], STAYS)
        .vips(NAT, instance::TCP, "tcp", "web");
    let scene = Scene::new(3, configuration.text())?;
    scene.deliver()?;
    let family = FAMILIES[0];
    let target = SocketAddr::new(address(NAT, family), instance::TCP);
    let client = &scene.topology.client.namespace;
    let first = tcp::connections(client, target, 30)?;
    ensure!(
        first.failures().is_empty() && first.instances() == 1,
        "{first}"
    );
    let sessions = scene.daemon.cli(&["sessions", "list", "--json"])?;
    let listed: serde_json::Value = serde_json::from_str(&sessions)?;
    ensure!(
        listed["sessions"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        "{listed}"
    );
    Ok(())
}
