//! Connections through tunnels: `ipip` and `gue` from lb, unpacked by `lb decap` on the instances,
//! which answer the client themselves.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_tests::cleanup::within;
use lb_tests::client::{bulk, tcp, udp};
use lb_tests::decap::Decap;
use lb_tests::instance;
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, DSR, FAMILIES, Scene, address};
use lb_tests::topology::{Family, Host, INTERFACE};
use serde_json::Value;

/// Connections or flows of one measurement.
const COUNT: u32 = 60;
/// Datagrams of a flow.
const DATAGRAMS: u32 = 2;
/// Bytes of a large transfer.
const LARGE: usize = 16 << 20;

/// A scene in which the far ends run, in these families of instances.
fn scene(
    hook: Hook,
    forwarding: &str,
    families: &[Family],
    arguments: &[&str],
) -> Result<(Scene, Vec<Decap>)> {
    let setting = &format!("forwarding = \"{forwarding}\"\nalgorithm = \"round_robin\"");
    let weights = [1, 1];
    let configuration = Configuration::new("[]")
        .packets_at(hook)
        .service_over(families, "stream", instance::TCP, &weights, setting)
        .service_over(families, "datagram", instance::UDP, &weights, setting)
        .vips(DSR, instance::TCP, "tcp", "stream")
        .vips(DSR, instance::UDP, "udp", "datagram");
    let scene = Scene::new(2, configuration.text())?;
    let ends = (scene.topology.instances.iter())
        .map(|host| Decap::start(hook, host, &scene.topology.balancer, arguments))
        .collect::<Result<_>>()?;
    Ok((scene, ends))
}

fn counter(figures: &Value, label: &str) -> u64 {
    figures[label].as_u64().unwrap_or_default()
}

/// TCP and UDP in both families reach both instances, and what lb has sent is what they have
/// unpacked.
fn connections(hook: Hook, forwarding: &str, families: &[Family]) -> Result<()> {
    let (scene, ends) = scene(hook, forwarding, families, &["--clamp-mss"])?;
    let client = &scene.topology.client.namespace;
    for family in FAMILIES {
        let at = |port| SocketAddr::new(address(DSR, family), port);
        let by_tcp = tcp::connections(client, at(instance::TCP), COUNT)?;
        let by_udp = udp::flows(client, at(instance::UDP), COUNT, DATAGRAMS)?;
        for tally in [by_tcp, by_udp] {
            ensure!(
                tally.failures().is_empty() && tally.total() == u64::from(COUNT),
                "{family}: {tally}"
            );
            for name in ["i1", "i2"] {
                ensure!((tally.share(name) - 0.5).abs() < 0.1, "{family}: {tally}");
            }
        }
    }
    let mut unpacked = 0;
    for end in ends {
        let figures = end.stop()?;
        unpacked += counter(&figures, &format!("unpacked_{forwarding}"));
        ensure!(
            counter(&figures, "mss_clamped") >= u64::from(COUNT),
            "{figures}"
        );
        for label in ["stranger", "inner_not_for_this_host", "inner_malformed"] {
            ensure!(counter(&figures, label) == 0, "{figures}");
        }
    }
    let sent = scene.counted("transmitted")?;
    ensure!(
        sent == unpacked,
        "lb has sent {sent}, {unpacked} were unpacked"
    );
    ensure!(sent > u64::from(COUNT) * 8, "{sent}");
    Ok(())
}

/// Large transfers arrive whole, whether clients learn what fits beforehand or by being told.
fn large_transfers(hook: Hook, forwarding: &str, families: &[Family], clamp: bool) -> Result<()> {
    let arguments: &[&str] = if clamp { &["--clamp-mss"] } else { &[] };
    let (scene, _ends) = scene(hook, forwarding, families, arguments)?;
    for family in FAMILIES {
        let target = SocketAddr::new(address(DSR, family), instance::TCP);
        bulk::echo(&scene.topology.client.namespace, target, LARGE)
            .with_context(|| format!("{family}"))?;
    }
    let told = scene.counted("answered_too_big")?;
    ensure!((told == 0) == clamp, "{told} were told");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_by_ipip() -> Result<()> {
    Hook::each(|hook| connections(hook, "ipip", &FAMILIES))
}

#[test]
#[ignore = "needs root"]
fn connections_by_gue() -> Result<()> {
    Hook::each(|hook| connections(hook, "gue", &FAMILIES))
}

#[test]
#[ignore = "needs root"]
fn connections_by_ipip_to_instances_of_ipv6_alone() -> Result<()> {
    Hook::each(|hook| connections(hook, "ipip", &[Family::V6]))
}

#[test]
#[ignore = "needs root"]
fn connections_by_gue_to_instances_of_ipv4_alone() -> Result<()> {
    Hook::each(|hook| connections(hook, "gue", &[Family::V4]))
}

#[test]
#[ignore = "needs root"]
fn large_transfers_by_ipip_with_a_lower_mss() -> Result<()> {
    Hook::each(|hook| large_transfers(hook, "ipip", &FAMILIES, true))
}

#[test]
#[ignore = "needs root"]
fn large_transfers_by_gue_whose_senders_are_told() -> Result<()> {
    Hook::each(|hook| large_transfers(hook, "gue", &FAMILIES, false))
}

/// Puts a router that takes this much between the balancer and the instances.
fn narrow(scene: &Scene, mtu: u32) -> Result<Host> {
    let topology = &scene.topology;
    let router = topology.router("router", 4)?;
    for host in &topology.instances {
        for (to, via) in [
            (format!("{}/32", host.v4), router.v4.to_string()),
            (format!("{}/128", host.v6), router.v6.to_string()),
        ] {
            let on = format!("route add {to} dev {INTERFACE} mtu lock {mtu}");
            router.namespace.ip(&[on])?;
            let by = format!("route add {to} via {via}");
            topology.balancer.namespace.ip(&[by])?;
        }
    }
    Ok(router)
}

/// Clients that are told nothing by the router, which does not know them, are told by lb.
fn narrow_link(hook: Hook, forwarding: &str) -> Result<()> {
    let (scene, _ends) = scene(hook, forwarding, &FAMILIES, &[])?;
    let _router = narrow(&scene, 1400)?;
    for family in FAMILIES {
        let target = SocketAddr::new(address(DSR, family), instance::TCP);
        bulk::echo(&scene.topology.client.namespace, target, 1 << 20)
            .with_context(|| format!("{family}"))?;
    }
    let (learned, told) = (
        scene.counted("path_mtus_learned")?,
        scene.counted("answered_too_big")?,
    );
    ensure!(learned > 0 && told > 0, "{learned} learned, {told} told");
    let mut paths = Value::Null;
    let are_shown = within(Duration::from_secs(20), || {
        let datapath = scene.daemon.get("/datapath").unwrap_or_default();
        paths = datapath["path_mtus"].clone();
        paths.as_array().is_some_and(|paths| !paths.is_empty())
    });
    ensure!(are_shown && paths[0]["mtu"] == 1400, "{paths}");
    let status = scene.daemon.cli(&["datapath", "status"])?;
    ensure!(status.contains("takes 1400 bytes"), "{status}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_link_beyond_the_next_hop_that_is_too_narrow_for_ipip_is_found() -> Result<()> {
    Hook::each(|hook| narrow_link(hook, "ipip"))
}

#[test]
#[ignore = "needs root"]
fn a_link_beyond_the_next_hop_that_is_too_narrow_for_gue_is_found() -> Result<()> {
    Hook::each(|hook| narrow_link(hook, "gue"))
}

#[test]
#[ignore = "needs root"]
fn a_stranger_gets_nothing_through() -> Result<()> {
    let (scene, ends) = scene(Hook::Xdp, "ipip", &[Family::V4], &[])?;
    // The balancer's address is now somebody else's, as far as the instances have been told.
    drop(ends);
    let wrong = &scene.topology.client;
    let ends = (scene.topology.instances.iter())
        .map(|host| Decap::start(Hook::Xdp, host, wrong, &[]))
        .collect::<Result<Vec<_>>>()?;
    let target = SocketAddr::new(address(DSR, Family::V4), instance::UDP);
    let tally = udp::flows(&wrong.namespace, target, 2, 1)?;
    ensure!(tally.total() == 0, "{tally}");
    let mut refused = 0;
    for end in ends {
        refused += counter(&end.stop()?, "stranger");
    }
    ensure!(refused >= 2, "{refused}");
    Ok(())
}
