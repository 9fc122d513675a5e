//! Nanoseconds a packet in the XDP program, next to a program that only passes packets.
//!
//! The kernel runs the program on frames that it is given (`BPF_PROG_TEST_RUN`) and measures. Two
//! ways of asking show two things. *The same packet over and over* is the cost with every cache
//! warm and the measuring itself spread over many runs; only packets that are the same after the
//! program has rewritten them can be asked so. *One packet at a time* finds each packet as a
//! client sent it, so it can ask for new connections and for `nat`; it includes what a single test
//! run costs, which the yardstick shows.
//!
//! The yardstick is `lb_pass`, which looks at nothing, measured in the same way in the same round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use lb_common::{
    FORWARD_L2DSR, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Settings, VIP_OWNED, VIP_SETTLES, Vip,
    VipKey, names,
};

use super::report::{Comparison, Series};
use crate::packet::{Build, Kernel, Lab, kernel::Sizes, lab, network::FRONT};

/// Runs of one measurement that repeats a packet.
const REPEAT: u32 = 500_000;
/// Packets of one measurement that sends them one at a time.
const SINGLE: usize = 20_000;
/// Connections over which the many-connections case spreads its packets.
const MANY: u32 = 100_000;
/// Connections over which those without memory are spread.
const SETTLED_MANY: u32 = 1_000_000;
/// New `nat` connections of a measurement: source ports are finite, and none is given back.
const NEW_NAT: u32 = 1_000;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const DSR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 100)), 80);
const DSR6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100)),
    80,
);
/// A VIP whose flows are not remembered, by the hash of the flow.
const SETTLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 102)), 80);
const NAT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 101)), 80);

/// Measures `rounds` rounds. `progress` is told what runs.
///
/// # Errors
/// When this process may not load programs, or there is none to load.
pub fn run(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Comparison>> {
    if let Some(why) = lab::missing() {
        anyhow::bail!("the packet path cannot be measured: {why}");
    }
    let mut comparisons = Vec::new();
    let sizes = Sizes {
        connections: 1 << 20,
        tables: 4,
    };
    lab::run(sizes, |lab| {
        prepare(lab)?;
        comparisons.push(repeated(lab.kernel(), rounds, progress)?);
        comparisons.push(one_at_a_time(lab.kernel(), rounds, progress)?);
        Ok(())
    })?;
    Ok(comparisons)
}

/// Two `l2dsr` VIPs (hash over TCP and UDP, IPv4 and IPv6), one that remembers nothing, and one of
/// `nat`, over two instances of each family.
fn prepare(lab: &mut Lab) -> Result<()> {
    lab.set_settings(Settings {
        nat_port_first: 10_240,
        nat_port_last: 32_767,
        ..lab.settings()
    })?;
    for (index, address) in [
        (1, "10.0.1.11"),
        (2, "10.0.1.12"),
        (3, "fd00:1::11"),
        (4, "fd00:1::12"),
    ] {
        lab.set_instance(index, lab::instance(address, 80))?;
    }
    let dsr = |id, table| Vip {
        forward: FORWARD_L2DSR,
        table,
        ..lab::vip(id)
    };
    lab.serve(key(DSR, PROTOCOL_TCP), dsr(0, 0), &[1, 2])?;
    lab.serve(key(DSR, PROTOCOL_UDP), dsr(1, 0), &[1, 2])?;
    lab.serve(key(DSR6, PROTOCOL_TCP), dsr(2, 1), &[3, 4])?;
    let settled = Vip {
        flags: VIP_OWNED | VIP_SETTLES,
        ..dsr(4, 0)
    };
    lab.serve(key(SETTLED, PROTOCOL_TCP), settled, &[1, 2])?;
    let nat = Vip {
        select: SELECT_TURN,
        ..lab::vip(3)
    };
    lab.serve(key(NAT, PROTOCOL_TCP), nat, &[1, 2])
}

fn key(vip: SocketAddr, protocol: u8) -> VipKey {
    lab::vip_key(&vip.ip().to_string(), vip.port(), protocol)
}

/// A client's packet; `number` makes up its address and port.
fn packet(number: u32, vip: SocketAddr, flags: u8) -> Vec<u8> {
    let port = 1024 + (number % 60_000) as u16;
    let host = match vip {
        SocketAddr::V4(_) => {
            let [_, a, b, c] = (u32::from(CLIENT) + number / 60_000).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, a, b, c))
        }
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2)),
    };
    Build::tcp(SocketAddr::new(host, port), vip, flags).bytes()
}

fn repeated(
    kernel: &mut Kernel,
    rounds: u32,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Comparison> {
    let client = SocketAddr::from((CLIENT, 40_000));
    let stranger = SocketAddr::from(([10, 0, 1, 1], 22));
    let mut arp = packet(0, DSR, ACK);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let cases = [
        (
            "lb_pass (yardstick)",
            names::PROGRAM_PASS,
            packet(0, DSR, ACK),
        ),
        ("ARP", names::PROGRAM, arp),
        (
            "TCP, not for a VIP",
            names::PROGRAM,
            Build::tcp(client, stranger, ACK).bytes(),
        ),
        ("l2dsr, TCP over IPv4", names::PROGRAM, packet(1, DSR, ACK)),
        (
            "l2dsr, UDP over IPv4",
            names::PROGRAM,
            Build::udp(client, DSR, b"datagram").bytes(),
        ),
        ("l2dsr, TCP over IPv6", names::PROGRAM, packet(1, DSR6, ACK)),
        ("settled", names::PROGRAM, packet(1, SETTLED, ACK)),
        ("settled, SYN", names::PROGRAM, packet(1, SETTLED, SYN)),
    ];
    let mut series = series(cases.iter().map(|case| case.0));
    for round in 0..rounds {
        for step in 0..cases.len() {
            let at = (step + round as usize) % cases.len();
            let (name, program, frame) = &cases[at];
            // The first packet makes the connection known and fills the caches.
            kernel.time(program, frame, FRONT, 1000)?;
            let time = kernel.time(program, frame, FRONT, REPEAT)?;
            series[at].values.push(time.as_nanos() as f64);
            progress(&format!(
                "repeated, round {}/{rounds}: {name} {time:?}",
                round + 1
            ));
        }
    }
    Ok(Comparison {
        title: "the same packet over and over".to_owned(),
        unit: "ns per packet",
        series,
    })
}

fn one_at_a_time(
    kernel: &mut Kernel,
    rounds: u32,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Comparison> {
    let known: Vec<Vec<u8>> = vec![packet(7, DSR, ACK)];
    let settled: Vec<Vec<u8>> = vec![packet(7, SETTLED, ACK)];
    let many: Vec<Vec<u8>> = (0..MANY).map(|number| packet(number, DSR, ACK)).collect();
    let request = packet(9, NAT, SYN);
    let reply = answer_to(kernel, &request)?;
    let request = vec![packet(9, NAT, ACK)];
    for frame in &many {
        kernel.time(names::PROGRAM, frame, FRONT, 1)?;
    }
    let names = [
        "lb_pass (yardstick)",
        "l2dsr, one connection",
        "l2dsr, 100,000 connections",
        "l2dsr, new connection",
        "nat, request",
        "nat, reply",
        "nat, new connection",
        "settled, one connection",
        "settled, 1,000,000 connections",
        "settled, new connection",
    ];
    let mut series = series(names.into_iter());
    for round in 0..rounds {
        let fresh: Vec<Vec<u8>> = (0..SINGLE as u32)
            .map(|n| packet(MANY + round * SINGLE as u32 + n, DSR, SYN))
            .collect();
        // Nothing is remembered of them, so a sample is as good as all.
        let spread = |flags| -> Vec<Vec<u8>> {
            (0..SINGLE as u32)
                .map(|n| packet(n.wrapping_mul(49_999) % SETTLED_MANY, SETTLED, flags))
                .collect()
        };
        let (settled_many, settled_new) = (spread(ACK), spread(SYN));
        let fresh_nat: Vec<Vec<u8>> = (0..NEW_NAT)
            .map(|n| packet(MANY + round * NEW_NAT + n, NAT, SYN))
            .collect();
        for step in 0..names.len() {
            let at = (step + round as usize) % names.len();
            let (program, frames, count) = match at {
                0 => (names::PROGRAM_PASS, &known, SINGLE),
                1 => (names::PROGRAM, &known, SINGLE),
                2 => (names::PROGRAM, &many, SINGLE),
                3 => (names::PROGRAM, &fresh, fresh.len()),
                4 => (names::PROGRAM, &request, SINGLE),
                5 => (names::PROGRAM, &reply, SINGLE),
                6 => (names::PROGRAM, &fresh_nat, fresh_nat.len()),
                7 => (names::PROGRAM, &settled, SINGLE),
                8 => (names::PROGRAM, &settled_many, SINGLE),
                _ => (names::PROGRAM, &settled_new, SINGLE),
            };
            let time = mean(kernel, program, frames, count)?;
            series[at].values.push(time);
            progress(&format!(
                "one at a time, round {}/{rounds}: {} {time:.0} ns",
                round + 1,
                names[at]
            ));
        }
    }
    Ok(Comparison {
        title: "one packet at a time".to_owned(),
        unit: "ns per packet",
        series,
    })
}

/// Mean nanoseconds over `count` packets, taken from `frames` in scattered order.
fn mean(kernel: &mut Kernel, program: &str, frames: &[Vec<u8>], count: usize) -> Result<f64> {
    let mut sum = 0;
    for n in 0..count {
        // A stride that shares no factor with the number of frames visits each of them once.
        let frame = &frames[n.wrapping_mul(7_919) % frames.len()];
        sum += kernel.time(program, frame, FRONT, 1)?.as_nanos();
    }
    Ok(sum as f64 / count as f64)
}

/// What the instance would answer to a request by `nat`, once the program has forwarded it.
fn answer_to(kernel: &mut Kernel, request: &[u8]) -> Result<Vec<Vec<u8>>> {
    let forwarded = kernel.run(names::PROGRAM, request, FRONT)?.frame;
    ensure!(
        forwarded[26..34] != request[26..34],
        "expected nat to rewrite addresses"
    );
    let address = |at: usize| {
        let octets = [
            forwarded[at],
            forwarded[at + 1],
            forwarded[at + 2],
            forwarded[at + 3],
        ];
        Ipv4Addr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([forwarded[at], forwarded[at + 1]]);
    let lb = SocketAddr::from((address(26), port(34)));
    let instance = SocketAddr::from((address(30), port(36)));
    Ok(vec![Build::tcp(instance, lb, ACK).bytes()])
}

fn series<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Series> {
    names
        .map(|name| Series {
            name: name.to_owned(),
            values: Vec::new(),
        })
        .collect()
}
