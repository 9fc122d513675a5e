//! SYN cookies between real kernels: whole transfers through two handshakes, a flood, and a daemon that
//! is started anew meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::client::curl::curl;
use lb_tests::client::flood::Flood;
use lb_tests::client::transfer::Transfer;
use lb_tests::client::{bulk, tcp};
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, instance};

/// Connections of one measurement.
const COUNT: u32 = 100;
/// Bytes of a large transfer.
const LARGE: usize = 10 << 20;
/// SYNs of a flood at least.
const FLOOD: u64 = 100_000;

fn configuration(hook: Hook, forwarding: &str, above: u32) -> Configuration {
    let settings = format!(
        "forwarding = \"{forwarding}\"\nhash_key = \"flow\"\nlimits = {{ syn_cookies_above = {above} }}"
    );
    Configuration::new("[]")
        .packets_at(hook)
        .with("max_connections = 200000")
        .service("web", instance::HTTP, &[10, 10], &settings)
        .service("stream", instance::TCP, &[10, 10], &settings)
        .vips(NAT, instance::HTTP, "tcp", "web")
        .vips(NAT, instance::TCP, "tcp", "stream")
}

fn target(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(address(NAT, family), port)
}

/// Connections, small and large bodies, uploads, and one connection for several requests; how many
/// connections that were.
fn use_all(scene: &Scene, family: Family) -> Result<u64> {
    let client = &scene.topology.client.namespace;
    let start = Instant::now();
    // Here the instance speaks first.
    let greeted = tcp::connections(client, target(family, instance::TCP), COUNT)?;
    ensure!(
        greeted.failures().is_empty() && greeted.total() == u64::from(COUNT),
        "{greeted}"
    );
    // Were it not told to at once, it would wait a second each time.
    ensure!(start.elapsed() < Duration::from_secs(COUNT.into()) / 2);
    bulk::echo(client, target(family, instance::TCP), LARGE)?;
    let url = |path: &str| format!("http://{}{path}", target(family, instance::HTTP));
    for size in [1, 20_000, LARGE] {
        let answer = curl(client, &[&url(&format!("/?size={size}"))])?;
        ensure!(answer.status == 200 && answer.body.len() == size);
        ensure!(answer.body.bytes().all(|byte| byte == b'x'));
    }
    let upload = tempfile::NamedTempFile::new()?;
    fs::write(&upload, vec![b'y'; 1 << 20])?;
    let data = format!("@{}", upload.path().display());
    let answer = curl(client, &["--data-binary", &data, &url("/")])?;
    ensure!(answer.status == 200, "{answer:?}");
    let again = url("/");
    let answer = curl(
        client,
        &[
            &again,
            &again,
            &again,
            "--write-out",
            "<%{num_connects}>\n%{http_code}",
        ],
    )?;
    let made = |number| answer.body.matches(number).count();
    ensure!((made("<1>"), made("<0>")) == (1, 2), "{answer:?}");
    Ok(u64::from(COUNT) + 1 + 3 + 1 + 1)
}

fn transfers(hook: Hook, forwarding: &str) -> Result<()> {
    let scene = Scene::new(2, configuration(hook, forwarding, 0).text())?;
    if forwarding == "dnat" {
        scene.answer_through_lb()?;
    }
    let mut connections = 0;
    for family in FAMILIES {
        connections += use_all(&scene, family).with_context(|| format!("{family}"))?;
    }
    for (name, expected) in [
        ("cookies_accepted", connections),
        ("connections_opened", connections),
        ("cookies_refused", 0),
        ("answered_stale", 0),
        ("connection_unspliced", 0),
    ] {
        let found = scene.counted(name)?;
        ensure!(
            found == expected,
            "expected {expected} {name}, found {found}"
        );
    }
    ensure!(scene.counted("answered_cookie")? >= connections);
    let text = scene.daemon.cli(&["datapath", "counters"])?;
    ensure!(text.contains("cookies_accepted"), "{text}");
    let text = scene.daemon.cli(&["limits"])?;
    ensure!(text.contains("COOKIES ABOVE"), "{text}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn transfers_by_nat_are_intact() -> Result<()> {
    transfers(Hook::Xdp, "nat")?;
    transfers(Hook::Tc, "nat").context("by traffic control")
}

#[test]
#[ignore = "needs root"]
fn transfers_by_dnat_are_intact() -> Result<()> {
    transfers(Hook::Xdp, "dnat")
}

#[test]
#[ignore = "needs root"]
fn a_flood_is_remembered_nowhere_and_keeps_nobody_out() -> Result<()> {
    let scene = Scene::new(2, configuration(Hook::Xdp, "nat", 0).text())?;
    let client = &scene.topology.client.namespace;
    let to = target(Family::V4, instance::TCP);
    let flood = Flood::start(client, to, FLOOD);
    let tally = tcp::connections(client, to, COUNT * 5)?;
    let sent = flood.finish()?;
    let failed = tally.failures().len() as u64;
    ensure!(
        failed * 100 <= tally.total() && tally.total() >= u64::from(COUNT) * 5 - failed,
        "{tally}"
    );
    let cookies = scene.counted("answered_cookie")?;
    // Queues of the network lose some of them.
    ensure!(cookies > sent / 2, "{cookies} of {sent}");
    let opened = scene.counted("connections_opened")?;
    ensure!(opened <= u64::from(COUNT) * 5, "{opened} connections");
    ensure!(scene.counted("openings_forgotten")? == 0);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn cookies_begin_with_a_flood_and_end_with_it() -> Result<()> {
    let scene = Scene::new(2, configuration(Hook::Xdp, "nat", 1000).text())?;
    let client = &scene.topology.client.namespace;
    let to = target(Family::V4, instance::TCP);
    let calm = tcp::connections(client, to, COUNT)?;
    ensure!(calm.failures().is_empty(), "{calm}");
    ensure!(scene.counted("answered_cookie")? == 0);
    let flood = Flood::start(client, to, FLOOD);
    let under_way = cleanup::within(Duration::from_secs(10), || {
        scene
            .counted("answered_cookie")
            .is_ok_and(|cookies| cookies > 0)
    });
    ensure!(under_way, "no cookies");
    let tally = tcp::connections(client, to, COUNT)?;
    flood.finish()?;
    ensure!(tally.failures().len() * 100 <= COUNT as usize, "{tally}");
    let accepted = scene.counted("cookies_accepted")?;
    ensure!(accepted > 0, "nobody has shown one");
    // What the flood began before it was noticed, and what may be in its first second.
    let opened = scene.counted("connections_opened")?;
    ensure!(opened < 5_000, "{opened} connections");
    // Two seconds of silence empty the bucket.
    thread::sleep(Duration::from_secs(3));
    let before = scene.counted("answered_cookie")?;
    let calm = tcp::connections(client, to, COUNT)?;
    ensure!(calm.failures().is_empty(), "{calm}");
    ensure!(scene.counted("answered_cookie")? == before);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_began_by_a_cookie_outlives_the_daemon() -> Result<()> {
    let mut scene = Scene::new(2, configuration(Hook::Xdp, "nat", 0).text())?;
    let transfers = FAMILIES.map(|family| {
        let client = &scene.topology.client.namespace;
        let to = target(family, instance::TCP);
        Transfer::start(client, to, 400, Duration::from_millis(20))
    });
    for (round, sizes) in [
        ["max_connections = 200000", "max_connections = 200000"],
        // Other maps, into which the connections go over.
        ["max_connections = 200000", "max_connections = 300000"],
        ["max_connections = 300000", "max_connections = 200000"],
    ]
    .iter()
    .enumerate()
    {
        let before: Vec<u64> = transfers.iter().map(Transfer::done).collect();
        let goes_on = cleanup::within(Duration::from_secs(10), || {
            transfers
                .iter()
                .zip(&before)
                .all(|(one, before)| one.done() > *before)
        });
        ensure!(goes_on, "{round}: transfers stand still");
        if round == 0 {
            scene.daemon.kill()?;
        } else {
            scene.daemon.stop(Duration::from_secs(5))?;
        }
        // Without a daemon cookies are made and accepted as ever.
        let client = &scene.topology.client.namespace;
        let alone = tcp::connections(client, target(Family::V4, instance::TCP), 20)?;
        ensure!(alone.failures().is_empty(), "{round}: {alone}");
        let text = fs::read_to_string(scene.daemon.file())?;
        scene.daemon.configure(&text.replace(sizes[0], sizes[1]))?;
        scene.daemon.start_again()?;
        scene.settle()?;
        let client = &scene.topology.client.namespace;
        let after = tcp::connections(client, target(Family::V6, instance::TCP), 20)?;
        ensure!(after.failures().is_empty(), "{round}: {after}");
    }
    for transfer in transfers {
        let bytes = transfer.finish()?;
        ensure!(bytes == 400 * 16 * 1024, "{bytes}");
    }
    ensure!(scene.counted("cookies_refused")? == 0);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn explain_says_what_becomes_of_a_syn() -> Result<()> {
    let scene = Scene::new(1, configuration(Hook::Xdp, "nat", 0).text())?;
    let to = target(Family::V4, instance::TCP);
    let path = format!("/explain/flow?source=10.77.0.2:40000&destination={to}");
    let told = scene.daemon.get(&path)?;
    ensure!(told.to_string().contains("answered_cookie"), "{told}");
    ensure!(scene.counted("answered_cookie")? == 0);
    Ok(())
}
