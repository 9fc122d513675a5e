//! Packets at random through worlds at random, in the kernel and in the library, which must agree on
//! each: what becomes of it, its bytes, what is counted, and what is remembered.
//!
//! A *round* is one world, freshly loaded, and some thousands of packets through it. Everything in it
//! follows from its seed. Counters are compared every so often, because reading them costs as much as
//! the packet; a round that fails is run again with a look at them after each packet, so the one that
//! makes the difference is named.

mod far_end;
mod frames;
mod mutate;
mod world;

use anyhow::{Context, Result, ensure};
use lb_common::{CookieKeys, Counters};

pub use self::far_end::far_end_round;
use self::frames::Frames;
use self::world::World;
use super::hook::Hook;
use super::lab::Lab;
use super::random::Random;

/// Packets between two looks at the counters.
const STRIDE: u32 = 64;

/// Of SYN cookies.
const KEYS: CookieKeys = CookieKeys {
    keys: [[3, 1], [4, 1]],
    current: 1,
    since: 0,
    origin: 0,
};

/// Runs the round of a seed: so many packets, or a few more where the last of them came in fragments.
///
/// # Errors
/// When the halves differ in anything; the message has the packet and how to run the round again.
pub fn round(seed: u64, packets: u32) -> Result<Counters> {
    attempt(seed, packets, STRIDE).or_else(|error| {
        // Once more, to learn which packet it is. Should that go well, the first finding stands.
        match attempt(seed, packets, 1) {
            Ok(_) => Err(error.context("only seen between two looks at the counters")),
            Err(exact) => Err(exact),
        }
        .with_context(|| {
            format!(
                "round {seed:#x}; LB_FUZZ_SEED={seed:#x} runs it again, a line in \
                 packets_random.seeds keeps it"
            )
        })
    })
}

fn attempt(seed: u64, packets: u32, stride: u32) -> Result<Counters> {
    let mut random = Random::new(seed);
    // In turn: the rounds of one run have seeds one after the other.
    let hook = Hook::ALL[(seed & 1) as usize];
    let mut lab = Lab::new(hook, World::sizes(&mut random))?;
    lab.set_cookie_keys(KEYS, 0)?;
    let mut world = World::make(&mut random, &mut lab)?;
    // Apart, as the rules below: who gets cookies, and what comes between other packets.
    let mut cookies = Random::new(seed.rotate_left(32));
    let mut frames = Frames::default();
    if cookies.one_in(3) {
        world.bake(&mut lab)?;
    }
    // Apart, so that rounds that were kept for something else stay what they are.
    let mut rules = Random::new(!seed);
    // Every other world is followed, which must make no difference.
    if Random::new(seed.swap_bytes()).one_in(2) {
        lab.follow_all()?;
    }
    let mut number = 0;
    while number < packets {
        if random.one_in(300) {
            let what = world.change(&mut random, &mut lab)?;
            lab.compare_counters()
                .with_context(|| format!("after packet {number}, {what}"))?;
        }
        if rules.one_in(400) {
            World::rule(&mut rules, &mut lab)?;
        }
        let between = frames.between(&mut cookies);
        for (frame, interface) in between.map_or_else(|| frames.next(&mut random), |one| vec![one])
        {
            if !hook.takes(&frame) {
                continue;
            }
            number += 1;
            let place = || format!("packet {number} by interface {interface}: {frame:02x?}");
            if let Some(sender) = mutate::sender(&frame) {
                lab.know_way_back(sender);
            }
            let seen = lab.forward(&frame, interface).with_context(place)?;
            if number % STRIDE == 0 {
                // It is the same slot of time in both halves, however long the round takes.
                lab.set_cookie_keys(KEYS, 0)?;
            }
            if number % stride == 0 {
                lab.compare_counters().with_context(place)?;
            }
            frames.saw(&frame, &seen);
        }
    }
    lab.compare_counters()?;
    for index in world.instances() {
        lab.live(index)?;
    }
    lab.flows()?;
    world.compare_traffic(&lab)?;
    lab.compare_clients()?;
    let counters = lab.counters();
    ensure!(counters.adds_up(), "counters do not add up: {counters:?}");
    Ok(counters)
}
