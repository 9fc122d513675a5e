//! Floods of SYNs from addresses at random, in the kernel: who is connected stays where he is, and who
//! connects meanwhile gets through.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP, SELECT_TURN, Settings, VIP_OWNED,
    VIP_SETTLES, Vip,
};
use lb_tests::packet::Build;
use lb_tests::packet::kernel::{Kernel, Sizes, online};
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT;

/// As by default.
const SIZES: Sizes = Sizes {
    connections: 262_144,
    tables: 4,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// SYNs of a flood.
const FLOOD: u32 = 1_000_000;
/// Connections that are there before.
const ESTABLISHED: u32 = 2_000;
/// After how many SYNs of the flood somebody else connects.
const BETWEEN: u32 = 500;
/// How many SYNs come until the answer has come back, to all processors together. The one that the test
/// stays on meets its share of them, as it has its share of the places for connections that are opening.
const ROUND_TRIP: u32 = 6_000;

const NAT: &str = "10.1.1.1:80";
const REMEMBERED: &str = "10.1.1.1:81";
const SETTLED: &str = "10.1.1.1:82";

fn serve(lab: &mut Lab) -> Result<()> {
    lab.set_settings(Settings {
        nat_port_first: 10_240,
        nat_port_last: 32_767,
        ..lab.settings()
    })?;
    for (index, own) in [(1, "10.0.1.11"), (2, "10.0.1.12")] {
        lab.set_instance(index, instance(own, 80))?;
    }
    for (id, target, forward, flags) in [
        (0, NAT, FORWARD_NAT, 0),
        (1, REMEMBERED, FORWARD_L2DSR, 0),
        (2, SETTLED, FORWARD_L2DSR, VIP_OWNED | VIP_SETTLES),
    ] {
        let value = Vip {
            forward,
            flags,
            // What is chosen by turns has to be remembered.
            select: if flags == 0 {
                SELECT_TURN
            } else {
                vip(id).select
            },
            table: id,
            ..vip(id)
        };
        let target = at(target);
        let key = vip_key(&target.ip().to_string(), target.port(), PROTOCOL_TCP);
        lab.serve(key, value, &[1, 2])?;
    }
    Ok(())
}

/// Where a packet went: what it has as its destination on the link and behind it, and as its source.
fn send(kernel: &Kernel, from: SocketAddr, to: &str, flags: u8) -> Result<Option<Vec<u8>>> {
    let frame = Build::tcp(from, at(to), flags).bytes();
    let outcome = kernel.run(&frame, FRONT)?;
    let went = [&outcome.frame[..6], &outcome.frame[26..38]].concat();
    Ok((outcome.is_sent).then_some(went))
}

/// A client of whom there is one.
fn client(number: u32) -> SocketAddr {
    let [.., a, b] = (number / 40_000).to_be_bytes();
    SocketAddr::from(([10, 0, 100 + a, b], 10_000 + (number % 40_000) as u16))
}

/// Connects; where to.
fn begin(kernel: &Kernel, number: u32, to: &str) -> Result<Option<Vec<u8>>> {
    send(kernel, client(number), to, SYN)
}

/// Somebody under a flood.
struct Attempt {
    number: u32,
    went: Option<Vec<u8>>,
}

fn withstands(target: &str) -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let kernel = &*lab.kernel();
        let mut established = Vec::new();
        for number in 0..ESTABLISHED {
            let went = begin(kernel, number, target)?.context("no way before the flood")?;
            let next = send(kernel, client(number), target, ACK)?;
            ensure!(
                next.as_ref() == Some(&went),
                "{number}: {next:?} after {went:?}"
            );
            established.push(went);
        }
        let (mut random, mut number) = (1_u64, ESTABLISHED);
        let round_trip = ROUND_TRIP / online();
        let mut waiting: VecDeque<(u32, Attempt)> = VecDeque::new();
        let (mut through, mut failed) = (0_u32, 0_u32);
        for sent in 0..FLOOD {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let bits = (random >> 16).to_be_bytes();
            let source = [bits[2] % 223 + 1, bits[3], bits[4], bits[5]];
            let port = u16::from_be_bytes([bits[6], bits[7]]) | 1024;
            send(kernel, SocketAddr::from((source, port)), target, SYN)?;
            if sent % BETWEEN == 0 {
                let went = begin(kernel, number, target)?;
                waiting.push_back((sent, Attempt { number, went }));
                number += 1;
            }
            while waiting
                .front()
                .is_some_and(|(at, _)| at + round_trip <= sent)
            {
                let Some((_, attempt)) = waiting.pop_front() else {
                    break;
                };
                let first = send(kernel, client(attempt.number), target, ACK)?;
                let second = send(kernel, client(attempt.number), target, ACK)?;
                let is_same = first == attempt.went && second == attempt.went;
                match attempt.went.is_some() && is_same {
                    true => through += 1,
                    false => failed += 1,
                }
            }
        }
        ensure!(
            through >= 99 * (through + failed) / 100 && through > FLOOD / BETWEEN / 2,
            "{target}: {through} got through, {failed} did not"
        );
        for (number, went) in (0..).zip(&established) {
            let now = send(kernel, client(number), target, ACK)?;
            ensure!(
                now.as_ref() == Some(went),
                "{target} {number}: {now:?} after {went:?}"
            );
        }
        let counters = kernel.counters()?;
        ensure!(counters.adds_up());
        let forgotten = counters.get(Counter::OpeningsForgotten);
        ensure!(
            (forgotten > 0) == (target != SETTLED),
            "{target}: {forgotten} forgotten"
        );
        Ok(())
    })
}

#[test]
fn nat_withstands_a_million_spoofed_syns() -> Result<()> {
    withstands(NAT)
}

#[test]
fn l2dsr_that_remembers_withstands_a_million_spoofed_syns() -> Result<()> {
    withstands(REMEMBERED)
}

#[test]
fn l2dsr_that_settles_withstands_a_million_spoofed_syns() -> Result<()> {
    withstands(SETTLED)
}
