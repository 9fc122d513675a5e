//! Packets that are followed: through the API, by the command line, as a capture that others read; and that
//! nothing is recorded when nobody follows.

use std::net::SocketAddr;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::loaded_programs;
use lb_tests::client::tcp;
use lb_tests::scene::{Configuration, DSR, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, command, instance};
use serde_json::Value;

/// Longest time for something that comes at once.
const SOON: Duration = Duration::from_secs(20);

fn scene() -> Result<Scene> {
    let mut configuration = Configuration::new("[]").packets();
    for (forwarding, number) in [("nat", NAT), ("l2dsr", DSR)] {
        let settings = format!(
            "forwarding = \"{forwarding}\"\nalgorithm = \"consistent_hash\"\nhash_key = \"flow\""
        );
        configuration = configuration
            .service(forwarding, instance::TCP, &[1, 1], &settings)
            .vips(number, instance::TCP, "tcp", forwarding);
    }
    Scene::new(2, configuration.text())
}

fn target(number: u8) -> SocketAddr {
    SocketAddr::new(address(number, Family::V4), instance::TCP)
}

/// Until when the program on the balancer's interface records packets; 0 when it does not.
fn followed(scene: &Scene) -> Result<u64> {
    let mut ip = scene.topology.balancer.namespace.command("ip");
    let shown = command::output(ip.args(["-d", "link", "show", "dev", "eth0"]))?;
    let (_, id) = shown.split_once("prog/xdp id ").context("no program")?;
    let id: u32 = id.split(' ').next().context("no id")?.parse()?;
    for program in loaded_programs() {
        let program = program?;
        if program.id() != id {
            continue;
        }
        for map in program.map_ids()?.unwrap_or_default() {
            let map = MapData::from_id(map)?;
            if map.info()?.name_as_str() == Some(lb_common::names::MAP_FOLLOWED) {
                let map: Array<MapData, u64> = Map::from_map_data(map)?.try_into()?;
                return Ok(map.get(&0, 0)?);
            }
        }
    }
    anyhow::bail!("the program {id} has no such variable")
}

/// Runs `lb flows` with `arguments` until it ends by itself, while `meanwhile` is done again and again.
fn follow(
    scene: &Scene,
    arguments: &[&str],
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<String> {
    thread::scope(|scope| {
        let following = scope.spawn(|| scene.daemon.cli(arguments));
        let done = cleanup::within(SOON, || {
            // What fails now fails below.
            let _ = meanwhile();
            following.is_finished()
        });
        ensure!(
            done,
            "lb {arguments:?} does not end: {}",
            scene.daemon.log()
        );
        following
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))?
    })
}

fn connect(scene: &Scene, number: u8) -> Result<()> {
    tcp::connections(&scene.topology.client.namespace, target(number), 1)?;
    Ok(())
}

fn events(lines: &str) -> Result<Vec<Value>> {
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

#[test]
#[ignore = "needs root"]
fn connections_are_seen_with_service_and_instance() -> Result<()> {
    let scene = scene()?;
    ensure!(followed(&scene)? == 0, "packets are recorded for nobody");
    let client = address(2, Family::V4).to_string();
    for (number, service) in [(NAT, "nat"), (DSR, "l2dsr")] {
        let vip = format!("tcp/{}", target(number));
        let filter = ["--json", "flows", "--new", "--vip", &vip, "--count", "3"];
        let told = follow(&scene, &filter, || connect(&scene, number))?;
        let told = events(&told)?;
        ensure!(told.len() == 3, "{told:?}");
        for event in &told {
            ensure!(
                event["verdict"] == "forwarded"
                    && event["new"] == true
                    && event["flags"] == serde_json::json!(["syn"])
                    && event["service"] == service
                    && event["vip"] == *vip
                    && event["interface"] == "eth0"
                    && event["destination"] == target(number).to_string(),
                "{event}"
            );
            let source = event["source"].as_str().unwrap_or_default();
            ensure!(source.starts_with(&client), "{event}");
            let instance = event["instance"].as_str().unwrap_or_default();
            ensure!(
                instance.ends_with(&format!(":{}", instance::TCP)),
                "{event}"
            );
            ensure!(event.get("bytes").is_none(), "{event}");
        }
    }
    // Answers as well, where they come through lb.
    let lines = follow(
        &scene,
        &["flows", "--service", "nat", "--count", "12"],
        || connect(&scene, NAT),
    )?;
    let instances = [11, 12].map(|number| format!(" {}:", address(number, Family::V4)));
    let is_answer = |line: &&str| {
        instances
            .iter()
            .any(|source| line.contains(source.as_str()))
    };
    ensure!(lines.lines().any(|line| is_answer(&line)), "{lines}");
    ensure!(
        lines.contains("forwarded: ") && lines.contains(" nat ("),
        "{lines}"
    );
    let off = cleanup::within(SOON, || followed(&scene).is_ok_and(|until| until == 0));
    ensure!(off, "packets are recorded for nobody");
    let metrics = scene.daemon.cli(&["metrics"])?;
    ensure!(metrics.contains("\nlb_l4_flow_followers 0\n"), "{metrics}");
    ensure!(
        metrics.contains("lb_l4_flow_events_total{result=\"lost\"} 0"),
        "{metrics}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn drops_are_seen_with_their_reason() -> Result<()> {
    let scene = scene()?;
    for host in [11, 12] {
        let instance = SocketAddr::new(address(host, Family::V4), instance::TCP);
        scene
            .daemon
            .post(&format!("/instances/nat/{instance}/disable"))?;
    }
    scene.settle()?;
    let arguments = [
        "--json",
        "flows",
        "--verdict",
        "dropped",
        "--service",
        "nat",
        "--count",
        "1",
    ];
    let client = &scene.topology.client.namespace;
    let told = follow(&scene, &arguments, || {
        // Nobody answers; a SYN is enough.
        client.enter(|| {
            let limit = Duration::from_millis(100);
            drop(std::net::TcpStream::connect_timeout(&target(NAT), limit));
        })
    })?;
    let event = &events(&told)?[0];
    ensure!(
        event["verdict"] == "dropped"
            && event["reason"] == "no_instance"
            && event["service"] == "nat"
            && event.get("instance").is_none()
            && event.get("out").is_none(),
        "{event}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and tcpdump"]
fn captures_are_read_by_others() -> Result<()> {
    let scene = scene()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.pcapng");
    let path = file.to_string_lossy();
    let arguments = [
        "flows",
        "--service",
        "nat",
        "--write",
        &path,
        "--count",
        "20",
    ];
    let lines = follow(&scene, &arguments, || connect(&scene, NAT))?;
    ensure!(lines.is_empty(), "{lines}");
    let namespace = &scene.topology.balancer.namespace;
    let read = |more: &[&str]| {
        let mut tcpdump = namespace.command("tcpdump");
        // As another user it could not read the folder.
        command::output(tcpdump.args(["-Z", "root", "-n", "-r", &path]).args(more))
    };
    let all = read(&[])?;
    ensure!(all.lines().count() == 20, "{all}");
    // As they leave: from lb to the instances, and from the VIP to the client.
    let lb = address(1, Family::V4);
    let (lb, port) = (lb.to_string(), instance::TCP.to_string());
    let to_instances = read(&["src", "host", &lb, "and", "dst", "port", &port])?;
    let vip = target(NAT).ip().to_string();
    let to_client = read(&["src", "host", &vip])?;
    ensure!(!to_instances.is_empty() && !to_client.is_empty(), "{all}");
    let bytes = std::fs::read(&file)?;
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    ensure!(has("forwarded: ") && has("nat (") && has("eth0"));
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_a_killed_daemon_was_asked_for_is_over() -> Result<()> {
    let mut scene = scene()?;
    let (begun, asked) = (followed(&scene)?, "/api/v1/loadbalancer/flows");
    ensure!(begun == 0);
    let url = format!("http://{}{asked}", lb_tests::daemon::API);
    let mut curl = scene.topology.balancer.namespace.command("curl");
    curl.args(["--silent", "--no-buffer", &url])
        .stdout(Stdio::null());
    let mut curl = curl.spawn()?;
    let on = cleanup::within(SOON, || followed(&scene).is_ok_and(|until| until != 0));
    let killed = scene.daemon.kill();
    curl.kill()?;
    curl.wait()?;
    ensure!(on, "nobody follows: {}", scene.daemon.log());
    killed?;
    // The program does it, with the first packet after a while.
    let off = cleanup::within(SOON, || {
        let _ = connect(&scene, DSR);
        followed(&scene).is_ok_and(|until| until == 0)
    });
    ensure!(off, "packets are recorded for a daemon that is gone");
    scene.daemon.start_again()?;
    scene.settle()?;
    ensure!(followed(&scene)? == 0);
    connect(&scene, DSR)
}

#[test]
#[ignore = "needs root"]
fn a_relay_says_that_it_sees_no_packets() -> Result<()> {
    let configuration =
        Configuration::new("[]")
            .relayed()
            .service("nat", instance::TCP, &[1, 1], "");
    let scene = Scene::new(2, configuration.text())?;
    let refused = scene.daemon.cli(&["flows", "--count", "1"]);
    let refused = refused.map_err(|error| format!("{error:#}"));
    ensure!(
        refused.as_ref().is_err_and(|text| text.contains("relay")),
        "{refused:?}"
    );
    Ok(())
}
