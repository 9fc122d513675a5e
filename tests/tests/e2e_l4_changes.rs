//! What happens to connections through VIPs when something changes: an instance drains, is taken
//! out, dies; the algorithm is another one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::cleanup;
use lb_tests::client::{held::Held, tcp};
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, NAT, Scene, address};
use lb_tests::topology::Family;
use serde_json::json;

/// Connections that are held while something changes.
const HELD: u32 = 30;
/// New connections after the change.
const NEW: u32 = 60;

/// The services, and where the VIP of each is.
const SERVICES: [(&str, u8, Family); 3] = [
    ("nat", NAT, Family::V4),
    ("l2dsr", DSR, Family::V4),
    ("l2dsr", DSR, Family::V6),
];

fn configuration() -> Configuration {
    let check = "health_check = { enabled = true, type = \"tcp\", interval = \"200ms\", \
                 timeout = \"150ms\", rise = 1, fall = 2 }";
    let mut configuration = Configuration::new("[]").packets();
    for (name, number) in [("nat", NAT), ("l2dsr", DSR)] {
        let settings = format!("forwarding = \"{name}\"\nhash_key = \"flow\"\n{check}");
        configuration = configuration
            .service(name, instance::TCP, &[10, 10, 10], &settings)
            .vips(number, instance::TCP, "tcp", name);
    }
    configuration
}

fn target(number: u8, family: Family) -> SocketAddr {
    SocketAddr::new(address(number, family), instance::TCP)
}

/// The resource of the instance on the host `i2`.
fn second(service: &str, family: Family) -> String {
    let endpoint = SocketAddr::new(address(12, family), instance::TCP);
    format!("/instances/{service}/{endpoint}")
}

/// New connections go to the others, all of them.
fn expect_elsewhere(scene: &Scene, target: SocketAddr) -> Result<()> {
    let new = tcp::connections(&scene.topology.client.namespace, target, NEW)?;
    ensure!(
        new.of("i2") == 0 && new.total() == u64::from(NEW) && new.instances() == 2,
        "{target}: expected {NEW} connections to i1 and i3, found {new}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_of_a_draining_instance_go_on() -> Result<()> {
    let scene = Scene::new(3, configuration().text())?;
    for (service, number, family) in SERVICES {
        let (target, path) = (target(number, family), second(service, family));
        let held = Held::open(&scene.topology.client.namespace, target, HELD)?;
        let before = held.opened().clone();
        ensure!(before.instances() == 3, "{before}");
        let drained = scene.daemon.post(&format!("{path}/drain"))?;
        ensure!(
            drained["admin"] == "draining" && drained["drained"] == false,
            "{drained}"
        );
        scene.settle()?;
        expect_elsewhere(&scene, target)?;
        let after = held.close()?;
        ensure!(after == before, "opened {before}; at the end {after}");
        scene
            .daemon
            .wait_for(&path, Duration::from_secs(3), |one| one["drained"] == true)?;
        scene.daemon.post(&format!("{path}/enable"))?;
        scene.settle()?;
        let again = tcp::connections(&scene.topology.client.namespace, target, NEW)?;
        ensure!(
            again.of("i2") > 0 && again.failures().is_empty(),
            "after enable: {again}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_a_drain_leaves_is_cut_at_its_deadline_and_not_before() -> Result<()> {
    const DEADLINE: Duration = Duration::from_millis(2500);
    let scene = Scene::new(3, configuration().text())?;
    let client = &scene.topology.client.namespace;
    let mut held = Vec::new();
    for (_, number, family) in SERVICES {
        held.push(Held::open(client, target(number, family), HELD)?);
    }
    let mut begun = Vec::new();
    for (service, _, family) in SERVICES {
        begun.push(Instant::now());
        let path = format!("{}/drain", second(service, family));
        let body = json!({"deadline": format!("{}ms", DEADLINE.as_millis())});
        let drained = scene.daemon.ask(Method::POST, &path, &body)?;
        ensure!(drained["admin"] == "draining", "{drained}");
    }
    scene.settle()?;
    for (_, number, family) in SERVICES {
        expect_elsewhere(&scene, target(number, family))?;
    }
    for (held, begun) in held.iter().zip(begun) {
        cleanup::within(DEADLINE * 3, || held.broke().is_some());
        let broke = held.broke().context("nothing is cut")? - begun;
        // The deadline is kept in whole milliseconds.
        ensure!(broke + Duration::from_millis(1) >= DEADLINE, "{broke:?}");
        ensure!(broke < DEADLINE + Duration::from_secs(2), "{broke:?}");
    }
    for (held, (service, _, family)) in held.into_iter().zip(SERVICES) {
        let shown = scene.daemon.get(&second(service, family))?;
        ensure!(shown["admin"] == "disabled", "{shown}");
        let before = held.opened().clone();
        let after = held.close()?;
        ensure!(
            before.of("i2") > 0
                && after.has_lost(&before, "i2")
                && after.failures().iter().all(|why| why.contains("reset")),
            "{service}: opened {before}; at the end {after}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_of_a_disabled_instance_are_reset_at_once() -> Result<()> {
    let scene = Scene::new(3, configuration().text())?;
    for (service, number, family) in SERVICES {
        let (target, path) = (target(number, family), second(service, family));
        let held = Held::open(&scene.topology.client.namespace, target, HELD)?;
        let before = held.opened().clone();
        ensure!(before.of("i2") > 0, "{before}");
        scene.daemon.post(&format!("{path}/disable"))?;
        scene.settle()?;
        let start = Instant::now();
        let after = held.close()?;
        // A connection that is not reset would be noticed after five seconds of silence only.
        ensure!(
            start.elapsed() < Duration::from_secs(2),
            "the flows were silent instead of reset: {after}"
        );
        let lost = u64::try_from(after.failures().len())?;
        ensure!(
            lost == before.of("i2") && after.of("i1") == before.of("i1"),
            "opened {before}; at the end {after}"
        );
        ensure!(
            after.failures().iter().all(|why| why.contains("reset")),
            "{after}"
        );
        expect_elsewhere(&scene, target)?;
        scene.daemon.post(&format!("{path}/enable"))?;
        scene.settle()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn new_connections_avoid_an_instance_that_died() -> Result<()> {
    let mut scene = Scene::new(3, configuration().text())?;
    let limit = Duration::from_secs(3);
    for (service, _, family) in SERVICES {
        let path = second(service, family);
        scene
            .daemon
            .wait_for(&path, limit, |one| one["health"] == "healthy")?;
    }
    let held = Held::open(
        &scene.topology.client.namespace,
        target(NAT, Family::V4),
        HELD,
    )?;
    let before = held.opened().clone();
    scene.kill("i2")?;
    let start = Instant::now();
    for (service, _, family) in SERVICES {
        let path = second(service, family);
        scene
            .daemon
            .wait_for(&path, limit, |one| one["health"] == "unhealthy")?;
    }
    // Two failed checks, 200 ms ± 10 % apart, and what this machine takes to notice.
    let noticed = start.elapsed();
    ensure!(noticed < Duration::from_millis(1500), "{noticed:?}");
    scene.settle()?;
    for (_, number, family) in SERVICES {
        expect_elsewhere(&scene, target(number, family))?;
    }
    let after = held.close()?;
    ensure!(
        after.of("i1") == before.of("i1") && after.of("i3") == before.of("i3"),
        "opened {before}; at the end {after}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn every_algorithm_can_be_set_while_connections_are_held() -> Result<()> {
    let scene = Scene::new(3, configuration().text())?;
    let client = &scene.topology.client.namespace;
    for (service, number, family) in [SERVICES[0], SERVICES[2]] {
        let target = target(number, family);
        let held = Held::open(client, target, HELD)?;
        let before = held.opened().clone();
        let list = scene.daemon.get("/algorithms")?;
        let names: Vec<&str> = list["algorithms"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["name"].as_str())
            .collect();
        ensure!(names.len() == 7, "{list}");
        for name in names {
            let path = format!("/algorithms/{service}");
            let set = scene.daemon.put(&path, &json!({"algorithm": name}))?;
            ensure!(set["algorithm"] == name, "{set}");
            scene.settle()?;
            let new = tcp::connections(client, target, NEW)?;
            ensure!(
                new.failures().is_empty() && new.instances() == 3,
                "{name}: {new}"
            );
        }
        let after = held.close()?;
        ensure!(after == before, "opened {before}; at the end {after}");
    }
    Ok(())
}

/// Waits until each VIP that connections were opened to says that it has so many open. It is counted
/// by walks over the connection table, which begin every five seconds.
fn expect_open(scene: &Scene, count: u32) -> Result<()> {
    let limit = Duration::from_secs(12);
    scene.daemon.wait_for("/datapath", limit, |report| {
        let vips = report["vips"].as_array();
        let open = |vip: String| {
            let found = vips.and_then(|vips| vips.iter().find(|one| one["vip"] == vip));
            found.is_some_and(|one| one["live"] == count)
        };
        SERVICES
            .iter()
            .all(|(_, number, family)| open(format!("tcp/{}", target(*number, *family))))
    })?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_vip_has_open_what_its_clients_hold() -> Result<()> {
    let scene = Scene::new(3, configuration().text())?;
    let client = &scene.topology.client.namespace;
    let open = |(_, number, family)| Held::open(client, target(number, family), HELD);
    let held = SERVICES.map(open).into_iter().collect::<Result<Vec<_>>>()?;
    expect_open(&scene, HELD)?;
    let metrics = scene.daemon.cli(&["metrics"])?;
    let shown = scene.daemon.cli(&["datapath", "status"])?;
    for (service, number, family) in SERVICES {
        let vip = format!("tcp/{}", target(number, family));
        let labels = format!("vip=\"{vip}\",service=\"{service}\"");
        let line = format!("lb_l4_vip_live_connections{{{labels}}} {HELD}");
        ensure!(metrics.contains(&line), "no {line} in\n{metrics}");
        let row = shown.lines().find(|row| row.starts_with(&vip));
        let row: Vec<_> = row.into_iter().flat_map(str::split_whitespace).collect();
        let held = HELD.to_string();
        ensure!(row.get(3) == Some(&held.as_str()), "{vip}:\n{shown}");
    }
    for held in held {
        let after = held.close()?;
        ensure!(after.failures().is_empty(), "{after}");
    }
    expect_open(&scene, 0)
}
