//! Connections of a table that another version has made: the program finds them field by field.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_L2DSR, INSTANCE_DOWN, INSTANCE_DRAINING, InstanceEntry,
    PROTOCOL_TCP, Vip, names,
};
use lb_tests::daemon::mount_bpf;
use lb_tests::other_layout;
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::hook::Hook;
use lb_tests::packet::kernel::{Outcome, Sizes};
use lb_tests::packet::lab::{Lab, at, at_each_hook, instance, vip, vip_key};
use lb_tests::packet::network::FRONT;

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};
/// Ports of the clients.
const CLIENTS: std::ops::Range<u16> = 5000..5020;

/// Frames, and what became of each.
type Seen = Vec<(Vec<u8>, Vec<u8>)>;

/// A folder for pins, removed with what is in it.
struct Pins(PathBuf);

impl Pins {
    fn make() -> Result<Self> {
        let path = PathBuf::from(format!("/sys/fs/bpf/lb-test-former-{}", process::id()));
        mount_bpf()?;
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_file(pin.path());
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// A VIP by `dnat` on port 80 and one by `l2dsr` on port 81, both over these instances.
fn serve(lab: &mut Lab, instances: &[u16]) -> Result<()> {
    lab.set_instance(1, instance("10.0.1.11", 8080))?;
    lab.set_instance(2, instance("10.0.1.12", 8080))?;
    for (id, port, forward) in [(1, 80, FORWARD_DNAT), (2, 81, FORWARD_L2DSR)] {
        let vip = Vip { forward, ..vip(id) };
        lab.serve(vip_key("10.1.1.1", port, PROTOCOL_TCP), vip, instances)?;
    }
    Ok(())
}

/// A packet of a client.
fn request(client: u16, port: u16, flags: u8) -> Vec<u8> {
    let (client, vip) = (format!("10.0.1.2:{client}"), format!("10.1.1.1:{port}"));
    Build::tcp(at(&client), at(&vip), flags).bytes()
}

/// The answer of the first instance.
fn reply(client: u16, flags: u8) -> Vec<u8> {
    let client = format!("10.0.1.2:{client}");
    Build::tcp(at("10.0.1.11:8080"), at(&client), flags).bytes()
}

/// What each client goes on with, and what became of that while its program was there.
fn established(lab: &mut Lab) -> Result<Seen> {
    let mut seen = Vec::new();
    for client in CLIENTS {
        for port in [80, 81] {
            lab.send(&request(client, port, tcp::SYN))?;
        }
        lab.send(&reply(client, tcp::SYN | tcp::ACK))?;
        let more = [
            request(client, 80, tcp::ACK),
            request(client, 81, tcp::ACK),
            reply(client, tcp::ACK),
        ];
        for frame in more {
            let frame_after = lab.send(&frame)?.frame;
            seen.push((frame, frame_after));
        }
    }
    Ok(seen)
}

fn run(lab: &mut Lab, frame: &[u8]) -> Result<Outcome> {
    lab.kernel().run(frame, FRONT)
}

fn counted(lab: &mut Lab, counter: Counter) -> Result<u64> {
    Ok(lab.kernel().counters()?.get(counter))
}

/// A program that follows another one whose table is of another layout, and what the clients of that go on
/// with.
fn follow(hook: Hook, pins: &Path) -> Result<(Lab, other_layout::Table, Seen)> {
    let (ours, theirs) = (pins.join("ours"), pins.join("theirs"));
    let mut lab = Lab::new(hook, SIZES)?;
    serve(&mut lab, &[1])?;
    let seen = established(&mut lab)?;
    lab.kernel().pin(names::MAP_CONNECTIONS, &ours)?;
    drop(lab);
    let table = other_layout::connections(&ours, &theirs)?;
    let mut lab = Lab::after(hook, SIZES, &theirs, &other_layout::places())?;
    // Whoever is not known goes to the second one.
    serve(&mut lab, &[2])?;
    Ok((lab, table, seen))
}

#[test]
fn connections_go_on_in_both_directions() -> Result<()> {
    at_each_hook(|hook| {
        let pins = Pins::make()?;
        let (mut lab, _table, seen) = follow(hook, &pins.0)?;
        // Some are met by their client's packets first, others by the instance's.
        for (frame, expected) in seen.iter().rev().chain(&seen) {
            let outcome = run(&mut lab, frame)?;
            ensure!(
                outcome.is_sent && outcome.frame == *expected,
                "{frame:02x?} became {:02x?}, expected {expected:02x?}",
                outcome.frame
            );
        }
        ensure!(counted(&mut lab, Counter::ConnectionsOpened)? == 0);
        // Both entries of those by dnat, one of those by l2dsr, and all as they were.
        let flows = lab.kernel().flows()?;
        ensure!(flows.len() == CLIENTS.len() * 3, "{} entries", flows.len());
        ensure!(
            flows
                .iter()
                .all(|(_, flow)| flow.instance == 1 && flow.last_seen > 0)
        );
        // Somebody new is not found there.
        run(&mut lab, &request(4000, 80, tcp::SYN))?;
        ensure!(counted(&mut lab, Counter::ConnectionsOpened)? == 1);
        let flows = lab.kernel().flows()?;
        ensure!(flows.iter().filter(|(_, flow)| flow.instance == 2).count() == 2);
        ensure!(lab.kernel().counters()?.adds_up());
        Ok(())
    })
}

#[test]
fn what_is_forgotten_is_forgotten_there_as_well() -> Result<()> {
    at_each_hook(|hook| {
        let pins = Pins::make()?;
        let (mut lab, table, _) = follow(hook, &pins.0)?;
        let before = table.keys().count();
        let down = |state| InstanceEntry {
            state,
            ..instance("10.0.1.11", 8080)
        };
        lab.set_instance(1, down(INSTANCE_DRAINING))?;
        run(&mut lab, &request(5000, 80, tcp::ACK))?;
        ensure!(counted(&mut lab, Counter::ConnectionsMoved)? == 0);
        lab.set_instance(1, down(INSTANCE_DOWN))?;
        run(&mut lab, &request(5000, 80, tcp::ACK))?;
        ensure!(counted(&mut lab, Counter::ConnectionsMoved)? == 1);
        // Were it still there, it would be found again as soon as the new one is over.
        let keys = table.keys().collect::<Result<Vec<_>, _>>()?;
        ensure!(keys.len() == before - 2, "{} of {before}", keys.len());
        Ok(())
    })
}
