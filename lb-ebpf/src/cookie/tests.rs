#![expect(
    deprecated,
    reason = "the standard library's SipHash-2-4, to compare with"
)]

use std::hash::{Hasher as _, SipHasher};

use lb_common::{PROTOCOL_TCP, from_v4};
use proptest::prelude::*;

use super::*;

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

fn tuple() -> FlowKey {
    FlowKey {
        source: from_v4([198, 51, 100, 7]),
        destination: from_v4([192, 0, 2, 1]),
        source_port: 40_000_u16.to_be_bytes(),
        destination_port: [0, 80],
        protocol: PROTOCOL_TCP,
        ..FlowKey::default()
    }
}

fn any_tuple() -> impl Strategy<Value = FlowKey> {
    any::<([u8; 16], [u8; 16], [u8; 2], [u8; 2])>().prop_map(
        |(source, destination, source_port, destination_port)| FlowKey {
            source,
            destination,
            source_port,
            destination_port,
            protocol: PROTOCOL_TCP,
            ..FlowKey::default()
        },
    )
}

#[test]
fn sizes_are_told_apart_and_rounded_down() {
    for v4 in [true, false] {
        for (number, size) in (0..8).map(|n| (n, nth(n as usize, v4))) {
            assert_eq!(mss_of_size(number, v4), size);
            assert_eq!(size_of_mss(size, v4), number);
            assert_eq!(size_of_mss(size + 1, v4), number);
            assert_eq!(size_of_mss(size - 1, v4), number.saturating_sub(1));
        }
        assert_eq!(size_of_mss(0, v4), 0);
        assert_eq!(mss_of_size(size_of_mss(u16::MAX, v4), v4), largest(v4));
    }
}

#[test]
fn a_cookie_is_good_for_one_slot_at_least_and_two_at_most() {
    let slot = 1_u64 << SLOT_BITS;
    for made in [7 * slot, 7 * slot + 1, 8 * slot - 1] {
        let cookie = make(KEY, 0, &tuple(), 5, made, 3);
        let is_good = |now| check(KEY, &tuple(), 5, now, cookie).is_some();
        assert!(is_good(made) && is_good(made + slot) && is_good(9 * slot - 1));
        assert!(!is_good(9 * slot) && !is_good(7 * slot - 1));
        assert!(!is_good(made + LIFETIME));
    }
    // At the beginning of time there is no slot before.
    assert!(check(KEY, &tuple(), 5, 0, make(KEY, 0, &tuple(), 5, 0, 3)).is_some());
}

#[test]
fn of_the_numbers_with_the_same_end_one_is_believed() {
    for rest in 0..=REST {
        let slot = if rest & AGE == 0 { 6 } else { 7 };
        let good = hash(KEY, &tuple(), 5, slot, rest) & !REST | rest;
        let now = 7 << SLOT_BITS;
        assert_eq!(check(KEY, &tuple(), 5, now, good), Some(rest & SIZE));
        for step in 1..100_000 {
            let other = good ^ (step << 5);
            assert_eq!(
                check(KEY, &tuple(), 5, now, other),
                None,
                "{good:#x} {other:#x}"
            );
        }
    }
}

#[test]
fn random_acknowledgements_are_believed_no_more_often_than_by_chance() {
    // Two million guesses, of which 0.015 are expected to be right.
    let mut state = 1_u64;
    let believed = (0..2_000_000_u32)
        .filter(|syn| {
            state = crate::hash::finish(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            check(KEY, &tuple(), *syn, 7 << SLOT_BITS, state as u32).is_some()
        })
        .count();
    assert!(believed <= 1, "{believed}");
}

proptest! {
    #[test]
    fn it_is_siphash_2_4(
        k0: u64,
        k1: u64,
        tuple in any_tuple(),
        one: u64,
        two: u64,
    ) {
        let mut hasher = SipHasher::new_with_keys(k0, k1);
        hasher.write(&tuple.source);
        hasher.write(&tuple.destination);
        hasher.write(&tuple.destination_port);
        hasher.write(&tuple.source_port);
        hasher.write(&[0; 4]);
        hasher.write(&one.to_le_bytes());
        hasher.write(&two.to_le_bytes());
        prop_assert_eq!(sip(k0, k1, &tuple, one, two), hasher.finish());
    }

    #[test]
    fn a_cookie_is_good_for_what_it_was_made_for_and_nothing_else(
        k0: u64,
        k1: u64,
        which in 0_u32..2,
        tuple in any_tuple(),
        syn: u32,
        now in 0_u64..1 << 60,
        size in 0_u32..8,
        bit in 0_usize..36 * 8,
        other in 1_u32..,
    ) {
        let (key, slot) = ([k0, k1], 1 << SLOT_BITS);
        let cookie = make(key, which, &tuple, syn, now, size);
        prop_assert_eq!(key_of(cookie), which);
        prop_assert_eq!(check(key, &tuple, syn, now, cookie), Some(size));
        prop_assert_eq!(check(key, &tuple, syn, now + slot, cookie), Some(size));
        prop_assert_eq!(check(key, &tuple, syn, now + 2 * slot, cookie), None);
        // One of these in 2^27 would be believed.
        let mut near = tuple;
        let field = match bit / 8 {
            byte @ 0..16 => &mut near.source[byte],
            byte @ 16..32 => &mut near.destination[byte - 16],
            byte @ 32..34 => &mut near.source_port[byte - 32],
            byte => &mut near.destination_port[byte - 34],
        };
        *field ^= 1 << (bit % 8);
        prop_assert_eq!(check(key, &near, syn, now, cookie), None);
        prop_assert_eq!(check(key, &tuple, syn.wrapping_add(other), now, cookie), None);
        prop_assert_eq!(check([k0 ^ u64::from(other), k1], &tuple, syn, now, cookie), None);
        prop_assert_eq!(check([k0, k1 ^ u64::from(other)], &tuple, syn, now, cookie), None);
        let forged = cookie ^ other;
        prop_assert_eq!(check(key, &tuple, syn, now, forged), None);
    }
}
