//! Packets that only just are a VIP's, datagrams in fragments and ports out of a range, and ways that
//! have to be found again.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::INTERFACE;

/// Flows of each kind.
const FLOWS: u32 = 20;
/// Bytes of a datagram: five fragments.
const LENGTH: usize = 7000;

/// Sends a datagram and expects it back behind the name of an instance, which is returned.
fn echo(from: SocketAddr, target: SocketAddr, datagram: &[u8]) -> Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(target)?;
    socket.send(datagram)?;
    let mut buffer = vec![0; 2 * LENGTH];
    let length = (socket.recv(&mut buffer))
        .with_context(|| format!("no answer to {} bytes", datagram.len()))?;
    let end = buffer[..length].iter().position(|byte| *byte == b'\n');
    let end = end.context("an answer without a name")?;
    ensure!(buffer[end + 1..length] == *datagram, "another datagram");
    Ok(String::from_utf8_lossy(&buffer[..end]).into_owned())
}

#[test]
#[ignore = "needs root"]
fn datagrams_in_fragments_reach_the_instance_of_their_flow_and_come_back() -> Result<()> {
    let ports = |number: u8, service: &str| {
        let vips = FAMILIES.map(|family| {
            let (address, first) = (address(number, family), instance::UDP - 2);
            format!(
                "[[vips]]\naddress = \"{address}\"\nport = \"{first}-{}\"\nprotocol = \"udp\"\n\
                 service = \"{service}\"\n",
                instance::UDP + 2
            )
        });
        vips.concat()
    };
    let configuration = Configuration::new("[]")
        .packets()
        .service("nat", instance::UDP, &[1, 1], "forwarding = \"nat\"")
        .service("dsr", instance::UDP, &[1, 1], "forwarding = \"l2dsr\"")
        .with(&ports(NAT, "nat"))
        .with(&ports(DSR, "dsr"));
    let scene = Scene::new(2, configuration.text())?;
    let client = &scene.topology.client.namespace;
    let large: Vec<u8> = (0..LENGTH).map(|byte| (byte % 251) as u8).collect();
    for (number, family) in [NAT, DSR].iter().flat_map(|n| FAMILIES.map(|f| (*n, f))) {
        let target = SocketAddr::new(address(number, family), instance::UDP);
        client.enter(|| -> Result<()> {
            for flow in 0..FLOWS {
                let from = SocketAddr::new(address(2, family), 20_000 + flow as u16);
                let whole = echo(from, target, b"in one piece")?;
                let pieces = echo(from, target, &large)?;
                ensure!(pieces == whole, "{target}: from {whole} to {pieces}");
            }
            Ok(())
        })??;
    }
    Scene::age_figures();
    let datapath = scene.daemon.get("/datapath")?;
    let count = |name: &str| datapath["packets"][name].as_u64().unwrap_or_default();
    ensure!(
        count("received") == count("forwarded") + count("passed") + count("dropped"),
        "{}",
        datapath["packets"]
    );
    ensure!(count("dropped") == 0, "{}", datapath["counters"]);
    let vips = datapath["vips"].as_array().into_iter().flatten();
    for vip in vips {
        // One packet that is whole, and those of one that is not.
        let least = u64::from(FLOWS) * 6;
        let found = vip["packets_in"].as_u64().unwrap_or_default();
        ensure!(found >= least, "expected {least} packets at least: {vip}");
    }
    Ok(())
}

/// Sends datagrams until one is answered; how long it took.
fn until_answered(target: SocketAddr) -> Result<Duration> {
    /// The instances would be greeted in any case seconds later.
    const PATIENCE: Duration = Duration::from_secs(4);
    let start = Instant::now();
    let from = if target.is_ipv4() {
        FAMILIES[0]
    } else {
        FAMILIES[1]
    };
    let socket = UdpSocket::bind(SocketAddr::new(address(2, from), 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.connect(target)?;
    while start.elapsed() < PATIENCE {
        socket.send(b"anybody?")?;
        if socket.recv(&mut [0; 64]).is_ok() {
            return Ok(start.elapsed());
        }
    }
    anyhow::bail!("{target}: no answer within {PATIENCE:?}")
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_the_kernel_has_forgotten_is_found_again_at_once() -> Result<()> {
    let configuration = Configuration::new("[]")
        .packets()
        .service("dsr", instance::UDP, &[1], "forwarding = \"l2dsr\"")
        .vips(DSR, instance::UDP, "udp", "dsr");
    let scene = Scene::new(1, configuration.text())?;
    let balancer = &scene.topology.balancer.namespace;
    for family in FAMILIES {
        // The daemon has greeted all a moment ago. Nothing has gone to this instance by the program, so it
        // does not know the way from before.
        balancer.ip(&[format!(
            "neigh delete {} dev {INTERFACE}",
            address(11, family)
        )])?;
        let lost = scene.counted("neighbour_unresolved")?;
        let target = SocketAddr::new(address(DSR, family), instance::UDP);
        let client = &scene.topology.client.namespace;
        let took = client.enter(|| until_answered(target))??;
        let dropped = scene.counted("neighbour_unresolved")? - lost;
        ensure!(
            dropped > 0,
            "{target}: answered after {took:?} all the same"
        );
    }
    Ok(())
}
