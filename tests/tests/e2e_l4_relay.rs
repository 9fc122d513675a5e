//! VIPs without the kernel's help: where the rights for it are missing, or nobody wants it, the daemon
//! relays their connections by sockets of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::{bulk, held::Held, http, tcp};
use lb_tests::daemon::{API, Daemon, Rights};
use lb_tests::instance;
use lb_tests::scene::{Configuration, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;
use serde_json::{Value, json};

/// Connections of one measurement.
const COUNT: u32 = 120;
/// Connections that are held while something changes.
const HELD: u32 = 30;
/// Bytes of a large transfer.
const LARGE: usize = 32 << 20;
/// Within which figures follow.
const PROMPT: Duration = Duration::from_secs(3);

fn configuration() -> Configuration {
    let settings = "algorithm = \"weighted_round_robin\"";
    Configuration::new("[]")
        .relayed()
        .service("web", instance::TCP, &[20, 10, 10], settings)
        .vips(NAT, instance::TCP, "tcp", "web")
}

fn scene(configuration: &Configuration) -> Result<Scene> {
    let scene = Scene::new(3, configuration.text())?;
    scene.deliver()?;
    Ok(scene)
}

fn target(family: Family) -> SocketAddr {
    SocketAddr::new(address(NAT, family), instance::TCP)
}

/// The resource of the instance on the host `i2`.
fn second(family: Family) -> String {
    let endpoint = SocketAddr::new(address(12, family), instance::TCP);
    format!("/instances/web/{endpoint}")
}

/// The sum of a figure of all instances.
fn sum(instances: &Value, counter: &str) -> u64 {
    let all = instances["instances"].as_array().into_iter().flatten();
    all.map(|one| one["kernel"][counter].as_u64().unwrap_or_default())
        .sum()
}

fn metrics(scene: &Scene) -> Result<String> {
    let balancer = &scene.topology.balancer.namespace;
    Ok(http::request(balancer, API, Method::GET, "/metrics", "")?.text())
}

#[test]
#[ignore = "needs root"]
fn connections_are_spread_by_weight_and_counted_as_their_clients_saw_them() -> Result<()> {
    let scene = scene(&configuration())?;
    let client = &scene.topology.client.namespace;
    // Any instance will do for any VIP: a relay has two connections, of a family each.
    for family in FAMILIES {
        let seen = tcp::connections(client, target(family), COUNT)?;
        ensure!(
            seen.total() == u64::from(COUNT) && seen.failures().is_empty(),
            "{family:?}: {seen}"
        );
        for (name, share) in [("i1", 0.5), ("i2", 0.25), ("i3", 0.25)] {
            // Each worker takes turns of its own.
            ensure!(
                (seen.share(name) - share).abs() < 0.05,
                "{family:?}: {seen}"
            );
        }
        let name = bulk::echo(client, target(family), LARGE)?;
        ensure!(name.starts_with('i'), "{name}");
    }
    let of_each = u64::from(COUNT) + 1;
    let report = scene.daemon.wait_for("/datapath", PROMPT, |report| {
        // That nothing reached the sockets before is forgotten within a second.
        report["vips"][0]["live"] == 0
            && report["vips"][1]["live"] == 0
            && report["warnings"] == json!([])
    })?;
    ensure!(
        report["mode"] == "relay" && report["attached"] == false && report["reason"] == "",
        "{report}"
    );
    let mut bytes = 0;
    for vip in report["vips"].as_array().context("VIPs")? {
        ensure!(
            vip["connections"] == of_each && vip["dropped"] == 0,
            "{vip}"
        );
        for way in ["bytes_in", "bytes_out"] {
            let count = vip[way].as_u64().unwrap_or_default();
            ensure!(count > LARGE as u64, "{vip}");
            bytes += count;
        }
    }
    let instances = scene.daemon.get("/instances")?;
    ensure!(sum(&instances, "connections") == 2 * of_each, "{instances}");
    ensure!(sum(&instances, "live_connections") == 0, "{instances}");
    let by_instances = sum(&instances, "bytes_in") + sum(&instances, "bytes_out");
    ensure!(by_instances == bytes, "{by_instances} and {bytes}");
    let metrics = metrics(&scene)?;
    let vip = format!("tcp/{}", target(Family::V4));
    for line in [
        "lb_l4_mode{mode=\"relay\"} 1".to_owned(),
        format!("lb_l4_vip_connections_total{{vip=\"{vip}\",service=\"web\"}} {of_each}"),
        format!("lb_l4_vip_live_connections{{vip=\"{vip}\",service=\"web\"}} 0"),
    ] {
        ensure!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
    let health = scene.daemon.get("/health")?;
    ensure!(health["status"] == "healthy", "{health}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn without_the_rights_vips_are_relayed_and_everybody_is_told() -> Result<()> {
    let packets = "[datapath]\ninterfaces = [\"eth0\"]\nmode = \"auto\"\npin_path = \"@PINS@\"";
    let configuration = Configuration::new("[]")
        .with(packets)
        .service("web", instance::TCP, &[1, 1], "")
        .vips(NAT, instance::TCP, "tcp", "web");
    let scene = Scene::with(2, configuration.text(), Rights::NoKernel)?;
    let log = scene.daemon.log();
    ensure!(
        log.contains("VIPs are not served in the kernel") && log.contains("CAP_BPF"),
        "{log}"
    );
    // Nothing reaches the sockets so far, and that is said, too.
    let lost = format!("ip route add local {}/32 dev lo", address(NAT, Family::V4));
    ensure!(log.contains(&lost), "{log}");
    scene.deliver()?;
    scene.daemon.wait_for("/datapath", PROMPT, |report| {
        report["warnings"] == json!([])
    })?;
    let client = &scene.topology.client.namespace;
    for family in FAMILIES {
        let seen = tcp::connections(client, target(family), 20)?;
        ensure!(seen.total() == 20 && seen.instances() == 2, "{seen}");
    }
    let report = scene.daemon.get("/datapath")?;
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(
        report["mode"] == "relay" && reason.contains("CAP_BPF and CAP_NET_ADMIN"),
        "{report}"
    );
    let health = scene.daemon.get("/health")?;
    ensure!(
        health["status"] == "degraded" && health["problems"].to_string().contains("CAP_BPF"),
        "{health}"
    );
    for command in [&["status"][..], &["datapath", "status"]] {
        let text = scene.daemon.cli(command)?;
        ensure!(text.contains("CAP_BPF"), "{command:?}: {text}");
    }
    let ready = || {
        let balancer = &scene.topology.balancer.namespace;
        http::request(balancer, API, Method::GET, "/readyz", "")
    };
    ensure!(ready()?.status == 200, "{}", ready()?.text());
    // What cannot be relayed keeps traffic away.
    let more = configuration.vips(NAT, instance::UDP, "udp", "web");
    scene.daemon.configure(more.text())?;
    scene.daemon.post_admin("reload")?;
    scene.settle()?;
    let refused = ready()?;
    ensure!(refused.status == 503, "{}", refused.text());
    let warnings = scene.daemon.get("/datapath")?["warnings"].to_string();
    ensure!(warnings.contains("UDP has none"), "{warnings}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn who_insists_on_the_kernel_or_on_a_relay_for_everything_does_not_start() -> Result<()> {
    let configuration = |mode: &str, protocol: &str| {
        Configuration::new("[]")
            .with(&format!(
                "[datapath]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\npin_path = \"@PINS@\""
            ))
            .service("web", instance::TCP, &[1], "")
            .vips(NAT, instance::TCP, protocol, "web")
    };
    let scene = scene(&configuration("relay", "tcp"))?;
    for (mode, protocol, why) in [
        ("native", "tcp", "CAP_BPF and CAP_NET_ADMIN"),
        ("generic", "tcp", "CAP_BPF and CAP_NET_ADMIN"),
        (
            "relay",
            "udp",
            "a relay joins TCP connections, and UDP has none",
        ),
    ] {
        let text = configuration(mode, protocol);
        let host = &scene.topology.client;
        let Err(error) = Daemon::start_with(host, text.text(), Rights::NoKernel) else {
            anyhow::bail!("{mode}, {protocol}: it runs");
        };
        let error = format!("{error:#}");
        ensure!(error.contains(why), "{mode}, {protocol}: {error}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_end_of_what_a_client_sends_is_not_the_end() -> Result<()> {
    let scene = scene(&configuration())?;
    scene.topology.client.namespace.enter(|| -> Result<()> {
        let mut stream = TcpStream::connect(target(Family::V4))?;
        stream.set_read_timeout(Some(PROMPT))?;
        stream.write_all(b"a last word")?;
        stream.shutdown(Shutdown::Write)?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard)?;
        ensure!(heard.ends_with("a last word"), "{heard:?}");
        Ok(())
    })?
}

#[test]
#[ignore = "needs root"]
fn a_drain_keeps_connections_until_its_deadline() -> Result<()> {
    let scene = scene(&configuration())?;
    let client = &scene.topology.client.namespace;
    let (target, path) = (target(Family::V4), second(Family::V4));
    let held = Held::open(client, target, HELD)?;
    let before = held.opened().clone();
    ensure!(before.instances() == 3, "{before}");
    // Another family's instance of the same host is another instance.
    let other = second(Family::V6);
    for path in [&path, &other] {
        let deadline = json!({"deadline": "2s"});
        let drained = scene
            .daemon
            .ask(Method::POST, &format!("{path}/drain"), &deadline)?;
        ensure!(drained["admin"] == "draining", "{drained}");
    }
    scene.settle()?;
    let new = tcp::connections(client, target, COUNT)?;
    ensure!(
        new.of("i2") == 0 && new.total() == u64::from(COUNT),
        "while it drains: {new}"
    );
    let live = |one: &Value| one["kernel"]["live_connections"].as_u64();
    let lives = [&path, &other].map(|path| scene.daemon.get(path).map(|one| live(&one)));
    let lives: u64 = lives.into_iter().flatten().flatten().sum();
    ensure!(lives == before.of("i2"), "{lives} live, {before}");
    for path in [&path, &other] {
        scene
            .daemon
            .wait_for(path, Duration::from_secs(6), |one| live(one) == Some(0))?;
    }
    let after = held.close()?;
    ensure!(
        after.has_lost(&before, "i2") && after.failures().iter().all(|why| why.contains("reset")),
        "opened {before}; at the end {after}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_dies_costs_its_own_connections_alone() -> Result<()> {
    // Nobody checks: clients themselves find out.
    let mut scene = scene(&configuration())?;
    let held = Held::open(&scene.topology.client.namespace, target(Family::V6), HELD)?;
    let before = held.opened().clone();
    scene.kill("i2")?;
    let client = &scene.topology.client.namespace;
    let start = Instant::now();
    let new = tcp::connections(client, target(Family::V4), COUNT)?;
    ensure!(
        new.of("i2") == 0 && new.total() == u64::from(COUNT) && new.failures().is_empty(),
        "{new}"
    );
    ensure!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let after = held.close()?;
    ensure!(
        after.failures().len() as u64 == before.of("i2") && after.of("i1") == before.of("i1"),
        "opened {before}; at the end {after}"
    );
    let failures = [Family::V4, Family::V6].map(|family| {
        let one = scene.daemon.get(&second(family));
        one.map(|one| one["requests"]["failures"].as_u64().unwrap_or_default())
    });
    let failures: u64 = failures.into_iter().flatten().sum();
    ensure!(failures > 0, "nobody was blamed");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_reload_touches_nothing_but_what_it_changes() -> Result<()> {
    let more = |port: &str| {
        let address = address(NAT, Family::V4);
        format!("[[vips]]\naddress = \"{address}\"\nport = {port}\nservice = \"web\"")
    };
    let [first, then] = [more("4000"), more("\"5000-5003\"")].map(|vip| configuration().with(&vip));
    let scene = scene(&first)?;
    let client = &scene.topology.client.namespace;
    let at = |port| SocketAddr::new(address(NAT, Family::V4), port);
    let stays = Held::open(client, target(Family::V4), HELD)?;
    let goes = Held::open(client, at(4000), HELD)?;
    let before = stays.opened().clone();
    scene.daemon.configure(then.text())?;
    scene.daemon.post_admin("reload")?;
    scene.settle()?;
    let gone = goes.close()?;
    ensure!(gone.failures().len() as u64 == u64::from(HELD), "{gone}");
    let refused = tcp::connections(client, at(4000), 1)?;
    ensure!(refused.failures().len() == 1, "{refused}");
    // Ports of a range are kept, and nobody listens there.
    let kept = tcp::connections(client, at(5002), 1)?;
    ensure!(kept.failures().len() == 1, "{kept}");
    scene.daemon.wait_for("/datapath", PROMPT, |report| {
        let vips = report["vips"].as_array();
        let is_range = |vip: &&Value| vip["vip"].to_string().contains("5000-5003");
        let range = vips.and_then(|vips| vips.iter().find(is_range));
        range.is_some_and(|vip| vip["dropped"] == 1)
    })?;
    let after = stays.close()?;
    ensure!(after == before, "opened {before}; at the end {after}");
    Ok(())
}
