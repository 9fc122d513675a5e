//! The table of packets for tunnels, and for those that are too large for their way.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, FORWARD_GUE, FORWARD_IPIP, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Settings, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::build::{extension, tcp};
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{BACK, BACK_MAC, FRONT_MAC, NAT_V4, NAT_V6, ROUTER_MAC, SMALL_MTU};
use lb_tests::packet::tunnel::{Outer, too_big};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 16,
};

const GUE_PORT: u16 = 6080;
const INSTANCE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 11];
const BACK_INSTANCE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 21];

/// An instance: its VIPs' port, its address, where the frame must go, whether by the other interface.
struct Place {
    port: u16,
    address: &'static str,
    macs: ([u8; 6], [u8; 6]),
    back: bool,
}

const fn place(port: u16, address: &'static str, macs: ([u8; 6], [u8; 6]), back: bool) -> Place {
    Place {
        port,
        address,
        macs,
        back,
    }
}

/// `ipip` on these ports, `gue` a hundred higher. With VIPs of both families before each, all four
/// mixtures of families are there.
const PLACES: [Place; 5] = [
    place(80, "10.0.1.11", (INSTANCE_MAC, FRONT_MAC), false),
    place(81, "fd00:1::11", (INSTANCE_MAC, FRONT_MAC), false),
    place(82, "10.0.2.21", (BACK_INSTANCE_MAC, BACK_MAC), true),
    place(83, "fd00:2::21", (BACK_INSTANCE_MAC, BACK_MAC), true),
    // Behind a router, where l2dsr does not reach.
    place(84, "10.9.0.9", (ROUTER_MAC, FRONT_MAC), false),
];

const VIPS: [&str; 2] = ["10.1.1.1", "fd00:f::1"];

fn serve(lab: &mut Lab) -> Result<()> {
    lab.set_settings(Settings {
        icmp_rate: 1_000_000,
        ..lab.settings()
    })?;
    let mut id = 0;
    for (index, place) in (1..).zip(&PLACES) {
        lab.set_instance(index, instance(place.address, 8080))?;
        for (more, forward) in [(0, FORWARD_IPIP), (100, FORWARD_GUE)] {
            for address in VIPS {
                id += 1;
                let value = Vip {
                    forward,
                    table: u32::from(index),
                    ..vip(id)
                };
                for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                    let key = vip_key(address, place.port + more, protocol);
                    lab.serve(key, value, &[index])?;
                }
            }
        }
    }
    Ok(())
}

fn end(family_of: &str) -> IpAddr {
    let own = if family_of.contains(':') {
        NAT_V6
    } else {
        NAT_V4
    };
    at(&with_port(own, 0)).ip()
}

fn with_port(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn client(vip: &str) -> SocketAddr {
    if vip.contains(':') {
        at("[fd00:1::2]:5000")
    } else {
        at("10.0.1.2:5000")
    }
}

/// What the outer headers have that follows from the flow's hash: source port and flow label. Their
/// values are not the test's business, but that they are what they may be is.
fn of_the_hash(frame: &[u8], l3: usize) -> Result<(u32, u16)> {
    let v6 = frame[l3] >> 4 == 6;
    let first = u32::from_be_bytes([frame[l3], frame[l3 + 1], frame[l3 + 2], frame[l3 + 3]]);
    let l4 = l3 + if v6 { 40 } else { 20 };
    let port = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
    Ok((if v6 { first & 0xf_ffff } else { 0 }, port))
}

/// Sends a packet and compares it with what a tunnel should make of it.
fn check(lab: &mut Lab, packet: &Build, place: &Place, gue: bool, class: u8) -> Result<(u32, u16)> {
    let frame = packet.bytes();
    let l3 = 14 + 4 * packet.tags.len();
    let seen = lab.send(&frame)?;
    let verdict = if place.back {
        Verdict::Redirect(BACK)
    } else {
        Verdict::Transmit
    };
    ensure!(seen.verdict == verdict, "found {:?}", seen.verdict);
    let (label, port) = of_the_hash(&seen.frame, l3)?;
    ensure!(!gue || port >= 0xc000, "source port {port}");
    let instance = at(&with_port(place.address, 0)).ip();
    let outer = Outer {
        macs: place.macs,
        ends: (end(place.address), instance),
        class,
        label,
        ports: gue.then_some((port, GUE_PORT)),
        checksum: packet.checksum && packet.extensions.is_empty(),
    };
    let mut whole = packet.clone();
    whole.padding = 0;
    let mut expected = outer.around(&whole.bytes());
    expected.resize(expected.len() + packet.padding, 0xee);
    ensure!(
        seen.frame == expected,
        "expected the bytes\n {expected:02x?}, found\n {:02x?}",
        seen.frame
    );
    Ok((label, port))
}

#[test]
fn packets_travel_whole_in_every_mixture_of_families() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        for (place, vip) in PLACES.iter().flat_map(|p| VIPS.map(|v| (p, v))) {
            for (gue, more) in [(false, 0), (true, 100)] {
                let to = at(&with_port(vip, place.port + more));
                let syn = Build::tcp(client(vip), to, tcp::SYN);
                let udp = Build::udp(client(vip), to, b"an odd number");
                let unsummed = udp.with(|packet| packet.checksum = false);
                let tagged = syn.with(|packet| packet.tags = vec![(0x88a8, 7), (0x8100, 100)]);
                let padded = syn.with(|packet| packet.padding = 6);
                let last_hop = syn.with(|packet| packet.ttl = 1);
                let mut packets = vec![
                    ("a SYN", syn.clone()),
                    ("data", syn.with(|packet| packet.payload = vec![0xab; 1001])),
                    ("the TTL is not touched", last_hop),
                    ("Ethernet padding", padded),
                    ("UDP", udp),
                ];
                if vip.contains(':') {
                    let body = vec![1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    packets.push((
                        "extension headers",
                        syn.with(|p| p.extensions = vec![(extension::DESTINATION, body)]),
                    ));
                } else {
                    packets.push(("UDP without a checksum", unsummed));
                    packets.push((
                        "options",
                        syn.with(|p| p.options = vec![0x94, 0x04, 0, 0, 1, 1, 1, 0]),
                    ));
                }
                if !place.back {
                    packets.push(("two tags, which stay", tagged));
                }
                for (name, packet) in packets {
                    check(lab, &packet, place, gue, 0)
                        .with_context(|| format!("{name} to {to} for {}", place.address))?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn the_class_goes_out_and_the_flow_decides_what_is_spread_by() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let mut ports = std::collections::BTreeSet::new();
        for port in 0..64 {
            let mut from = client(VIPS[0]);
            from.set_port(6000 + port);
            let packet = Build::udp(from, at("10.1.1.1:181"), b"hello");
            let first = check(lab, &packet, &PLACES[1], true, 0)?;
            let second = check(lab, &packet, &PLACES[1], true, 0)?;
            ensure!(first == second, "a flow must keep its way");
            ports.insert(first);
        }
        ensure!(ports.len() > 60, "{ports:?}");
        // DSCP 46 with ECN's "congestion experienced", in both families' place for it.
        for (vip, place) in [(VIPS[0], &PLACES[1]), (VIPS[1], &PLACES[0])] {
            let packet = Build::tcp(client(vip), at(&with_port(vip, place.port)), tcp::SYN);
            let mut frame = packet.bytes();
            if vip.contains(':') {
                frame[14] |= 0x0b;
                frame[15] |= 0xb0;
            } else {
                frame[15] = 0xbb;
            }
            let seen = lab.send(&frame)?.frame;
            let class = if place.address.contains(':') {
                seen[14] << 4 | seen[15] >> 4
            } else {
                seen[15]
            };
            ensure!(class == 0xbb, "{class:#x}");
        }
        Ok(())
    })
}

#[test]
fn who_sends_too_much_is_told_what_fits() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        // The outer header, by the instance's family, and UDP.
        for (place, gue, overhead) in [
            (&PLACES[2], false, 20),
            (&PLACES[2], true, 28),
            (&PLACES[3], false, 40),
            (&PLACES[3], true, 48),
        ] {
            for vip in VIPS {
                let to = at(&with_port(vip, place.port + if gue { 100 } else { 0 }));
                let headers = if vip.contains(':') { 60 } else { 40 };
                let fits = SMALL_MTU - overhead;
                let sized = |length: u32| {
                    let payload = vec![0x55; length as usize - headers];
                    Build::tcp(client(vip), to, tcp::ACK).with(|packet| packet.payload = payload)
                };
                check(lab, &sized(fits), place, gue, 0)
                    .with_context(|| format!("{to}: just what fits"))?;
                let more = sized(fits + 1);
                let seen = lab.send(&more.bytes())?;
                let answer = Verdict::Answer(Counter::AnsweredTooBig);
                ensure!(seen.verdict == answer, "{to}: {:?}", seen.verdict);
                // No host of IPv6 has to believe less.
                let told = if headers == 60 { fits.max(1280) } else { fits };
                ensure!(
                    seen.frame == too_big(&more.bytes(), told),
                    "{to}: {:02x?}",
                    seen.frame
                );
            }
        }
        // The other ways of forwarding tell it, too, whatever tags the frame has.
        lab.serve(
            vip_key("10.1.1.1", 90, PROTOCOL_TCP),
            Vip {
                table: 3,
                ..vip(90)
            },
            &[3],
        )?;
        let packet = Build::tcp(client(VIPS[0]), at("10.1.1.1:90"), tcp::SYN).with(|packet| {
            packet.payload = vec![0x55; 1241];
        });
        let seen = lab.send(&packet.bytes())?;
        ensure!(seen.frame == too_big(&packet.bytes(), SMALL_MTU));
        let packet = packet.with(|packet| packet.tags = vec![(0x8100, 5)]);
        let seen = lab.send(&packet.bytes())?;
        ensure!(seen.frame == too_big(&packet.bytes(), SMALL_MTU));
        Ok(())
    })
}

#[test]
fn refusals_have_their_reasons_and_connections_their_ends() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let to = |flags| Build::tcp(client(VIPS[0]), at("10.1.1.1:80"), flags);
        lab.send(&to(tcp::SYN).bytes())?;
        ensure!(lab.live(1)? == 1 && lab.flows()? == 1);
        lab.send(&to(tcp::FIN | tcp::ACK).bytes())?;
        ensure!(lab.live(1)? == 0 && lab.flows()? == 1);
        lab.check_traffic(1, 1)?;

        let long = Build::tcp(client(VIPS[0]), at("10.1.1.1:82"), tcp::SYN)
            .with(|packet| packet.payload = vec![1; 1300]);
        let drop = |lab: &mut Lab, packet: &Build, reason| -> Result<()> {
            let seen = lab.send(&packet.bytes())?;
            ensure!(seen.verdict == Verdict::Drop(reason), "{:?}", seen.verdict);
            Ok(())
        };
        let multicast = long.with(|packet| packet.source = at("224.0.0.9:5000"));
        drop(lab, &multicast, Counter::DropTooBig)?;
        let settings = lab.settings();
        lab.set_settings(Settings {
            icmp_rate: 0,
            ..settings
        })?;
        drop(lab, &long, Counter::DropTooBig)?;
        lab.set_settings(Settings {
            nat_source_v4: [0; 16],
            ..settings
        })?;
        drop(lab, &to(tcp::SYN), Counter::DropNoTunnelSource)?;
        Ok(())
    })
}

#[test]
fn a_full_table_does_not_stop_hashed_flows() -> Result<()> {
    let small = Sizes {
        connections: 1,
        ..SIZES
    };
    run(small, |lab| {
        serve(lab)?;
        let from = |port: u16, to| {
            let mut client = client(VIPS[0]);
            client.set_port(port);
            Build::udp(client, at(to), b"hello")
        };
        check(lab, &from(7000, "10.1.1.1:180"), &PLACES[0], true, 0)?;
        check(lab, &from(7001, "10.1.1.1:180"), &PLACES[0], true, 0)?;
        ensure!(lab.counters().get(Counter::ConnectionsUnremembered) == 1);
        let by_turn = Vip {
            forward: FORWARD_GUE,
            select: SELECT_TURN,
            table: 1,
            ..vip(99)
        };
        lab.serve(vip_key("10.1.1.1", 99, PROTOCOL_UDP), by_turn, &[1])?;
        let seen = lab.send(&from(7002, "10.1.1.1:99").bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropTableFull));
        Ok(())
    })
}
