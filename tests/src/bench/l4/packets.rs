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

mod cookies;
mod rows;
mod vips;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::{CounterKind, names};
use lb_ebpf::conntrack::TOUCH_AFTER;

use self::{
    rows::{ACK, Load, Row, SYN, packet, rows},
    vips::{CLIENT, DSR, DSR6, SETTLED, prepare, rules},
};
use crate::bench::report::{Comparison, Series};
use crate::packet::{Build, Kernel, Lab, hook::Hook, kernel::Sizes, lab, network::FRONT};

/// Runs of one measurement that repeats a packet.
const REPEAT: u32 = 500_000;
/// How long the program's copies of connections hold at most.
const COPIES_HOLD: Duration = Duration::from_nanos(TOUCH_AFTER);

/// The yardstick.
const FLOOR: &str = "lb_pass (yardstick)";
const ONE_AT_A_TIME: &str = "one packet at a time";
const PREALLOCATED: &str =
    "one packet at a time, with memory for 2,097,152 connections taken at start";
const WITH_ACL: &str = "one packet at a time, with 100,000 rules of the source ACL";

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
        let mut lab = Lab::new(Hook::Xdp, sizes)?;
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
    let mut lab = Lab::preallocated(Hook::Xdp, sizes)?;
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
            // They are known before anything is measured, and have sent more than one packet, so that they stay.
            for number in 0..count {
                for _ in 0..2 {
                    kernel.time(names::PROGRAM, &packet(number, vip, flags), FRONT, 1)?;
                }
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
            let frames = load.frames(kernel, round)?;
            let time = mean(kernel, program, &frames, &load.answers(round))?;
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
        // A connection that is joined has no copy until its client's next packet.
        Load::One(_) | Load::Flood(..) | Load::Shown(..) => false,
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

fn series<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Series> {
    names
        .map(|name| Series {
            name: name.to_owned(),
            values: Vec::new(),
        })
        .collect()
}
