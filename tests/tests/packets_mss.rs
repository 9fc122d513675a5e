//! The MSS in SYN and SYN-ACK of translated connections.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, FORWARD_DNAT, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP, Vip};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{BACK, FRONT};
use lb_tests::packet::{Build, check};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

/// A client and two instances on the link that takes 1500 bytes, the same on the one that takes 1280, a
/// VIP, and what of 1280 bytes is data.
struct Net {
    front: [&'static str; 3],
    back: &'static str,
    vip: &'static str,
    lb: &'static str,
    fits: u16,
}

const NETS: [Net; 2] = [
    Net {
        front: ["10.0.1.2", "10.0.1.11", "10.0.1.12"],
        back: "10.0.2.21",
        vip: "10.1.1.1",
        lb: "10.0.1.1",
        fits: 1240,
    },
    Net {
        front: ["fd00:1::2", "fd00:1::11", "fd00:1::12"],
        back: "fd00:2::21",
        vip: "fd00:f::1",
        lb: "fd00:1::1",
        fits: 1220,
    },
];

/// VIPs by port: those from 80 on lead to the link of 1280 bytes, those from 90 on to the one of 1500.
fn serve(lab: &mut Lab, net: &Net) -> Result<()> {
    lab.set_instance(1, instance(net.back, 8080))?;
    lab.set_instance(2, instance(net.front[1], 8080))?;
    lab.set_instance(3, instance(net.front[2], 8080))?;
    for (port, forward, index) in [
        (80, FORWARD_NAT, 1),
        (81, FORWARD_DNAT, 1),
        (82, FORWARD_L2DSR, 1),
        (90, FORWARD_NAT, 2),
        (91, FORWARD_DNAT, 2),
        (92, FORWARD_NAT, 3),
        (93, FORWARD_DNAT, 3),
    ] {
        let value = Vip {
            forward,
            table: u32::from(index),
            ..vip(u32::from(port))
        };
        lab.serve(vip_key(net.vip, port, PROTOCOL_TCP), value, &[index])?;
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

/// The option, with as many bytes of nothing before it.
fn mss(value: u16, before: usize) -> Vec<u8> {
    let mut options = vec![1; before];
    options.extend([2, 4]);
    options.extend(value.to_be_bytes());
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// Sends a packet with one set of options, and expects it to leave with another.
fn expect(
    lab: &mut Lab,
    packet: &Build,
    by: u32,
    ends: (SocketAddr, SocketAddr),
    options: [Vec<u8>; 2],
) -> Result<()> {
    let [before, after] = options;
    let sent = packet.with(|packet| packet.tcp_options = before);
    let seen = lab.send_by(&sent.bytes(), by)?;
    ensure!(
        matches!(seen.verdict, Verdict::Transmit | Verdict::Redirect(_)),
        "{:?}",
        seen.verdict
    );
    let expected = packet.with(|packet| {
        packet.tcp_options = after;
        (packet.source, packet.destination) = ends;
        packet.ttl -= 1;
    });
    ensure!(
        seen.frame[12..] == expected.bytes()[12..],
        "expected\n {:02x?}, found\n {:02x?}",
        &expected.bytes()[12..],
        &seen.frame[12..]
    );
    check::checksums(&seen.frame)
}

#[test]
fn both_ends_are_told_what_fits_both_ways() -> Result<()> {
    for net in &NETS {
        run(SIZES, |lab| {
            serve(lab, net)?;
            let (near, far) = ((net.front[0], FRONT), (net.back, BACK));
            // To a small link, from a small link, and over a larger one only.
            for (port, (client, by), (own, back_by), most) in [
                (80, near, far, net.fits),
                (81, near, far, net.fits),
                (90, far, (net.front[1], FRONT), net.fits),
                (91, far, (net.front[1], FRONT), net.fits),
                (92, near, (net.front[2], FRONT), net.fits + 220),
                (93, near, (net.front[2], FRONT), net.fits + 220),
            ] {
                let (client, vip) = (address(client, 5000), address(net.vip, port));
                let own = address(own, 8080);
                let is_nat = port % 2 == 0;
                let seen_as = if is_nat {
                    address(net.lb, 40_000)
                } else {
                    client
                };
                let syn = Build::tcp(client, vip, tcp::SYN);
                let answer = Build::tcp(own, seen_as, tcp::SYN | tcp::ACK);
                for (before, said) in (0..16).map(|n| (n % 4, [1460, 9000, 1000, 200][n / 4])) {
                    let told = said.min(most);
                    let options = || [mss(said, before), mss(told, before)];
                    expect(lab, &syn, by, (seen_as, own), options())
                        .with_context(|| format!("{port}: SYN of {client}, {said}"))?;
                    expect(lab, &answer, back_by, (vip, client), options())
                        .with_context(|| format!("{port}: SYN-ACK to {client}, {said}"))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_promises_nothing_stays_as_it_is() -> Result<()> {
    run(SIZES, |lab| {
        let net = &NETS[0];
        serve(lab, net)?;
        let client = address(net.front[0], 5000);
        let (seen_as, instance) = (address(net.lb, 40_000), address(net.back, 8080));
        let syn = Build::tcp(client, address(net.vip, 80), tcp::SYN);
        for (name, flags, options) in [
            ("no options", tcp::SYN, vec![]),
            (
                "options without an MSS",
                tcp::SYN,
                vec![1, 1, 4, 2, 3, 3, 7, 0],
            ),
            (
                "behind the end of options",
                tcp::SYN,
                vec![0, 0, 0, 0, 2, 4, 5, 180],
            ),
            (
                "an option without length",
                tcp::SYN,
                vec![3, 0, 1, 1, 2, 4, 5, 180],
            ),
            ("an MSS of another length", tcp::SYN, vec![2, 3, 5, 180]),
            ("cut off", tcp::SYN, vec![1, 1, 2, 4]),
            (
                "too far behind",
                tcp::SYN,
                [vec![1; 16], vec![2, 4, 5, 180]].concat(),
            ),
            ("not the beginning", tcp::ACK, vec![2, 4, 5, 180]),
        ] {
            let packet = syn.with(|packet| packet.flags = flags);
            let options = [options.clone(), options];
            expect(lab, &packet, FRONT, (seen_as, instance), options).context(name)?;
        }
        ensure!(lab.counters().get(Counter::MssClamped) == 0);
        // Nobody hears the instance's answer, so the client's word alone says nothing of it.
        let direct = Build::tcp(client, address(net.vip, 82), tcp::SYN)
            .with(|packet| packet.tcp_options = mss(1460, 0));
        let seen = lab.send(&direct.bytes())?;
        ensure!(
            seen.frame[12..] == direct.bytes()[12..],
            "{:02x?}",
            seen.frame
        );
        ensure!(lab.counters().get(Counter::MssClamped) == 0);
        Ok(())
    })
}
