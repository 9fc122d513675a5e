//! The life of connections: both directions of `nat`, drains, failures, ends, full tables, and
//! selection. Each packet runs in the kernel and in the library, which must agree.

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_L2DSR, HASH_SOURCE, INSTANCE_ABSENT, INSTANCE_DOWN,
    INSTANCE_DRAINING, InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_LEAST_CONNECTIONS,
    SELECT_TURN, Settings, Vip, names,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::{Sizes, pin};
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{FRONT, FRONT_MAC};
use lb_tests::packet::{Build, check};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

/// What the kernel has in [`lb_common::NextHop::macs`] for the two instances.
const MAC_1: [u8; 6] = [2, 0, 0, 0, 1, 11];
const MAC_2: [u8; 6] = [2, 0, 0, 0, 1, 12];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

fn first() -> InstanceEntry {
    instance("10.0.1.11", 8080)
}

fn second() -> InstanceEntry {
    instance("10.0.1.12", 8080)
}

fn in_state(instance: InstanceEntry, state: u8) -> InstanceEntry {
    InstanceEntry { state, ..instance }
}

fn l2dsr(id: u32) -> Vip {
    Vip {
        forward: FORWARD_L2DSR,
        ..vip(id)
    }
}

/// A packet from the client to the VIP on port 80.
fn from(port: u16, flags: u8) -> Build {
    Build::tcp(at(&format!("10.0.1.2:{port}")), at("10.1.1.1:80"), flags)
}

/// Serves the VIP on port 80.
fn serve(lab: &mut Lab, vip: Vip, instances: &[u16]) -> Result<()> {
    lab.set_instance(1, first())?;
    lab.set_instance(2, second())?;
    lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), vip, instances)
}

/// The MAC address that a frame goes to.
fn target(frame: &[u8]) -> [u8; 6] {
    std::array::from_fn(|i| frame[i])
}

fn count(lab: &Lab, counter: Counter) -> u64 {
    lab.counters().get(counter)
}

#[test]
fn dnat_keeps_the_client_and_takes_the_replies() -> Result<()> {
    run(SIZES, |lab| {
        let dnat = |id, table| Vip {
            forward: FORWARD_DNAT,
            table,
            ..vip(id)
        };
        serve(lab, dnat(1, 0), &[1])?;
        lab.serve(vip_key("10.1.1.1", 81, PROTOCOL_TCP), dnat(2, 0), &[1])?;
        lab.set_instance(3, instance("fd00:1::11", 8080))?;
        lab.serve(vip_key("fd00:f::1", 80, PROTOCOL_UDP), dnat(3, 1), &[3])?;
        lab.serve(vip_key("10.1.1.1", 82, PROTOCOL_TCP), dnat(4, 1), &[3])?;
        let syn = from(5000, tcp::SYN);
        let query = Build::udp(at("[fd00:1::2]:5000"), at("[fd00:f::1]:80"), b"question");
        for (request, to) in [
            (syn.clone(), "10.0.1.11:8080"),
            (query, "[fd00:1::11]:8080"),
        ] {
            for _ in 0..2 {
                let seen = lab.send(&request.bytes())?;
                let expected = request.with(|packet| {
                    packet.destination = at(to);
                    packet.ttl -= 1;
                    packet.macs = (MAC_1, FRONT_MAC);
                });
                ensure!(seen.frame == expected.bytes(), "{:02x?}", seen.frame);
                let reply = expected.with(|packet| {
                    packet.source = expected.destination;
                    packet.destination = expected.source;
                    packet.ttl = 64;
                });
                let seen = lab.send(&reply.bytes())?;
                let expected = reply.with(|packet| {
                    packet.source = request.destination;
                    packet.ttl -= 1;
                    packet.macs = (CLIENT_MAC, FRONT_MAC);
                });
                ensure!(seen.frame == expected.bytes(), "{:02x?}", seen.frame);
                check::checksums(&seen.frame)?;
            }
        }
        ensure!(lab.flows()? == 4 && lab.live(1)? == 1);
        // The same client from the same port to the same instance, but through another VIP: its
        // answers would look the same.
        let taken = syn.with(|packet| packet.destination = at("10.1.1.1:81"));
        let seen = lab.send(&taken.bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropReplyTaken));
        let family = syn.with(|packet| packet.destination = at("10.1.1.1:82"));
        let seen = lab.send(&family.bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropFamily));
        // What the instance sends elsewhere is for the stack to route.
        let own = Build::tcp(at("10.0.1.11:40000"), at("10.0.1.2:443"), tcp::SYN);
        let seen = lab.send(&own.bytes())?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedNotVip));

        // Ended and begun anew, and moved when its instance goes down.
        lab.send(&from(5000, tcp::RST).bytes())?;
        ensure!(lab.live(1)? == 0);
        lab.send(&syn.bytes())?;
        ensure!(lab.live(1)? == 1 && lab.flows()? == 4);
        lab.set_instance(1, in_state(first(), INSTANCE_DOWN))?;
        lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), dnat(1, 0), &[2])?;
        let seen = lab.send(&from(5000, tcp::ACK).bytes())?;
        ensure!(target(&seen.frame) == MAC_2);
        ensure!(lab.live(1)? == 0 && lab.live(2)? == 1 && lab.flows()? == 4);
        Ok(())
    })
}

#[test]
fn replies_of_nat_come_back_from_the_vip() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, vip(1), &[1])?;
        lab.set_instance(3, instance("fd00:1::11", 8080))?;
        let v6 = Vip { table: 1, ..vip(2) };
        lab.serve(vip_key("fd00:f::1", 80, PROTOCOL_UDP), v6, &[3])?;
        for (request, reply) in [
            (
                from(5000, tcp::SYN),
                Build::tcp(
                    at("10.0.1.11:8080"),
                    at("10.0.1.1:40000"),
                    tcp::SYN | tcp::ACK,
                ),
            ),
            (
                Build::udp(at("[fd00:1::2]:5000"), at("[fd00:f::1]:80"), b"question"),
                Build::udp(
                    at("[fd00:1::11]:8080"),
                    at("[fd00:1::1]:40000"),
                    b"an answer",
                ),
            ),
        ] {
            ensure!(lab.send(&request.bytes())?.verdict == Verdict::Transmit);
            let seen = lab.send(&reply.bytes())?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            let expected = reply.with(|packet| {
                packet.source = request.destination;
                packet.destination = request.source;
                packet.ttl -= 1;
                packet.macs = (CLIENT_MAC, FRONT_MAC);
            });
            ensure!(seen.frame == expected.bytes());
            check::checksums(&seen.frame)?;
        }
        ensure!(lab.flows()? == 4);
        ensure!(lab.live(1)? == 1 && lab.live(3)? == 1);
        lab.check_traffic(1, 1)?;
        lab.check_traffic(2, 3)?;
        let traffic = lab.kernel().traffic(names::MAP_VIP_TRAFFIC, 2)?;
        ensure!((traffic.packets_in, traffic.packets_out, traffic.connections) == (1, 1, 1));
        ensure!(traffic.bytes_in == 14 + 40 + 8 + 8 && traffic.bytes_out == 14 + 40 + 8 + 9);
        Ok(())
    })
}

#[test]
fn an_instance_gets_no_connection_beyond_its_limit() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, l2dsr(1), &[1])?;
        lab.set_ceiling(1, 2)?;
        for port in [5000, 5001] {
            ensure!(target(&lab.send(&from(port, tcp::SYN).bytes())?.frame) == MAC_1);
        }
        let refused = lab.send(&from(5002, tcp::SYN).bytes())?;
        ensure!(refused.verdict == Verdict::Drop(Counter::DropConnectionLimit));
        ensure!(lab.live(1)? == 2 && count(lab, Counter::ConnectionsOpened) == 2);
        // Those that are there go on; one that ends makes room for another.
        ensure!(target(&lab.send(&from(5000, tcp::ACK).bytes())?.frame) == MAC_1);
        lab.send(&from(5000, tcp::RST).bytes())?;
        ensure!(target(&lab.send(&from(5002, tcp::SYN).bytes())?.frame) == MAC_1);
        // Another instance takes what this one may not.
        serve_table(lab, l2dsr(1), &[1, 2])?;
        lab.set_ceiling(2, 1)?;
        ensure!(target(&lab.send(&from(5003, tcp::SYN).bytes())?.frame) == MAC_2);
        ensure!(lab.live(1)? == 2 && lab.live(2)? == 1);
        Ok(())
    })
}

#[test]
fn a_draining_instance_keeps_its_connections_and_gets_no_others() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, l2dsr(1), &[1])?;
        ensure!(target(&lab.send(&from(5000, tcp::SYN).bytes())?.frame) == MAC_1);
        lab.set_instance(1, in_state(first(), INSTANCE_DRAINING))?;
        // The table still names the instance; until it is replaced there is nobody else.
        let refused = lab.send(&from(5001, tcp::SYN).bytes())?;
        ensure!(refused.verdict == Verdict::Drop(Counter::DropNoInstance));
        serve_table(lab, l2dsr(1), &[2])?;
        ensure!(target(&lab.send(&from(5000, tcp::ACK).bytes())?.frame) == MAC_1);
        ensure!(target(&lab.send(&from(5001, tcp::SYN).bytes())?.frame) == MAC_2);
        ensure!(count(lab, Counter::ConnectionsMoved) == 0);
        ensure!(lab.live(1)? == 1 && lab.live(2)? == 1);
        Ok(())
    })
}

/// Replaces the VIP's table, leaving the instances alone.
fn serve_table(lab: &mut Lab, vip: Vip, instances: &[u16]) -> Result<()> {
    lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), vip, instances)
}

#[test]
fn an_instance_that_is_down_loses_its_connections_at_once() -> Result<()> {
    run(SIZES, |lab| {
        for forward in [l2dsr(1), vip(1)] {
            let before = count(lab, Counter::ConnectionsMoved);
            serve(lab, forward, &[1])?;
            let port = 5000 + u16::from(forward.forward);
            ensure!(target(&lab.send(&from(port, tcp::SYN).bytes())?.frame) == MAC_1);
            // This processor has a copy of the entry now.
            ensure!(target(&lab.send(&from(port, tcp::ACK).bytes())?.frame) == MAC_1);
            serve_table(lab, forward, &[1, 2])?;
            lab.set_instance(1, in_state(first(), INSTANCE_DOWN))?;
            // Whatever slot it hashes to, only the second instance takes it.
            let flows = lab.flows()?;
            let seen = lab.send(&from(port, tcp::ACK).bytes())?;
            ensure!(target(&seen.frame) == MAC_2, "{:?}", seen.verdict);
            ensure!(count(lab, Counter::ConnectionsMoved) == before + 1);
            ensure!(lab.live(1)? == 0, "moved connections are not live any more");
            ensure!(lab.flows()? == flows, "both entries have followed");
        }
        Ok(())
    })
}

#[test]
fn an_index_that_is_used_again_does_not_inherit_connections() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, vip(1), &[1])?;
        lab.send(&from(5000, tcp::SYN).bytes())?;
        // The same index for another endpoint; the daemon resets the live count with it.
        let another = InstanceEntry {
            generation: 2,
            ..second()
        };
        lab.set_instance(1, another)?;
        // A late reply of the old instance is nobody's.
        let late = Build::tcp(at("10.0.1.11:8080"), at("10.0.1.1:40000"), tcp::ACK);
        let seen = lab.send(&late.bytes())?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedNoConnection));
        let seen = lab.send(&from(5000, tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Transmit && target(&seen.frame) == MAC_2);
        ensure!(count(lab, Counter::ConnectionsMoved) == 1);
        ensure!(
            lab.live(1)? == 2,
            "the old generation's count is not touched"
        );
        lab.set_instance(1, in_state(another, INSTANCE_ABSENT))?;
        let seen = lab.send(&from(5000, tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropNoInstance));
        ensure!(lab.flows()? == 0);
        Ok(())
    })
}

/// Each processor has its own copies, so this runs in the kernel alone.
#[test]
#[expect(clippy::print_stderr, reason = "says why a test was skipped")]
fn a_connection_that_begins_anew_voids_the_copies_of_other_processors() -> Result<()> {
    run(SIZES, |lab| {
        if pin(1).is_err() {
            eprintln!("skipped: needs two processors");
            return Ok(());
        }
        pin(0)?;
        serve(lab, l2dsr(1), &[1])?;
        let sent = |lab: &mut Lab, flags| -> Result<[u8; 6]> {
            let frame = from(5000, flags).bytes();
            Ok(target(&lab.kernel().run(&frame, FRONT)?.frame))
        };
        for flags in [tcp::SYN, tcp::ACK, tcp::ACK] {
            ensure!(sent(lab, flags)? == MAC_1);
        }
        serve_table(lab, l2dsr(1), &[2])?;
        pin(1)?;
        ensure!(sent(lab, tcp::FIN | tcp::ACK)? == MAC_1);
        ensure!(sent(lab, tcp::SYN)? == MAC_2);
        pin(0)?;
        ensure!(
            sent(lab, tcp::ACK)? == MAC_2,
            "the copy of processor 0 is old"
        );
        Ok(())
    })
}

#[test]
fn ends_are_seen_once_and_a_new_syn_begins_anew() -> Result<()> {
    run(SIZES, |lab| {
        // `l2dsr` sees the client's FIN only.
        serve(lab, l2dsr(1), &[1])?;
        lab.send(&from(5000, tcp::SYN).bytes())?;
        ensure!(lab.live(1)? == 1);
        for _ in 0..3 {
            lab.send(&from(5000, tcp::FIN | tcp::ACK).bytes())?;
        }
        lab.send(&from(5000, tcp::RST).bytes())?;
        ensure!(lab.live(1)? == 0 && count(lab, Counter::ConnectionsClosed) == 1);
        // What follows the end still finds its instance.
        serve_table(lab, l2dsr(1), &[2])?;
        ensure!(target(&lab.send(&from(5000, tcp::ACK).bytes())?.frame) == MAC_1);
        ensure!(target(&lab.send(&from(5000, tcp::SYN).bytes())?.frame) == MAC_2);
        ensure!(count(lab, Counter::ConnectionsOpened) == 2);
        ensure!(count(lab, Counter::ConnectionsMoved) == 0);
        ensure!(lab.live(1)? == 0 && lab.live(2)? == 1);

        // `nat` sees both.
        let nat = Vip { table: 1, ..vip(2) };
        lab.serve(vip_key("10.1.1.1", 81, PROTOCOL_TCP), nat, &[1])?;
        let to_81 = |flags| Build::tcp(at("10.0.1.2:6000"), at("10.1.1.1:81"), flags).bytes();
        let reply = |flags| Build::tcp(at("10.0.1.11:8080"), at("10.0.1.1:40000"), flags).bytes();
        lab.send(&to_81(tcp::SYN))?;
        lab.send(&to_81(tcp::FIN | tcp::ACK))?;
        ensure!(lab.live(1)? == 1, "half closed is open");
        lab.send(&reply(tcp::FIN | tcp::ACK))?;
        lab.send(&reply(tcp::FIN | tcp::ACK))?;
        lab.send(&to_81(tcp::ACK))?;
        ensure!(lab.live(1)? == 0 && count(lab, Counter::ConnectionsClosed) == 2);
        let flows = lab.flows()?;
        lab.send(&to_81(tcp::SYN))?;
        ensure!(lab.flows()? == flows && lab.live(1)? == 1);
        // The instance breaks it off.
        lab.send(&reply(tcp::RST))?;
        ensure!(lab.live(1)? == 0 && count(lab, Counter::ConnectionsClosed) == 3);
        Ok(())
    })
}

#[test]
fn source_ports_are_never_shared_towards_an_instance() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, vip(1), &[1])?;
        let settings = lab.settings();
        lab.set_settings(Settings {
            nat_port_first: 65_520,
            nat_port_last: 65_535,
            ..settings
        })?;
        let mut ports = Vec::new();
        for port in 0..16 {
            let seen = lab.send(&from(7000 + port, tcp::SYN).bytes())?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            ports.push(u16::from_be_bytes([seen.frame[34], seen.frame[35]]));
        }
        ports.sort_unstable();
        ensure!(
            ports == (65_520..=65_535).collect::<Vec<u16>>(),
            "{ports:?}"
        );
        let seen = lab.send(&from(8000, tcp::SYN).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropNatPorts));
        ensure!(
            lab.flows()? == 32,
            "a refused connection leaves nothing behind"
        );
        // Towards another instance the same ports are free.
        serve_table(lab, vip(1), &[2])?;
        ensure!(lab.send(&from(8000, tcp::SYN).bytes())?.verdict == Verdict::Transmit);
        // Without a source address or ports there is no `nat`.
        lab.set_settings(Settings {
            nat_source_v4: [0; 16],
            ..settings
        })?;
        let seen = lab.send(&from(8001, tcp::SYN).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropNoNatSource));
        Ok(())
    })
}

#[test]
fn a_full_table_refuses_what_cannot_work_without_it() -> Result<()> {
    let sizes = Sizes {
        connections: 3,
        tables: 4,
    };
    run(sizes, |lab| {
        serve(lab, l2dsr(1), &[1, 2])?;
        for port in 0..3 {
            lab.send(&from(5000 + port, tcp::SYN).bytes())?;
        }
        // By hash: each packet finds its instance again by itself.
        let syn = lab.send(&from(6000, tcp::SYN).bytes())?;
        let data = lab.send(&from(6000, tcp::ACK).bytes())?;
        ensure!(syn.verdict == Verdict::Transmit && target(&syn.frame) == target(&data.frame));
        ensure!(count(lab, Counter::ConnectionsUnremembered) == 2);
        let traffic = lab.kernel().traffic(names::MAP_VIP_TRAFFIC, 1)?;
        ensure!(traffic.packets_in == 5 && traffic.connections == 3);
        let turn = Vip {
            select: SELECT_TURN,
            ..l2dsr(1)
        };
        for vip in [turn, vip(1)] {
            serve_table(lab, vip, &[1, 2])?;
            let seen = lab.send(&from(6001, tcp::SYN).bytes())?;
            ensure!(seen.verdict == Verdict::Drop(Counter::DropTableFull));
        }
        ensure!(lab.flows()? == 3);
        Ok(())
    })
}

#[test]
fn turns_follow_the_table_and_hashes_the_flow() -> Result<()> {
    run(SIZES, |lab| {
        let turn = Vip {
            select: SELECT_TURN,
            ..l2dsr(1)
        };
        serve(lab, turn, &[1, 1, 2])?;
        let mut counts = [0; 2];
        for port in 0..300 {
            let seen = lab.send(&from(10_000 + port, tcp::SYN).bytes())?;
            counts[usize::from(target(&seen.frame) == MAC_2)] += 1;
        }
        ensure!(counts == [200, 100], "{counts:?}");

        // By hash: near the shares of the table, not in turn.
        serve_table(lab, l2dsr(1), &[1, 2])?;
        let mut counts = [0; 2];
        for port in 0..300 {
            let seen = lab.send(&from(20_000 + port, tcp::SYN).bytes())?;
            counts[usize::from(target(&seen.frame) == MAC_2)] += 1;
        }
        ensure!(counts.iter().all(|count| *count > 100), "{counts:?}");

        // By source: all of a client's connections together.
        let sticky = Vip {
            hash_of: HASH_SOURCE,
            ..l2dsr(1)
        };
        serve_table(lab, sticky, &[1, 2])?;
        let first = target(&lab.send(&from(30_000, tcp::SYN).bytes())?.frame);
        for port in 1..50 {
            let seen = lab.send(&from(30_000 + port, tcp::SYN).bytes())?;
            ensure!(target(&seen.frame) == first);
        }
        Ok(())
    })
}

/// Random numbers differ in the halves, so this runs in the kernel alone.
#[test]
fn the_instance_with_fewer_connections_is_preferred() -> Result<()> {
    run(SIZES, |lab| {
        let least = Vip {
            select: SELECT_LEAST_CONNECTIONS,
            ..l2dsr(1)
        };
        serve(lab, least, &[1, 2])?;
        let kernel = lab.kernel();
        for port in 0..400 {
            // Who sends a SYN and nothing else is soon forgotten.
            for flags in [tcp::SYN, tcp::ACK] {
                let frame = from(10_000 + port, flags).bytes();
                kernel.run(&frame, FRONT)?;
            }
        }
        let (one, two) = (kernel.live(1)?, kernel.live(2)?);
        ensure!(
            one + two == 400 && one.abs_diff(two) <= 20,
            "{one} and {two}"
        );
        // The connections of one instance end; the next ones go there. Two choices out of two slots
        // are the same one half of the time, so three in four do.
        for (key, _) in kernel
            .flows()?
            .iter()
            .filter(|(_, flow)| flow.instance == 1)
        {
            let port = u16::from_be_bytes(key.source_port);
            let frame = from(port, tcp::FIN | tcp::ACK).bytes();
            kernel.run(&frame, FRONT)?;
        }
        ensure!(kernel.live(1)? == 0);
        for port in 0..100 {
            for flags in [tcp::SYN, tcp::ACK] {
                let frame = from(20_000 + port, flags).bytes();
                kernel.run(&frame, FRONT)?;
            }
        }
        let one = kernel.live(1)?;
        ensure!((55..=95).contains(&one), "{one} of 100");
        ensure!(kernel.counters()?.adds_up());
        Ok(())
    })
}

#[test]
fn a_vip_that_is_withdrawn_keeps_nothing_from_the_host() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, l2dsr(1), &[1])?;
        lab.send(&from(5000, tcp::SYN).bytes())?;
        lab.withdraw(&vip_key("10.1.1.1", 80, PROTOCOL_TCP))?;
        lab.set_instance(1, InstanceEntry::default())?;
        let seen = lab.send(&from(5000, tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedNotVip));
        ensure!(lab.flows()? == 0);
        let other = Build::udp(at("10.0.1.2:5000"), at("10.1.1.1:80"), b"");
        ensure!(
            lab.send(&other.bytes())?.verdict == Verdict::Pass(Counter::PassedNotVip),
            "{PROTOCOL_UDP} was never served"
        );
        Ok(())
    })
}
