//! Connections while instances come, go and drain under thousands of them, remembered or not; and one
//! balancer that goes on where another one was, without having seen any of it.
//!
//! The suite runs short forms. `LB_TEST_CONNECTIONS` says how many connections there are (10,000 for the
//! whole), `LB_TEST_SECONDS` for how many seconds something happens to their instances (60).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::held::Held;
use lb_tests::client::tcp;
use lb_tests::daemon::Daemon;
use lb_tests::decap::Decap;
use lb_tests::packet::hook::Hook;
use lb_tests::parameter::parameter;
use lb_tests::process::allow_many_files;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address, counted};
use lb_tests::tally::Tally;
use lb_tests::topology::{Family, SECOND};
use lb_tests::{cleanup, instance};
use serde_json::json;

/// Connections of one thread.
const BATCH: u32 = 250;

/// How a service forwards and chooses, and in which family.
#[derive(Clone, Copy, Debug)]
struct Kind {
    hook: Hook,
    forwarding: &'static str,
    algorithm: &'static str,
    family: Family,
}

/// Remembers no connections while its table stays the same.
const SETTLES: Kind = Kind {
    hook: Hook::Xdp,
    forwarding: "l2dsr",
    algorithm: "algorithm = \"consistent_hash\"\nhash_key = \"flow\"",
    family: Family::V4,
};

impl Kind {
    fn target(self) -> SocketAddr {
        let holds_vip = !matches!(self.forwarding, "nat" | "dnat");
        let number = if holds_vip { DSR } else { NAT };
        SocketAddr::new(address(number, self.family), instance::TCP)
    }

    /// Where `i1` and so on listen.
    fn endpoint(self, number: u8) -> SocketAddr {
        SocketAddr::new(address(10 + number, self.family), instance::TCP)
    }

    /// A service over these instances, each with its weight.
    fn configuration(self, instances: &[(u8, u16)], settings: &str) -> Configuration {
        let mut members = String::new();
        for (number, weight) in instances {
            let endpoint = self.endpoint(*number);
            let _ = writeln!(
                members,
                "{{ endpoint = \"{endpoint}\", weight = {weight} }},"
            );
        }
        let (forwarding, vip) = (self.forwarding, self.target());
        Configuration::new("[]")
            .packets_at(self.hook)
            .with(&format!(
                "{settings}\n[services.web]\n{}\nforwarding = \"{forwarding}\"\n\
             instances = [\n{members}]\n[[vips]]\naddress = \"{}\"\nport = {}\n\
             protocol = \"tcp\"\nservice = \"web\"",
                self.algorithm,
                vip.ip(),
                vip.port()
            ))
    }
}

fn vip() -> IpAddr {
    SETTLES.target().ip()
}

fn hold(scene: &Scene, target: SocketAddr, count: u32) -> Result<Vec<Held>> {
    let batches = (0..count.div_ceil(BATCH)).map(|at| (count - at * BATCH).min(BATCH));
    let client = &scene.topology.client.namespace;
    batches
        .map(|count| Held::open(client, target, count))
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
    allow_many_files()?;
    let first = SETTLES.configuration(&[(1, 10), (2, 20), (3, 10)], "");
    let scene = Scene::new(3, first.text())?;
    // The same members, but they were not added in the same order, so indices differ.
    let second = SETTLES.configuration(&[(3, 10), (1, 10), (2, 20)], "");
    let sources = |number| FAMILIES.map(|family| address(number, family).to_string());
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

    let target = SETTLES.target();
    let count = parameter("LB_TEST_CONNECTIONS", 400)?;
    let held = hold(&scene, target, count)?;
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
        let new = tcp::connections(client, target, 60)?;
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

#[test]
#[ignore = "needs root"]
fn what_a_drain_leaves_is_cut_at_its_deadline_though_nothing_was_remembered() -> Result<()> {
    const DEADLINE: Duration = Duration::from_millis(2500);
    let scene = Scene::new(
        3,
        SETTLES
            .configuration(&[(1, 10), (2, 10), (3, 10)], "")
            .text(),
    )?;
    let target = SETTLES.target();
    let mut held = hold(&scene, target, 200)?;
    ensure!(scene.daemon.get("/datapath")?["connections"]["entries"] == 0);
    let path = format!("/instances/web/{}", SETTLES.endpoint(2));
    let body = json!({"deadline": format!("{}ms", DEADLINE.as_millis())});
    let begun = Instant::now();
    let order = format!("{path}/drain");
    let drained = scene.daemon.ask(Method::POST, &order, &body)?;
    ensure!(drained["admin"] == "draining", "{drained}");
    scene.settle()?;
    held.extend(hold(&scene, target, 50)?);
    let before = opened(&held);
    cleanup::within(DEADLINE * 3, || {
        held.iter().any(|held| held.broke().is_some())
    });
    let broke = held.iter().filter_map(Held::broke).min();
    let after = broke.context("nothing is cut")? - begun;
    // The deadline is kept in whole milliseconds.
    let sooner = DEADLINE - Duration::from_millis(1);
    ensure!(
        (sooner..DEADLINE + Duration::from_secs(2)).contains(&after),
        "{after:?}"
    );
    let last = held.pop().context("nothing is held")?;
    ensure!(last.opened().of("i2") == 0, "{}", last.opened());
    held.push(last);
    let shown = scene.daemon.get(&path)?;
    ensure!(shown["admin"] == "disabled", "{shown}");
    let new = tcp::connections(&scene.topology.client.namespace, target, 60)?;
    ensure!(new.of("i2") == 0 && new.total() == 60, "{new}");
    let after = close(held)?;
    ensure!(
        before.of("i2") > 0
            && after.has_lost(&before, "i2")
            && after
                .failures()
                .iter()
                .all(|why| why.contains("connection to i2")),
        "opened {before}; at the end {after}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn flows_go_on_while_a_fallback_serves_that_forwards_otherwise() -> Result<()> {
    let fallback = format!(
        "\n[services.sorry]\nforwarding = \"nat\"\ninstances = [\"{}\"]\n",
        SETTLES.endpoint(3)
    );
    let text = SETTLES
        .configuration(&[(1, 10), (2, 10)], "")
        .with(&fallback);
    let text = text.text().replace(
        "forwarding = \"l2dsr\"",
        "forwarding = \"l2dsr\"\nfallback = \"sorry\"",
    );
    let scene = Scene::new(3, &text)?;
    let target = SETTLES.target();
    let mut held = hold(&scene, target, 200)?;
    ensure!(scene.daemon.get("/datapath")?["connections"]["entries"] == 0);
    for verb in ["drain", "enable"] {
        for number in [1, 2] {
            let path = format!("/instances/web/{}/{verb}", SETTLES.endpoint(number));
            scene.daemon.post(&path)?;
        }
        scene.settle()?;
        held.extend(hold(&scene, target, 50)?);
        let new = held.last().context("nothing is held")?.opened();
        let stands_in = if verb == "drain" { 50 } else { 0 };
        ensure!(
            new.of("i3") == stands_in && new.total() == 50,
            "{verb}: {new}"
        );
        for (flags, forwarding) in [("ack", "l2dsr"), ("syn", "nat")] {
            let path = "/explain/flow?source=198.51.100.1:1000";
            let path = format!("{path}&destination={target}&flags={flags}");
            let told = scene.daemon.get(&path)?;
            let expected = if stands_in > 0 { forwarding } else { "l2dsr" };
            ensure!(told["forwarding"] == expected, "{verb}, {flags}: {told}");
            let is_owned = told["reason"].to_string().contains("owner");
            ensure!(
                is_owned == (flags == "ack" && stands_in > 0),
                "{verb}, {flags}: {told}"
            );
        }
        // Long enough for each to be heard of.
        std::thread::sleep(Duration::from_millis(500));
    }
    let before = opened(&held);
    let after = close(held)?;
    ensure!(after == before, "opened {before}; at the end {after}");
    Ok(())
}

/// What happens to the instances in a second.
#[derive(Clone, Copy)]
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

/// Which connections begin while all that happens.
#[derive(Clone, Copy)]
enum New {
    /// So many after each event.
    Always(u32),
    /// So many after each event that leaves no instance draining. Without room in the connection table
    /// nothing is promised to the others: a connection of a slot whose owner drains can neither go to
    /// the owner, which takes nothing new, nor be remembered, so its packets are dropped until there is
    /// room. All others go on by their slot, new ones too.
    WhileNobodyDrains(u32),
}

impl New {
    fn after(self, drains: &BTreeSet<u8>) -> u32 {
        match self {
            Self::WhileNobodyDrains(_) if !drains.is_empty() => 0,
            Self::Always(count) | Self::WhileNobodyDrains(count) => count,
        }
    }
}

/// How many connections there are at first, and how long something lasts that happens to the instances.
#[derive(Clone, Copy)]
struct Size {
    connections: u32,
    lasts: Duration,
}

const WHOLE: Size = Size {
    connections: 2000,
    lasts: Duration::from_secs(1),
};

/// For what is there beside the first: all of them together are to cost the suite half a minute.
const SHORT: Size = Size {
    connections: 600,
    lasts: Duration::from_millis(500),
};

impl Size {
    /// How many connections, how many events, and how long each of those lasts.
    fn asked(self) -> Result<(u32, usize, Duration)> {
        let connections = parameter("LB_TEST_CONNECTIONS", self.connections)?;
        Ok(match parameter("LB_TEST_SECONDS", 0)? {
            0 => (connections, EVENTS.len(), self.lasts),
            seconds => (connections, seconds as usize, WHOLE.lasts),
        })
    }
}

/// Instances, and what has happened to them.
struct Churn<'a> {
    scene: &'a Scene,
    kind: Kind,
    settings: &'static str,
    drains: BTreeSet<u8>,
    is_out: bool,
}

impl Churn<'_> {
    /// Makes something happen, and waits until the kernel knows.
    fn happen(&mut self, event: Event) -> Result<()> {
        let daemon = &self.scene.daemon;
        match event {
            Event::Weights(weights) => {
                let configuration = self.kind.configuration(weights, self.settings);
                daemon.configure(configuration.text())?;
                daemon.post_admin("reload")?;
                self.is_out = weights.iter().all(|(number, _)| *number != 5);
            }
            Event::Drain(number) => {
                self.order(number, "drain")?;
                self.drains.insert(number);
            }
            Event::Enable(number) => {
                self.order(number, "enable")?;
                self.drains.remove(&number);
            }
        }
        self.scene.settle()
    }

    fn order(&self, number: u8, verb: &str) -> Result<()> {
        let instance = self.kind.endpoint(number);
        let path = format!("/instances/web/{instance}/{verb}");
        self.scene.daemon.post(&path).map(drop)
    }
}

/// Held connections while something happens to their instances again and again. The only ones that break
/// are those of the instance that is taken out without a drain.
fn churn(scene: &Scene, kind: Kind, settings: &'static str, new: New, size: Size) -> Result<()> {
    let (count, events, lasts) = size.asked()?;
    let mut held = hold(scene, kind.target(), count)?;
    let mut churn = Churn {
        scene,
        kind,
        settings,
        drains: BTreeSet::new(),
        is_out: false,
    };
    let (mut fragile, mut next) = (0, Instant::now());
    // Later rounds begin where instance 6 is there already.
    let all = EVENTS.iter().chain(EVENTS[2..].iter().cycle());
    for (number, event) in all.take(events).enumerate() {
        churn.happen(*event)?;
        if churn.is_out {
            fragile = opened(&held).of("i5");
        }
        let begun = hold(scene, kind.target(), new.after(&churn.drains));
        held.extend(begun.with_context(|| format!("after event {number}"))?);
        next += lasts;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ensure!(!churn.is_out, "the last event has to bring i5 back");
    let (before, after) = (opened(&held), close(held)?);
    judge(&before, &after, fragile).with_context(|| format!("{kind:?}\n{}", scene.daemon.log()))
}

/// `fragile`: how many connections of i5 were begun until it was taken out for the last time.
fn judge(before: &Tally, after: &Tally, fragile: u64) -> Result<()> {
    let others = |failure: &&String| !failure.contains("connection to i5");
    let strange: Vec<&String> = after.failures().iter().filter(others).take(5).collect();
    ensure!(strange.is_empty(), "of {before}, these broke: {strange:?}");
    for name in ["i1", "i2", "i3", "i4", "i6"] {
        ensure!(
            after.of(name) == before.of(name),
            "opened {before}; at the end {after}"
        );
    }
    let broken = after.failures().len() as u64;
    ensure!(
        (1..=fragile).contains(&broken) && before.of("i5") - broken == after.of("i5"),
        "opened {before}, {fragile} of i5 before it went; {broken} broke; at the end {after}"
    );
    Ok(())
}

/// The network with six instances, of which five serve.
fn scene(kind: Kind, settings: &str) -> Result<Scene> {
    allow_many_files()?;
    let weights = [(1, 10), (2, 10), (3, 10), (4, 10), (5, 10)];
    let scene = Scene::new(6, kind.configuration(&weights, settings).text())?;
    if kind.forwarding == "dnat" {
        scene.answer_through_lb()?;
    }
    Ok(scene)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_than_what_instances_had_that_are_removed_without_a_drain() -> Result<()> {
    let scene = scene(SETTLES, "")?;
    churn(&scene, SETTLES, "", New::Always(20), WHOLE)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_over_ipv6() -> Result<()> {
    let kind = Kind {
        family: Family::V6,
        ..SETTLES
    };
    let scene = scene(kind, "")?;
    churn(&scene, kind, "", New::Always(20), SHORT)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_where_nat_remembers_each() -> Result<()> {
    let kind = Kind {
        hook: Hook::Xdp,
        forwarding: "nat",
        algorithm: "algorithm = \"weighted_round_robin\"",
        family: Family::V4,
    };
    let scene = scene(kind, "")?;
    churn(&scene, kind, "", New::Always(20), SHORT)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_where_dnat_goes_by_who_has_few() -> Result<()> {
    let kind = Kind {
        hook: Hook::Xdp,
        forwarding: "dnat",
        algorithm: "algorithm = \"least_connections\"",
        family: Family::V6,
    };
    let scene = scene(kind, "")?;
    churn(&scene, kind, "", New::Always(20), SHORT)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_in_tunnels_from_traffic_control() -> Result<()> {
    let kind = Kind {
        hook: Hook::Tc,
        forwarding: "gue",
        family: Family::V6,
        ..SETTLES
    };
    let scene = scene(kind, "")?;
    let topology = &scene.topology;
    let ends = topology.instances.iter();
    let _ends = ends
        .map(|host| Decap::start(Hook::Xdp, host, &topology.balancer, &[]))
        .collect::<Result<Vec<_>>>()?;
    churn(&scene, kind, "", New::Always(20), SHORT)
}

#[test]
#[ignore = "needs root"]
fn nothing_else_breaks_when_the_connection_table_is_far_too_small() -> Result<()> {
    let settings = "max_connections = 1024";
    let scene = scene(SETTLES, settings)?;
    churn(&scene, SETTLES, settings, New::WhileNobodyDrains(20), WHOLE)?;
    let forgotten = scene.counted("connections_unremembered")?;
    ensure!(forgotten > 0, "there was room for all");
    Ok(())
}
