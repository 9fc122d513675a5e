//! An instance ends without a word while clients use it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Forwarding, Report, World, gateway, vip};
use crate::client::load::{self, Load, Plan};
use crate::client::tcp;
use crate::topology::Family;
use crate::{cleanup, instance};

/// Requests that must have been sent before the instance is killed, and after it.
const SOME: u64 = 500;

pub(super) fn play(world: &mut World, report: &mut Report) -> Result<()> {
    let plan = Plan {
        clients: 8,
        requests: None,
        pause: Duration::from_millis(1),
        ..Plan::requests(gateway(world), "/shop/{}", 0)
    };
    let load = load::start(&world.topology.client.namespace, plan);
    more(&load)?;
    world.kill("i1")?;
    more(&load)?;
    let at = format!("{}:{}", world.host("i1")?.v4, instance::HTTP);
    let noticed = world.daemon.wait_for(
        &format!("/instances/shop/{at}"),
        Duration::from_secs(3),
        |one| one["health"] == "unhealthy",
    );
    report.expect(
        "the checks notice that i1 is gone",
        noticed.is_ok(),
        noticed.map_or_else(|e| format!("{e:#}"), |one| one["health_detail"].to_string()),
    );
    more(&load)?;
    let all = load.stop()?;
    report.expect(
        "no client's request failed",
        all.failures().is_empty() && all.of("i1") > 0,
        &all,
    );
    in_the_kernel(world, report)?;
    world.revive("i1")?;
    let plan = Plan::requests(gateway(world), "/shop/{}", SOME);
    let back = load::run(&world.topology.client.namespace, &plan)?;
    report.expect(
        "i1 gets requests again once it is back",
        back.of("i1") > 0 && back.failures().is_empty(),
        &back,
    );
    Ok(())
}

/// Waits for more requests.
fn more(load: &Load) -> Result<()> {
    let goal = load.sent() + SOME;
    let done = cleanup::within(Duration::from_secs(10), || load.sent() >= goal);
    ensure!(
        done,
        "expected {SOME} more requests within 10 s, found {}",
        load.sent()
    );
    Ok(())
}

fn in_the_kernel(world: &World, report: &mut Report) -> Result<()> {
    let gone = format!(
        "/instances/echo-nat/{}:{}",
        world.host("i1")?.v4,
        instance::TCP
    );
    world
        .daemon
        .wait_for(&gone, Duration::from_secs(3), |one| {
            one["health"] == "unhealthy"
        })?;
    std::thread::sleep(Duration::from_millis(200));
    let target = SocketAddr::new(vip(Forwarding::Nat, Family::V4), instance::TCP);
    let tally = tcp::connections(&world.topology.client.namespace, target, 100)?;
    report.expect(
        "connections through the VIP go to the two that are left",
        tally.failures().is_empty() && tally.of("i1") == 0 && tally.instances() == 2,
        &tally,
    );
    Ok(())
}
