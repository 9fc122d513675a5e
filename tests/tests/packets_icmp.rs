//! ICMP errors find who should know, in both directions and every way of forwarding.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP,
    PROTOCOL_UDP, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::build::{extension, tcp};
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::tunnel::{IcmpError, Outer};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

const INSTANCE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 11];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// One address family.
struct Net {
    client: &'static str,
    vip: &'static str,
    instance: &'static str,
    lb: &'static str,
    /// A router that complains.
    router: &'static str,
    /// Type and code of its complaints, and what follows the checksum.
    errors: [([u8; 2], [u8; 4]); 3],
}

const NETS: [Net; 2] = [
    Net {
        client: "10.0.1.2:5000",
        vip: "10.1.1.1",
        instance: "10.0.1.11:8080",
        lb: "10.0.1.1:40000",
        router: "203.0.113.9",
        errors: [([3, 4], [0, 0, 5, 0]), ([11, 0], [0; 4]), ([3, 1], [0; 4])],
    },
    Net {
        client: "[fd00:1::2]:5000",
        vip: "fd00:f::1",
        instance: "[fd00:1::11]:8080",
        lb: "[fd00:1::1]:40000",
        router: "2001:db8::9",
        errors: [([2, 0], [0, 0, 5, 0]), ([3, 0], [0; 4]), ([1, 0], [0; 4])],
    },
];

fn serve(lab: &mut Lab) -> Result<()> {
    for (number, net) in (0..).zip(&NETS) {
        let index = number as u16 + 1;
        let own = at(net.instance);
        lab.set_instance(index, instance(&own.ip().to_string(), own.port()))?;
        for (port, forward) in [
            (80, FORWARD_NAT),
            (81, FORWARD_DNAT),
            (82, FORWARD_L2DSR),
            (83, FORWARD_IPIP),
            (84, FORWARD_GUE),
        ] {
            let value = Vip {
                forward,
                table: number,
                ..vip(u32::from(port - 79) + 8 * number)
            };
            for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                lab.serve(vip_key(net.vip, port, protocol), value, &[index])?;
            }
        }
    }
    Ok(())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

fn with_port(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip(address)?, port))
}

/// The beginning of a packet, as an error quotes it.
fn quote(from: SocketAddr, to: SocketAddr, udp: bool) -> Vec<u8> {
    let packet = if udp {
        Build::udp(from, to, b"some data")
    } else {
        Build::tcp(from, to, tcp::ACK)
    };
    packet.bytes()[14..].iter().copied().take(48).collect()
}

/// The same packet with other addresses, but with the checksum of TCP or UDP that it had: nobody can
/// know what it would be.
fn requote(old: &[u8], from: SocketAddr, to: SocketAddr, udp: bool) -> Vec<u8> {
    let mut new = quote(from, to, udp);
    let at = if from.is_ipv4() { 20 } else { 40 } + if udp { 6 } else { 16 };
    if at < new.len() {
        new[at..at + 2].copy_from_slice(&old[at..at + 2]);
    }
    new
}

fn error(net: &Net, which: usize, from: IpAddr, to: IpAddr, quoted: Vec<u8>) -> IcmpError {
    let (head, rest) = net.errors[which];
    IcmpError {
        macs: (FRONT_MAC, [2, 0, 0, 0, 0, 2]),
        ends: (from, to),
        class: 0,
        ttl: 64,
        head,
        rest,
        quoted,
    }
}

fn open(lab: &mut Lab, net: &Net, port: u16, udp: bool) -> Result<SocketAddr> {
    let to = with_port(net.vip, port)?;
    let packet = if udp {
        Build::udp(at(net.client), to, b"hello")
    } else {
        Build::tcp(at(net.client), to, tcp::SYN)
    };
    let seen = lab.send(&packet.bytes())?;
    ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
    Ok(to)
}

fn expect(lab: &mut Lab, sent: &IcmpError, expected: &[u8]) -> Result<()> {
    let seen = lab.send(&sent.bytes())?;
    ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
    ensure!(
        seen.frame == expected,
        "expected the bytes\n {expected:02x?}, found\n {:02x?}",
        seen.frame
    );
    Ok(())
}

/// An answer that was too big in one piece may be in several.
#[test]
fn what_is_said_of_the_first_fragment_of_an_answer_reaches_its_instance() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let net = &NETS[1];
        for (port, first) in [(80, true), (82, true), (80, false), (82, false)] {
            let vip = open(lab, net, port, true)?;
            let offset: u8 = if first { 1 } else { 9 };
            let fragment = |from, to| {
                let packet = Build::udp(from, to, b"some data").with(|packet| {
                    let body = vec![0, 0, offset, 0, 0, 0, 7];
                    packet.extensions.push((extension::FRAGMENT, body));
                });
                packet.bytes()[14..].to_vec()
            };
            let quoted = fragment(vip, at(net.client));
            let sent = error(net, 0, ip(net.router)?, vip.ip(), quoted.clone());
            let seen = lab.send(&sent.bytes())?;
            if !first {
                ensure!(
                    matches!(seen.verdict, Verdict::Pass(_)),
                    "{:?}",
                    seen.verdict
                );
                continue;
            }
            ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
            let mut moved = sent.clone();
            moved.macs = (INSTANCE_MAC, FRONT_MAC);
            if port == 80 {
                // From the instance, to whom it has sent it.
                let lb = SocketAddr::new(at(net.lb).ip(), source_port(lab, net)?);
                moved.ends.1 = at(net.instance).ip();
                moved.ttl -= 1;
                let mut of_instance = fragment(at(net.instance), lb);
                // Nobody can know what the checksum would be.
                of_instance[54..56].copy_from_slice(&quoted[54..56]);
                moved.quoted = of_instance;
            }
            ensure!(seen.frame == moved.bytes(), "{port}: {:02x?}", seen.frame);
        }
        Ok(())
    })
}

/// The port that the instance sees the client's datagrams from.
fn source_port(lab: &mut Lab, net: &Net) -> Result<u16> {
    let sent = Build::udp(at(net.client), with_port(net.vip, 80)?, b"hello");
    let seen = lab.send(&sent.bytes())?.frame;
    Ok(u16::from_be_bytes([seen[54], seen[55]]))
}

#[test]
fn instances_that_answer_themselves_are_told_what_is_on_their_way() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        for (net, udp) in NETS.iter().flat_map(|net| [(net, false), (net, true)]) {
            for (port, is_open) in [(82, true), (83, true), (84, true), (82, false), (84, false)] {
                let client = if is_open {
                    open(lab, net, port, udp)?;
                    at(net.client)
                } else {
                    // Of no connection that is remembered, but the hash knows its instance.
                    SocketAddr::new(at(net.client).ip(), 6000)
                };
                let vip = with_port(net.vip, port)?;
                for which in 0..3 {
                    let sent = error(
                        net,
                        which,
                        ip(net.router)?,
                        vip.ip(),
                        quote(vip, client, udp),
                    );
                    let mut moved = sent.clone();
                    moved.macs = (INSTANCE_MAC, FRONT_MAC);
                    if port == 82 {
                        expect(lab, &sent, &moved.bytes())?;
                        continue;
                    }
                    let seen = lab.send(&sent.bytes())?.frame;
                    let label = u32::from_be_bytes([0, seen[15] & 0xf, seen[16], seen[17]]);
                    let l4 = if vip.is_ipv4() { 34 } else { 54 };
                    let outer = Outer {
                        macs: moved.macs,
                        ends: (at(net.lb).ip(), at(net.instance).ip()),
                        class: 0,
                        label: if vip.is_ipv4() { 0 } else { label },
                        ports: (port == 84)
                            .then_some((u16::from_be_bytes([seen[l4], seen[l4 + 1]]), 6080)),
                        checksum: false,
                    };
                    ensure!(
                        seen == outer.around(&sent.bytes()),
                        "{port} {which}: {seen:02x?}"
                    );
                }
            }
        }
        ensure!(lab.counters().adds_up());
        Ok(())
    })
}

#[test]
fn where_addresses_are_translated_so_are_complaints() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        for (net, udp) in NETS.iter().flat_map(|net| [(net, false), (net, true)]) {
            for (port, lb) in [(80, net.lb), (81, net.client)] {
                let vip = open(lab, net, port, udp)?;
                let (client, own, lb) = (at(net.client), at(net.instance), at(lb));
                for which in 0..3 {
                    // About an answer, on its way from lb to the client: by a router, by the client.
                    for (from, known_as) in
                        [(ip(net.router)?, ip(net.router)?), (client.ip(), lb.ip())]
                    {
                        let quoted = quote(vip, client, udp);
                        let sent = error(net, which, from, vip.ip(), quoted.clone());
                        let mut expected = sent.clone();
                        expected.macs = (INSTANCE_MAC, FRONT_MAC);
                        expected.ends = (known_as, own.ip());
                        expected.ttl = 63;
                        expected.quoted = requote(&quoted, own, lb, udp);
                        expect(lab, &sent, &expected.bytes())
                            .with_context(|| format!("{port} {which}: to the instance"))?;
                    }
                    // About a request, on its way from lb to the instance: by a router, by the
                    // instance, which the client knows as the VIP.
                    for (from, known_as) in
                        [(ip(net.router)?, ip(net.router)?), (own.ip(), vip.ip())]
                    {
                        let quoted = quote(lb, own, udp);
                        let sent = error(net, which, from, lb.ip(), quoted.clone());
                        let mut expected = sent.clone();
                        expected.macs = (CLIENT_MAC, FRONT_MAC);
                        expected.ends = (known_as, client.ip());
                        expected.ttl = 63;
                        expected.quoted = requote(&quoted, client, vip, udp);
                        expect(lab, &sent, &expected.bytes())
                            .with_context(|| format!("{port} {which}: to the client"))?;
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_nobodys_is_the_hosts() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        for net in &NETS {
            let vip = open(lab, net, 82, false)?;
            let good = error(
                net,
                0,
                ip(net.router)?,
                vip.ip(),
                quote(vip, at(net.client), false),
            );
            let stranger = SocketAddr::new(vip.ip(), 9999);
            let l4 = if vip.is_ipv4() { 34 } else { 54 };
            let mut echo = good.bytes();
            echo[l4] = if vip.is_ipv4() { 8 } else { 128 };
            let mut cut = good.bytes();
            cut.truncate(l4 + 20);
            let other = IcmpError {
                quoted: quote(stranger, at(net.client), false),
                ..good.clone()
            };
            let mut protocol = good.clone();
            protocol.quoted[if vip.is_ipv4() { 9 } else { 6 }] = 132;
            let mut cases = vec![echo, cut, other.bytes(), protocol.bytes()];
            if vip.is_ipv4() {
                // `nat` remembers every connection, and this is none.
                let unsaid = IcmpError {
                    quoted: quote(with_port(net.vip, 80)?, at("10.0.1.2:7777"), false),
                    ..good.clone()
                };
                cases.push(unsaid.bytes());
                let mut fragment = good.bytes();
                fragment[20] = 0x20;
                cases.push(fragment);
            }
            for (number, frame) in cases.into_iter().enumerate() {
                let seen = lab.send(&frame)?;
                ensure!(
                    seen.verdict == Verdict::Pass(Counter::PassedOtherProtocol),
                    "{number}: {:?}",
                    seen.verdict
                );
                ensure!(seen.frame == frame, "{number}: changed");
            }
            // No complaint about a complaint, even if it does not fit the tunnel.
            let vip = open(lab, net, 83, false)?;
            let mut long = error(
                net,
                1,
                ip(net.router)?,
                vip.ip(),
                quote(vip, at(net.client), false),
            );
            long.quoted.resize(1460, 0);
            let seen = lab.send(&long.bytes())?;
            ensure!(
                seen.verdict == Verdict::Drop(Counter::DropTooBig),
                "{:?}",
                seen.verdict
            );
            let mut late = error(
                net,
                0,
                ip(net.router)?,
                vip.ip(),
                quote(open(lab, net, 80, false)?, at(net.client), false),
            );
            late.ttl = 1;
            let seen = lab.send(&late.bytes())?;
            ensure!(seen.verdict == Verdict::Drop(Counter::DropTtl));
        }
        Ok(())
    })
}
