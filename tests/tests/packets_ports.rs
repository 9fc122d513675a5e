//! VIPs of several ports: which one a packet is for, and which port it goes to.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_GUE, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP, PROTOCOL_UDP,
    PortRange, VIP_KEEPS_PORT, Vip, VipKey,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, address, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::{Build, check};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

/// A client, a VIP, two instances, lb.
const NETS: [(&str, &str, [&str; 2], &str); 2] = [
    (
        "10.0.1.2",
        "10.1.1.1",
        ["10.0.1.11", "10.0.1.12"],
        "10.0.1.1",
    ),
    (
        "fd00:1::2",
        "fd00:f::1",
        ["fd00:1::11", "fd00:1::12"],
        "fd00:1::1",
    ),
];

fn ports(vip: &str, protocol: u8, first: u16, last: u16) -> VipKey {
    VipKey::of_ports(address(vip), PortRange::new(protocol, first, last))
}

/// Serves, each by another instance than what it lies in: port 80, ports 8000 to 8999 with port 8080
/// apart, and all that is left.
fn serve(lab: &mut Lab, net: usize, forward: u8) -> Result<()> {
    let (_, own, instances, _) = NETS[net];
    for (index, at) in (1..).zip(instances) {
        lab.set_instance(index, instance(at, 7000))?;
    }
    lab.set_instance(3, instance(instances[0], 7100))?;
    for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
        for (id, key, index) in [
            (1, vip_key(own, 80, protocol), 1),
            (2, ports(own, protocol, 8000, 8999), 2),
            (3, vip_key(own, 8080, protocol), 3),
            (4, ports(own, protocol, 0, u16::MAX), 1),
        ] {
            let value = Vip {
                forward,
                table: u32::from(index),
                flags: if id % 2 == 0 { VIP_KEEPS_PORT } else { 0 },
                ..vip(id + u32::from(protocol))
            };
            lab.serve(key, value, &[index])?;
        }
    }
    Ok(())
}

fn end(host: &str, port: u16) -> SocketAddr {
    at(&if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// Port of the packet, instance, its port when ports are translated.
const CASES: [(u16, usize, u16); 9] = [
    (80, 0, 7000),
    (8000, 1, 8000),
    (8500, 1, 8500),
    (8999, 1, 8999),
    (8080, 0, 7100),
    (7999, 0, 7999),
    (9000, 0, 9000),
    (1, 0, 1),
    (65_535, 0, 65_535),
];

#[test]
fn one_port_comes_before_several_and_those_before_any() -> Result<()> {
    for (net, forward) in [0, 1]
        .into_iter()
        .flat_map(|net| [FORWARD_NAT, FORWARD_DNAT, FORWARD_L2DSR, FORWARD_GUE].map(|f| (net, f)))
    {
        run(SIZES, |lab| {
            serve(lab, net, forward)?;
            let (client, own, instances, lb) = NETS[net];
            for (port, which, to) in CASES {
                for udp in [false, true] {
                    // A port of the client's for each, so that those of `dnat` do not meet.
                    let client = end(client, 1000 + port / 8);
                    let sent = if udp {
                        Build::udp(client, end(own, port), b"hello")
                    } else {
                        Build::tcp(client, end(own, port), tcp::SYN)
                    };
                    let seen = lab.send(&sent.bytes())?;
                    ensure!(seen.verdict == Verdict::Transmit, "{port}: {seen:?}");
                    let mac = [2, 0, 0, 0, 1, 11 + which as u8];
                    if forward == FORWARD_GUE {
                        ensure!(seen.frame[..6] == mac, "{port}: another instance");
                        continue;
                    }
                    let instance = end(instances[which], to);
                    let seen_as = if forward == FORWARD_NAT {
                        end(lb, 40_000)
                    } else {
                        client
                    };
                    let expected = sent.with(|packet| {
                        packet.macs = (mac, FRONT_MAC);
                        if forward != FORWARD_L2DSR {
                            (packet.source, packet.destination) = (seen_as, instance);
                            packet.ttl -= 1;
                        }
                    });
                    let expected = expected.bytes();
                    ensure!(
                        seen.frame == expected,
                        "{port}: expected\n {expected:02x?}, found\n {:02x?}",
                        seen.frame
                    );
                    check::checksums(&seen.frame)?;
                    if forward == FORWARD_L2DSR {
                        continue;
                    }
                    let answer = if udp {
                        Build::udp(instance, seen_as, b"hello back")
                    } else {
                        Build::tcp(instance, seen_as, tcp::SYN | tcp::ACK)
                    };
                    let seen = lab.send(&answer.bytes())?;
                    let back = answer.with(|packet| {
                        packet.macs = ([2, 0, 0, 0, 1, 2], FRONT_MAC);
                        (packet.source, packet.destination) = (end(own, port), client);
                        packet.ttl -= 1;
                    });
                    ensure!(
                        seen.frame == back.bytes(),
                        "{port}: back: {:02x?}",
                        seen.frame
                    );
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_no_range_holds_is_the_hosts() -> Result<()> {
    run(SIZES, |lab| {
        let (client, own, _, lb) = NETS[0];
        serve(lab, 0, FORWARD_L2DSR)?;
        let passes = |lab: &mut Lab, to: SocketAddr, udp: bool| -> Result<bool> {
            let client = end(client, 5000);
            let packet = if udp {
                Build::udp(client, to, b"hello")
            } else {
                Build::tcp(client, to, tcp::SYN)
            };
            let seen = lab.send(&packet.bytes())?;
            Ok(seen.verdict == Verdict::Pass(Counter::PassedNotVip))
        };
        ensure!(passes(lab, end(lb, 8500), false)?, "another address");
        lab.withdraw(&ports(own, PROTOCOL_TCP, 0, u16::MAX))?;
        for (port, udp, expected) in [
            (7999, false, true),
            (9000, false, true),
            (8001, false, false),
            (7999, true, false),
            (80, false, false),
        ] {
            let found = passes(lab, end(own, port), udp)?;
            ensure!(found == expected, "{port} {udp}: {found}");
        }
        lab.withdraw(&ports(own, PROTOCOL_TCP, 8000, 8999))?;
        ensure!(passes(lab, end(own, 8002), false)?);
        lab.withdraw(&ports(own, PROTOCOL_UDP, 0, u16::MAX))?;
        lab.withdraw(&ports(own, PROTOCOL_UDP, 8000, 8999))?;
        ensure!(lab.settings().has_ranges == 0);
        ensure!(passes(lab, end(own, 9001), true)?);
        ensure!(passes(lab, end(own, 81), false)? && !passes(lab, end(own, 80), false)?);
        Ok(())
    })
}
