//! Two processors with packets of the same connections at the same time.
//!
//! What each has done cannot be foretold, but what they leave behind can: whole pairs, and live
//! counts that are those of the table.

use std::collections::HashMap;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use lb_common::{
    FLOW_FORWARD, FLOW_REPLY, FORWARD_DNAT, FORWARD_L2DSR, INSTANCE_ACTIVE, INSTANCE_DOWN,
    InstanceEntry, PROTOCOL_TCP, STATE_CLOSED, Settings, Vip,
};
use lb_ebpf::hash;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::{Sizes, pin};
use lb_tests::packet::lab::{Lab, at, instance, run_on_two, vip, vip_key};
use lb_tests::packet::network::FRONT;
use lb_tests::packet::{Build, Kernel};

/// Packets of each processor in a round.
const PACKETS: u64 = 10_000;
/// Rounds; between them, nothing is under way and all is counted.
const ROUNDS: u64 = 12;
/// Few, so that the processors meet.
const CLIENTS: u64 = 2;

fn serve(lab: &mut Lab) -> Result<()> {
    lab.set_instance(1, instance("10.0.1.11", 8080))?;
    lab.set_instance(2, instance("10.0.1.12", 8080))?;
    lab.set_settings(Settings {
        nat_port_last: 40_999,
        ..lab.settings()
    })?;
    let l2dsr = Vip {
        forward: FORWARD_L2DSR,
        ..vip(2)
    };
    let dnat = Vip {
        forward: FORWARD_DNAT,
        ..vip(3)
    };
    lab.serve(vip_key("10.1.1.1", 82, PROTOCOL_TCP), dnat, &[1, 2])?;
    lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), vip(1), &[1, 2])?;
    lab.serve(vip_key("10.1.1.1", 81, PROTOCOL_TCP), l2dsr, &[1, 2])
}

/// A processor's packets of a round.
fn hammer(kernel: &Kernel, processor: usize, seed: u64) -> Result<()> {
    pin(processor)?;
    for number in 0..PACKETS {
        let random = hash::finish(seed.wrapping_mul(PACKETS).wrapping_add(number));
        let flags = [tcp::SYN, tcp::SYN, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST];
        let flags = flags[(random % 5) as usize];
        let port = 5000 + (random >> 8) % CLIENTS;
        let to = 80 + (random >> 16) % 3;
        let packet = if (random >> 24).is_multiple_of(4) {
            let to = if (random >> 26).is_multiple_of(2) {
                format!("10.0.1.1:{}", 40_000 + (random >> 32) % 1000)
            } else {
                format!("10.0.1.2:{port}")
            };
            Build::tcp(at("10.0.1.11:8080"), at(&to), flags)
        } else {
            let from = at(&format!("10.0.1.2:{port}"));
            Build::tcp(from, at(&format!("10.1.1.1:{to}")), flags)
        };
        kernel.run(&packet.bytes(), FRONT)?;
    }
    Ok(())
}

fn check(kernel: &mut Kernel) -> Result<()> {
    ensure!(kernel.counters()?.adds_up());
    let flows: HashMap<_, _> = kernel.flows()?.into_iter().collect();
    let mut open = [0_u64; 3];
    for (key, flow) in &flows {
        // A reply entry of `dnat` may be left alone; it serves whoever begins the connection anew.
        let alone = flow.forward == FORWARD_DNAT
            && flow.direction == FLOW_REPLY
            && !flows.contains_key(&key.partner(flow));
        if flow.forward != FORWARD_L2DSR && !alone {
            let partner = flows
                .get(&key.partner(flow))
                .ok_or_else(|| anyhow!("half a pair: {key:?} {flow:?}"))?;
            ensure!(
                partner.direction + flow.direction == FLOW_FORWARD + FLOW_REPLY
                    && partner.instance == flow.instance
                    && key.partner(flow).partner(partner) == *key,
                "a pair of strangers: {flow:?} and {partner:?}"
            );
        }
        if flow.direction == FLOW_FORWARD && flow.state & STATE_CLOSED == 0 {
            open[usize::from(flow.instance)] += 1;
        }
    }
    for index in [1, 2] {
        let live = kernel.live(index)?;
        ensure!(
            live == open[usize::from(index)],
            "expected {} live connections of instance {index}, found {live}",
            open[usize::from(index)]
        );
    }
    Ok(())
}

#[test]
fn processors_leave_whole_pairs_and_true_counts() -> Result<()> {
    run_on_two(Sizes::default(), |lab| {
        serve(lab)?;
        for round in 0..ROUNDS {
            // Every other round finds the first instance down, and all connections move.
            let state = if round % 2 == 1 {
                INSTANCE_DOWN
            } else {
                INSTANCE_ACTIVE
            };
            let entry = InstanceEntry {
                state,
                ..instance("10.0.1.11", 8080)
            };
            lab.set_instance(1, entry)?;
            let kernel = &*lab.kernel();
            thread::scope(|scope| {
                let other = scope.spawn(|| hammer(kernel, 0, 2 * round));
                let own = hammer(kernel, 1, 2 * round + 1);
                other.join().map_err(|_| anyhow!("a thread panicked"))??;
                own
            })?;
            check(lab.kernel())?;
        }
        Ok(())
    })
}
