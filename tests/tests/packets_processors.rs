//! Packets of a flow that arrive on changing processors, each of which keeps copies of its own: of VIPs, of
//! connections, of the ways to instances. Each packet runs in the kernel and in the library, which has one
//! processor and must do the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    FORWARD_DNAT, FORWARD_L2DSR, FlowEntry, FlowKey, INSTANCE_ACTIVE, INSTANCE_DRAINING,
    InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, Settings, Slot, VIP_OWNED, VIP_SETTLES, Vip,
};
use lb_ebpf::{Verdict, hash};
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::{Sizes, pin};
use lb_tests::packet::lab::{Lab, at, instance, run_on_two, vip, vip_key};
use lb_tests::packet::network::FRONT;

const SIZES: Sizes = Sizes {
    connections: 4096,
    tables: 16,
};

/// Steps of the walk; each is a packet or a change.
const STEPS: u64 = 12_000;
/// Flows of a VIP at a time.
const FLOWS: u64 = 12;
const INSTANCES: [&str; 2] = ["10.0.1.11", "10.0.1.12"];

/// VIPs are known by their ports; those from here on remember nothing.
const SETTLING: u16 = 90;
const SETTLING_VIPS: u16 = 12;
/// What their slots become, one after the other: at last the owner comes back and goes again, and what was
/// remembered meanwhile has to be asked for.
const CHANGES: [(Slot, u16); 3] = [
    (Slot::clear(1), 0),
    (Slot::unsettled(2), 1),
    (Slot::settled(1), 0),
];

fn mac(of: u16) -> [u8; 6] {
    [2, 0, 0, 0, 1, 10 + of as u8]
}

fn settling(number: u16, change: usize) -> Vip {
    Vip {
        forward: FORWARD_L2DSR,
        table: change as u32,
        flags: VIP_OWNED | VIP_SETTLES,
        ..vip(10 + u32::from(number))
    }
}

/// A flow as its packets have left so far.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    to: [u8; 6],
    /// The address that the instance answers to, where packets are translated.
    answers_to: Option<SocketAddr>,
}

/// What the walk knows.
struct Walk {
    random: u64,
    /// By the VIP's port and the client's.
    flows: BTreeMap<(u16, u16), Known>,
    /// The change that each VIP which remembers nothing is at.
    changes: [usize; SETTLING_VIPS as usize],
    /// Whether the second instance drains.
    drains: bool,
}

impl Walk {
    fn below(&mut self, most: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::finish(self.random) % most
    }

    fn vip(&mut self) -> u16 {
        let ports = [80, 81, 82, 83];
        let place = self.below(8) as usize;
        ports
            .get(place)
            .copied()
            .unwrap_or_else(|| SETTLING + self.below(u64::from(SETTLING_VIPS)) as u16)
    }
}

fn packet(port: u16, client: u16, flags: u8) -> Build {
    let (from, to) = (
        at(&format!("10.0.1.2:{client}")),
        at(&format!("10.1.1.1:{port}")),
    );
    if port == 83 {
        Build::udp(from, to, b"x")
    } else {
        Build::tcp(from, to, flags)
    }
}

fn serve(lab: &mut Lab) -> Result<()> {
    for (index, address) in (1..).zip(INSTANCES) {
        lab.set_instance(index, instance(address, 8080))?;
    }
    lab.set_settings(Settings {
        nat_port_last: 49_999,
        ..lab.settings()
    })?;
    let forwarded = |id, forward| Vip { forward, ..vip(id) };
    let all = &[1, 2];
    lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), vip(1), all)?;
    let l2dsr = forwarded(2, FORWARD_L2DSR);
    lab.serve(vip_key("10.1.1.1", 81, PROTOCOL_TCP), l2dsr, all)?;
    let dnat = forwarded(3, FORWARD_DNAT);
    lab.serve(vip_key("10.1.1.1", 82, PROTOCOL_TCP), dnat, all)?;
    lab.serve(vip_key("10.1.1.1", 83, PROTOCOL_UDP), vip(4), all)
}

fn change(lab: &mut Lab, number: u16, change: usize) -> Result<()> {
    let key = vip_key("10.1.1.1", SETTLING + number, PROTOCOL_TCP);
    let (slot, owner) = CHANGES[change];
    lab.serve_owned(key, settling(number, 8 + change), slot, owner)
}

/// Sends a packet from the client and notes where its flow goes; it must go where it went before.
fn send(lab: &mut Lab, walk: &mut Walk, flow: (u16, u16), flags: u8) -> Result<()> {
    let begins = flags == tcp::SYN;
    let seen = lab.forward(&packet(flow.0, flow.1, flags).bytes(), FRONT)?;
    ensure!(
        seen.verdict == Verdict::Transmit,
        "{flow:?}: {:?}",
        seen.verdict
    );
    let frame = &seen.frame;
    let answers_to = (flow.0 < 84 && flow.0 != 81).then(|| {
        let address: [u8; 4] = std::array::from_fn(|i| frame[26 + i]);
        SocketAddr::from((address, u16::from_be_bytes([frame[34], frame[35]])))
    });
    let now = Known {
        to: std::array::from_fn(|i| frame[i]),
        answers_to,
    };
    let known = *walk.flows.entry(flow).or_insert(now);
    ensure!(
        known == now,
        "{flow:?} went by {known:?} and goes by {now:?}"
    );
    if begins && flow.0 >= SETTLING {
        let (slot, _) = CHANGES[walk.changes[usize::from(flow.0 - SETTLING)]];
        ensure!(now.to == mac(slot.index()), "{flow:?} begins at {now:?}");
    }
    ensure!(!begins || !walk.drains || now.to != mac(2) || flow.0 >= SETTLING);
    if flags & tcp::RST != 0 && flow.0 != 83 {
        walk.flows.remove(&flow);
    }
    Ok(())
}

/// What the instance answers comes to the client.
fn answer(lab: &mut Lab, known: Known, flow: (u16, u16)) -> Result<()> {
    let Some(to) = known.answers_to else {
        return Ok(());
    };
    let from = at(&format!("10.0.1.{}:8080", known.to[5]));
    let reply = if flow.0 == 83 {
        Build::udp(from, to, b"x")
    } else {
        Build::tcp(from, to, tcp::ACK)
    };
    let seen = lab.forward(&reply.bytes(), FRONT)?;
    let frame = &seen.frame;
    ensure!(
        seen.verdict == Verdict::Transmit
            && frame[30..34] == [10, 0, 1, 2]
            && frame[26..30] == [10, 1, 1, 1]
            && frame[34..38] == [flow.0.to_be_bytes(), flow.1.to_be_bytes()].concat(),
        "{flow:?}: {:?}, {frame:02x?}",
        seen.verdict
    );
    Ok(())
}

fn step(lab: &mut Lab, walk: &mut Walk) -> Result<()> {
    pin(walk.below(2) as usize)?;
    match walk.below(200) {
        0 => {
            walk.drains = !walk.drains;
            let state = if walk.drains {
                INSTANCE_DRAINING
            } else {
                INSTANCE_ACTIVE
            };
            let entry = InstanceEntry {
                state,
                ..instance(INSTANCES[1], 8080)
            };
            return lab.set_instance(2, entry);
        }
        1 if !walk.drains => {
            let number = walk.below(u64::from(SETTLING_VIPS)) as u16;
            let at = &mut walk.changes[usize::from(number)];
            // It is never clear again: flows were remembered meanwhile.
            *at = if *at == 1 { 2 } else { 1 };
            return change(lab, number, *at);
        }
        _ => {}
    }
    let vip = walk.vip();
    let flow = (vip, 5000 + walk.below(FLOWS) as u16);
    let Some(known) = walk.flows.get(&flow).copied() else {
        // Of what drains meanwhile nothing begins here.
        let is_stuck = vip >= SETTLING
            && walk.drains
            && CHANGES[walk.changes[usize::from(vip - SETTLING)]].0.index() == 2;
        return if is_stuck {
            Ok(())
        } else {
            send(lab, walk, flow, tcp::SYN)
        };
    };
    match walk.below(20) {
        0 => send(lab, walk, flow, tcp::RST),
        1..6 => answer(lab, known, flow),
        _ => send(lab, walk, flow, tcp::ACK),
    }
}

/// What is remembered of a flow, but when and where it was noted while it was opening: that is each processor's own.
fn remembered((key, entry): (FlowKey, FlowEntry)) -> impl Ord + std::fmt::Debug {
    let key = (
        key.source,
        key.destination,
        key.source_port,
        key.destination_port,
    );
    let to = (
        entry.source,
        entry.source_port,
        entry.destination,
        entry.destination_port,
    );
    (
        key,
        to,
        entry.instance,
        entry.generation,
        entry.direction,
        entry.forward,
    )
}

fn compare_flows(lab: &mut Lab) -> Result<()> {
    let kernel: BTreeSet<_> = lab.kernel().flows()?.into_iter().map(remembered).collect();
    let library: BTreeSet<_> = lab.memory().flows().into_iter().map(remembered).collect();
    let other: Vec<_> = kernel.symmetric_difference(&library).collect();
    ensure!(
        other.is_empty() && kernel.len() > 100,
        "{} and {other:?}",
        kernel.len()
    );
    Ok(())
}

#[test]
fn packets_of_a_flow_go_to_its_instance_on_whatever_processor() -> Result<()> {
    run_on_two(SIZES, |lab| {
        serve(lab)?;
        for number in 0..SETTLING_VIPS {
            change(lab, number, 0)?;
        }
        let mut walk = Walk {
            random: 7,
            flows: BTreeMap::new(),
            changes: [0; SETTLING_VIPS as usize],
            drains: false,
        };
        for at in 0..STEPS {
            step(lab, &mut walk).with_context(|| format!("step {at}"))?;
        }
        ensure!(walk.changes.iter().all(|change| *change > 0));
        compare_flows(lab)?;
        for index in 1..=2 {
            lab.live(index)?;
        }
        ensure!(lab.kernel().counters()?.adds_up());
        Ok(())
    })
}

#[test]
fn while_a_vip_is_being_changed_all_processors_find_the_same() -> Result<()> {
    run_on_two(SIZES, |lab| {
        serve(lab)?;
        change(lab, 0, 0)?;
        let send = |lab: &mut Lab, processor, client, flags| -> Result<[u8; 6]> {
            pin(processor)?;
            let frame = packet(SETTLING, client, flags).bytes();
            let seen = lab.forward(&frame, FRONT)?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            Ok(std::array::from_fn(|i| seen.frame[i]))
        };
        // Both have a copy of the VIP, and of who is active.
        for processor in [0, 1, 0, 1] {
            ensure!(send(lab, processor, 5000, tcp::ACK)? == mac(1));
        }
        // The daemon is about to write the VIP: nothing that is found now is kept.
        lab.kernel().set_changing(true)?;
        for processor in [0, 1, 0, 1] {
            ensure!(send(lab, processor, 5000, tcp::ACK)? == mac(1));
        }
        // It has written it, and was stopped before it could say so.
        change(lab, 0, 1)?;
        for (processor, other) in [(0, 1), (1, 0)] {
            let client = 6000 + processor as u16;
            ensure!(send(lab, processor, client, tcp::SYN)? == mac(2));
            ensure!(send(lab, other, client, tcp::ACK)? == mac(2));
            ensure!(send(lab, other, 5000, tcp::ACK)? == mac(1));
        }
        lab.kernel().set_changing(false)?;
        for processor in [0, 1, 0, 1] {
            ensure!(send(lab, processor, 6000, tcp::ACK)? == mac(2));
            ensure!(send(lab, processor, 5000, tcp::ACK)? == mac(1));
        }
        Ok(())
    })
}
