//! What a daemon that serves VIPs may still do, and that it is enough.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_tests::client::{held::Held, tcp};
use lb_tests::instance;
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF of `linux/capability.h`.
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 38 | 1 << 39;

fn configuration(more: &str) -> Configuration {
    Configuration::new("[]")
        .packets()
        .with(more)
        .service("nat", instance::TCP, &[10, 10], "forwarding = \"nat\"")
        .vips(NAT, instance::TCP, "tcp", "nat")
}

/// The capabilities of each thread, of every kind: name, kind, bits.
fn capabilities(process: i32) -> Result<Vec<(String, String, u64)>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).map(str::to_owned)
        };
        let name = field("Name:").context("a thread without a name")?;
        for kind in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let bits = field(kind).with_context(|| format!("no {kind}"))?;
            let bits = u64::from_str_radix(&bits, 16)?;
            all.push((name.clone(), kind.to_owned(), bits));
        }
    }
    Ok(all)
}

#[test]
#[ignore = "needs root"]
fn no_thread_keeps_rights_that_are_not_needed_and_changes_still_work() -> Result<()> {
    let mut scene = Scene::new(2, configuration("").text())?;
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let threads = capabilities(scene.daemon.process()?.pid())?;
    ensure!(threads.len() >= 3 * 5, "{threads:?}");
    for (thread, kind, bits) in &threads {
        ensure!(
            bits & !KEPT == 0,
            "expected no more than {KEPT:x} in {kind} of {thread}, found {bits:x}"
        );
    }
    ensure!(
        threads
            .iter()
            .any(|(_, kind, bits)| kind == "CapEff:" && *bits == KEPT),
        "{threads:?}"
    );
    // A change of tables, a VIP more, and a look with a second program.
    let one = SocketAddr::new(address(11, Family::V4), instance::TCP);
    scene.daemon.post(&format!("/instances/nat/{one}/drain"))?;
    scene.daemon.configure(
        configuration("")
            .vips(NAT, instance::TCP + 9, "tcp", "nat")
            .text(),
    )?;
    scene.daemon.post_admin("reload")?;
    scene.settle()?;
    let client = &scene.topology.client.namespace;
    let tally = tcp::connections(client, target, 20)?;
    ensure!(tally.of("i2") == 20, "{tally}");
    let path = format!("/explain/flow?source=198.51.100.1:1000&destination={target}");
    let told = scene.daemon.get(&path)?;
    ensure!(told["verdict"] == "forwarded", "{told}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_maps_of_an_earlier_daemon_of_another_size_are_taken_over() -> Result<()> {
    let mut scene = Scene::new(2, configuration("").text())?;
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let held = Held::open(&scene.topology.client.namespace, target, 20)?;
    let opened = held.opened().clone();
    scene.daemon.kill()?;
    scene
        .daemon
        .configure(configuration("max_connections = 4096").text())?;
    scene.daemon.start_again()?;
    scene.settle()?;
    let told = scene.daemon.get("/datapath")?;
    ensure!(
        told["connections"]["max"] == 4096,
        "{}",
        told["connections"]
    );
    let closed = held.close()?;
    ensure!(closed == opened, "opened {opened}; at the end {closed}");
    Ok(())
}
