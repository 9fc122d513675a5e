//! An instance gets nothing new, and what it has goes on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::{Forwarding, Report, World, vip};
use crate::client::{held::Held, tcp};
use crate::instance;
use crate::topology::Family;

const HELD: u32 = 40;
const NEW: u32 = 100;

/// Within which a change over REST must have reached the kernel.
const PROMPT: Duration = Duration::from_secs(2);

pub(super) fn play(world: &mut World, report: &mut Report) -> Result<()> {
    for (service, forwarding) in [
        ("echo-nat", Forwarding::Nat),
        ("echo-dsr", Forwarding::L2Dsr),
    ] {
        drain(world, report, service, forwarding)?;
    }
    Ok(())
}

fn drain(world: &World, report: &mut Report, service: &str, forwarding: Forwarding) -> Result<()> {
    let daemon = &world.daemon;
    let client = &world.topology.client.namespace;
    let target = SocketAddr::new(vip(forwarding, Family::V4), instance::TCP);
    let drained = format!(
        "/instances/{service}/{}:{}",
        world.host("i2")?.v4,
        instance::TCP
    );
    let name = forwarding.name();

    let held = Held::open(client, target, HELD)?;
    let on_it = held.opened().of("i2");
    report.expect(
        &format!("{HELD} connections held by {name}"),
        on_it > 0 && held.opened().total() == u64::from(HELD),
        held.opened(),
    );
    daemon.post(&format!("{drained}/drain"))?;
    daemon.wait_for(&drained, PROMPT, |one| one["effective_weight"] == 0.0)?;
    // The tables follow the registry at once, but not in the same instant.
    std::thread::sleep(Duration::from_millis(200));
    let new = tcp::connections(client, target, NEW)?;
    report.expect(
        "no new connection to i2 while it drains",
        new.of("i2") == 0 && new.failures().is_empty() && new.total() == u64::from(NEW),
        &new,
    );
    let end = held.close()?;
    report.expect(
        "no held connection broke",
        end.failures().is_empty() && end.of("i2") == on_it,
        &end,
    );
    if forwarding == Forwarding::L2Dsr {
        // By consistent hashing without memory: what was heard of since the drain began is remembered, and its end
        // seen. Whether there are others lb cannot know.
        let ended = daemon.wait_for(&drained, PROMPT, |one| {
            one["kernel"]["live_connections"] == 0
        });
        let claimed = daemon.get(&drained)?["drained"].clone();
        report.expect(
            "lb may not have seen all of them, so it calls i2 drained after tcp_idle_timeout only",
            ended.is_ok() && claimed == false,
            ended.map_or_else(|error| format!("{error:#}"), |_| "none is known".to_owned()),
        );
    } else {
        let emptied = daemon.wait_for(&drained, Duration::from_secs(5), |one| {
            one["drained"] == true
        });
        report.expect(
            "i2 is drained once its connections have ended",
            emptied.is_ok(),
            emptied.map_or_else(|error| format!("{error:#}"), |_| format!("{on_it} ended")),
        );
    }
    daemon.post(&format!("{drained}/enable"))?;
    daemon.wait_for(&drained, PROMPT, |one| one["available"] == true)?;
    std::thread::sleep(Duration::from_millis(200));
    let again = tcp::connections(client, target, NEW)?;
    report.expect(
        "i2 is back after it was enabled",
        again.of("i2") > 0 && again.failures().is_empty(),
        &again,
    );
    Ok(())
}
