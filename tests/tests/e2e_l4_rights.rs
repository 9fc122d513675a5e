//! What a daemon that serves VIPs may still do, and the far end of its tunnels, and that it is enough.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::client::{held::Held, tcp};
use lb_tests::daemon::Rights;
use lb_tests::decap::Decap;
use lb_tests::packet::hook::Hook;
use lb_tests::scene::{Configuration, DSR, NAT, Scene, address};
use lb_tests::topology::{Family, INTERFACE};
use lb_tests::{cleanup, command, instance};

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF of `linux/capability.h`.
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 38 | 1 << 39;
/// An address that an instance has for a while.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// `CAP_NET_ADMIN`.
const NET_ADMIN: u64 = 1 << 12;

fn configuration(more: &str) -> Configuration {
    Configuration::new("[]")
        .packets()
        .with(more)
        .service("nat", instance::TCP, &[10, 10], "forwarding = \"nat\"")
        .vips(NAT, instance::TCP, "tcp", "nat")
}

/// The capabilities of each thread, of every kind: name, kind, bits.
fn capabilities(process: i32) -> Result<Vec<(String, String, u64)>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).map(str::to_owned)
        };
        let name = field("Name:").context("a thread without a name")?;
        for kind in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let bits = field(kind).with_context(|| format!("no {kind}"))?;
            let bits = u64::from_str_radix(&bits, 16)?;
            all.push((name.clone(), kind.to_owned(), bits));
        }
    }
    Ok(all)
}

#[test]
#[ignore = "needs root"]
fn no_thread_keeps_rights_that_are_not_needed_and_changes_still_work() -> Result<()> {
    let mut scene = Scene::new(2, configuration("").text())?;
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let threads = capabilities(scene.daemon.process()?.pid())?;
    ensure!(threads.len() >= 3 * 5, "{threads:?}");
    for (thread, kind, bits) in &threads {
        ensure!(
            bits & !KEPT == 0,
            "expected no more than {KEPT:x} in {kind} of {thread}, found {bits:x}"
        );
    }
    ensure!(
        threads
            .iter()
            .any(|(_, kind, bits)| kind == "CapEff:" && *bits == KEPT),
        "{threads:?}"
    );
    // A change of tables, a VIP more, and a look with a second program.
    let one = SocketAddr::new(address(11, Family::V4), instance::TCP);
    scene.daemon.post(&format!("/instances/nat/{one}/drain"))?;
    scene.daemon.configure(
        configuration("")
            .vips(NAT, instance::TCP + 9, "tcp", "nat")
            .text(),
    )?;
    scene.daemon.post_admin("reload")?;
    scene.settle()?;
    let client = &scene.topology.client.namespace;
    let tally = tcp::connections(client, target, 20)?;
    ensure!(tally.of("i2") == 20, "{tally}");
    let path = format!("/explain/flow?source=198.51.100.1:1000&destination={target}");
    let told = scene.daemon.get(&path)?;
    ensure!(told["verdict"] == "forwarded", "{told}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_maps_of_an_earlier_daemon_of_another_size_are_taken_over() -> Result<()> {
    let mut scene = Scene::new(2, configuration("").text())?;
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let held = Held::open(&scene.topology.client.namespace, target, 20)?;
    let opened = held.opened().clone();
    scene.daemon.kill()?;
    scene
        .daemon
        .configure(configuration("max_connections = 4096").text())?;
    scene.daemon.start_again()?;
    scene.settle()?;
    let told = scene.daemon.get("/datapath")?;
    ensure!(
        told["connections"]["max"] == 4096,
        "{}",
        told["connections"]
    );
    let closed = held.close()?;
    ensure!(closed == opened, "opened {opened}; at the end {closed}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_rights_of_the_unit_are_enough_to_start_and_to_start_again() -> Result<()> {
    let unit = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/lb.service"
    ))?;
    let granted = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    ensure!(granted == Some("CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_NET_BIND_SERVICE"));
    let text = |hook, size: &str| {
        let configuration = Configuration::new("[]").packets_at(hook).with(size);
        configuration
            .service("nat", instance::TCP, &[10, 10], "forwarding = \"nat\"")
            .vips(NAT, instance::TCP, "tcp", "nat")
            .text()
            .to_owned()
    };
    let mut scene = Scene::with(2, &text(Hook::Xdp, ""), Rights::Unit)?;
    let target = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let held = Held::open(&scene.topology.client.namespace, target, 20)?;
    let opened = held.opened().clone();
    // The same maps, others, and the other hook.
    for (hook, size) in [
        (Hook::Xdp, ""),
        (Hook::Xdp, "max_connections = 4096"),
        (Hook::Tc, "max_connections = 4096"),
    ] {
        keeps(scene.daemon.process()?.pid(), KEPT)?;
        let path = format!("/explain/flow?source=198.51.100.1:1000&destination={target}");
        let told = scene.daemon.get(&path)?;
        ensure!(told["verdict"] == "forwarded", "{told}");
        scene.daemon.stop(Duration::from_secs(5))?;
        scene.daemon.configure(&text(hook, size))?;
        scene.daemon.start_again()?;
        scene.settle()?;
    }
    let closed = held.close()?;
    ensure!(closed == opened, "opened {opened}; at the end {closed}");
    Ok(())
}

/// Checks that every thread may do what `kept` says and nothing else.
fn keeps(process: i32, kept: u64) -> Result<()> {
    for (thread, kind, bits) in capabilities(process)? {
        let is_right = match &*kind {
            "CapPrm:" | "CapEff:" => bits == kept,
            _ => bits & !kept == 0,
        };
        ensure!(
            is_right,
            "expected {kept:x} in {kind} of {thread}, found {bits:x}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_far_end_of_tunnels_keeps_what_it_needs_to_leave_and_follows_addresses_without() -> Result<()>
{
    let configuration = Configuration::new("[]")
        .packets()
        .service_over(
            &[Family::V4],
            "tunnel",
            instance::TCP,
            &[1],
            "forwarding = \"ipip\"",
        )
        .vips(DSR, instance::TCP, "tcp", "tunnel");
    let scene = Scene::new(1, configuration.text())?;
    let (host, vip) = (&scene.topology.instances[0], address(DSR, Family::V4));
    let target = SocketAddr::new(vip, instance::TCP);
    for (arguments, kept) in [(&[][..], 0), (&["--clamp-mss"], NET_ADMIN)] {
        // An address that goes and one that comes while it runs.
        host.hold(IpAddr::V4(GUEST))?;
        host.namespace.ip(&[format!("addr del {vip}/32 dev lo")])?;
        let end = Decap::start(Hook::Xdp, host, &scene.topology.balancer, arguments)?;
        keeps(end.pid(), kept)?;
        host.namespace
            .ip(&[format!("addr del {GUEST}/32 dev lo")])?;
        host.hold(vip)?;
        let client = &scene.topology.client.namespace;
        let serves = cleanup::within(Duration::from_secs(10), || {
            tcp::connections(client, target, 1).is_ok_and(|tally| tally.of("i1") == 1)
        });
        ensure!(serves, "{arguments:?}: no connection through the tunnel");
        let figures = end.stop()?;
        let counted = |label: &str| figures[label].as_u64().unwrap_or_default();
        ensure!(counted("unpacked_ipip") > 0, "{arguments:?}: {figures}");
        ensure!((counted("mss_clamped") > 0) == (kept != 0), "{figures}");
        // Nothing stays behind.
        let show = &mut host.namespace.command("ip");
        let link = command::output(show.args(["-d", "link", "show", "dev", INTERFACE]))?;
        ensure!(!link.contains("prog/"), "{arguments:?}: {link}");
        let show = &mut host.namespace.command("tc");
        let filters = command::output(show.args(["filter", "show", "dev", INTERFACE, "egress"]))?;
        ensure!(filters.trim().is_empty(), "{arguments:?}: {filters}");
    }
    Ok(())
}
