//! Packets at random through the kernel and the library, which must agree on each.
//!
//! `LB_FUZZ_PACKETS` says how many packets there are at least (1,000,000, at the far end of tunnels
//! 200,000), `LB_FUZZ_SEED` where the rounds begin: that round comes first, and alone if no number of
//! packets is given. Without it the seed is another one in each run, and printed. Rounds that have
//! found something are kept in `packets_random.seeds` and run first.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, Counters, DecapCounter};
use lb_tests::packet::fuzz;
use lb_tests::packet::lab::in_network;
use lb_tests::packet::random::Random;

/// Rounds that have found something: one a line, what it was behind a `#`.
const SEEDS: &str = include_str!("packets_random.seeds");

/// Packets of one round.
const ROUND: u32 = 20_000;

/// Packets of a run when nothing else is said.
const PACKETS: u64 = 1_000_000;
/// The same at the far end of tunnels.
const PACKETS_OF_TUNNELS: u64 = 200_000;

/// Counters that no round moves: of faults, of kernels that forward nothing, of a budget that each
/// half has by its own clock, and of what the library does not do.
const OUT_OF_REACH: [Counter; 9] = [
    Counter::DropRewrite,
    Counter::DropNoStage,
    Counter::DropHeadroom,
    Counter::DropForwardingDisabled,
    Counter::DropEchoLimit,
    // Limits of new connections go by the clock as well.
    Counter::DropArrivals,
    Counter::DropSourceArrivals,
    Counter::FlowsRecorded,
    Counter::FlowsLost,
];

fn number(text: &str) -> Result<u64> {
    let text = text.trim().replace('_', "");
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("expected a number, in hexadecimal after 0x, found {text:?}"))
}

fn parameter(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    number(&text).map(Some).with_context(|| name.to_owned())
}

fn kept() -> Result<Vec<u64>> {
    let seeds = SEEDS
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    seeds
        .filter(|seed| !seed.trim().is_empty())
        .map(number)
        .collect()
}

fn from_the_clock() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Random::new(now.as_nanos() as u64).any())
}

/// Runs rounds of `ROUND` packets until there were as many as are wanted, `otherwise` if nobody says.
#[expect(clippy::print_stdout, reason = "a run can be repeated by its seed")]
fn rounds(
    otherwise: u64,
    round: impl Fn(u64, u32) -> Result<Counters>,
) -> Result<(Counters, bool)> {
    for seed in kept()? {
        round(seed, ROUND)?;
    }
    let (given, packets) = (parameter("LB_FUZZ_SEED")?, parameter("LB_FUZZ_PACKETS")?);
    let alone = given.is_some() && packets.is_none();
    let first = given.map_or_else(from_the_clock, Ok)?;
    let most = if alone {
        1
    } else {
        packets.unwrap_or(otherwise)
    };
    println!("rounds of {ROUND} packets from LB_FUZZ_SEED={first:#x} on");
    let (mut sum, mut seed, mut sent) = (Counters::default(), first, 0);
    while sent < most {
        sum.add(&round(seed, ROUND)?);
        seed = seed.wrapping_add(1);
        sent += u64::from(ROUND);
    }
    Ok((sum, alone))
}

/// Whether packets were of some use: every counter has moved but those that nothing moves. A single
/// round need not.
fn expect_all(counts: &[(&str, u64)], out_of_reach: &[&str], alone: bool) -> Result<()> {
    for (label, count) in counts {
        let as_expected = (*count > 0) != out_of_reach.contains(label);
        ensure!(
            alone || as_expected,
            "{count} packets were counted as {label}: {counts:?}"
        );
    }
    Ok(())
}

#[test]
fn kernel_and_library_agree_on_random_packets() -> Result<()> {
    in_network(|| {
        let (sum, alone) = rounds(PACKETS, fuzz::round)?;
        let counts: Vec<_> = Counter::ALL
            .iter()
            .map(|counter| (counter.label(), sum.get(*counter)))
            .collect();
        expect_all(&counts, &OUT_OF_REACH.map(Counter::label), alone)
    })
}

#[test]
fn kernel_and_library_agree_at_the_far_end() -> Result<()> {
    in_network(|| {
        let (sum, alone) = rounds(PACKETS_OF_TUNNELS, fuzz::far_end_round)?;
        let counts: Vec<_> = DecapCounter::ALL
            .iter()
            .map(|counter| (counter.label(), sum.get_decap(*counter)))
            .collect();
        expect_all(&counts, &[DecapCounter::DropRewrite.label()], alone)
    })
}
