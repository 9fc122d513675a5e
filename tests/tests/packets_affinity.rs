//! Clients that stay with their instance, in the kernel.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Affinity, Counter, FORWARD_DNAT, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, INSTANCE_DRAINING,
    InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Settings, VIP_LIMITED, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};

const SIZES: Sizes = Sizes {
    connections: 4096,
    tables: 4,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const VIP: &str = "10.1.1.1";
const FORWARDS: [u8; 4] = [FORWARD_NAT, FORWARD_DNAT, FORWARD_L2DSR, FORWARD_IPIP];
const SERVICE: Affinity = Affinity {
    ttl: 3_600_000_000_000,
    service: 77,
};

/// A VIP of TCP on port 80 and one of UDP on port 81, in turn over two instances.
fn serve(lab: &mut Lab, forward: u8) -> Result<()> {
    lab.set_settings(Settings {
        nat_port_first: 20_000,
        nat_port_last: 29_999,
        ..lab.settings()
    })?;
    for (index, own) in [(1, "10.0.1.11"), (2, "10.0.1.12")] {
        lab.set_instance(index, instance(own, 8080))?;
        lab.set_service_of(index, SERVICE.service)?;
    }
    for (id, port, protocol) in [(1, 80, PROTOCOL_TCP), (2, 81, PROTOCOL_UDP)] {
        let value = Vip {
            forward,
            select: SELECT_TURN,
            flags: VIP_LIMITED,
            table: 1,
            ..vip(id)
        };
        lab.serve(vip_key(VIP, port, protocol), value, &[1, 2])?;
        lab.set_affinity(id, SERVICE)?;
    }
    Ok(())
}

fn send(lab: &mut Lab, from: SocketAddr, port: u16, flags: Option<u8>) -> Result<()> {
    let target = at(&format!("{VIP}:{port}"));
    let frame = match flags {
        Some(flags) => Build::tcp(from, target, flags),
        None => Build::udp(from, target, b"hello"),
    };
    let seen = lab.send(&frame.bytes())?;
    let goes = matches!(seen.verdict, Verdict::Transmit | Verdict::Redirect(_));
    ensure!(goes, "{from} to {port}: {:?}", seen.verdict);
    Ok(())
}

/// Connections of each instance.
fn connections(lab: &mut Lab) -> Result<[u64; 2]> {
    Ok([lab.live(1)?, lab.live(2)?])
}

fn client(host: u8, port: u16) -> Result<SocketAddr> {
    let text = format!("10.0.1.{host}:{port}");
    text.parse().with_context(|| text)
}

#[test]
fn clients_stay_in_every_mode_and_the_halves_agree() -> Result<()> {
    for forward in FORWARDS {
        run(SIZES, |lab| {
            serve(lab, forward)?;
            for host in [2, 3, 4] {
                let before = connections(lab)?;
                for port in 5000..5008 {
                    send(lab, client(host, port)?, 80, Some(SYN))?;
                    send(lab, client(host, port)?, 80, Some(ACK))?;
                }
                send(lab, client(host, 6000)?, 81, None)?;
                let after = connections(lab)?;
                let begun = [after[0] - before[0], after[1] - before[1]];
                ensure!(
                    begun == [9, 0] || begun == [0, 9],
                    "forwarding {forward}, client {host}: {begun:?}"
                );
            }
            ensure!(lab.compare_clients()? == 3);
            ensure!(lab.counters().get(Counter::AffinityFollowed) == 3 * 8);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn syns_alone_fill_nothing_and_a_drained_instance_is_left() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, FORWARD_L2DSR)?;
        for port in 5000..5100 {
            send(lab, client(2, port)?, 80, Some(SYN))?;
        }
        ensure!(lab.compare_clients()? == 0);
        send(lab, client(2, 5000)?, 80, Some(ACK))?;
        ensure!(lab.compare_clients()? == 1);
        for index in [1, 2] {
            let draining = InstanceEntry {
                state: INSTANCE_DRAINING,
                ..instance("10.0.1.11", 8080)
            };
            lab.set_instance(index, draining)?;
            let before = connections(lab)?;
            for port in 7000..7010 {
                let port = port + index * 100;
                send(lab, client(2, port)?, 80, Some(SYN))?;
                send(lab, client(2, port)?, 80, Some(ACK))?;
            }
            let after = connections(lab)?;
            let place = usize::from(index) - 1;
            ensure!(after[place] == before[place], "{before:?} {after:?}");
            lab.set_instance(index, instance("10.0.1.11", 8080))?;
        }
        Ok(())
    })
}
