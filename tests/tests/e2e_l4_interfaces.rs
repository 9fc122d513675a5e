//! Instances behind another interface than the one that clients come in by: packets are redirected
//! out and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lb_tests::client::{bulk, tcp, udp};
use lb_tests::command;
use lb_tests::daemon::Daemon;
use lb_tests::instance::{self, Instance};
use lb_tests::netns::Namespace;
use lb_tests::packet::hook::Hook;
use lb_tests::pass::Attached;
use lb_tests::scene::{Configuration, FAMILIES, NAT, Scene, address};
use lb_tests::topology::{Host, INTERFACE, Topology};

/// Connections or flows of one measurement.
const COUNT: u32 = 40;
/// Bytes of a large transfer.
const LARGE: usize = 8 << 20;
/// The balancer's interface towards the instance.
const BACK: &str = "back0";

const NEAR: (&str, &str) = ("10.78.0.1", "fd78::1");
const FAR: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 78, 0, 11),
    Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0x11),
);

/// A host on a link of its own to the balancer, which is its way to everybody else.
fn far(topology: &Topology) -> Result<Host> {
    let namespace = Namespace::new("far")?;
    let balancer = &topology.balancer.namespace;
    balancer.ip(&[
        format!(
            "link add {BACK} type veth peer name {INTERFACE} netns {}",
            namespace.name()
        ),
        format!("addr add {}/24 dev {BACK}", NEAR.0),
        format!("addr add {}/64 dev {BACK} nodad", NEAR.1),
        format!("link set {BACK} up"),
    ])?;
    namespace.ip(&[
        format!("addr add {}/24 dev {INTERFACE}", FAR.0),
        format!("addr add {}/64 dev {INTERFACE} nodad", FAR.1),
        format!("link set {INTERFACE} up"),
        format!("route add default via {}", NEAR.0),
        format!("route add default via {}", NEAR.1),
    ])?;
    for (namespace, interface) in [(&**balancer, BACK), (&namespace, INTERFACE)] {
        let mut offload = namespace.command("ethtool");
        command::output(offload.args(["-K", interface, "tx", "off"]))?;
    }
    Ok(Host {
        name: "far".to_owned(),
        namespace: Arc::new(namespace),
        v4: FAR.0,
        v6: FAR.1,
    })
}

fn configuration(hook: Hook, forwarding: &str) -> Configuration {
    let mode = match hook {
        Hook::Xdp => "native",
        Hook::Tc => "tc",
    };
    let sources = FAMILIES.map(|family| address(1, family).to_string());
    let service = |name: &str, port: u16| {
        let ends = [IpAddr::V4(FAR.0), IpAddr::V6(FAR.1)];
        let ends = ends.map(|end| SocketAddr::new(end, port).to_string());
        format!("[services.{name}]\ninstances = {ends:?}\nforwarding = \"{forwarding}\"")
    };
    Configuration::new("[]")
        .with(&format!(
            "[datapath]\ninterfaces = [\"{INTERFACE}\", \"{BACK}\"]\nmode = \"{mode}\"\n\
             nat_sources = {sources:?}\npin_path = \"@PINS@\""
        ))
        .with(&service("stream", instance::TCP))
        .with(&service("datagram", instance::UDP))
        .vips(NAT, instance::TCP, "tcp", "stream")
        .vips(NAT, instance::UDP, "udp", "datagram")
}

fn out_and_back(hook: Hook, forwarding: &str) -> Result<()> {
    let topology = Topology::new(0)?;
    let host = far(&topology)?;
    // What XDP redirects into a veth arrives only when the other end runs an XDP program.
    let pass = match hook {
        Hook::Xdp => Some(Attached::pass()?),
        Hook::Tc => None,
    };
    if let Some(pass) = &pass {
        pass.attach(&host.namespace, INTERFACE)?;
    }
    for family in FAMILIES {
        topology.route_to_balancer(address(NAT, family))?;
    }
    let running = Instance::start(&host, &[])?;
    let daemon = Daemon::start(&topology.balancer, configuration(hook, forwarding).text())?;
    let scene = Scene {
        daemon,
        instances: vec![running],
        topology,
    };
    scene.settle()?;
    let client = &scene.topology.client.namespace;
    for family in FAMILIES {
        let at = |port| SocketAddr::new(address(NAT, family), port);
        let by_tcp = tcp::connections(client, at(instance::TCP), COUNT)?;
        let by_udp = udp::flows(client, at(instance::UDP), COUNT, 2)?;
        for tally in [by_tcp, by_udp] {
            ensure!(tally.of("far") == u64::from(COUNT), "{family}: {tally}");
        }
        bulk::echo(client, at(instance::TCP), LARGE).with_context(|| format!("{family}"))?;
    }
    Scene::age_figures();
    let datapath = scene.daemon.get("/datapath")?;
    let packets = &datapath["packets"];
    let count = |name: &str| packets[name].as_u64().unwrap_or_default();
    ensure!(
        count("received") == count("forwarded") + count("passed") + count("dropped"),
        "{packets}"
    );
    let counters = datapath["counters"].as_array().context("no counters")?;
    let of = |label: &str| {
        let found = counters.iter().find(|one| one["counter"] == label);
        found.and_then(|one| one["count"].as_u64()).unwrap_or(0)
    };
    ensure!(
        of("redirected") == count("forwarded") && of("redirected") > u64::from(COUNT) * 16,
        "{}",
        datapath["counters"]
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn nat_goes_out_by_another_interface_and_comes_back() -> Result<()> {
    out_and_back(Hook::Xdp, "nat")?;
    out_and_back(Hook::Tc, "nat").context("by traffic control")
}

#[test]
#[ignore = "needs root"]
fn dnat_goes_out_by_another_interface_and_comes_back() -> Result<()> {
    out_and_back(Hook::Xdp, "dnat")?;
    out_and_back(Hook::Tc, "dnat").context("by traffic control")
}
