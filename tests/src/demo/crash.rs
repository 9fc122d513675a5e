//! The kernel path goes on without its daemon.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Forwarding, Report, World, vip};
use crate::client::{tcp, transfer::Transfer};
use crate::topology::Family;
use crate::{cleanup, instance};

/// 16 KiB each, 5 ms apart: about two seconds.
const STEPS: u32 = 400;
const REST: Duration = Duration::from_millis(5);

pub(super) fn play(world: &mut World, report: &mut Report) -> Result<()> {
    let targets = [Forwarding::Nat, Forwarding::L2Dsr].map(|forwarding| {
        (
            forwarding,
            SocketAddr::new(vip(forwarding, Family::V4), instance::TCP),
        )
    });
    let transfers = targets.map(|(forwarding, target)| {
        let client = &world.topology.client.namespace;
        (forwarding, Transfer::start(client, target, STEPS, REST))
    });
    for (_, transfer) in &transfers {
        let begun = cleanup::within(Duration::from_secs(5), || transfer.done() > 0);
        ensure!(begun, "the transfer does not begin");
    }
    world.daemon.kill()?;
    let client = &world.topology.client.namespace;
    for (forwarding, target) in targets {
        let tally = tcp::connections(client, target, 50)?;
        report.expect(
            &format!("new connections by {} without a daemon", forwarding.name()),
            tally.failures().is_empty() && tally.total() == 50,
            &tally,
        );
    }
    let left = transfers
        .iter()
        .any(|(_, transfer)| transfer.done() < full());
    world.daemon.start_again()?;
    report.expect(
        "the daemon is back before the transfers end",
        left && transfers
            .iter()
            .any(|(_, transfer)| transfer.done() < full()),
        format_args!("{} of {} bytes", transfers[0].1.done(), full()),
    );
    for (forwarding, transfer) in transfers {
        let outcome = transfer.finish();
        report.expect(
            &format!(
                "the transfer by {} completes, byte for byte",
                forwarding.name()
            ),
            outcome.as_ref().is_ok_and(|bytes| *bytes == full()),
            outcome.map_or_else(
                |error| format!("{error:#}"),
                |bytes| format!("{bytes} bytes"),
            ),
        );
    }
    world.wait_until_healthy()?;
    for (forwarding, target) in targets {
        let tally = tcp::connections(&world.topology.client.namespace, target, 100)?;
        report.expect(
            &format!("the daemon that is back has adopted {}", forwarding.name()),
            tally.failures().is_empty() && tally.instances() == 3,
            &tally,
        );
    }
    Ok(())
}

const fn full() -> u64 {
    STEPS as u64 * crate::client::transfer::STEP as u64
}
