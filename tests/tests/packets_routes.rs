//! The next hop: asked for, remembered, forgotten by the kernel, forbidden.

use std::process::Command;

use anyhow::{Result, ensure};
use lb_common::{Counter, FORWARD_L2DSR, PROTOCOL_TCP, Settings, Vip};
use lb_ebpf::{Route, Verdict};
use lb_tests::command;
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, address, at, instance, run, vip, vip_key};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

fn l2dsr(id: u32) -> Vip {
    Vip {
        forward: FORWARD_L2DSR,
        ..vip(id)
    }
}

/// Serves the VIP on port 80 by one of two instances.
fn serve(lab: &mut Lab, vip: Vip, chosen: u16) -> Result<()> {
    lab.set_instance(1, instance("10.0.1.11", 8080))?;
    lab.set_instance(2, instance("10.0.1.12", 8080))?;
    lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), vip, &[chosen])
}

/// A packet from the client to the VIP.
fn from(port: u16, flags: u8) -> Vec<u8> {
    Build::tcp(at(&format!("10.0.1.2:{port}")), at("10.1.1.1:80"), flags).bytes()
}

fn asked(lab: &Lab) -> u64 {
    lab.counters().get(Counter::RouteLookups)
}

#[test]
fn ways_are_asked_for_once_and_old_ones_are_better_than_none() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, l2dsr(1), 1)?;
        for port in 0..10 {
            lab.send(&from(5000 + port, tcp::SYN))?;
        }
        ensure!(asked(lab) == 1);

        // Without a time to live every packet asks, and what was known before must do when the
        // kernel has forgotten the neighbour.
        let settings = lab.settings();
        lab.set_settings(Settings {
            next_hop_ttl_ms: 0,
            ..settings
        })?;
        serve(lab, l2dsr(1), 2)?;
        ensure!(lab.send(&from(6000, tcp::SYN))?.frame[..6] == [2, 0, 0, 0, 1, 12]);
        let before = asked(lab);
        ip(&["neighbour", "delete", "10.0.1.12", "dev", "front"])?;
        lab.memory()
            .set_route(address("10.0.1.12"), Route::NoNeighbour);
        for _ in 0..3 {
            ensure!(lab.send(&from(6000, tcp::ACK))?.frame[..6] == [2, 0, 0, 0, 1, 12]);
        }
        ensure!(asked(lab) == before + 3);
        Ok(())
    })
}

#[test]
fn a_kernel_that_does_not_forward_is_a_reason_of_its_own() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, vip(1), 1)?;
        // The thread is in the lab's namespace, and so are its settings.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")?;
        let to = address("10.0.1.11");
        lab.memory().set_route(to, Route::ForwardingDisabled);
        let seen = lab.send(&from(5000, tcp::SYN))?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropForwardingDisabled));
        Ok(())
    })
}

/// Runs `ip` in the namespace of the calling thread.
fn ip(arguments: &[&str]) -> Result<()> {
    command::output(Command::new("ip").args(arguments)).map(drop)
}
