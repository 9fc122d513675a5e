//! The same for the far end of tunnels: packets in tunnels, and the answers to them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{Counters, DecapSettings};

use super::frames::{FLAGS, MOST, request};
use super::mutate::{self, L3};
use crate::packet::Build;
use crate::packet::far_end::FarEnd;
use crate::packet::hook::Hook;
use crate::packet::lab::{address, at};
use crate::packet::random::Random;
use crate::packet::tunnel::Outer;

/// Addresses of the host: those of VIPs, and its own.
const LOCAL: &[&str] = &["10.1.1.1", "fd00:f::1", "10.0.1.11", "fd00:1::11"];
/// Where tunnels may come from.
const FRIENDS: &[&str] = &["10.0.1.1", "fd00:1::1"];

/// Ends of tunnels: who sends, and who receives. Nearly all are as they should be.
const ENDS: &[(&str, &str)] = &[
    ("10.0.1.1", "10.0.1.11"),
    ("10.0.1.1", "10.0.1.11"),
    ("10.0.1.1", "10.0.1.11"),
    ("fd00:1::1", "fd00:1::11"),
    ("fd00:1::1", "fd00:1::11"),
    ("fd00:1::1", "fd00:1::11"),
    ("10.9.9.9", "10.0.1.11"),
    ("fd00:1::1", "fd00:1::12"),
];

/// Runs the round of a seed at the far end.
///
/// # Errors
/// When the halves differ in anything; the message has the packet.
pub fn far_end_round(seed: u64, packets: u32) -> Result<Counters> {
    let mut random = Random::new(seed);
    let settings = DecapSettings {
        gue_port: 6080_u16.to_be_bytes(),
        mtu: random.pick(&[0, 1280, 1500, 1500, 9000]),
        from_anywhere: u8::from(random.one_in(4)),
        pad: [0; 3],
    };
    let addresses = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
    // In turn, as in the other rounds.
    let hook = Hook::ALL[(seed & 1) as usize];
    let end = FarEnd::new(hook, settings, &addresses(LOCAL), &addresses(FRIENDS))?;
    for number in 1..=packets {
        let is_answer = random.one_in(3);
        let mut frame = if is_answer {
            answer(&mut random)
        } else {
            tunnelled(&mut random)?
        };
        if random.one_in(3) {
            mutate::damage(&mut random, &mut frame);
        }
        // What goes out has a whole IP header, or the kernel does not run a program on it.
        let least = if is_answer { L3 + 40 } else { L3 };
        frame.resize(frame.len().clamp(least, MOST), 0);
        // A tag is never among the bytes of what comes in by traffic control, but here nobody takes it out.
        let is_tagged =
            hook == Hook::Tc && matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
        if !hook.takes(&frame) || is_tagged {
            continue;
        }
        let done = if is_answer {
            end.send(&frame).map(drop)
        } else {
            end.receive(&frame).map(drop)
        };
        done.with_context(|| format!("round {seed:#x}, packet {number}: {frame:02x?}"))?;
    }
    let counters = end.counters();
    ensure!(counters.adds_up(), "counters do not add up: {counters:?}");
    Ok(counters)
}

fn tunnelled(random: &mut Random) -> Result<Vec<u8>> {
    let (from, to) = random.pick(ENDS);
    let ends: (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
    let port = random.pick(&[6080, 6080, 6080, 80]);
    let outer = Outer {
        macs: ([2, 0, 0, 0, 1, 11], [2, 0, 0, 0, 1, 1]),
        ends,
        class: random.pick(&[0, 1, 2, 3, 0xb8, 0xbb]),
        label: random.pick(&[0, 0x12345]),
        ports: random.one_in(2).then_some((50_000, port)),
        checksum: random.one_in(2),
    };
    let mut inner = request(random);
    inner.padding = 0;
    Ok(outer.around(&inner.bytes()))
}

/// What a VIP's host says to a client: a SYN-ACK, mostly.
fn answer(random: &mut Random) -> Vec<u8> {
    let (vip, client) = random.pick(&[
        ("10.1.1.1:80", "10.0.9.2:5000"),
        ("[fd00:f::1]:80", "[fd00:9::2]:5000"),
        ("10.0.1.99:80", "10.0.9.2:5000"),
    ]);
    let flags = random.pick(FLAGS);
    let mut build = Build::tcp(
        at(vip),
        at(client),
        if random.one_in(2) { flags } else { 0x12 },
    );
    build.tcp_options = super::frames::tcp_options(random);
    build.options = vec![1; 4 * random.pick(&[0, 0, 0, 1])];
    if random.one_in(4) {
        build.extensions.push((60, vec![0; 7]));
    }
    build.bytes()
}
