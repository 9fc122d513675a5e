//! Frames that leave for another VLAN than they came from, and the tags that they leave with.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP,
    PROTOCOL_UDP, TAG_CUSTOMER, TAG_SERVICE, Vip, tag,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, at_each_hook, instance, run, vip, vip_key};
use lb_tests::packet::network::{BACK, FRONT, FRONT_MAC};
use lb_tests::packet::pieces::cut;
use lb_tests::packet::tunnel::IcmpError;
use lb_tests::packet::{Build, check};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

/// The VLAN that the second interface is of the first, where it is one.
const VLAN: u16 = 0x123;
/// What it is, and the tags of what leaves for it.
type Link = (&'static str, [u32; 2], &'static [[u8; 4]]);

/// The tags of what leaves for it: outer and inner, as the daemon has them and, in front of the ids, as frames do.
const LINKS: [Link; 4] = [
    (
        "a VLAN",
        [tag(TAG_CUSTOMER, VLAN), 0],
        &[[0x81, 0, 1, 0x23]],
    ),
    (
        "a provider's VLAN",
        [tag(TAG_SERVICE, VLAN), 0],
        &[[0x88, 0xa8, 1, 0x23]],
    ),
    (
        "a VLAN within a provider's",
        [tag(TAG_SERVICE, 0xffe), tag(TAG_CUSTOMER, VLAN)],
        &[[0x88, 0xa8, 0xf, 0xfe], [0x81, 0, 1, 0x23]],
    ),
    (
        "a VLAN within a VLAN",
        [tag(TAG_CUSTOMER, 9), tag(TAG_CUSTOMER, VLAN)],
        &[[0x81, 0, 0, 9], [0x81, 0, 1, 0x23]],
    ),
];

/// A client on the first interface, a VIP, an instance on the second one, lb.
const NETS: [[&str; 4]; 2] = [
    ["10.0.1.2", "10.1.1.1", "10.0.2.21", "10.0.1.1"],
    ["fd00:1::2", "fd00:f::1", "fd00:2::21", "fd00:1::1"],
];

/// VIPs by port.
const FORWARDS: [(u16, u8); 5] = [
    (80, FORWARD_NAT),
    (81, FORWARD_DNAT),
    (82, FORWARD_L2DSR),
    (83, FORWARD_IPIP),
    (84, FORWARD_GUE),
];

fn serve(lab: &mut Lab) -> Result<()> {
    for (index, [_, own, behind, _]) in (1..).zip(NETS) {
        lab.set_instance(index, instance(behind, 8080))?;
        for (port, forward) in FORWARDS {
            let value = Vip {
                forward,
                table: u32::from(index),
                ..vip(10 * u32::from(index) + u32::from(port - 79))
            };
            for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                lab.serve(vip_key(own, port, protocol), value, &[index])?;
            }
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

/// A frame without its tags, and these.
fn tags(frame: &[u8]) -> (Vec<u8>, Vec<[u8; 4]>) {
    let (mut rest, mut tags) = (frame.to_vec(), Vec::new());
    while [[0x81, 0], [0x88, 0xa8]].contains(&[rest[12], rest[13]]) {
        let tag: Vec<u8> = rest.drain(12..16).collect();
        tags.push([tag[0], tag[1], tag[2], tag[3]]);
    }
    (rest, tags)
}

/// What tags a frame may come with, and the priority that it leaves with.
const TAGS: [(&[(u16, u16)], u8); 4] = [
    (&[], 0),
    (&[(0x8100, 9)], 0),
    (&[(0x8100, 0xa009)], 0xa0),
    (&[(0x88a8, 7), (0x8100, 100)], 0),
];

/// Sends packets of every kind with every tag; they must leave with the tags expected, and be else
/// what they are when nobody has tags.
fn compare(
    lab: &mut Lab,
    plain: &mut Vec<Vec<u8>>,
    out: Verdict,
    expected: impl Fn(u8) -> Vec<[u8; 4]>,
) -> Result<()> {
    for (number, (priority, packet)) in packets().into_iter().enumerate() {
        let seen = lab.send(&packet)?;
        ensure!(seen.verdict == out, "{number}: {:?}", seen.verdict);
        let (mut rest, found) = tags(&seen.frame);
        ensure!(
            found == expected(priority),
            "{number}: tags {found:02x?} of {:02x?}",
            seen.frame
        );
        // By its own source address, each interface has another.
        rest[6..12].fill(0);
        if plain.len() == number {
            plain.push(rest);
        } else {
            ensure!(
                rest == plain[number],
                "{number}: expected\n {:02x?}, found\n {rest:02x?}",
                plain[number]
            );
        }
    }
    ensure!(lab.counters().adds_up());
    Ok(())
}

/// Packets with the priority that they have.
fn packets() -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for ([client, own, ..], (port, _)) in NETS
        .iter()
        .flat_map(|net| FORWARDS.map(|forward| (net, forward)))
    {
        let (client, to) = (end(client, 5000), end(own, port));
        for (tags, priority) in TAGS {
            for packet in [
                Build::tcp(client, to, tcp::SYN)
                    .with(|packet| packet.tcp_options = vec![2, 4, 5, 180]),
                Build::tcp(client, to, tcp::ACK),
                Build::udp(client, to, b"hello"),
            ] {
                let packet = packet.with(|packet| packet.tags = tags.to_vec());
                all.push((priority, packet.bytes()));
            }
        }
    }
    all
}

#[test]
fn tags_are_of_the_link_and_not_of_the_packet() -> Result<()> {
    at_each_hook(|hook| {
        let mut plain = Vec::new();
        let mut lab = Lab::new(hook, SIZES)?;
        // Who follows packets sees the tag wherever the kernel has it.
        lab.follow_all()?;
        serve(&mut lab)?;
        compare(&mut lab, &mut plain, Verdict::Redirect(BACK), |_| {
            Vec::new()
        })
        .context("to another interface")?;
        drop(lab);
        for (link, [outer, inner], tags) in LINKS {
            let mut lab = Lab::new(hook, SIZES)?;
            lab.follow_all()?;
            lab.make_vlan(outer, inner)?;
            serve(&mut lab)?;
            compare(&mut lab, &mut plain, Verdict::Transmit, |priority| {
                let with = |[e0, e1, high, low]: [u8; 4]| [e0, e1, priority | high, low];
                tags.iter().copied().map(with).collect()
            })
            .with_context(|| format!("to {link} of the same interface"))?;
        }
        Ok(())
    })
}

fn has(frame: &[u8], tags: &[[u8; 4]]) -> Result<()> {
    let found = frame[12..].starts_with(tags.as_flattened());
    ensure!(found, "expected {tags:02x?}, found {frame:02x?}");
    Ok(())
}

#[test]
fn replies_fragments_and_errors_have_them_too() -> Result<()> {
    let forwards = [FORWARDS[0], FORWARDS[1]];
    let ways = NETS
        .into_iter()
        .flat_map(|net| forwards.map(|forward| (net, forward)));
    for (([client, own, behind, lb], (port, forward)), (_, [outer, inner], tags)) in
        ways.flat_map(|way| [LINKS[0], LINKS[2]].map(|link| (way, link)))
    {
        run(SIZES, |lab| {
            lab.follow_all()?;
            lab.make_vlan(outer, inner)?;
            serve(lab)?;
            let (client, to, own) = (end(client, 5000), end(own, port), end(behind, 8080));
            let packet = Build::udp(client, to, &[7; 1000]).with(|packet| packet.fragments = 0);
            for piece in cut(&packet.bytes(), 1, 400) {
                let seen = lab.send(&piece)?;
                ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
                has(&seen.frame, tags)?;
            }
            // What comes in elsewhere goes over to the interface below, and not to the VLAN's own.
            let seen = lab.send_by(&Build::udp(client, to, b"hello").bytes(), BACK)?;
            ensure!(
                seen.verdict == Verdict::Redirect(FRONT),
                "{:?}",
                seen.verdict
            );
            has(&seen.frame, tags)?;
            // A router has no way for what the instance has answered.
            let (head, router) = if client.is_ipv4() {
                ([3, 1], "203.0.113.9")
            } else {
                ([1, 0], "2001:db8::9")
            };
            let quoted = Build::udp(to, client, &[7; 30]).bytes();
            let complaint = IcmpError {
                macs: (FRONT_MAC, [2, 0, 0, 0, 0, 2]),
                ends: (router.parse()?, to.ip()),
                class: 0,
                ttl: 64,
                head,
                rest: [0; 4],
                quoted: quoted[14..].to_vec(),
            };
            let seen = lab.send(&complaint.bytes())?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            has(&seen.frame, tags)?;
            // The way back is to no VLAN, and the tags of the request are none of the answer's.
            let seen_as = if forward == FORWARD_NAT {
                end(lb, 40_000)
            } else {
                client
            };
            let answer = Build::udp(own, seen_as, b"answer").with(|packet| {
                let halves = |[e0, e1, high, low]: &[u8; 4]| {
                    (
                        u16::from_be_bytes([*e0, *e1]),
                        u16::from_be_bytes([*high, *low]),
                    )
                };
                packet.tags = tags.iter().map(halves).collect();
            });
            let seen = lab.send_by(&answer.bytes(), BACK)?;
            ensure!(
                seen.verdict == Verdict::Redirect(FRONT),
                "{:?}",
                seen.verdict
            );
            let back = answer.with(|packet| {
                packet.tags.clear();
                packet.macs = ([2, 0, 0, 0, 1, 2], FRONT_MAC);
                (packet.source, packet.destination) = (to, client);
                packet.ttl -= 1;
            });
            ensure!(seen.frame == back.bytes(), "{:02x?}", seen.frame);
            check::checksums(&seen.frame)
        })?;
    }
    Ok(())
}

#[test]
fn nothing_is_sent_to_a_vlan_that_would_take_three_tags() -> Result<()> {
    run(SIZES, |lab| {
        lab.make_vlan(0, 0)?;
        serve(lab)?;
        for (_, packet) in packets() {
            let seen = lab.send(&packet)?;
            let lost = Verdict::Drop(Counter::DropNoRoute);
            ensure!(seen.verdict == lost, "{:?}", seen.verdict);
        }
        Ok(())
    })
}

#[test]
fn a_way_that_was_found_is_not_taken_when_nothing_can_be_sent_there_any_more() -> Result<()> {
    run(SIZES, |lab| {
        let (_, [outer, inner], tags) = LINKS[2];
        lab.make_vlan(outer, inner)?;
        serve(lab)?;
        let [client, own, ..] = NETS[0];
        let packet = Build::udp(end(client, 5000), end(own, 81), b"hello").bytes();
        has(&lab.send(&packet)?.frame, tags)?;
        lab.make_vlan(0, inner)?;
        let lost = Verdict::Drop(Counter::DropNoRoute);
        let seen = lab.send(&packet)?;
        ensure!(seen.verdict == lost, "{:?}", seen.verdict);
        ensure!(lab.counters().adds_up());
        Ok(())
    })
}

#[test]
fn a_frame_that_stays_on_its_link_keeps_its_tags() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        lab.set_instance(1, instance("10.0.1.11", 8080))?;
        let [client, own, ..] = NETS[0];
        let packet = Build::tcp(end(client, 5000), end(own, 82), tcp::SYN)
            .with(|packet| packet.tags = vec![(0x88a8, 7), (0x8100, 100)]);
        let seen = lab.send(&packet.bytes())?;
        let expected = packet.with(|packet| packet.macs = ([2, 0, 0, 0, 1, 11], FRONT_MAC));
        ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
        ensure!(seen.frame == expected.bytes(), "{:02x?}", seen.frame);
        ensure!(lab.counters().get(Counter::MssClamped) == 0);
        Ok(())
    })
}
