//! Restarts, crashes and maps of another size under traffic: not one datagram is lost, and held
//! connections do not notice.
//!
//! The suite runs a short form. `LB_TEST_DATAGRAMS` says how many datagrams there are at least
//! (1,000,000 for the whole), `LB_TEST_RATE` how many a second (6,000), `LB_TEST_CONNECTIONS` how many
//! TCP connections are held (10,000 for the whole). `LB_TEST_OTHER` is the `lb` of another version, which takes
//! turns with this one; `cargo xtask upgrade` builds it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::client::held::Held;
use lb_tests::client::sequence::{Outcome, Sequence};
use lb_tests::datapath::pins;
use lb_tests::parameter::parameter;
use lb_tests::process::allow_many_files;
use lb_tests::scene::{Configuration, DSR, NAT, Scene, address};
use lb_tests::tally::Tally;
use lb_tests::topology::Family;
use lb_tests::{instance, other_layout};

const VIPS: [(u8, Family); 3] = [(NAT, Family::V4), (NAT, Family::V6), (DSR, Family::V4)];

/// Connections that one thread holds.
const BATCH: u32 = 250;

/// Sizes of the maps, in turn.
const SIZES: [&str; 3] = [
    "max_connections = 200000\nmax_tables = 16",
    "max_connections = 300000\nmax_tables = 16",
    "max_connections = 200000\nmax_tables = 24\npreallocate = true",
];

/// Where the packet path is, in turn; every other restart moves it.
const MODES: [&str; 2] = ["mode = \"native\"", "mode = \"tc\""];

/// How the daemon ends before it is started again.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
    /// And its successor is killed while it starts, wherever it is by then.
    KilledTwice,
}

/// How far the successors come that are killed, in milliseconds.
const LIVES: [u64; 8] = [400, 700, 100, 1000, 550, 250, 850, 1300];

/// Whether the next daemon has maps of the same sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maps {
    Same,
    Others,
}

const EVENTS: [(End, Maps); 5] = [
    (End::Stopped, Maps::Same),
    (End::Killed, Maps::Same),
    (End::Stopped, Maps::Others),
    (End::Killed, Maps::Others),
    (End::KilledTwice, Maps::Others),
];

fn configuration() -> Configuration {
    let mut configuration = Configuration::new("[]").packets().with(SIZES[0]);
    for (name, number) in [("nat", NAT), ("l2dsr", DSR)] {
        for (protocol, port) in [("tcp", instance::TCP), ("udp", instance::UDP)] {
            let service = format!("{name}-{protocol}");
            let settings = format!("forwarding = \"{name}\"");
            configuration = configuration
                .service(&service, port, &[10, 10, 10], &settings)
                .vips(number, port, protocol, &service);
        }
    }
    configuration
}

fn target((number, family): (u8, Family), port: u16) -> SocketAddr {
    SocketAddr::new(address(number, family), port)
}

fn hold(scene: &Scene, count: u32) -> Result<Vec<Held>> {
    let client = &scene.topology.client.namespace;
    let mut held = Vec::new();
    for vip in VIPS {
        let mut left = count / VIPS.len() as u32;
        while left > 0 {
            let some = left.min(BATCH);
            held.push(Held::open(client, target(vip, instance::TCP), some)?);
            left -= some;
        }
    }
    Ok(held)
}

fn opened(held: &[Held]) -> Tally {
    let mut sum = Tally::default();
    held.iter().for_each(|one| sum.merge(one.opened().clone()));
    sum
}

/// Ends the daemon and starts it again.
fn restart(scene: &mut Scene, number: usize, end: End, sizes: (&str, &str)) -> Result<()> {
    match end {
        End::Stopped => scene.daemon.stop(Duration::from_secs(5))?,
        End::Killed | End::KilledTwice => scene.daemon.kill()?,
    }
    let text = fs::read_to_string(scene.daemon.file())?;
    ensure!(text.contains(sizes.0), "{text}");
    let [former, mode] = [number + 1, number + 2].map(|number| MODES[number / 2 % MODES.len()]);
    ensure!(text.contains(former), "{text}");
    let text = text.replace(former, mode);
    scene.daemon.configure(&text.replace(sizes.0, sizes.1))?;
    if let End::KilledTwice = end {
        let life = LIVES[number / EVENTS.len() % LIVES.len()];
        scene.daemon.start_in_vain(Duration::from_millis(life))?;
    }
    scene.daemon.start_again()?;
    scene.settle()
}

/// The description of the maps that the daemon works on.
fn layout(scene: &Scene) -> Result<String> {
    let folder = scene.daemon.pins();
    let sets = pins(folder)?;
    // The latest one.
    let set = sets.iter().rfind(|name| name.starts_with("maps-"));
    other_layout::text(&folder.join(set.context("no maps")?))
}

#[test]
#[ignore = "needs root"]
#[expect(clippy::print_stdout, reason = "figures for whoever has run the whole")]
fn nothing_is_lost_when_the_daemon_ends_and_another_one_begins() -> Result<()> {
    allow_many_files()?;
    let datagrams = u64::from(parameter("LB_TEST_DATAGRAMS", 60_000)?);
    let rate = u64::from(parameter("LB_TEST_RATE", 6_000)?);
    let connections = parameter("LB_TEST_CONNECTIONS", 300)?;
    let mut scene = Scene::new(3, configuration().text())?;
    let held = hold(&scene, connections)?;
    let before = opened(&held);
    let parts = VIPS.len() as u64;
    let sequences = VIPS.map(|vip| {
        let client = &scene.topology.client.namespace;
        let target = target(vip, instance::UDP);
        Sequence::start(client, target, datagrams / parts, rate / parts)
    });
    let start = Instant::now();
    let sent = || sequences.iter().map(Sequence::sent).sum::<u64>();
    // Another version, that takes turns with this one.
    let other = env::var_os("LB_TEST_OTHER").map(PathBuf::from);
    let mut layouts = BTreeSet::new();
    let mut restarts = 0;
    let mut size = 0;
    // The last datagrams come after the last restart.
    while restarts < EVENTS.len() || sent() < datagrams / 10 * 9 {
        let (end, maps) = EVENTS[restarts % EVENTS.len()];
        let former = SIZES[size % SIZES.len()];
        size += usize::from(maps == Maps::Others);
        let now = SIZES[size % SIZES.len()];
        let program = other.clone().filter(|_| restarts % 2 == 0);
        scene.daemon.use_program(program);
        restart(&mut scene, restarts, end, (former, now))
            .with_context(|| format!("{end:?}, {maps:?}"))?;
        restarts += 1;
        layouts.insert(layout(&scene)?);
        std::thread::sleep(Duration::from_millis(300));
    }
    let mut sum = Outcome::default();
    for (vip, sequence) in VIPS.iter().zip(sequences) {
        let outcome = sequence.finish()?;
        println!("{}: {outcome:?}", target(*vip, instance::UDP));
        sum.sent += outcome.sent;
        sum.back += outcome.back;
        sum.flows += outcome.flows;
        sum.moved += outcome.moved;
        sum.lost.extend(outcome.lost);
    }
    println!(
        "{restarts} restarts, layouts of maps: {}, in {:?}: {} of {} datagrams back, {} flows, {} moved",
        layouts.len(),
        start.elapsed(),
        sum.back,
        sum.sent,
        sum.flows,
        sum.moved
    );
    if other.is_some() && layouts.len() == 1 {
        println!("both versions have maps of one layout: nothing of that was tried");
    }
    let mut after = Tally::default();
    for one in held {
        after.merge(one.close()?);
    }
    println!("held connections: {before}; at the end {after}");
    ensure!(
        sum.back == sum.sent && sum.moved == 0,
        "of {} datagrams of {} flows {} came back, {} flows moved; lost were {:?}\n{}",
        sum.sent,
        sum.flows,
        sum.back,
        sum.moved,
        sum.lost,
        scene.daemon.log()
    );
    ensure!(before == after, "opened {before}; at the end {after}");
    Ok(())
}
