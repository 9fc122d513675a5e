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

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::{
    Address, Affinity, Arrivals, CounterKind, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR,
    PREFIX_DENIED, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Settings, VIP_LIMITED, VIP_OWNED,
    VIP_SETTLES, Vip, VipKey, from_v4, names,
};
use lb_ebpf::conntrack::TOUCH_AFTER;

use crate::bench::report::{Comparison, Series};
use crate::packet::{Build, Kernel, Lab, kernel::Sizes, lab, network::FRONT, random::Random};

/// Runs of one measurement that repeats a packet.
const REPEAT: u32 = 500_000;
/// Packets of one measurement that sends them one at a time.
const SINGLE: usize = 20_000;
/// The most connections that packets are spread over.
const MOST: u32 = 1_000_000;
/// New `nat` connections of a measurement: source ports are finite, and none is given back.
const NEW_NAT: u32 = 1_000;
/// Where the numbers of the connections of a flood begin, beyond those of all others.
const FLOOD: u32 = 4 * MOST;

/// The yardstick.
const FLOOR: &str = "lb_pass (yardstick)";
const ONE_AT_A_TIME: &str = "one packet at a time";
const PREALLOCATED: &str =
    "one packet at a time, with memory for 2,097,152 connections taken at start";
const WITH_ACL: &str = "one packet at a time, with 100,000 rules of the source ACL";
/// Prefixes of the ACL.
const RULES: u32 = 100_000;

/// What packets are meant to cost at most beyond the floor, in floors.
const GOALS: [(&str, f64); 7] = [
    ("not for a VIP", 0.3),
    ("by table, 1 connection", 0.8),
    ("by table, 1,000,000", 5.0),
    ("by table, new", 9.0),
    ("settled, 1 connection", 0.5),
    ("settled, 1,000,000", 2.0),
    ("settled, new", 0.75),
];

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
/// VIPs whose new connections are limited, by the service and by the source, at rates that are never
/// reached; and one whose clients stay.
const LIMITED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 105)), 80);
const LIMITED_SETTLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 106)), 80);
const STAYS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 107)), 80);
/// How long the program's copies of connections hold at most.
const COPIES_HOLD: Duration = Duration::from_nanos(TOUCH_AFTER);
/// VIPs of tunnels.
const IPIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 103)), 80);
const GUE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 104)), 80);
const NAT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 101)), 80);

/// Measures `rounds` rounds. `progress` is told what runs.
///
/// # Errors
/// When this process may not load programs, or there is none to load.
pub(super) fn run(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Comparison>> {
    if let Some(why) = lab::missing() {
        anyhow::bail!("the packet path cannot be measured: {why}");
    }
    let mut comparisons = Vec::new();
    let sizes = Sizes {
        connections: 1 << 22,
        tables: 4,
    };
    lab::in_network(|| {
        let mut lab = Lab::new(sizes)?;
        prepare(&mut lab)?;
        comparisons.push(repeated(lab.kernel(), rounds, progress)?);
        let rows = rows(lab.kernel())?;
        comparisons.push(one_at_a_time(
            lab.kernel(),
            ONE_AT_A_TIME,
            &rows,
            rounds,
            progress,
        )?);
        lab.set_rules(&rules())?;
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| BY_ACL.contains(&row.0))
            .collect();
        comparisons.push(one_at_a_time(
            lab.kernel(),
            WITH_ACL,
            &rows,
            rounds,
            progress,
        )?);
        nothing_dropped(&mut lab)?;
        // Only one at a time can be attached.
        drop(lab);
        comparisons.push(with_memory(rounds, progress)?);
        Ok(())
    })?;
    Ok(comparisons)
}

/// Connections in a table that has taken its memory at start.
fn with_memory(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Comparison> {
    let sizes = Sizes {
        connections: 1 << 21,
        tables: 4,
    };
    let mut lab = Lab::preallocated(sizes)?;
    prepare(&mut lab)?;
    let mut rows = rows(lab.kernel())?;
    rows.retain(|row| BY_MEMORY.contains(&row.0));
    let measured = one_at_a_time(lab.kernel(), PREALLOCATED, &rows, rounds, progress)?;
    nothing_dropped(&mut lab)?;
    Ok(measured)
}

/// What is dropped costs less than what is forwarded, so it would be measured wrongly.
fn nothing_dropped(lab: &mut Lab) -> Result<()> {
    let counters = lab.kernel().counters()?;
    ensure!(
        counters.total(CounterKind::Dropped) == 0,
        "what was measured was dropped: {counters:?}"
    );
    Ok(())
}

/// Two `l2dsr` VIPs (hash over TCP and UDP, IPv4 and IPv6), one that remembers nothing, and one of each
/// tunnel and of `nat`, over two instances of each family.
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
    for (id, vip, forward) in [(5, IPIP, FORWARD_IPIP), (6, GUE, FORWARD_GUE)] {
        let tunnelled = Vip {
            forward,
            ..dsr(id, 0)
        };
        lab.serve(key(vip, PROTOCOL_TCP), tunnelled, &[1, 2])?;
    }
    limit(lab)?;
    let nat = Vip {
        select: SELECT_TURN,
        ..lab::vip(3)
    };
    lab.serve(key(NAT, PROTOCOL_TCP), nat, &[1, 2])
}

/// VIPs that look at what begins.
fn limit(lab: &mut Lab) -> Result<()> {
    let limited = |id, flags| Vip {
        flags: flags | VIP_LIMITED,
        forward: FORWARD_L2DSR,
        ..lab::vip(id)
    };
    for (id, vip, flags) in [
        (7, LIMITED, 0),
        (8, LIMITED_SETTLED, VIP_OWNED | VIP_SETTLES),
        (9, STAYS, 0),
    ] {
        lab.serve(key(vip, PROTOCOL_TCP), limited(id, flags), &[1, 2])?;
        if vip != STAYS {
            let limit = Arrivals {
                interval: 1,
                window: 1 << 40,
                source_interval: 1,
                source_window: 1 << 36,
                seed: 5,
                mask_v4: [0xff; 16],
                mask_v6: [0xff; 16],
                bucket: id,
                ..Arrivals::default()
            };
            lab.set_arrivals(id, limit)?;
        }
    }
    let affinity = Affinity {
        ttl: 1 << 50,
        service: 9,
    };
    for index in [1, 2] {
        lab.set_service_of(index, affinity.service)?;
    }
    lab.set_affinity(9, affinity)
}

/// Prefixes of 24 to 32 bits, spread over all addresses but those of these packets.
fn rules() -> Vec<(Address, u32, u32)> {
    let mut random = Random::new(7);
    (0..RULES)
        .map(|_| {
            let length = 24 + random.below(9) as u32;
            // From 16.0.0.0 on.
            let host = (0x1000_0000 | random.any() as u32) & (u32::MAX << (32 - length));
            (from_v4(host.to_be_bytes()), 96 + length, PREFIX_DENIED)
        })
        .collect()
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
        (FLOOR, names::PROGRAM_PASS, packet(0, DSR, ACK)),
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

/// What one measurement sends.
enum Load {
    /// One frame over and over.
    One(Vec<u8>),
    /// Packets of so many connections of a VIP, at random, with these flags.
    Of(u32, SocketAddr, u8),
    /// First packets of connections that are new in each round, and go on afterwards.
    New(SocketAddr, u32),
    /// First packets of which nothing follows: what the program remembers of each pushes out another one.
    Flood(SocketAddr, u32),
}

/// A row: its name, and what is sent.
struct Row(&'static str, Load);

fn rows(kernel: &mut Kernel) -> Result<Vec<Row>> {
    use Load::{Flood, New, Of, One};
    let client = SocketAddr::from((CLIENT, 40_000));
    let stranger = SocketAddr::from(([10, 0, 1, 1], 22));
    let request = packet(9, NAT, SYN);
    let reply = answer_to(kernel, &request)?;
    let udp = Build::udp(client, DSR, b"datagram").bytes();
    Ok(vec![
        Row(FLOOR, One(packet(7, DSR, ACK))),
        Row(
            "not for a VIP",
            One(Build::tcp(client, stranger, ACK).bytes()),
        ),
        Row("by table, 1 connection", Of(1, DSR, ACK)),
        Row("by table, 1,000", Of(1_000, DSR, ACK)),
        Row("by table, 100,000", Of(100_000, DSR, ACK)),
        Row("by table, 1,000,000", Of(MOST, DSR, ACK)),
        Row("by table, new", New(DSR, SINGLE as u32)),
        Row("by table, flood of SYNs", Flood(DSR, SINGLE as u32)),
        Row("by table, UDP", One(udp)),
        Row("settled, 1 connection", Of(1, SETTLED, ACK)),
        Row("settled, 1,000", Of(1_000, SETTLED, ACK)),
        Row("settled, 100,000", Of(100_000, SETTLED, ACK)),
        Row("settled, 1,000,000", Of(MOST, SETTLED, ACK)),
        Row("settled, new", New(SETTLED, SINGLE as u32)),
        Row("nat, request", One(packet(9, NAT, ACK))),
        Row("nat, reply", One(reply)),
        Row("nat, new", New(NAT, NEW_NAT)),
        Row("ipip, 1 connection", Of(1, IPIP, ACK)),
        Row("ipip, 100,000", Of(100_000, IPIP, ACK)),
        Row("gue, 1 connection", Of(1, GUE, ACK)),
        Row("gue, 100,000", Of(100_000, GUE, ACK)),
        Row("with limits, 1 connection", Of(1, LIMITED, ACK)),
        Row("with limits, new", New(LIMITED, SINGLE as u32)),
        Row(
            "with limits, settled, new",
            New(LIMITED_SETTLED, SINGLE as u32),
        ),
        Row("clients stay, new", New(STAYS, SINGLE as u32)),
    ])
}

/// Packets of connections that only this round has.
fn first(from: u32, vip: SocketAddr, count: u32, round: u32, flags: u8) -> Vec<Vec<u8>> {
    let numbers = from + round * count..from + (round + 1) * count;
    numbers.map(|number| packet(number, vip, flags)).collect()
}

impl Load {
    /// The frames of a measurement.
    fn frames(&self, round: u32) -> Vec<Vec<u8>> {
        match *self {
            Self::One(ref frame) => vec![frame.clone(); SINGLE],
            // A stride that shares no factor with the number of connections meets all of them.
            Self::Of(count, vip, flags) => (0..SINGLE as u32)
                .map(|n| {
                    packet(
                        n.wrapping_mul(49_999).wrapping_add(round) % count,
                        vip,
                        flags,
                    )
                })
                .collect(),
            Self::New(vip, count) => first(MOST, vip, count, round, SYN),
            Self::Flood(vip, count) => first(FLOOD, vip, count, round, SYN),
        }
    }

    /// What follows each frame, unmeasured; nothing, or a frame for each.
    fn answers(&self, round: u32) -> Vec<Vec<u8>> {
        match *self {
            Self::New(vip, count) => first(MOST, vip, count, round, ACK),
            Self::One(_) | Self::Of(..) | Self::Flood(..) => Vec::new(),
        }
    }
}

fn one_at_a_time(
    kernel: &mut Kernel,
    title: &str,
    rows: &[Row],
    rounds: u32,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Comparison> {
    for row in rows {
        if let Load::Of(count, vip, flags) = row.1
            && vip != SETTLED
        {
            // They are known before anything is measured.
            for number in 0..count {
                kernel.time(names::PROGRAM, &packet(number, vip, flags), FRONT, 1)?;
            }
        }
    }
    let mut series = series(rows.iter().map(|row| row.0));
    for round in 0..rounds {
        // Of the round before.
        sleep(COPIES_HOLD);
        for at in turns(rows, round as usize) {
            let Row(name, load) = &rows[at];
            let program = if *name == FLOOR {
                names::PROGRAM_PASS
            } else {
                names::PROGRAM
            };
            let time = mean(kernel, program, &load.frames(round), &load.answers(round))?;
            series[at].values.push(time);
            progress(&format!(
                "one at a time, round {}/{rounds}: {name} {time:.0} ns",
                round + 1
            ));
        }
    }
    Ok(Comparison {
        title: title.to_owned(),
        unit: "ns per packet",
        series,
    })
}

/// In which order rows are measured. Each round begins with another one, but those of many connections,
/// or of new ones that go on, are the last ones, and few of them come before more: the program's copies
/// of connections stay where they are for as long as they hold, so whoever came after them would be
/// measured without a copy.
fn turns(rows: &[Row], round: usize) -> Vec<usize> {
    let leaves_copies = |at: &usize| match rows[*at].1 {
        Load::Of(count, vip, _) => count > 1 && vip != SETTLED,
        Load::New(vip, _) => vip != SETTLED,
        Load::One(_) | Load::Flood(..) => false,
    };
    let (last, mut first): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(leaves_copies);
    let start = round % first.len().max(1);
    first.rotate_left(start);
    first.into_iter().chain(last).collect()
}

/// The rows that are measured with memory that is there as well.
const BY_MEMORY: [&str; 7] = [
    FLOOR,
    "by table, 1,000",
    "by table, 100,000",
    "by table, 1,000,000",
    "by table, new",
    "by table, flood of SYNs",
    "nat, new",
];

/// The rows that are measured with an ACL as well.
const BY_ACL: [&str; 5] = [
    FLOOR,
    "not for a VIP",
    "by table, 1 connection",
    "settled, 1 connection",
    "settled, new",
];

/// What packets cost beyond the floor, in floors, beside what they are meant to cost at most.
#[must_use]
pub(super) fn goals(comparisons: &[Comparison]) -> String {
    let mut out = String::new();
    let of = comparisons.iter().find(|one| one.title == ONE_AT_A_TIME);
    let Some(comparison) = of else {
        return out;
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "beyond the floor, in floors of the same round");
    for (at, series) in comparison.series.iter().enumerate().skip(1) {
        let ratio = comparison.ratio(at);
        let goal = GOALS.iter().find(|(name, _)| *name == series.name);
        let goal = goal.map_or_else(String::new, |(_, goal)| format!("goal: {goal}"));
        let _ = writeln!(
            out,
            "  {:<26} {:>6.2} {:>6.2} .. {:>5.2}   {goal}",
            series.name,
            ratio.median - 1.0,
            ratio.min - 1.0,
            ratio.max - 1.0
        );
    }
    out
}

/// Mean nanoseconds over frames, each of them sent once. What is to follow them does so at once.
fn mean(
    kernel: &mut Kernel,
    program: &str,
    frames: &[Vec<u8>],
    answers: &[Vec<u8>],
) -> Result<f64> {
    let mut sum = 0;
    let mut answers = answers.iter();
    for frame in frames {
        sum += kernel.time(program, frame, FRONT, 1)?.as_nanos();
        if let Some(answer) = answers.next() {
            kernel.time(program, answer, FRONT, 1)?;
        }
    }
    Ok(sum as f64 / frames.len() as f64)
}

/// What the instance would answer to a request by `nat`, once the program has forwarded it.
fn answer_to(kernel: &mut Kernel, request: &[u8]) -> Result<Vec<u8>> {
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
    Ok(Build::tcp(instance, lb, ACK).bytes())
}

fn series<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Series> {
    names
        .map(|name| Series {
            name: name.to_owned(),
            values: Vec::new(),
        })
        .collect()
}
