//! Connections through VIPs: both ways of forwarding, both families, TCP and UDP.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Forwarding, Report, SHARES, World, vip};
use crate::client::{tcp, udp};
use crate::instance;
use crate::tally::Tally;
use crate::topology::Family;

const CONNECTIONS: u32 = 400;

/// How far a share may be from the weight's, where chance (the hash of the flow) decides: four
/// standard deviations of 400 draws.
const BY_CHANCE: f64 = 0.1;
/// The same where turns are taken, per CPU.
const BY_TURNS: f64 = 0.02;

pub(super) fn play(world: &mut World, report: &mut Report) -> Result<()> {
    let client = &world.topology.client.namespace;
    for (forwarding, tolerance) in [(Forwarding::Nat, BY_TURNS), (Forwarding::L2Dsr, BY_CHANCE)] {
        for family in [Family::V4, Family::V6] {
            let target = SocketAddr::new(vip(forwarding, family), instance::TCP);
            let tally = tcp::connections(client, target, CONNECTIONS)?;
            let what = format!(
                "{CONNECTIONS} connections by {} over {family}",
                forwarding.name()
            );
            report.expect(&what, is_fair(&tally, CONNECTIONS, tolerance), &tally);
        }
    }
    for (forwarding, family) in [
        (Forwarding::Nat, Family::V4),
        (Forwarding::L2Dsr, Family::V6),
    ] {
        let target = SocketAddr::new(vip(forwarding, family), instance::UDP);
        let tally = udp::flows(client, target, CONNECTIONS, 2)?;
        let what = format!(
            "{CONNECTIONS} UDP flows by {} over {family}",
            forwarding.name()
        );
        report.expect(&what, is_fair(&tally, CONNECTIONS, BY_TURNS), &tally);
    }
    counters_add_up(world, report)
}

/// Whether none failed and each instance has its share.
pub(super) fn is_fair(tally: &Tally, all: u32, tolerance: f64) -> bool {
    tally.failures().is_empty()
        && tally.total() == u64::from(all)
        && SHARES
            .iter()
            .all(|(name, share)| (tally.share(name) - share).abs() <= tolerance)
}

fn counters_add_up(world: &World, report: &mut Report) -> Result<()> {
    let datapath = world.daemon.get("/datapath")?;
    let packets = &datapath["packets"];
    let count = |name: &str| packets[name].as_u64().unwrap_or_default();
    let (received, forwarded) = (count("received"), count("forwarded"));
    let (passed, dropped) = (count("passed"), count("dropped"));
    report.expect(
        "received = forwarded + passed + dropped",
        received > 0 && received == forwarded + passed + dropped,
        format_args!("{received} = {forwarded} + {passed} + {dropped}"),
    );
    Ok(())
}
