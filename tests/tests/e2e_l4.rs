//! Connections through VIPs: the ways of forwarding that rewrite in place, TCP and UDP, IPv4 and IPv6.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::client::{bulk, tcp, udp};
use lb_tests::instance;
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::tally::Tally;
use serde_json::{Value, json};

/// Connections or flows of one measurement.
const COUNT: u32 = 300;
/// Datagrams of a flow.
const DATAGRAMS: u32 = 2;
/// Bytes of a large transfer.
const LARGE: usize = 32 << 20;

/// How far a share may be from the weight's where turns are taken: turns are taken per CPU.
const BY_TURNS: f64 = 0.02;
/// The same where the hash of the flow decides: five standard deviations of 300 draws.
const BY_CHANCE: f64 = 0.145;

/// What the algorithms that need no measurements make of the weights 20, 10 and 10.
const SHARES: [(&str, [f64; 3], f64); 3] = [
    ("round_robin", [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0], BY_TURNS),
    ("weighted_round_robin", [0.5, 0.25, 0.25], BY_TURNS),
    ("consistent_hash", [0.5, 0.25, 0.25], BY_CHANCE),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarding {
    Nat,
    Dnat,
    L2Dsr,
}

impl Forwarding {
    const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::L2Dsr => "l2dsr",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Nat | Self::Dnat => NAT,
            Self::L2Dsr => DSR,
        }
    }

    /// Whether replies come back through lb.
    const fn is_both_ways(self) -> bool {
        matches!(self, Self::Nat | Self::Dnat)
    }
}

fn scene(hook: Hook, forwarding: Forwarding) -> Result<Scene> {
    let (number, name) = (forwarding.number(), forwarding.name());
    let weights = [20, 10, 10];
    // Packets have no path; but with the default key all flows of a client go to one instance.
    let setting = &format!("forwarding = \"{name}\"\nhash_key = \"flow\"");
    let configuration = Configuration::new("[]")
        .packets_at(hook)
        .service("stream", instance::TCP, &weights, setting)
        .service("datagram", instance::UDP, &weights, setting)
        .vips(number, instance::TCP, "tcp", "stream")
        .vips(number, instance::UDP, "udp", "datagram");
    let scene = Scene::new(3, configuration.text())?;
    if forwarding == Forwarding::Dnat {
        scene.answer_through_lb()?;
    }
    Ok(scene)
}

/// Nothing failed, and each instance has its share.
fn expect_shares(what: &str, tally: &Tally, shares: [f64; 3], tolerance: f64) -> Result<()> {
    ensure!(
        tally.failures().is_empty() && tally.total() == u64::from(COUNT),
        "{what}: {tally}"
    );
    for (name, share) in ["i1", "i2", "i3"].iter().zip(shares) {
        let found = tally.share(name);
        ensure!(
            (found - share).abs() <= tolerance,
            "{what}: expected a share of {share:.3} ± {tolerance} for {name}, found {found:.3}: {tally}"
        );
    }
    Ok(())
}

/// The sum of a counter of all instances of a service.
fn sum(instances: &Value, service: &str, counter: &str) -> u64 {
    let all = instances["instances"].as_array().into_iter().flatten();
    all.filter(|one| one["service"] == service)
        .map(|one| one["kernel"][counter].as_u64().unwrap_or_default())
        .sum()
}

fn spread(hook: Hook, forwarding: Forwarding) -> Result<()> {
    let scene = scene(hook, forwarding)?;
    let client = &scene.topology.client.namespace;
    for (algorithm, shares, tolerance) in SHARES {
        for service in ["stream", "datagram"] {
            let path = format!("/algorithms/{service}");
            scene.daemon.put(&path, &json!({"algorithm": algorithm}))?;
        }
        scene.settle()?;
        for family in FAMILIES {
            let at = |port| SocketAddr::new(address(forwarding.number(), family), port);
            let by_tcp = tcp::connections(client, at(instance::TCP), COUNT)?;
            let what = format!("{algorithm}, TCP, {family:?}");
            expect_shares(&what, &by_tcp, shares, tolerance)?;
            let by_udp = udp::flows(client, at(instance::UDP), COUNT, DATAGRAMS)?;
            let what = format!("{algorithm}, UDP, {family:?}");
            expect_shares(&what, &by_udp, shares, tolerance)?;
        }
    }
    let of_each = u64::from(COUNT) * u64::try_from(SHARES.len())?;
    counters(&scene, forwarding, of_each)
}

/// What the packet path has counted up to now.
fn figures(scene: &Scene) -> Result<Value> {
    Scene::age_figures();
    scene.daemon.get("/datapath")
}

/// Exact for TCP. A UDP socket may get a port that another has had less than a minute ago; for the
/// kernel that is the same flow.
fn expect_connections(found: u64, expected: u64, is_udp: bool) -> Result<()> {
    let least = if is_udp { expected * 9 / 10 } else { expected };
    ensure!(
        (least..=expected).contains(&found),
        "expected {least} to {expected} connections, found {found}"
    );
    Ok(())
}

/// `of_each`: connections through each VIP so far.
fn counters(scene: &Scene, forwarding: Forwarding, of_each: u64) -> Result<()> {
    let datapath = figures(scene)?;
    let packets = &datapath["packets"];
    let count = |name: &str| packets[name].as_u64().unwrap_or_default();
    ensure!(
        count("received") == count("forwarded") + count("passed") + count("dropped"),
        "{packets}"
    );
    ensure!(count("dropped") == 0, "{}", datapath["counters"]);
    let mut connections = 0;
    let mut forwarded = 0;
    for vip in datapath["vips"].as_array().into_iter().flatten() {
        let number = |name: &str| vip[name].as_u64().unwrap_or_default();
        let is_udp = vip["service"] == "datagram";
        expect_connections(number("connections"), of_each, is_udp)?;
        connections += number("connections");
        forwarded += number("packets_in") + number("packets_out");
        ensure!(
            (number("packets_out") > 0) == forwarding.is_both_ways(),
            "{vip}"
        );
    }
    ensure!(
        forwarded == count("forwarded"),
        "expected all VIPs together to have as many packets as were forwarded, {}; found {forwarded}",
        count("forwarded")
    );
    // Figures of instances are read once in a while; closed connections are no longer live.
    let instances = scene
        .daemon
        .wait_for("/instances", Duration::from_secs(3), |answer| {
            sum(answer, "stream", "live_connections") == 0
                && sum(answer, "stream", "connections") + sum(answer, "datagram", "connections")
                    == connections
        })?;
    let by_instances: u64 = ["stream", "datagram"]
        .iter()
        .map(|service| {
            sum(&instances, service, "packets_in") + sum(&instances, service, "packets_out")
        })
        .sum();
    ensure!(by_instances == forwarded, "{by_instances} and {forwarded}");
    Ok(())
}

fn large_transfers(hook: Hook, forwarding: Forwarding) -> Result<()> {
    let scene = scene(hook, forwarding)?;
    for family in FAMILIES {
        let target = SocketAddr::new(address(forwarding.number(), family), instance::TCP);
        bulk::echo(&scene.topology.client.namespace, target, LARGE)?;
    }
    let datapath = figures(&scene)?;
    for vip in datapath["vips"].as_array().into_iter().flatten() {
        let enough = |name: &str| vip[name].as_u64().unwrap_or_default() > LARGE as u64;
        if vip["service"] == "stream" {
            ensure!(enough("bytes_in"), "{vip}");
            ensure!(enough("bytes_out") == forwarding.is_both_ways(), "{vip}");
            let number = |name: &str| vip[name].as_u64().unwrap_or_default();
            // By traffic control segments come by in bunches, as their senders have made them.
            let is_bunched = number("bytes_in") / number("packets_in").max(1) > 1514;
            ensure!(is_bunched == (hook == Hook::Tc), "{vip}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn nat_spreads_connections_by_weight_and_counts_them() -> Result<()> {
    Hook::each(|hook| spread(hook, Forwarding::Nat))
}

#[test]
#[ignore = "needs root"]
fn dnat_spreads_connections_by_weight_and_counts_them() -> Result<()> {
    Hook::each(|hook| spread(hook, Forwarding::Dnat))
}

#[test]
#[ignore = "needs root"]
fn large_transfers_by_dnat_are_intact() -> Result<()> {
    Hook::each(|hook| large_transfers(hook, Forwarding::Dnat))
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_refuses_is_heard_by_the_client() -> Result<()> {
    Hook::each(is_heard)
}

fn is_heard(hook: Hook) -> Result<()> {
    // Nobody listens for datagrams where instances listen for connections.
    let configuration = Configuration::new("[]")
        .packets_at(hook)
        .service("nat", instance::TCP, &[1], "forwarding = \"nat\"")
        .service("dnat", instance::TCP, &[1], "forwarding = \"dnat\"")
        .vips(NAT, 1, "udp", "nat")
        .vips(NAT, 2, "udp", "dnat");
    let scene = Scene::new(1, configuration.text())?;
    scene.answer_through_lb()?;
    for (family, port) in FAMILIES.iter().flat_map(|f| [(*f, 1), (*f, 2)]) {
        let target = SocketAddr::new(address(NAT, family), port);
        let client = &scene.topology.client.namespace;
        let heard = client.enter(|| -> Result<std::io::ErrorKind> {
            let any = SocketAddr::new(address(2, family), 0);
            let socket = std::net::UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(target)?;
            socket.send(b"is anybody there?")?;
            let error = socket.recv(&mut [0; 16]).err();
            Ok(error.map_or(std::io::ErrorKind::Other, |error| error.kind()))
        })??;
        ensure!(
            heard == std::io::ErrorKind::ConnectionRefused,
            "{target}: {heard:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn l2dsr_spreads_connections_by_weight_and_counts_them() -> Result<()> {
    Hook::each(|hook| spread(hook, Forwarding::L2Dsr))
}

#[test]
#[ignore = "needs root"]
fn large_transfers_by_nat_are_intact() -> Result<()> {
    Hook::each(|hook| large_transfers(hook, Forwarding::Nat))
}

#[test]
#[ignore = "needs root"]
fn large_transfers_by_l2dsr_are_intact() -> Result<()> {
    Hook::each(|hook| large_transfers(hook, Forwarding::L2Dsr))
}
