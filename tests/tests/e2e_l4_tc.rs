//! What is the matter of traffic control alone: answers made of packets whose checksum nobody has made yet, and
//! interfaces whose drivers know nothing of XDP.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::client::{bulk, tcp};
use lb_tests::instance;
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, FAMILIES, NAT, Scene, address};
use lb_tests::topology::{Family, INTERFACE};

/// Connections or flows of one measurement.
const COUNT: u32 = 50;
/// Bytes of a large transfer.
const LARGE: usize = 8 << 20;

/// Whoever has no instance to go to hears so at once, in answers that are made of packets whose checksum nobody has
/// made.
#[test]
#[ignore = "needs root"]
fn refusals_are_heard() -> Result<()> {
    let settings = "without_instances = \"refuse\"";
    let configuration = Configuration::new("[]")
        .packets_at(Hook::Tc)
        .service("nobody", instance::TCP, &[0], settings)
        .vips(NAT, instance::TCP, "tcp", "nobody")
        .vips(NAT, instance::UDP, "udp", "nobody");
    let scene = Scene::new(1, configuration.text())?;
    let client = &scene.topology.client.namespace;
    for family in FAMILIES {
        let begin = Instant::now();
        let tally = tcp::connections(client, at(family, instance::TCP), 5)?;
        ensure!(tally.total() == 0, "{family}: {tally}");
        ensure!(begin.elapsed() < Duration::from_secs(1), "{family}");
        let heard = client.enter(|| -> Result<ErrorKind> {
            let socket = UdpSocket::bind(SocketAddr::new(address(2, family), 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(at(family, instance::UDP))?;
            socket.send(b"is anybody there?")?;
            let error = socket.recv(&mut [0; 16]).err();
            Ok(error.map_or(ErrorKind::Other, |error| error.kind()))
        })??;
        ensure!(heard == ErrorKind::ConnectionRefused, "{family}: {heard:?}");
    }
    let answered = scene.counted("answered_refused")?;
    ensure!(answered >= 12, "{answered}");
    Ok(())
}

fn at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(address(NAT, family), port)
}

/// A bridge has no native XDP.
#[test]
#[ignore = "needs root"]
fn where_no_driver_takes_xdp_it_is_traffic_control() -> Result<()> {
    let configuration = Configuration::new("[]")
        .packets_at(Hook::Tc)
        .service("stream", instance::TCP, &[1, 1], "")
        .vips(NAT, instance::TCP, "tcp", "stream");
    let mut scene = Scene::new(2, configuration.text())?;
    scene.daemon.stop(Duration::from_secs(5))?;
    let balancer = &scene.topology.balancer;
    balancer.namespace.ip(&[
        "link add bridge type bridge forward_delay 0 stp_state 0 mcast_snooping 0".to_owned(),
        format!("addr flush dev {INTERFACE}"),
        format!("link set {INTERFACE} master bridge"),
        format!("addr add {}/24 dev bridge", balancer.v4),
        format!("addr add {}/64 dev bridge nodad", balancer.v6),
        "link set bridge up".to_owned(),
    ])?;
    let text = std::fs::read_to_string(scene.daemon.file())?;
    let text = text.replace("mode = \"tc\"", "mode = \"auto\"");
    scene
        .daemon
        .configure(&text.replace("[\"eth0\"]", "[\"bridge\"]"))?;
    scene.daemon.start_again()?;
    scene.settle()?;
    let datapath = scene.daemon.get("/datapath")?;
    ensure!(datapath["mode"] == "tc", "{datapath}");
    let reason = datapath["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("bridge in native mode"), "{reason}");
    for family in FAMILIES {
        let client = &scene.topology.client.namespace;
        let tally = tcp::connections(client, at(family, instance::TCP), COUNT)?;
        ensure!(tally.total() == u64::from(COUNT), "{family}: {tally}");
        bulk::echo(client, at(family, instance::TCP), LARGE)?;
    }
    Ok(())
}
