//! Flows that are not remembered: each packet runs in the kernel and in the library, which must agree.

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, INSTANCE_DRAINING,
    InstanceEntry, PROTOCOL_TCP, SELECT_TURN, Slot, VIP_OWNED, VIP_OWNED_BY_SOURCE, VIP_SETTLES,
    Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::tunnel::IcmpError;

const SIZES: Sizes = Sizes {
    connections: 64,
    tables: 8,
};

const MAC_1: [u8; 6] = [2, 0, 0, 0, 1, 11];
const MAC_2: [u8; 6] = [2, 0, 0, 0, 1, 12];

fn settling(forward: u8, table: u32) -> Vip {
    Vip {
        forward,
        table,
        flags: VIP_OWNED | VIP_SETTLES,
        ..vip(1)
    }
}

/// A packet from the client to the VIP on port 80.
fn from(port: u16, flags: u8) -> Build {
    Build::tcp(at(&format!("10.0.1.2:{port}")), at("10.1.1.1:80"), flags)
}

/// Serves the VIP by a table whose slots are all alike.
fn serve(lab: &mut Lab, vip: Vip, slot: Slot, owner: u16) -> Result<()> {
    lab.set_instance(1, instance("10.0.1.11", 80))?;
    lab.set_instance(2, instance("10.0.1.12", 80))?;
    let key = vip_key("10.1.1.1", 80, PROTOCOL_TCP);
    lab.serve_owned(key, vip, slot, owner)
}

fn target(lab: &mut Lab, port: u16, flags: u8) -> Result<[u8; 6]> {
    let seen = lab.send(&from(port, flags).bytes())?;
    ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
    Ok(std::array::from_fn(|i| seen.frame[i]))
}

fn count(lab: &Lab, counter: Counter) -> u64 {
    lab.counters().get(counter)
}

#[test]
fn settled_packets_ask_nobody_but_their_slot() -> Result<()> {
    run(SIZES, |lab| {
        for (table, forward) in [(0, FORWARD_L2DSR), (1, FORWARD_IPIP), (2, FORWARD_GUE)] {
            let before = count(lab, Counter::PacketsSettled);
            serve(lab, settling(forward, table), Slot::clear(1), 0)?;
            for flags in [tcp::SYN, tcp::ACK, tcp::ACK | tcp::FIN, tcp::ACK, tcp::RST] {
                for _ in 0..2 {
                    ensure!(target(lab, 5000, flags)? == MAC_1);
                }
            }
            ensure!(count(lab, Counter::PacketsSettled) == before + 10);
            ensure!(lab.flows()? == 0 && lab.live(1)? == 0);
        }
        lab.check_traffic(1, 1)?;
        ensure!(lab.memory().traffic_of_vip(1).connections == 6);
        // Another port of the address is no VIP, whatever is known of this one.
        let other = from(5000, tcp::ACK).with(|packet| packet.destination = at("10.1.1.1:81"));
        let seen = lab.send(&other.bytes())?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedNotVip));
        lab.withdraw(&vip_key("10.1.1.1", 80, PROTOCOL_TCP))?;
        let seen = lab.send(&from(5000, tcp::ACK).bytes())?;
        ensure!(
            seen.verdict == Verdict::Pass(Counter::PassedNotVip),
            "a copy that is void"
        );
        Ok(())
    })
}

#[test]
fn a_slot_that_changes_hands_keeps_its_flows() -> Result<()> {
    run(SIZES, |lab| {
        for forward in [FORWARD_L2DSR, FORWARD_IPIP] {
            let port = 5000 + u16::from(forward) * 10;
            serve(lab, settling(forward, 0), Slot::clear(1), 0)?;
            ensure!(target(lab, port, tcp::SYN)? == MAC_1);
            serve(lab, settling(forward, 1), Slot::unsettled(2), 1)?;
            ensure!(target(lab, port, tcp::ACK)? == MAC_1);
            ensure!(target(lab, port + 1, tcp::SYN)? == MAC_2);
            ensure!(target(lab, port + 2, tcp::RST)? == MAC_1);
            serve(lab, settling(forward, 2), Slot::settled(1), 0)?;
            ensure!(target(lab, port, tcp::ACK)? == MAC_1);
            ensure!(target(lab, port + 1, tcp::ACK)? == MAC_2);
            ensure!(target(lab, port + 2, tcp::SYN)? == MAC_1);
            ensure!(target(lab, port + 1, tcp::RST)? == MAC_2);
        }
        ensure!(lab.flows()? == 4 && lab.live(1)? == 2 && lab.live(2)? == 0);
        ensure!(count(lab, Counter::ConnectionsFound) == 2);
        Ok(())
    })
}

#[test]
fn owners_are_known_by_their_own_hash() -> Result<()> {
    run(SIZES, |lab| {
        // By the client's address all flows have one slot; it is found by trying.
        for (slot, owner) in [(Slot::clear(1), 0), (Slot::unsettled(2), 1)] {
            let vip = Vip {
                flags: VIP_OWNED | VIP_SETTLES | VIP_OWNED_BY_SOURCE,
                table: u32::from(owner),
                ..settling(FORWARD_L2DSR, 0)
            };
            serve(lab, vip, slot, owner)?;
            ensure!(target(lab, 5000, tcp::ACK)? == MAC_1);
        }
        // Every new flow is remembered under another algorithm, every old one is its owner's.
        let turns = Vip {
            select: SELECT_TURN,
            flags: VIP_OWNED,
            ..settling(FORWARD_L2DSR, 2)
        };
        serve(lab, turns, Slot::unsettled(2), 1)?;
        ensure!(target(lab, 5001, tcp::SYN)? == MAC_2);
        ensure!(target(lab, 5001, tcp::ACK)? == MAC_2);
        ensure!(target(lab, 5002, tcp::ACK)? == MAC_1);
        ensure!(lab.flows()? == 3);
        Ok(())
    })
}

#[test]
fn flows_of_owners_go_on_as_they_were_forwarded() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, settling(FORWARD_L2DSR, 0), Slot::clear(1), 0)?;
        ensure!(target(lab, 5000, tcp::SYN)? == MAC_1);
        let translating = Vip {
            flags: VIP_OWNED,
            owned_forward: FORWARD_L2DSR,
            ..settling(FORWARD_NAT, 1)
        };
        serve(lab, translating, Slot::unsettled(2), 1)?;
        for (port, flags, address) in [
            (5000, tcp::ACK, [10, 1, 1, 1]),
            (5001, tcp::SYN, [10, 0, 1, 12]),
            (5001, tcp::ACK, [10, 0, 1, 12]),
            (5000, tcp::ACK, [10, 1, 1, 1]),
        ] {
            let seen = lab.send(&from(port, flags).bytes())?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            ensure!(seen.frame[30..34] == address, "{port}");
        }
        ensure!(lab.flows()? == 3 && lab.live(1)? == 1 && lab.live(2)? == 1);
        // So does what is said of a flow that nobody has heard of since.
        let answer = Build::tcp(at("10.1.1.1:80"), at("10.0.1.2:5002"), tcp::ACK);
        let unreachable = IcmpError {
            macs: (FRONT_MAC, [2, 0, 0, 0, 0, 2]),
            ends: (at("203.0.113.9:0").ip(), at("10.1.1.1:0").ip()),
            class: 0,
            ttl: 64,
            head: [3, 1],
            rest: [0; 4],
            quoted: answer.bytes()[14..].to_vec(),
        };
        let seen = lab.send(&unreachable.bytes())?;
        ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
        ensure!(seen.frame[..6] == MAC_1 && seen.frame[30..34] == [10, 1, 1, 1]);
        Ok(())
    })
}

#[test]
fn a_full_table_leaves_flows_with_their_owner() -> Result<()> {
    let sizes = Sizes {
        connections: 1,
        ..SIZES
    };
    run(sizes, |lab| {
        serve(lab, settling(FORWARD_L2DSR, 0), Slot::unsettled(2), 1)?;
        ensure!(target(lab, 5000, tcp::SYN)? == MAC_2);
        ensure!(target(lab, 5001, tcp::SYN)? == MAC_1);
        ensure!(target(lab, 5001, tcp::ACK)? == MAC_1);
        ensure!(count(lab, Counter::ConnectionsUnremembered) == 2);
        let draining = InstanceEntry {
            state: INSTANCE_DRAINING,
            ..instance("10.0.1.11", 80)
        };
        lab.set_instance(1, draining)?;
        let seen = lab.send(&from(5002, tcp::SYN).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropTableFull));
        ensure!(target(lab, 5001, tcp::ACK)? == MAC_1);
        ensure!(lab.live(1)? == 0 && lab.live(2)? == 1);
        Ok(())
    })
}
