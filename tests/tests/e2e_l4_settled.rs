//! Connections that no balancer remembers: one daemon goes on where another one was, and instances
//! come, go and drain under thousands of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::client::held::Held;
use lb_tests::client::tcp;
use lb_tests::daemon::Daemon;
use lb_tests::instance;
use lb_tests::parameter::parameter;
use lb_tests::process::allow_many_files;
use lb_tests::scene::{Configuration, DSR, Scene, address, counted};
use lb_tests::tally::Tally;
use lb_tests::topology::{Family, SECOND};

/// Connections of one thread.
const BATCH: u32 = 250;

fn vip() -> IpAddr {
    address(DSR, Family::V4)
}

fn target() -> SocketAddr {
    SocketAddr::new(vip(), instance::TCP)
}

/// A service over these instances, each with its weight, that need not remember its connections.
fn configuration(instances: &[(u8, u16)], settings: &str) -> Configuration {
    let mut members = String::new();
    for (number, weight) in instances {
        let endpoint = endpoint(*number);
        let _ = writeln!(
            members,
            "{{ endpoint = \"{endpoint}\", weight = {weight} }},"
        );
    }
    Configuration::new("[]").packets().with(&format!(
        "{settings}\n[services.web]\nalgorithm = \"consistent_hash\"\nhash_key = \"flow\"\n\
         forwarding = \"l2dsr\"\ninstances = [\n{members}]\n[[vips]]\naddress = \"{}\"\n\
         port = {}\nprotocol = \"tcp\"\nservice = \"web\"",
        vip(),
        instance::TCP
    ))
}

/// Where `i1` and so on listen.
fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::new(address(10 + number, Family::V4), instance::TCP)
}

fn hold(scene: &Scene, count: u32) -> Result<Vec<Held>> {
    let batches = (0..count.div_ceil(BATCH)).map(|at| (count - at * BATCH).min(BATCH));
    let client = &scene.topology.client.namespace;
    batches
        .map(|count| Held::open(client, target(), count))
        .collect()
}

fn opened(held: &[Held]) -> Tally {
    let mut all = Tally::default();
    held.iter()
        .for_each(|held| all.merge(held.opened().clone()));
    all
}

fn close(held: Vec<Held>) -> Result<Tally> {
    let mut all = Tally::default();
    for held in held {
        all.merge(held.close()?);
    }
    Ok(all)
}

#[test]
#[ignore = "needs root"]
fn another_balancer_goes_on_where_the_first_one_was() -> Result<()> {
    let first = configuration(&[(1, 10), (2, 20), (3, 10)], "");
    let scene = Scene::new(3, first.text())?;
    // The same members, but they were not added in the same order, so indices differ.
    let second = configuration(&[(3, 10), (1, 10), (2, 20)], "");
    let sources =
        |number| [Family::V4, Family::V6].map(|family| address(number, family).to_string());
    let mut text = second.text().to_owned();
    for (one, other) in sources(1).iter().zip(sources(SECOND)) {
        text = text.replace(&format!("\"{one}\""), &format!("\"{other}\""));
    }
    let host = scene.topology.second_balancer()?;
    let other = Daemon::start(&host, &text)?;
    other.wait_for("/datapath", Duration::from_secs(5), |kernel| {
        kernel["vips"]
            .as_array()
            .is_some_and(|vips| vips.len() == 1)
    })?;

    let held = hold(&scene, 400)?;
    let before = opened(&held);
    ensure!(before.instances() == 3, "{before}");
    let settled = counted(&scene.daemon, "packets_settled")?;
    ensure!(
        settled > 800,
        "expected packets of settled slots, found {settled}"
    );
    for (to, there) in [(&host, &other), (&scene.topology.balancer, &scene.daemon)] {
        let seen = counted(there, "packets_settled")?;
        scene.topology.move_route(vip(), to)?;
        let client = &scene.topology.client.namespace;
        let new = tcp::connections(client, target(), 60)?;
        ensure!(new.total() == 60 && new.instances() == 3, "{new}");
        std::thread::sleep(Duration::from_millis(300));
        let now = counted(there, "packets_settled")?;
        ensure!(
            now > seen + 400,
            "expected packets at {}, found {seen}, {now}",
            to.name
        );
    }
    for daemon in [&scene.daemon, &other] {
        ensure!(counted(daemon, "connections_found")? == 0);
        let entries = daemon.get("/datapath")?["connections"]["entries"].clone();
        ensure!(
            entries == 0,
            "expected nothing remembered, found {entries} entries"
        );
    }
    let after = close(held)?;
    ensure!(after == before, "opened {before}; at the end {after}");
    Ok(())
}

/// What happens to the instances in a second.
enum Event {
    Weights(&'static [(u8, u16)]),
    Drain(u8),
    Enable(u8),
}

/// Instance 5 is taken out without a drain in the middle, and comes back.
const EVENTS: &[Event] = &[
    Event::Weights(&[(1, 20), (2, 10), (3, 10), (4, 10), (5, 10)]),
    Event::Drain(2),
    Event::Weights(&[(1, 20), (2, 10), (3, 10), (4, 10), (5, 10), (6, 10)]),
    Event::Enable(2),
    Event::Drain(3),
    Event::Weights(&[(1, 10), (2, 30), (3, 10), (4, 10), (5, 10), (6, 10)]),
    Event::Weights(&[(1, 10), (2, 30), (3, 10), (4, 10), (6, 10)]),
    Event::Drain(4),
    Event::Enable(3),
    Event::Weights(&[(1, 10), (2, 10), (3, 10), (4, 40), (5, 10), (6, 10)]),
    Event::Enable(4),
    Event::Weights(&[(1, 10), (2, 10), (3, 10), (4, 10), (5, 10), (6, 10)]),
];

/// Held connections while something happens to their instances every second. The only ones that break
/// are those of the instance that is taken out without a drain. `new` ones are added each second.
///
/// `LB_TEST_CONNECTIONS` and `LB_TEST_SECONDS` say how many and for how long.
fn churn(settings: &str, new: u32) -> Result<()> {
    allow_many_files()?;
    let count = parameter("LB_TEST_CONNECTIONS", 2000)?;
    let seconds = parameter("LB_TEST_SECONDS", EVENTS.len() as u32)?;
    let weights = [(1, 10), (2, 10), (3, 10), (4, 10), (5, 10)];
    let scene = Scene::new(6, configuration(&weights, settings).text())?;
    let mut held = hold(&scene, count)?;
    let mut fragile = BTreeMap::from([("i5", opened(&held).of("i5"))]);
    let mut is_out = false;
    let start = Instant::now();
    // Later rounds begin where instance 6 is there already.
    let events = EVENTS.iter().chain(EVENTS[2..].iter().cycle());
    for (second, event) in (1..=seconds).zip(events) {
        match event {
            Event::Weights(weights) => {
                let out = weights.iter().all(|(number, _)| *number != 5);
                if out {
                    fragile.insert("i5", opened(&held).of("i5"));
                }
                is_out = out;
                scene
                    .daemon
                    .configure(configuration(weights, settings).text())?;
                scene.daemon.post_admin("reload")?;
            }
            Event::Drain(number) | Event::Enable(number) => {
                let verb = if matches!(event, Event::Drain(_)) {
                    "drain"
                } else {
                    "enable"
                };
                let path = format!("/instances/web/{}/{verb}", endpoint(*number));
                scene.daemon.post(&path)?;
            }
        }
        scene.settle()?;
        held.extend(hold(&scene, new)?);
        let next = start + Duration::from_secs(second.into());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ensure!(!is_out, "the last event has to bring i5 back");
    let before = opened(&held);
    let after = close(held)?;
    let others = |failure: &&String| !failure.contains("connection to i5");
    let strange: Vec<&String> = after.failures().iter().filter(others).take(5).collect();
    ensure!(
        strange.is_empty(),
        "of {before}, these broke: {strange:?}\n{}",
        scene.daemon.log()
    );
    for name in ["i1", "i2", "i3", "i4", "i6"] {
        ensure!(
            after.of(name) == before.of(name),
            "opened {before}; at the end {after}"
        );
    }
    let broken = after.failures().len() as u64;
    ensure!(
        (1..=fragile["i5"]).contains(&broken) && before.of("i5") - broken == after.of("i5"),
        "opened {before}, {fragile:?} before i5 went; {broken} broke; at the end {after}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn only_connections_of_instances_removed_without_a_drain_break() -> Result<()> {
    churn("", 20)
}

#[test]
#[ignore = "needs root"]
fn nor_do_others_break_when_the_connection_table_is_far_too_small() -> Result<()> {
    // Without room, a new connection of a slot whose owner drains is refused.
    churn("max_connections = 1024", 0)
}
