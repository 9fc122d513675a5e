//! Packets at random through the kernel and the library, which must agree on each.

use anyhow::{Context, Result, ensure};
use lb_common::{
    FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, INSTANCE_ACTIVE, INSTANCE_DOWN,
    INSTANCE_DRAINING, InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, PortRange, SELECT_TURN, SLOTS,
    Settings, Slot, Table, VIP_KEEPS_PORT, VIP_OWNED, VIP_SETTLES, Vip, VipKey,
};
use lb_ebpf::hash;
use lb_tests::packet::Build;
use lb_tests::packet::build::{extension, tcp};
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};

/// Packets of one run.
const PACKETS: usize = 20_000;

/// Random numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (hash::finish(self.0) >> 32) as usize % limit
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const INSTANCES: &[(u16, &str)] = &[
    (1, "10.0.1.11"),
    (2, "10.0.1.12"),
    (3, "10.0.2.21"),
    (4, "fd00:1::11"),
    (5, "fd00:2::21"),
];

fn serve(lab: &mut Lab) -> Result<()> {
    for (index, address) in INSTANCES {
        lab.set_instance(*index, instance(address, 8080))?;
    }
    lab.set_settings(Settings {
        nat_port_last: 40_063,
        icmp_rate: 1_000_000,
        echo_rate: u16::MAX,
        ..lab.settings()
    })?;
    serve_settling(lab)?;
    for (port, forward, select) in [
        (80, vip(1).forward, vip(1).select),
        (81, FORWARD_L2DSR, vip(1).select),
        (82, FORWARD_L2DSR, SELECT_TURN),
        (83, FORWARD_IPIP, vip(1).select),
        (84, FORWARD_GUE, SELECT_TURN),
        (85, FORWARD_DNAT, vip(1).select),
        (86, FORWARD_DNAT, SELECT_TURN),
    ] {
        for (id, address, table, instances) in [
            (0, "10.1.1.1", 1, &[1, 2, 3][..]),
            (16, "fd00:f::1", 2, &[4, 5][..]),
        ] {
            for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                let value = Vip {
                    table,
                    forward,
                    select,
                    ..vip(id + u32::from(port - 79))
                };
                lab.serve(vip_key(address, port, protocol), value, instances)?;
                if port < 82 {
                    // Those of several ports are beside those of one.
                    let at = vip_key(address, port, protocol).address;
                    let ports = PortRange::new(protocol, port + 7, port + 7);
                    let several = Vip {
                        flags: VIP_KEEPS_PORT,
                        ..value
                    };
                    lab.serve(VipKey::of_ports(at, ports), several, instances)?;
                }
            }
        }
    }
    Ok(())
}

/// VIPs whose flows are not remembered where slots are clear or settled; some are neither.
fn serve_settling(lab: &mut Lab) -> Result<()> {
    for (id, address, table, [a, b]) in [(0, "10.1.1.1", 3, [1, 2]), (16, "fd00:f::1", 4, [4, 5])] {
        for (port, forward) in [(89, FORWARD_L2DSR), (90, FORWARD_GUE)] {
            let slots = std::array::from_fn(|at| match at % 4 {
                0 => Slot::unsettled(a).0,
                1 => Slot::settled(b).0,
                _ => Slot::clear(a).0,
            });
            let owners = [b; SLOTS];
            let value = Vip {
                table,
                forward,
                flags: VIP_OWNED | VIP_SETTLES,
                ..vip(id + u32::from(port - 79_u16))
            };
            let key = vip_key(address, port, PROTOCOL_TCP);
            lab.serve_table(key, value, Table { slots, owners })?;
        }
    }
    Ok(())
}

fn packet(random: &mut Random) -> Vec<u8> {
    let port = 5000 + random.below(200);
    let to = 80 + random.below(12);
    let (from, to) = if random.one_in(2) {
        (format!("10.0.1.2:{port}"), format!("10.1.1.1:{to}"))
    } else {
        (format!("[fd00:1::2]:{port}"), format!("[fd00:f::1]:{to}"))
    };
    let flags = [
        tcp::SYN,
        tcp::ACK,
        tcp::ACK,
        tcp::PSH | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
    ];
    let mut build = if random.one_in(3) {
        Build::udp(at(&from), at(&to), &vec![7; random.below(40)])
    } else {
        Build::tcp(at(&from), at(&to), random.pick(&flags))
    };
    if build.flags & tcp::SYN != 0 {
        build.tcp_options =
            random.pick(&[vec![], vec![2, 4, 5, 180], vec![1, 2, 4, 5, 180, 1, 1, 0]]);
    }
    build.ttl = random.pick(&[64, 64, 64, 64, 2, 1, 0]);
    for _ in 0..random.pick(&[0, 0, 0, 1, 2, 3]) {
        build.tags.push((random.pick(&[0x8100, 0x88a8]), 9));
    }
    build.options = vec![1; 4 * random.pick(&[0, 0, 0, 1, 10])];
    build.fragments = random.pick(&[0, 0x4000, 0x4000, 0x4000, 0x2000, 0x0003]);
    for _ in 0..random.pick(&[0, 0, 0, 1, 2, 4, 5]) {
        let number = random.pick(&[
            extension::HOP_BY_HOP,
            extension::ROUTING,
            extension::FRAGMENT,
            extension::DESTINATION,
        ]);
        let body = if number == extension::FRAGMENT {
            vec![0, 0, random.pick(&[0, 0, 1, 8]), 0, 0, 0, 1]
        } else {
            let units = random.pick(&[0, 0, 1, 3, 60]);
            let mut body = vec![units];
            body.resize(8 * (usize::from(units) + 1) - 1, 0);
            body
        };
        build.extensions.push((number, body));
    }
    if random.one_in(20) {
        build.protocol = if build.source.is_ipv4() { 1 } else { 58 };
        // What is in the place of the source port are type and code.
        let types = [0x0800, 0x8000, 0x0801, 0x0000, 0x8100, 0x0301];
        build.source.set_port(random.pick(&types));
    }
    build.padding = random.pick(&[0, 0, 6]);
    if random.one_in(20) {
        build.payload = vec![9; 1200 + random.below(300)];
    }
    let mut frame = build.bytes();
    if random.one_in(4) {
        // Not the source address: a reply to somebody else would need another route.
        for _ in 0..=random.below(3) {
            let place = random.below(frame.len().min(26));
            frame[place] = random.below(256) as u8;
        }
    }
    if random.one_in(8) {
        frame.truncate(14.max(random.below(frame.len())));
    }
    frame
}

/// A reply to one of the connections there are.
fn reply(random: &mut Random, lab: &Lab) -> Option<Vec<u8>> {
    let mut flows = lab.memory().flows();
    flows.retain(|(_, flow)| flow.direction == lb_common::FLOW_REPLY);
    flows.sort_by_key(|(key, _)| (key.source, key.destination_port, key.protocol));
    if flows.is_empty() {
        return None;
    }
    let (key, _) = random.pick(&flows);
    let text = |address: [u8; 16], port: [u8; 2]| {
        let address = std::net::Ipv6Addr::from(address).to_canonical();
        std::net::SocketAddr::new(address, u16::from_be_bytes(port))
    };
    let from = text(key.source, key.source_port);
    let to = text(key.destination, key.destination_port);
    let flags = [tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::SYN | tcp::ACK];
    Some(if key.protocol == PROTOCOL_TCP {
        Build::tcp(from, to, random.pick(&flags)).bytes()
    } else {
        Build::udp(from, to, b"answer").bytes()
    })
}

#[test]
fn kernel_and_library_agree_on_random_packets() -> Result<()> {
    let sizes = Sizes {
        connections: 300,
        tables: 5,
    };
    run(sizes, |lab| {
        serve(lab)?;
        let mut random = Random(1);
        for number in 0..PACKETS {
            if number == PACKETS / 2 {
                // From here on nobody is told that a packet is too large.
                let settings = lab.settings();
                lab.set_settings(Settings {
                    icmp_rate: 0,
                    ..settings
                })?;
            }
            if random.one_in(100) {
                let (index, address) = random.pick(INSTANCES);
                let state = random.pick(&[
                    INSTANCE_ACTIVE,
                    INSTANCE_ACTIVE,
                    INSTANCE_DRAINING,
                    INSTANCE_DOWN,
                ]);
                let entry = InstanceEntry {
                    state,
                    ..instance(address, 8080)
                };
                lab.set_instance(index, entry)?;
            }
            let frame = match random.one_in(4).then(|| reply(&mut random, lab)).flatten() {
                Some(reply) => reply,
                None => packet(&mut random),
            };
            lab.send(&frame)
                .with_context(|| format!("packet {number}: {frame:02x?}"))?;
        }
        for (index, _) in INSTANCES {
            lab.live(*index)?;
        }
        lab.flows()?;
        // The packets were of some use.
        let counters = lab.counters();
        for counter in lb_common::Counter::ALL {
            use lb_common::Counter as C;
            let cannot = matches!(
                counter,
                C::DropNoRoute
                    | C::DropNoNeighbour
                    | C::DropFamily
                    | C::DropNoNatSource
                    | C::DropForwardingDisabled
                    | C::DropNotOnLink
                    | C::DropRewrite
                    | C::PassedNoConnection
                    | C::DropNatPorts
                    | C::DropNoStage
                    | C::DropHeadroom
                    | C::DropNoTunnelSource
                    | C::DropConnectionLimit
                    | C::AnsweredRefused
                    | C::DropEchoLimit
            );
            ensure!(
                cannot || counters.get(*counter) > 0,
                "no packet was counted as {}",
                counter.label()
            );
        }
        Ok(())
    })
}
