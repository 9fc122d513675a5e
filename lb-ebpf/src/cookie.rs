//! SYN cookies: all that there is to know of a connection that has not begun yet, in the 32 bits that
//! its SYN-ACK numbers bytes from (RFC 4987, 3.6; the idea is D. J. Bernstein's, 1996).
//!
//! A client acknowledges that number, and so gives back what it was given. What it gives back is
//! believed because most of it is a hash, under a key that only lb has, of everything that may not
//! differ between the two packets:
//!
//! ```text
//!  31                               5   4     3   2      0
//! ┌──────────────────────────────────┬─────┬─────┬────────┐
//! │ hash                             │ key │ age │ size   │
//! └──────────────────────────────────┴─────┴─────┴────────┘
//! ```
//!
//! - *hash*: 27 bits of SipHash-2-4 (Aumasson and Bernstein, 2012) of both addresses and ports, of the
//!   number that the client numbers its own bytes from, of the time, and of the other bits. Who does not
//!   see the SYN-ACK has to guess, and one guess in 2^27 is right.
//! - *key*: which of the two keys it was made with, so that keys can change.
//! - *age*: the lowest bit of the number of the [slot](SLOT_BITS) of time in which it was made. With it a
//!   cookie is of the present slot or of the one before, so it is good for one slot at least and for two
//!   at most, and there is one hash to compare with.
//! - *size*: which of eight sizes the client's segments may have. Rounded down, a client that takes
//!   more gets smaller ones than it could.
//!
//! There is no room for what else a SYN offers, and nothing of it is promised: a connection that begins
//! with a cookie has no window scaling, no selective acknowledgements and no timestamps.

use lb_common::{FlowKey, halves};

/// Binary logarithm of the nanoseconds of a slot: 34 seconds. A client's acknowledgement comes a round
/// trip after the SYN-ACK, or when it asks whether it may send at last.
pub const SLOT_BITS: u32 = 35;

/// Nanoseconds after which no cookie is good any more.
pub const LIFETIME: u64 = 2 << SLOT_BITS;

const SIZE: u32 = 7;
const AGE: u32 = 1 << 3;
const KEY_SHIFT: u32 = 4;
const REST: u32 = 0x1f;

/// Sizes of segments that a cookie has a number for: what everybody takes, and what is left of Ethernet
/// by common tunnels, PPPoE and nothing.
const SIZES_V4: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1452, 1460];
/// The same over IPv6, where everybody takes 1280 bytes with headers.
const SIZES_V6: [u16; 8] = [1220, 1280, 1320, 1340, 1360, 1380, 1420, 1440];

/// The size with this number, which is below eight.
#[inline(always)]
const fn nth(number: usize, v4: bool) -> u16 {
    if v4 {
        SIZES_V4[number]
    } else {
        SIZES_V6[number]
    }
}

/// The largest segment that anybody is offered.
#[inline(always)]
#[must_use]
pub const fn largest(v4: bool) -> u16 {
    if v4 { 1460 } else { 1440 }
}

/// The number of the largest size that is no more than `mss`, or of the smallest one there is.
#[inline(always)]
#[must_use]
pub fn size_of_mss(mss: u16, v4: bool) -> u32 {
    let mut number = 0;
    for place in 1..SIZES_V4.len() {
        number += u32::from(nth(place, v4) <= mss);
    }
    number
}

/// The size with this number; the largest one when there is none with it.
#[inline(always)]
#[must_use]
pub fn mss_of_size(number: u32, v4: bool) -> u16 {
    // One after the other, with constants: a place that is computed would be one in memory.
    let mut mss = nth(0, v4);
    for place in 1..SIZES_V4.len() {
        if place as u32 <= number {
            mss = nth(place, v4);
        }
    }
    mss
}

/// Whether a key is one: not all zero.
#[inline(always)]
#[must_use]
pub const fn is_key(key: &[u64; 2]) -> bool {
    key[0] | key[1] != 0
}

/// The cookie for a client whose SYN has this tuple and number, made at `now` with the key that has the
/// number `which`. From when on time is counted does not matter, as long as it is the same for [`check`].
#[inline(always)]
#[must_use]
pub fn make(key: [u64; 2], which: u32, tuple: &FlowKey, syn: u32, now: u64, size: u32) -> u32 {
    let slot = now >> SLOT_BITS;
    let rest = (size & SIZE) | ((slot as u32 & 1) * AGE) | ((which & 1) << KEY_SHIFT);
    hash(key, tuple, syn, slot, rest) & !REST | rest
}

/// The number of the size that a cookie tells, if it is one.
#[inline(always)]
#[must_use]
pub const fn size_of(cookie: u32) -> u32 {
    cookie & SIZE
}

/// Which of the two keys a cookie is of, if it is one.
#[inline(always)]
#[must_use]
pub const fn key_of(cookie: u32) -> u32 {
    cookie >> KEY_SHIFT & 1
}

/// The number of the size that `cookie` tells, if it was made with this key for a client whose SYN had
/// this tuple and number, in this slot of time or the one before.
#[inline(always)]
#[must_use]
pub fn check(key: [u64; 2], tuple: &FlowKey, syn: u32, now: u64, cookie: u32) -> Option<u32> {
    let slot = now >> SLOT_BITS;
    let is_of_now = (slot as u32 & 1) * AGE == cookie & AGE;
    let slot = slot.wrapping_sub(u64::from(!is_of_now));
    let hash = hash(key, tuple, syn, slot, cookie & REST);
    if (hash ^ cookie) & !REST == 0 {
        Some(cookie & SIZE)
    } else {
        None
    }
}

/// Bits that nobody can tell without the key.
#[inline(always)]
fn hash(key: [u64; 2], tuple: &FlowKey, syn: u32, slot: u64, rest: u32) -> u32 {
    sip(
        key[0],
        key[1],
        tuple,
        u64::from(syn) << 32 | u64::from(rest),
        slot,
    ) as u32
}

/// SipHash-2-4 of 56 bytes: the addresses, the ports and two more words. The ports are padded to a
/// word, so there is one way only to make these bytes.
#[inline(never)]
fn sip(k0: u64, k1: u64, tuple: &FlowKey, one: u64, two: u64) -> u64 {
    let mut state = Sip([
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]);
    let [a, b] = halves(&tuple.source);
    let [c, d] = halves(&tuple.destination);
    let ports = u64::from(u16::from_le_bytes(tuple.source_port)) << 16
        | u64::from(u16::from_le_bytes(tuple.destination_port));
    state.absorb(a);
    state.absorb(b);
    state.absorb(c);
    state.absorb(d);
    state.absorb(ports);
    state.absorb(one);
    state.absorb(two);
    // The length in bytes, in the last byte of the last word.
    state.absorb((7 * 8) << 56);
    state.finish()
}

struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    const fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }
}

#[cfg(test)]
mod tests;
