//! The kernel path without its daemon: traffic goes on, the next daemon adopts, `detach` ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use lb_tests::client::{held::Held, tcp, transfer, transfer::Transfer};
use lb_tests::datapath::sets;
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, command, instance};
use serde_json::Value;

/// Steps of 16 KiB, 5 ms apart: about two seconds.
const STEPS: u32 = 400;
const REST: Duration = Duration::from_millis(5);

/// What a daemon says when it has looked at the links that are there, and before it moves them: it takes over
/// connections first.
const LOOKED: &str = "going on with what is in the kernel";
/// How often it is tried to lay a link aside between the two.
const TRIES: usize = 4;

const VIPS: [(u8, Family); 3] = [(NAT, Family::V4), (NAT, Family::V6), (DSR, Family::V4)];

fn scene(hook: Hook) -> Result<Scene> {
    let configuration = Configuration::new("[]").packets_at(hook);
    let mut configuration = configuration.with("max_connections = 4000");
    for (name, number) in [("nat", NAT), ("l2dsr", DSR)] {
        let settings = format!("forwarding = \"{name}\"");
        configuration = configuration
            .service(name, instance::TCP, &[10, 10, 10], &settings)
            .vips(number, instance::TCP, "tcp", name);
    }
    Scene::new(3, configuration.text())
}

fn targets() -> [SocketAddr; 3] {
    VIPS.map(|(number, family)| SocketAddr::new(address(number, family), instance::TCP))
}

/// Where the daemon of a scene has pinned what outlives it.
fn pins(scene: &Scene) -> PathBuf {
    scene.daemon.pins().to_path_buf()
}

/// Whether a program is attached to the balancer's interface.
fn is_attached(scene: &Scene) -> Result<bool> {
    let mut ip = scene.topology.balancer.namespace.command("ip");
    let shown = command::output(ip.args(["-d", "link", "show", "dev", "eth0"]))?;
    Ok(shown.contains("prog/xdp"))
}

/// Endpoint, id and connections so far of every instance.
fn instances(scene: &Scene) -> Result<Vec<(Value, Value, u64)>> {
    Scene::age_figures();
    let answer = scene.daemon.get("/instances")?;
    let all = answer["instances"].as_array().into_iter().flatten();
    Ok(all
        .map(|one| {
            let connections = one["kernel"]["connections"].as_u64();
            (
                one["instance"].clone(),
                one["id"].clone(),
                connections.unwrap_or_default(),
            )
        })
        .collect())
}

/// The sum of the connections of all VIPs.
fn connections(scene: &Scene) -> Result<u64> {
    Scene::age_figures();
    let datapath = scene.daemon.get("/datapath")?;
    let vips = datapath["vips"].as_array().into_iter().flatten();
    Ok(vips.filter_map(|vip| vip["connections"].as_u64()).sum())
}

fn connect(scene: &Scene, target: SocketAddr, count: u32) -> Result<()> {
    let tally = tcp::connections(&scene.topology.client.namespace, target, count)?;
    ensure!(
        tally.total() == u64::from(count) && tally.instances() == 3,
        "{count} connections to {target}: {tally}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_killed_daemon_breaks_nothing_and_its_successor_adopts() -> Result<()> {
    let mut scene = scene(Hook::Xdp)?;
    let client = &scene.topology.client.namespace;
    for target in targets() {
        connect(&scene, target, 30)?;
    }
    let held: Vec<Held> = targets()
        .iter()
        .map(|target| Held::open(client, *target, 10))
        .collect::<Result<_>>()?;
    let opened: Vec<_> = held.iter().map(|held| held.opened().clone()).collect();
    let transfers = targets().map(|target| Transfer::start(client, target, STEPS, REST));
    for transfer in &transfers {
        let begun = cleanup::within(Duration::from_secs(5), || transfer.done() > 0);
        ensure!(begun, "a transfer does not begin");
    }
    std::thread::sleep(Duration::from_millis(150));
    let (before, connections_before) = (instances(&scene)?, connections(&scene)?);

    scene.daemon.kill()?;
    ensure!(is_attached(&scene)?, "the program went with the daemon");
    for target in targets() {
        connect(&scene, target, 30)?;
    }
    let done: Vec<u64> = transfers.iter().map(Transfer::done).collect();
    scene.daemon.start_again()?;
    scene.settle()?;
    let full = u64::from(STEPS) * transfer::STEP as u64;
    ensure!(
        done.iter().all(|done| *done < full),
        "the transfers were over too early to show anything: {done:?}"
    );

    // The same instances under the same numbers, and what was counted without a daemon is counted.
    let after = instances(&scene)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            (&before.0, &before.1) == (&after.0, &after.1) && before.2 <= after.2,
            "{before:?} became {after:?}"
        );
    }
    let (expected, found) = (connections_before + 3 * 30, connections(&scene)?);
    ensure!(
        found == expected,
        "expected {expected} connections, found {found}"
    );
    for transfer in transfers {
        let bytes = transfer.finish()?;
        ensure!(bytes == full, "{bytes} of {full} bytes came back");
    }
    for (held, opened) in held.into_iter().zip(opened) {
        let end = held.close()?;
        ensure!(end == opened, "opened {opened}; at the end {end}");
    }
    for target in targets() {
        connect(&scene, target, 30)?;
    }
    Ok(())
}

/// The programs on the links, by what those are pinned as.
fn programs(pins: &Path) -> Result<BTreeMap<PathBuf, u32>> {
    let links = fs::read_dir(pins.join("links"))?;
    let program = |path: PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(&path)?);
        Ok((path, link.info()?.program_id()))
    };
    links.map(|link| program(link?.path())).collect()
}

/// Connections that are open at all instances.
fn live(scene: &Scene) -> Result<u64> {
    Scene::age_figures();
    let answer = scene.daemon.get("/instances")?;
    let all = answer["instances"].as_array().into_iter().flatten();
    let live = all.filter_map(|one| one["kernel"]["live_connections"].as_u64());
    Ok(live.sum())
}

/// Stops the daemon and starts it on these interfaces.
fn serve_on(scene: &mut Scene, interfaces: &[&str]) -> Result<()> {
    scene.daemon.stop(Duration::from_secs(5))?;
    change(scene, "interfaces", &format!("{interfaces:?}"))?;
    scene.daemon.start_again()?;
    scene.settle()?;
    let attached = programs(scene.daemon.pins())?;
    ensure!(attached.len() == interfaces.len(), "{attached:?}");
    Ok(())
}

/// Gives a setting of the configuration file another value.
fn change(scene: &Scene, name: &str, value: &str) -> Result<()> {
    let text = fs::read_to_string(scene.daemon.file())?;
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some((found, _)) if found == name => format!("{name} = {value}\n"),
        _ => format!("{line}\n"),
    });
    scene.daemon.configure(&lines.collect::<String>())
}

/// Starts a daemon over maps of another size, and has it die when it has moved some links and not all. It finds the
/// link of one interface and, when it wants to move it, finds it no more. Says which it has moved; nothing when it was
/// faster, and has moved all.
fn die_between_links(scene: &mut Scene, interface: &str) -> Result<Option<Vec<PathBuf>>> {
    change(scene, "max_connections", "5000")?;
    let pins = pins(scene);
    let before = programs(&pins)?;
    let is_it = |link: &&PathBuf| link.to_string_lossy().ends_with(&format!("-{interface}"));
    let link = before.keys().find(is_it).context("no such link")?;
    let aside = pins.join("aside");
    let is_moved = |now: &BTreeMap<PathBuf, u32>| now.iter().any(|(link, id)| before[link] != *id);
    let mut is_aside = false;
    scene.daemon.start_until(|log| {
        is_aside = is_aside || log.contains(LOOKED) && fs::rename(link, &aside).is_ok();
        is_aside && programs(&pins).is_ok_and(|now| is_moved(&now))
    })?;
    fs::rename(&aside, link)?;
    ensure!(sets(&pins)?.len() == 2);
    let mut after = programs(&pins)?;
    after.retain(|link, id| before[link] != *id);
    let is_between = !after.contains_key(link);
    Ok(is_between.then(|| after.into_keys().collect()))
}

/// A daemon dies when some links are moved to other maps and others are not, and that of the traffic is
/// (`with_traffic`) or is not. Whether it has died there.
fn half_moved(hook: Hook, with_traffic: bool) -> Result<bool> {
    let mut scene = scene(hook)?;
    let namespace = &scene.topology.balancer.namespace;
    namespace.ip(&[
        "link add x1 type veth peer name y1",
        "link set x1 up",
        "link add x2 type veth peer name y2",
        "link set x2 up",
    ])?;
    // The link that was made last is moved first.
    if with_traffic {
        serve_on(&mut scene, &["x1", "x2"])?;
    }
    serve_on(&mut scene, &["x1", "x2", "eth0"])?;
    let client = &scene.topology.client.namespace;
    let held: Vec<Held> = targets()
        .iter()
        .map(|target| Held::open(client, *target, 10))
        .collect::<Result<_>>()?;
    let opened: Vec<_> = held.iter().map(|held| held.opened().clone()).collect();
    let ids = instances(&scene)?;
    scene.daemon.kill()?;
    let Some(moved) = die_between_links(&mut scene, "x1")? else {
        return Ok(false);
    };
    let client = &scene.topology.client.namespace;
    let transfers = targets().map(|target| Transfer::start(client, target, 2 * STEPS, REST));
    let is_eth0 = |link: &PathBuf| link.to_string_lossy().ends_with("-eth0");
    ensure!(moved.iter().any(is_eth0) == with_traffic, "{moved:?}");
    for target in targets() {
        connect(&scene, target, 30)?;
    }
    scene.daemon.start_again()?;
    scene.settle()?;
    let full = 2 * u64::from(STEPS) * transfer::STEP as u64;
    let done: Vec<u64> = transfers.iter().map(Transfer::done).collect();
    ensure!(
        done.iter().all(|done| *done < full),
        "the transfers were over too early to show anything: {done:?}"
    );

    ensure!(sets(scene.daemon.pins())?.len() == 1);
    let programs = programs(scene.daemon.pins())?;
    let different: BTreeSet<u32> = programs.values().copied().collect();
    ensure!((programs.len(), different.len()) == (3, 1), "{programs:?}");
    for (before, now) in ids.iter().zip(&instances(&scene)?) {
        ensure!(
            (&before.0, &before.1) == (&now.0, &now.1),
            "{before:?} became {now:?}"
        );
    }
    for target in targets() {
        connect(&scene, target, 30)?;
    }
    for transfer in transfers {
        let bytes = transfer.finish()?;
        ensure!(bytes == full, "{bytes} of {full} bytes came back");
    }
    let mut found = 0;
    let is_right = cleanup::within(Duration::from_secs(30), || {
        found = live(&scene).unwrap_or_default();
        found == 30
    });
    ensure!(is_right, "30 connections are held, {found} are open");
    for (held, opened) in held.into_iter().zip(opened) {
        let end = held.close()?;
        ensure!(end == opened, "opened {opened}; at the end {end}");
    }
    Ok(true)
}

#[test]
#[ignore = "needs root"]
fn a_daemon_that_dies_between_two_links_breaks_nothing() -> Result<()> {
    for (hook, with_traffic) in [(Hook::Xdp, false), (Hook::Xdp, true), (Hook::Tc, true)] {
        let case = format!("{hook:?}, {with_traffic}");
        let mut has_died = false;
        for _ in 0..TRIES {
            has_died = half_moved(hook, with_traffic).with_context(|| case.clone())?;
            if has_died {
                break;
            }
        }
        ensure!(has_died, "{case}: it was always faster");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_restart_with_other_weights_keeps_connections() -> Result<()> {
    let mut scene = scene(Hook::Xdp)?;
    let client = &scene.topology.client.namespace;
    let held: Vec<Held> = targets()
        .iter()
        .map(|target| Held::open(client, *target, 15))
        .collect::<Result<_>>()?;
    scene.daemon.stop(Duration::from_secs(5))?;
    let text = fs::read_to_string(scene.daemon.file())?;
    let second = "10.77.0.12:7000\", weight = ";
    ensure!(text.contains(second), "{text}");
    scene
        .daemon
        .configure(&text.replace(&format!("{second}10"), &format!("{second}0")))?;
    scene.daemon.start_again()?;
    scene.settle()?;
    for (number, family) in VIPS {
        let target = SocketAddr::new(address(number, family), instance::TCP);
        let new = tcp::connections(client, target, 40)?;
        let expected = if family == Family::V4 { 2 } else { 3 };
        ensure!(
            new.failures().is_empty() && new.instances() == expected,
            "{target}: {new}"
        );
    }
    for held in held {
        let (opened, end) = (held.opened().clone(), held.close()?);
        ensure!(end == opened, "opened {opened}; at the end {end}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn detach_takes_everything_off() -> Result<()> {
    let mut scene = scene(Hook::Xdp)?;
    let pins = pins(&scene);
    let pinned = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
    ensure!(
        pinned(&pins) > 0 && is_attached(&scene)?,
        "nothing is attached"
    );
    connect(&scene, targets()[0], 6)?;
    scene.daemon.kill()?;
    ensure!(
        pinned(&pins) > 0 && is_attached(&scene)?,
        "nothing was left"
    );

    let path = pins.to_string_lossy().into_owned();
    let status = scene
        .daemon
        .cli(&["datapath", "status", "--pin-path", &path])?;
    ensure!(
        status.contains("lb is not running") && status.contains("eth0"),
        "{status}"
    );
    let detached = scene
        .daemon
        .cli(&["datapath", "detach", "--pin-path", &path])?;
    ensure!(detached.contains("eth0"), "{detached}");
    ensure!(!is_attached(&scene)?, "a program is still attached");
    ensure!(pinned(&pins) == 0, "pins are left below {path}");
    let again = scene
        .daemon
        .cli(&["datapath", "detach", "--pin-path", &path])?;
    ensure!(again.contains("nothing was attached"), "{again}");
    for family in FAMILIES {
        let target = SocketAddr::new(address(NAT, family), instance::TCP);
        let connected = scene
            .topology
            .client
            .namespace
            .enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(300)))?;
        ensure!(connected.is_err(), "{target} is still served");
    }

    // And the next daemon begins anew.
    scene.daemon.start_again()?;
    scene.settle()?;
    connect(&scene, targets()[0], 30)
}
