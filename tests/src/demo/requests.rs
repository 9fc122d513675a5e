//! Requests by path, and algorithms changed while they run.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::spread::is_fair;
use super::{Report, World, gateway};
use crate::client::load::{self, Plan};
use crate::instance;
use crate::tally::Tally;

const REQUESTS: u32 = 800;

/// Delay of every answer of `i2`, in milliseconds, for the algorithms that measure.
const SLOW: u32 = 20;

pub(super) fn play(world: &mut World, report: &mut Report) -> Result<()> {
    routing(world, report)?;
    let background = load::start(
        &world.topology.client.namespace,
        Plan {
            clients: 1,
            requests: None,
            pause: Duration::from_millis(2),
            ..Plan::requests(gateway(world), "/shop/background/{}", 0)
        },
    );
    let outcome = algorithms(world, report);
    let all = background.stop()?;
    report.expect(
        "no request failed while the algorithm was changed",
        all.failures().is_empty() && all.total() > 0,
        &all,
    );
    outcome
}

fn routing(world: &World, report: &mut Report) -> Result<()> {
    let client = &world.topology.client.namespace;
    let blog = load::run(client, &Plan::requests(gateway(world), "/blog/{}", 100))?;
    report.expect(
        "/blog/* goes to the blog's only instance, i3",
        blog.of("i3") == 100 && blog.failures().is_empty(),
        &blog,
    );
    let none = load::run(client, &Plan::requests(gateway(world), "/nowhere", 1))?;
    report.expect(
        "a path without a route is refused",
        none.total() == 0
            && none
                .failures()
                .first()
                .is_some_and(|why| why.starts_with("404")),
        &none,
    );
    Ok(())
}

fn algorithms(world: &World, report: &mut Report) -> Result<()> {
    let third = |tally: &Tally| {
        ["i1", "i2", "i3"]
            .iter()
            .all(|name| (tally.share(name) - 1.0 / 3.0).abs() < 0.02)
    };
    let tally = under(world, "round_robin")?;
    report.expect(
        "round_robin: in turn",
        complete(&tally) && third(&tally),
        &tally,
    );
    let tally = under(world, "weighted_round_robin")?;
    report.expect(
        "weighted_round_robin: by weight",
        is_fair(&tally, REQUESTS, 0.02),
        &tally,
    );
    let tally = under(world, "consistent_hash")?;
    report.expect(
        "consistent_hash: by weight, of many paths",
        is_fair(&tally, REQUESTS, 0.1),
        &tally,
    );
    let same = Plan::requests(gateway(world), "/shop/one-path", 100);
    let same = load::run(&world.topology.client.namespace, &same)?;
    report.expect(
        "consistent_hash: one path, one instance",
        same.instances() == 1 && same.failures().is_empty(),
        &same,
    );

    slow_down(world, SLOW)?;
    for algorithm in [
        "least_connections",
        "least_response_time",
        "health_aware",
        "adaptive",
    ] {
        let tally = if algorithm == "health_aware" {
            once_scored(world, algorithm)?
        } else {
            under(world, algorithm)?
        };
        report.expect(
            &format!("{algorithm}: i2, which is slow, gets less than its weight"),
            complete(&tally) && tally.share("i2") < 0.25 && tally.instances() > 1,
            &tally,
        );
    }
    slow_down(world, 0)?;
    set(world, "weighted_round_robin")
}

fn under(world: &World, algorithm: &str) -> Result<Tally> {
    set(world, algorithm)?;
    // Workers take the new snapshot with their next request; scores are made once in a while.
    std::thread::sleep(Duration::from_millis(300));
    let plan = Plan {
        clients: 8,
        ..Plan::requests(gateway(world), "/shop/{}", REQUESTS.into())
    };
    load::run(&world.topology.client.namespace, &plan)
}

/// The same for an algorithm whose scores are made once a second.
fn once_scored(world: &World, algorithm: &str) -> Result<Tally> {
    set(world, algorithm)?;
    let slow = format!(
        "/instances/shop/{}:{}",
        world.host("i2")?.v4,
        instance::HTTP
    );
    world
        .daemon
        .wait_for(&slow, Duration::from_secs(5), |one| {
            one["factor"].as_f64().is_some_and(|factor| factor < 0.9)
        })?;
    under(world, algorithm)
}

fn set(world: &World, algorithm: &str) -> Result<()> {
    let wish = json!({"algorithm": algorithm});
    world.daemon.put("/algorithms/shop", &wish).map(drop)
}

fn complete(tally: &Tally) -> bool {
    tally.failures().is_empty() && tally.total() == u64::from(REQUESTS)
}

fn slow_down(world: &World, milliseconds: u32) -> Result<()> {
    let target = (world.host("i2")?.v4, instance::HTTP).into();
    let path = format!("/_set/delay/{milliseconds}");
    load::run(
        &world.topology.client.namespace,
        &Plan::requests(target, &path, 1),
    )
    .map(drop)
}
