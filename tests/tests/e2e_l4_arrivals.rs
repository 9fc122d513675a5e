//! Limits of new connections on real ones.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_tests::client::held::Held;
use lb_tests::client::tcp;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};

/// Connections that a source may begin at once; another one comes each second.
const BURST: u32 = 40;

#[test]
#[ignore = "needs root"]
fn a_source_begins_as_many_as_it_may_and_keeps_what_it_has() -> Result<()> {
    let configuration = Configuration::new("[]")
        .packets()
        .with(&format!(
            "[defaults.limits]\nsource_new_connections = 1\nsource_new_connections_burst = {BURST}"
        ))
        .service("nat", instance::TCP, &[10, 10], "")
        .service(
            "dsr",
            instance::TCP,
            &[10, 10],
            "algorithm = \"consistent_hash\"\nforwarding = \"l2dsr\"\nhash_key = \"flow\"",
        )
        .vips(NAT, instance::TCP, "tcp", "nat")
        .vips(DSR, instance::TCP, "tcp", "dsr");
    let scene = Scene::new(2, configuration.text())?;
    let space = &scene.topology.client.namespace;
    for number in [NAT, DSR] {
        for family in FAMILIES {
            let target = SocketAddr::new(address(number, family), instance::TCP);
            let held = Held::open(space, target, BURST / 2)?;
            // Who is dropped sends his SYN again, and there is a token a second.
            let before = scene.counted("source_connection_limit")?;
            let more = tcp::connections(space, target, BURST / 2 + 6)?;
            ensure!(more.failures().is_empty(), "{target}: {more}");
            let refused = scene.counted("source_connection_limit")? - before;
            ensure!(refused > 0, "{target}: nothing was refused: {more}");
            let kept = held.close()?;
            ensure!(
                kept.failures().is_empty() && kept.total() == u64::from(BURST / 2),
                "{kept}"
            );
        }
    }
    ensure!(scene.counted("new_connection_limit")? == 0);
    // Another limit holds at once, without a restart.
    scene.daemon.cli(&[
        "services",
        "set",
        "nat",
        "limits.source_new_connections=10000",
    ])?;
    scene.daemon.cli(&[
        "services",
        "set",
        "nat",
        "limits.source_new_connections_burst=",
    ])?;
    scene.settle()?;
    let target = SocketAddr::new(address(NAT, FAMILIES[0]), instance::TCP);
    let free = tcp::connections(space, target, 200)?;
    ensure!(free.failures().is_empty() && free.total() == 200, "{free}");
    let text = scene.daemon.cli(&["limits"])?;
    ensure!(text.contains("10000"), "{text}");
    Ok(())
}
