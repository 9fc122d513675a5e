//! The source ACL on real connections: rules of run time, files that are followed, restarts.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::client::held::Held;
use lb_tests::client::tcp;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use serde_json::{Value, json};

/// Within which a file that has changed is read.
const FOLLOWED: Duration = Duration::from_secs(5);

fn scene(acl: &str) -> Result<Scene> {
    let configuration = Configuration::new("[]")
        .packets()
        .with(acl)
        .service("nat", instance::TCP, &[10, 10], "")
        .service(
            "dsr",
            instance::TCP,
            &[10, 10],
            "algorithm = \"consistent_hash\"\nforwarding = \"l2dsr\"",
        )
        .vips(NAT, instance::TCP, "tcp", "nat")
        .vips(DSR, instance::TCP, "tcp", "dsr");
    Scene::new(2, configuration.text())
}

fn targets() -> impl Iterator<Item = SocketAddr> {
    [NAT, DSR].into_iter().flat_map(|number| {
        FAMILIES.map(|family| SocketAddr::new(address(number, family), instance::TCP))
    })
}

/// How many of the VIPs a connection to succeeds.
fn reached(scene: &Scene) -> Result<usize> {
    let client = &scene.topology.client.namespace;
    let mut reached = 0;
    for target in targets() {
        let tally = tcp::connections(client, target, 1)?;
        reached += usize::from(tally.failures().is_empty());
    }
    Ok(reached)
}

fn client(scene: &Scene) -> [String; 2] {
    let host = &scene.topology.client;
    [host.v4.to_string(), host.v6.to_string()]
}

fn denied(scene: &Scene) -> Result<u64> {
    Scene::age_figures();
    let acl = scene.daemon.get("/acl")?;
    acl["denied_packets"].as_u64().context("no count")
}

/// Received is forwarded, passed and dropped, exactly; the counters are read while others count.
fn adds_up(scene: &Scene) -> Result<()> {
    Scene::age_figures();
    let packets = &scene.daemon.get("/datapath")?["packets"];
    let of = |key: &str| packets[key].as_u64().unwrap_or_default();
    let sum = of("forwarded") + of("passed") + of("dropped");
    ensure!(sum.abs_diff(of("received")) <= 64, "{packets}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_rule_of_run_time_cuts_whoever_is_connected_and_survives_the_daemon() -> Result<()> {
    let mut scene = scene("")?;
    ensure!(reached(&scene)? == 4, "{}", scene.daemon.log());
    let space = &scene.topology.client.namespace;
    let held: Vec<Held> = targets()
        .map(|target| Held::open(space, target, 2))
        .collect::<Result<_>>()?;
    ensure!(denied(&scene)? == 0);
    for address in client(&scene) {
        let path = format!("/acl/rules/{address}");
        scene.daemon.put(&path, &json!({"action": "deny"}))?;
    }
    scene.settle()?;
    for held in held {
        let tally = held.close()?;
        ensure!(tally.total() == 0 && tally.failures().len() == 2, "{tally}");
    }
    ensure!(denied(&scene)? > 8);
    adds_up(&scene)?;
    // Without a daemon the kernel goes on by the same rules.
    let log = scene.daemon.log();
    scene.daemon.kill()?;
    let target = SocketAddr::new(address(DSR, FAMILIES[0]), instance::TCP);
    let tally = tcp::connections(&scene.topology.client.namespace, target, 1)?;
    ensure!(!tally.failures().is_empty(), "{tally}\n{log}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_file_is_followed_and_a_restart_has_its_rules_before_traffic() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("deny.txt");
    // A hundred thousand that hold nobody.
    let many: String = (0..100_000_u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            format!("172.{}.{b}.{c}\n", 16 + a)
        })
        .collect();
    fs::write(&list, &many)?;
    let mut scene = scene(&format!("[datapath.acl]\nfiles = [{list:?}]"))?;
    ensure!(reached(&scene)? == 4, "{}", scene.daemon.log());
    let acl = scene.daemon.get("/acl?limit=0")?;
    ensure!(acl["deny"] == 100_000, "{acl}");
    let writes = |scene: &Scene| -> Result<u64> {
        let datapath = scene.daemon.get("/datapath")?;
        datapath["reconcile"]["writes"]
            .as_u64()
            .context("no writes")
    };
    let before = writes(&scene)?;
    let [v4, v6] = client(&scene);
    fs::write(&list, format!("{many}{v4}\n{v6}/128 # both\n"))?;
    let followed = |scene: &Scene, rules: u64| -> Result<Value> {
        let found = scene
            .daemon
            .wait_for("/acl?limit=0", FOLLOWED, |acl| acl["deny"] == rules)?;
        scene.settle()?;
        Ok(found)
    };
    followed(&scene, 100_002)?;
    ensure!(
        writes(&scene)? == before,
        "rules of the ACL are no part of the snapshot's writes"
    );
    ensure!(reached(&scene)? == 0);
    // A faulty file changes nothing, and says what is wrong where.
    fs::write(&list, "not a prefix\n")?;
    let acl = scene.daemon.wait_for("/acl?limit=0", FOLLOWED, |acl| {
        acl["lists"][0]["faults"]
            .as_array()
            .is_some_and(|faults| !faults.is_empty())
    })?;
    ensure!(acl["deny"] == 100_002, "{acl}");
    let fault = acl["lists"][0]["faults"][0].as_str().unwrap_or_default();
    ensure!(
        fault.contains("deny.txt:1:1: expected an address"),
        "{fault}"
    );
    ensure!(
        scene.daemon.post_admin("reload").is_err(),
        "a reload has to be refused"
    );
    ensure!(reached(&scene)? == 0);
    // A restart goes by the file from its first packet on.
    fs::write(&list, format!("{v4}\n{v6}\n"))?;
    followed(&scene, 2)?;
    scene.daemon.stop(Duration::from_secs(10))?;
    ensure!(reached_without_daemon(&scene)? == 0);
    scene.daemon.start_again()?;
    scene.settle()?;
    ensure!(reached(&scene)? == 0);
    fs::write(&list, "# nobody\n")?;
    followed(&scene, 0)?;
    ensure!(reached(&scene)? == 4);
    let text = scene.daemon.cli(&["acl"])?;
    ensure!(text.contains("0 deny, 0 allow"), "{text}");
    adds_up(&scene)
}

/// One VIP of each forwarding, while nobody can be asked.
fn reached_without_daemon(scene: &Scene) -> Result<usize> {
    let client = &scene.topology.client.namespace;
    let mut reached = 0;
    for number in [NAT, DSR] {
        let target = SocketAddr::new(address(number, FAMILIES[0]), instance::TCP);
        let tally = tcp::connections(client, target, 1)?;
        reached += usize::from(tally.failures().is_empty());
    }
    Ok(reached)
}
