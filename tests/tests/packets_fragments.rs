//! Fragments reach the instance of their connection, in every way of forwarding and in both
//! directions; what they are put together to is what the whole datagram would have become.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, INSTANCE_DOWN,
    InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::pieces::{cut, join};
use lb_tests::packet::tunnel::Outer;
use lb_tests::packet::{Build, check};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// A client, a VIP, two instances, lb.
struct Net {
    client: &'static str,
    vip: &'static str,
    instances: [&'static str; 2],
    lb: &'static str,
}

const NETS: [Net; 2] = [
    Net {
        client: "10.0.1.2",
        vip: "10.1.1.1",
        instances: ["10.0.1.11", "10.0.1.12"],
        lb: "10.0.1.1",
    },
    Net {
        client: "fd00:1::2",
        vip: "fd00:f::1",
        instances: ["fd00:1::11", "fd00:1::12"],
        lb: "fd00:1::1",
    },
];

const NAT: u16 = 80;
const DNAT: u16 = 81;
const L2DSR: u16 = 82;
const IPIP: u16 = 83;
const GUE: u16 = 84;
/// As `L2DSR`, but by turns: only the connection table knows.
const TURNS: u16 = 85;

fn serve(lab: &mut Lab, net: &Net) -> Result<()> {
    for (index, own) in (1..).zip(net.instances) {
        lab.set_instance(index, instance(own, 8080))?;
    }
    for (port, forward) in [
        (NAT, FORWARD_NAT),
        (DNAT, FORWARD_DNAT),
        (L2DSR, FORWARD_L2DSR),
        (IPIP, FORWARD_IPIP),
        (GUE, FORWARD_GUE),
        (TURNS, FORWARD_L2DSR),
    ] {
        let mut value = Vip {
            forward,
            ..vip(u32::from(port))
        };
        if port == TURNS {
            value.select = SELECT_TURN;
        }
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            lab.serve(vip_key(net.vip, port, protocol), value, &[1, 2])?;
        }
    }
    Ok(())
}

fn address(host: &str, port: u16) -> SocketAddr {
    if host.contains(':') {
        at(&format!("[{host}]:{port}"))
    } else {
        at(&format!("{host}:{port}"))
    }
}

/// A datagram of 3000 bytes.
fn datagram(from: SocketAddr, to: SocketAddr) -> Build {
    let payload: Vec<u8> = (0..3000_u32).map(|byte| (byte * 7) as u8).collect();
    Build::udp(from, to, &payload).with(|packet| packet.fragments = 0)
}

/// Orders in which three fragments may come when the first is the first one.
const ORDERS: [[usize; 3]; 2] = [[0, 1, 2], [0, 2, 1]];

/// Sends three fragments and returns what leaves.
fn send(lab: &mut Lab, pieces: &[Vec<u8>], order: [usize; 3]) -> Result<Vec<Vec<u8>>> {
    ensure!(pieces.len() == 3, "{} fragments", pieces.len());
    let sent = order.iter().map(|number| {
        let seen = lab.send(&pieces[*number])?;
        ensure!(
            seen.verdict == Verdict::Transmit,
            "{number}: {:?}",
            seen.verdict
        );
        Ok(seen.frame)
    });
    sent.collect()
}

/// Expects fragments that have left to be those of this datagram.
fn same(left: &[Vec<u8>], expected: &Build) -> Result<()> {
    let (found, expected) = (join(left), expected.bytes());
    ensure!(
        found == expected,
        "expected\n {expected:02x?}, found\n {found:02x?}"
    );
    check::checksums(&found)
}

#[test]
fn whoever_puts_them_together_has_what_was_sent() -> Result<()> {
    for net in &NETS {
        run(SIZES, |lab| {
            serve(lab, net)?;
            let mut id = 1;
            for (port, client_port, order) in (0..20).flat_map(|n| {
                [NAT, DNAT, L2DSR, TURNS].map(|port| (port, 5000 + n % 10, ORDERS[n as usize / 10]))
            }) {
                let client = address(net.client, client_port);
                let (to, lb) = (address(net.vip, port), address(net.lb, 40_000));
                // `nat` has one port towards each instance: one connection at a time.
                if port == NAT && client_port != 5000 {
                    continue;
                }
                id += 1;
                let sent = datagram(client, to);
                let left = send(lab, &cut(&sent.bytes(), id, 1400), order)?;
                // Where the connection goes is what one of its whole packets says.
                let whole = lab.send(&Build::udp(client, to, b"whole").bytes())?.frame;
                ensure!(left[0][..12] == whole[..12], "{port}: another instance");
                let index = usize::from(whole[5] == 12);
                let own = address(net.instances[index], 8080);
                let seen_as = if port == NAT { lb } else { client };
                let expected = sent.with(|packet| {
                    packet.macs = ([2, 0, 0, 0, 1, 11 + index as u8], FRONT_MAC);
                    if port == NAT || port == DNAT {
                        (packet.source, packet.destination) = (seen_as, own);
                        packet.ttl -= 1;
                    }
                });
                same(&left, &expected).with_context(|| format!("{port}: to the instance"))?;
                if port == NAT || port == DNAT {
                    let sent = datagram(own, seen_as);
                    let left = send(lab, &cut(&sent.bytes(), id, 1400), order)?;
                    let expected = sent.with(|packet| {
                        packet.macs = (CLIENT_MAC, FRONT_MAC);
                        (packet.source, packet.destination) = (to, client);
                        packet.ttl -= 1;
                    });
                    same(&left, &expected).with_context(|| format!("{port}: to the client"))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn tunnels_take_each_as_it_is() -> Result<()> {
    for net in &NETS {
        run(SIZES, |lab| {
            serve(lab, net)?;
            for (port, client_port) in (5000..5010).flat_map(|n| [(IPIP, n), (GUE, n)]) {
                let (client, to) = (address(net.client, client_port), address(net.vip, port));
                let whole = lab.send(&Build::udp(client, to, b"whole").bytes())?.frame;
                let pieces = cut(&datagram(client, to).bytes(), 7, 1400);
                let left = send(lab, &pieces, [0, 2, 1])?;
                let l4 = if to.is_ipv4() { 34 } else { 54 };
                let label = u32::from_be_bytes([0, whole[15] & 0xf, whole[16], whole[17]]);
                let index = usize::from(whole[5] == 12);
                let outer = Outer {
                    macs: ([2, 0, 0, 0, 1, 11 + index as u8], FRONT_MAC),
                    ends: (
                        address(net.lb, 0).ip(),
                        address(net.instances[index], 0).ip(),
                    ),
                    class: 0,
                    label: if to.is_ipv4() { 0 } else { label },
                    // On the lane of the connection's other packets.
                    ports: (port == GUE)
                        .then(|| (u16::from_be_bytes([whole[l4], whole[l4 + 1]]), 6080)),
                    checksum: false,
                };
                for (left, number) in left.iter().zip([0, 2, 1]) {
                    let expected = outer.around(&pieces[number]);
                    ensure!(
                        *left == expected,
                        "{port} {number}: expected\n {expected:02x?}, found\n {left:02x?}"
                    );
                }
                // A first one that does not fit is complained of, a later one is not.
                let pieces = cut(&datagram(client, to).bytes(), 8, 1472);
                let seen = lab.send(&pieces[0])?;
                let answer = Verdict::Drop(Counter::DropTooBig);
                ensure!(seen.verdict == answer, "{:?}", seen.verdict);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_first_one_may_be_late_once_one_was_seen() -> Result<()> {
    for net in &NETS {
        run(SIZES, |lab| {
            serve(lab, net)?;
            for port in [L2DSR, TURNS, NAT, DNAT] {
                let (client, to) = (address(net.client, 6000), address(net.vip, port));
                let pieces = |id| {
                    cut(
                        &datagram(client, to).bytes(),
                        id + 16 * u32::from(port),
                        1400,
                    )
                };
                if port == L2DSR {
                    for piece in &pieces(1)[1..] {
                        let seen = lab.send(piece)?;
                        let early = Verdict::Drop(Counter::DropFragmentEarly);
                        ensure!(seen.verdict == early, "{:?}", seen.verdict);
                    }
                }
                let first = send(lab, &pieces(2), [0, 1, 2])?;
                let left = send(lab, &pieces(3), [2, 0, 1])?;
                ensure!(left[0][..12] == first[0][..12], "{port}: another way");
                let again = send(lab, &pieces(4), [2, 1, 0])?;
                ensure!(join(&again) == join(&first), "{port}: another datagram");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn those_of_no_connection_are_dropped_or_the_hosts() -> Result<()> {
    run(SIZES, |lab| {
        let net = &NETS[0];
        serve(lab, net)?;
        let client = address(net.client, 5000);
        // For the host, first and later.
        let host = cut(&datagram(client, address(net.lb, 53)).bytes(), 1, 1400);
        let seen = lab.send(&host[0])?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedNotVip));
        let seen = lab.send(&host[1])?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedFragment));
        // At a VIP's address, but a port that is none. Nothing is known of the later one when it comes first.
        let early = Verdict::Drop(Counter::DropFragmentEarly);
        for (id, before) in [(2, early), (4, Verdict::Transmit)] {
            let other = cut(&datagram(client, address(net.vip, 9999)).bytes(), id, 1400);
            let seen = lab.send(&other[1])?;
            ensure!(seen.verdict == before, "{:?}", seen.verdict);
            let seen = lab.send(&other[0])?;
            ensure!(seen.verdict == Verdict::Pass(Counter::PassedNotVip));
            let seen = lab.send(&other[1])?;
            let host = Verdict::Pass(Counter::PassedFragment);
            ensure!(seen.verdict == host, "{:?}", seen.verdict);
            // The client begins to send datagrams to the VIP as well.
            for piece in cut(
                &datagram(client, address(net.vip, TURNS)).bytes(),
                id + 1,
                1400,
            ) {
                let seen = lab.send(&piece)?;
                ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            }
        }
        // The instance goes between the first and the next.
        let pieces = cut(&datagram(client, address(net.vip, TURNS)).bytes(), 6, 1400);
        let seen = lab.send(&pieces[0])?;
        let index = u16::from(seen.frame[5] - 10);
        let gone = InstanceEntry {
            state: INSTANCE_DOWN,
            ..instance(net.instances[usize::from(index) - 1], 8080)
        };
        lab.set_instance(index, gone)?;
        let seen = lab.send(&pieces[1])?;
        let lost = Verdict::Drop(Counter::DropFragmentLost);
        ensure!(seen.verdict == lost, "{:?}", seen.verdict);
        lab.check_traffic(u32::from(TURNS), index)?;
        Ok(())
    })
}

#[test]
fn what_a_first_fragment_says_of_a_connection_counts() -> Result<()> {
    run(SIZES, |lab| {
        let net = &NETS[1];
        serve(lab, net)?;
        let (client, to) = (address(net.client, 5000), address(net.vip, DNAT));
        let segment = |flags| {
            let packet = Build::tcp(client, to, flags);
            let packet = packet.with(|packet| packet.payload = vec![5; 2000]);
            cut(&packet.bytes(), u32::from(flags), 1400)
        };
        for piece in segment(tcp::SYN) {
            let seen = lab.send(&piece)?;
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
        }
        ensure!(lab.live(1)? + lab.live(2)? == 1);
        for piece in segment(tcp::RST) {
            lab.send(&piece)?;
        }
        ensure!(lab.live(1)? + lab.live(2)? == 0);
        // One that is too short for ports is the host's to judge.
        let short = &cut(&Build::tcp(client, to, tcp::ACK).bytes(), 9, 8)[0];
        let seen = lab.send(short)?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedMalformed));
        // What follows the fragment header is not walked.
        let mut behind = segment(tcp::ACK);
        for piece in &mut behind {
            piece[54] = 60;
        }
        let seen = lab.send(&behind[1])?;
        ensure!(seen.verdict == Verdict::Pass(Counter::PassedFragment));
        Ok(())
    })
}
