//! The table of packets: what goes in, what must come of it, and the exact bytes out.
//!
//! Each case runs in the kernel and in the pure library and must do the same in both, and the
//! counters must add up after each. A forwarded packet is compared with one that was built from
//! scratch with the addresses that it should have, and its checksums are checked by a library that
//! knows neither.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, FORWARD_L2DSR, PROTOCOL_TCP, PROTOCOL_UDP, Vip};
use lb_ebpf::Verdict;
use lb_tests::packet::build::{extension, tcp};
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{BACK, BACK_MAC, FRONT_MAC, ROUTER_MAC};
use lb_tests::packet::{Build, check};

/// What must become of a packet.
enum Expect {
    /// Untouched to the host, counted here.
    Pass(Counter),
    /// Refused, counted here.
    Drop(Counter),
    /// Out of the interface it came in by, as this.
    Transmit(Build),
    /// Out of the other interface, as this.
    Redirect(Build),
}

struct Case {
    name: &'static str,
    packet: Build,
    expect: Expect,
}

fn case(name: &'static str, packet: Build, expect: Expect) -> Case {
    Case {
        name,
        packet,
        expect,
    }
}

fn client() -> SocketAddr {
    at("10.0.1.2:5000")
}

fn client6() -> SocketAddr {
    at("[fd00:1::2]:5000")
}

/// VIPs of every kind; each has one instance, so what is selected needs no hash to be known.
fn serve(lab: &mut Lab) -> Result<()> {
    lab.set_instance(1, instance("10.0.1.11", 8080))?;
    lab.set_instance(2, instance("10.0.2.21", 8080))?;
    lab.set_instance(3, instance("fd00:1::11", 8080))?;
    lab.set_instance(4, instance("fd00:2::21", 8080))?;
    lab.set_instance(5, instance("10.0.1.99", 8080))?;
    lab.set_instance(6, instance("10.66.0.1", 8080))?;
    lab.set_instance(7, instance("10.9.0.9", 8080))?;
    let l2dsr = |id| Vip {
        forward: FORWARD_L2DSR,
        ..vip(id)
    };
    let in_table = |vip: Vip, table| Vip { table, ..vip };
    for (port, forward, table, instance) in [
        (80, vip(1), 1, Some(1)),
        (81, l2dsr(2), 1, Some(1)),
        (82, vip(3), 2, Some(2)),
        (83, l2dsr(4), 2, Some(2)),
        (84, vip(5), 3, None),
        (85, vip(6), 5, Some(5)),
        (86, vip(7), 6, Some(6)),
        (87, l2dsr(8), 7, Some(7)),
        (88, vip(9), 7, Some(7)),
        (89, vip(10), 4, Some(3)),
    ] {
        let instances: Vec<u16> = instance.into_iter().collect();
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            let key = vip_key("10.1.1.1", port, protocol);
            lab.serve(key, in_table(forward, table), &instances)?;
        }
    }
    for (port, forward, table, instance) in [
        (80, vip(11), 4, 3),
        (81, l2dsr(12), 4, 3),
        (82, vip(13), 8, 4),
        (83, l2dsr(14), 8, 4),
        // A VIP of one family before an instance of the other.
        (84, l2dsr(15), 1, 1),
        (85, vip(16), 1, 1),
    ] {
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            let key = vip_key("fd00:f::1", port, protocol);
            lab.serve(key, in_table(forward, table), &[instance])?;
        }
    }
    Ok(())
}

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 16,
};

fn run_cases(cases: impl Fn() -> Vec<Case> + Send + Sync) -> Result<()> {
    run(SIZES, move |lab| {
        serve(lab)?;
        for case in cases() {
            one(lab, &case).with_context(|| case.name)?;
        }
        Ok(())
    })
}

fn one(lab: &mut Lab, case: &Case) -> Result<()> {
    let frame = case.packet.bytes();
    let seen = lab.send(&frame)?;
    let (verdict, expected) = match &case.expect {
        Expect::Pass(counter) => (Verdict::Pass(*counter), frame),
        Expect::Drop(counter) => {
            ensure!(
                seen.verdict == Verdict::Drop(*counter),
                "{:?}",
                seen.verdict
            );
            return Ok(());
        }
        Expect::Transmit(packet) => (Verdict::Transmit, packet.bytes()),
        Expect::Redirect(packet) => (Verdict::Redirect(BACK), packet.bytes()),
    };
    ensure!(
        seen.verdict == verdict,
        "expected {verdict:?}, found {:?}",
        seen.verdict
    );
    ensure!(
        seen.frame == expected,
        "expected the bytes\n {expected:02x?}, found\n {:02x?}",
        seen.frame
    );
    if matches!(case.expect, Expect::Transmit(_) | Expect::Redirect(_)) {
        check::checksums(&seen.frame)?;
    }
    Ok(())
}

/// What `nat` must make of a packet for a client's port 5000.
fn translated(packet: &Build, to: &str, mac: [u8; 6]) -> Build {
    let to = at(to);
    let source = if to.is_ipv4() {
        "10.0.1.1:40000"
    } else {
        "[fd00:1::1]:40000"
    };
    packet.with(|packet| {
        packet.source = at(source);
        packet.destination = to;
        packet.ttl -= 1;
        packet.macs = (mac, FRONT_MAC);
    })
}

fn readdressed(packet: &Build, to: [u8; 6], from: [u8; 6]) -> Build {
    packet.with(|packet| packet.macs = (to, from))
}

const INSTANCE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 11];
const BACK_INSTANCE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 21];

#[test]
fn host_traffic_passes_untouched() -> Result<()> {
    run_cases(|| {
        let host = Build::tcp(client(), at("10.0.1.1:22"), tcp::SYN);
        let vip = Build::tcp(client(), at("10.1.1.1:80"), tcp::SYN);
        let vip6 = Build::tcp(client6(), at("[fd00:f::1]:80"), tcp::SYN);
        vec![
            case(
                "TCP for the host",
                host.clone(),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "UDP for the host",
                Build::udp(client(), at("10.0.1.1:53"), b"query"),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "the VIP's address at another port",
                Build::tcp(client(), at("10.1.1.1:8000"), tcp::SYN),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "a tagged frame for the host",
                host.with(|packet| packet.tags = vec![(0x8100, 100)]),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "a reset for the host",
                host.with(|packet| packet.flags = tcp::RST),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "the first fragment for the host",
                host.with(|packet| packet.fragments = 0x2000),
                Expect::Pass(Counter::PassedNotVip),
            ),
            case(
                "a later fragment for the host",
                host.with(|packet| packet.fragments = 0x0010),
                Expect::Pass(Counter::PassedFragment),
            ),
            case(
                "a later IPv6 fragment",
                Build::tcp(client6(), at("[fd00:1::1]:80"), tcp::SYN).with(|packet| {
                    packet.extensions = vec![(extension::FRAGMENT, vec![0, 0, 0x10, 0, 0, 0, 1])];
                }),
                Expect::Pass(Counter::PassedFragment),
            ),
            case(
                "ICMP for a VIP",
                vip.with(|packet| packet.protocol = 1),
                Expect::Pass(Counter::PassedOtherProtocol),
            ),
            case(
                "ICMPv6 for a VIP",
                vip6.with(|packet| packet.protocol = 58),
                Expect::Pass(Counter::PassedOtherProtocol),
            ),
            case(
                "SCTP for a VIP",
                vip.with(|packet| packet.protocol = 132),
                Expect::Pass(Counter::PassedOtherProtocol),
            ),
            case(
                "five extension headers",
                vip6.with(|packet| {
                    packet.extensions =
                        vec![(extension::DESTINATION, vec![0, 1, 4, 0, 0, 0, 0]); 5];
                }),
                Expect::Pass(Counter::PassedExtensionHeaders),
            ),
            case(
                "extension headers of more than 512 bytes",
                vip6.with(|packet| {
                    let mut body = vec![64, 1, 4];
                    body.resize(8 * 65 - 1, 0);
                    packet.extensions = vec![(extension::DESTINATION, body)];
                }),
                Expect::Pass(Counter::PassedExtensionHeaders),
            ),
            case(
                "for lb's own address in the range of nat ports, of no connection",
                Build::tcp(at("10.0.1.11:8080"), at("10.0.1.1:40000"), tcp::ACK),
                Expect::Pass(Counter::PassedNoConnection),
            ),
            case(
                "three tags are more than are walked",
                vip.with(|packet| packet.tags = vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)]),
                Expect::Pass(Counter::PassedNotIp),
            ),
        ]
    })
}

#[test]
fn nat_translates_and_routes() -> Result<()> {
    run_cases(|| {
        let syn = |port| Build::tcp(client(), at(&format!("10.1.1.1:{port}")), tcp::SYN);
        let syn6 = |port| Build::tcp(client6(), at(&format!("[fd00:f::1]:{port}")), tcp::SYN);
        let from = |packet: &Build, port| packet.with(|packet| packet.source.set_port(port));
        let udp = Build::udp(client(), at("10.1.1.1:80"), b"an odd number");
        let unsummed = udp.with(|packet| packet.checksum = false);
        let udp6 = Build::udp(client6(), at("[fd00:f::1]:80"), b"hello");
        let options = syn(80).with(|packet| {
            packet.options = vec![0x94, 0x04, 0, 0, 1, 1, 1, 0];
            packet.flags = tcp::ACK;
        });
        let tagged = syn(80).with(|packet| packet.tags = vec![(0x8100, 0x2064)]);
        let doubly = syn(80).with(|packet| packet.tags = vec![(0x88a8, 7), (0x8100, 100)]);
        let extended = syn6(80).with(|packet| {
            packet.extensions = vec![
                (extension::HOP_BY_HOP, vec![0, 5, 2, 0, 0, 1, 0]),
                (
                    extension::DESTINATION,
                    vec![1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            ];
        });
        let atomic = syn6(80).with(|packet| {
            packet.extensions = vec![(extension::FRAGMENT, vec![0, 0, 0, 0, 0, 0, 1])];
        });
        let padded = syn(80).with(|packet| packet.padding = 6);
        let away = translated(&syn(82), "10.0.2.21:8080", BACK_INSTANCE_MAC)
            .with(|packet| packet.macs.1 = BACK_MAC);
        let away6 = translated(&syn6(82), "[fd00:2::21]:8080", BACK_INSTANCE_MAC)
            .with(|packet| packet.macs.1 = BACK_MAC);
        let routed = translated(&syn(88), "10.9.0.9:8080", ROUTER_MAC);
        let to = |packet: &Build| translated(packet, "10.0.1.11:8080", INSTANCE_MAC);
        let to6 = |packet: &Build| translated(packet, "[fd00:1::11]:8080", INSTANCE_MAC);
        vec![
            case("a TCP SYN", syn(80), Expect::Transmit(to(&syn(80)))),
            case("the same again", syn(80), Expect::Transmit(to(&syn(80)))),
            case(
                "data on that connection, with options",
                options.clone(),
                Expect::Transmit(to(&options)),
            ),
            case(
                "the connection in a tagged frame: the tag stays",
                tagged.clone(),
                Expect::Transmit(to(&tagged)),
            ),
            case(
                "the connection in a doubly tagged frame",
                doubly.clone(),
                Expect::Transmit(to(&doubly)),
            ),
            case(
                "the connection with Ethernet padding",
                padded.clone(),
                Expect::Transmit(to(&padded)),
            ),
            case("UDP", udp.clone(), Expect::Transmit(to(&udp))),
            case(
                "UDP without a checksum stays without",
                unsummed.clone(),
                Expect::Transmit(to(&unsummed)),
            ),
            case(
                "a TCP SYN over IPv6",
                syn6(80),
                Expect::Transmit(to6(&syn6(80))),
            ),
            case(
                "with extension headers",
                extended.clone(),
                Expect::Transmit(to6(&extended)),
            ),
            case(
                "an atomic fragment is whole",
                atomic.clone(),
                Expect::Transmit(to6(&atomic)),
            ),
            case("UDP over IPv6", udp6.clone(), Expect::Transmit(to6(&udp6))),
            case(
                "out of the other interface",
                syn(82),
                Expect::Redirect(away),
            ),
            case(
                "out of the other interface over IPv6",
                syn6(82),
                Expect::Redirect(away6),
            ),
            case(
                "to an instance behind a router",
                syn(88),
                Expect::Transmit(routed),
            ),
            case(
                "the only port is in use towards this instance",
                from(&syn(80), 5001),
                Expect::Drop(Counter::DropNatPorts),
            ),
        ]
    })
}

#[test]
fn l2dsr_changes_addresses_of_the_frame_only() -> Result<()> {
    run_cases(|| {
        let syn = |port| Build::tcp(client(), at(&format!("10.1.1.1:{port}")), tcp::SYN);
        let syn6 = |port| Build::tcp(client6(), at(&format!("[fd00:f::1]:{port}")), tcp::SYN);
        let to = |packet: &Build| readdressed(packet, INSTANCE_MAC, FRONT_MAC);
        let away = |packet: &Build| readdressed(packet, BACK_INSTANCE_MAC, BACK_MAC);
        let last_hop = syn(81).with(|packet| packet.ttl = 1);
        let tagged = syn6(81).with(|packet| packet.tags = vec![(0x8100, 9)]);
        let udp = Build::udp(client(), at("10.1.1.1:81"), b"hello");
        vec![
            case("a TCP SYN", syn(81), Expect::Transmit(to(&syn(81)))),
            case("the same again", syn(81), Expect::Transmit(to(&syn(81)))),
            case(
                "the TTL is not touched",
                last_hop.clone(),
                Expect::Transmit(to(&last_hop)),
            ),
            case("UDP", udp.clone(), Expect::Transmit(to(&udp))),
            case("over IPv6", syn6(81), Expect::Transmit(to(&syn6(81)))),
            case(
                "over IPv6 in a tagged frame",
                tagged.clone(),
                Expect::Transmit(to(&tagged)),
            ),
            case(
                "out of the other interface",
                syn(83),
                Expect::Redirect(away(&syn(83))),
            ),
            case(
                "out of the other interface over IPv6",
                syn6(83),
                Expect::Redirect(away(&syn6(83))),
            ),
            case(
                "IPv6 to an instance that is known by its IPv4 address",
                syn6(84),
                Expect::Transmit(to(&syn6(84))),
            ),
        ]
    })
}

#[test]
fn every_refusal_has_its_reason() -> Result<()> {
    run_cases(|| {
        let syn = |port| Build::tcp(client(), at(&format!("10.1.1.1:{port}")), tcp::SYN);
        let syn6 = |port| Build::tcp(client6(), at(&format!("[fd00:f::1]:{port}")), tcp::SYN);
        let long = |mut packet: Build, length| {
            packet.payload = vec![0x55; length];
            packet
        };
        let refuse = |name, packet, reason| case(name, packet, Expect::Drop(reason));
        let full = long(syn(83), 1240);
        vec![
            refuse("no instance", syn(84), Counter::DropNoInstance),
            refuse(
                "a reset of no connection",
                syn(80).with(|packet| packet.flags = tcp::RST | tcp::ACK),
                Counter::DropStrayReset,
            ),
            refuse(
                "a later fragment for a VIP before the first",
                syn(80).with(|packet| packet.fragments = 0x0010),
                Counter::DropFragmentEarly,
            ),
            refuse(
                "a later IPv6 fragment for a VIP before the first",
                syn6(80).with(|packet| {
                    packet.extensions = vec![(extension::FRAGMENT, vec![0, 0, 0x11, 0, 0, 0, 1])];
                }),
                Counter::DropFragmentEarly,
            ),
            refuse(
                "a neighbour that is not known",
                syn(85),
                Counter::DropNoNeighbour,
            ),
            refuse("a black hole", syn(86), Counter::DropNoRoute),
            refuse("l2dsr behind a router", syn(87), Counter::DropNotOnLink),
            refuse(
                "an IPv4 client, an IPv6 instance",
                syn(89),
                Counter::DropFamily,
            ),
            refuse(
                "an IPv6 client, an IPv4 instance",
                syn6(85),
                Counter::DropFamily,
            ),
            refuse(
                "nat with a TTL of one",
                syn(80).with(|packet| packet.ttl = 1),
                Counter::DropTtl,
            ),
            refuse(
                "nat with a hop limit of zero",
                syn6(80).with(|packet| packet.ttl = 0),
                Counter::DropTtl,
            ),
            case(
                "just the MTU",
                full.clone(),
                Expect::Redirect(readdressed(&full, BACK_INSTANCE_MAC, BACK_MAC)),
            ),
            refuse(
                "one byte more than the MTU",
                long(syn(83), 1241),
                Counter::DropTooBig,
            ),
            refuse(
                "one byte more than the MTU over IPv6",
                long(syn6(82), 1221),
                Counter::DropTooBig,
            ),
        ]
    })
}
