//! The hash of a flow.
//!
//! Two things are taken from it: the slot of a table (its upper half) and the first source port
//! that `nat` tries (its lower half), so all 64 bits must be good. Each 64-bit word of the key is
//! folded in by an exclusive or, an odd multiplication and an xor-shift, the steps of the
//! SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014) with its constants. It runs once for
//! a connection, not for each packet.

use lb_common::{Address, FlowKey, SLOTS, halves};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;

/// One step: folds `word` into `state`.
#[inline(always)]
const fn fold(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(FIRST);
    mixed ^ (mixed >> 32)
}

/// Spreads each bit of `state` over all bits.
#[inline(always)]
#[must_use]
pub const fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(FIRST);
    let state = (state ^ (state >> 27)).wrapping_mul(SECOND);
    state ^ (state >> 31)
}

#[inline(always)]
const fn fold_address(state: u64, address: &Address) -> u64 {
    let [first, second] = halves(address);
    fold(fold(state, first), second)
}

/// The hash of an address alone.
#[inline(always)]
#[must_use]
pub const fn address(address: &Address) -> u64 {
    finish(fold_address(SEED, address))
}

/// The hash of a flow: both addresses, both ports and the protocol. It is the same on machines of
/// either byte order.
#[inline(always)]
#[must_use]
pub const fn flow(key: &FlowKey) -> u64 {
    let state = fold_address(fold_address(SEED, &key.source), &key.destination);
    let rest = (u16::from_be_bytes(key.source_port) as u64) << 32
        | (u16::from_be_bytes(key.destination_port) as u64) << 16
        | key.protocol as u64;
    finish(fold(state, rest))
}

/// The slot that a hash falls into: its upper half scaled to the table by a multiplication and a
/// shift (Lemire, "Fast random integer generation in an interval", 2019), which costs no division.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64) -> u32 {
    (((hash >> 32) * SLOTS as u64) >> 32) as u32
}
