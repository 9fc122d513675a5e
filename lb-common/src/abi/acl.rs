//! The source ACL: who may not send to VIPs.
//!
//! The rules are prefixes in a trie of the kernel's, where the longest one that holds an address
//! decides. Asking it costs more than all else that is done with most packets, and most sources are
//! nowhere near any prefix. So there are *marks*, bits by a hash of an address's beginning: a
//! source whose marks are both clear is in no prefix, and the trie is not asked. With a hundred
//! thousand prefixes one in twenty marks is set.

use super::{Address, halves, is_v4};

/// The most prefixes of the ACL.
pub const MAX_PREFIXES: u32 = 1 << 20;

/// Words of [`Acl::near`]; a power of two. They fill a quarter of a megabyte, which a processor's
/// second-level cache has room for.
pub const NEAR_WORDS: usize = 1 << 15;
/// Words of [`Acl::far`]; a power of two.
pub const FAR_WORDS: usize = 1 << 12;

/// [`Acl::flags`]: there are rules.
pub const ACL_ON: u64 = 1;
/// [`Acl::flags`]: a prefix of IPv6 is shorter than what marks tell apart, so the trie is asked for
/// every IPv6 source.
pub const ACL_WIDE_V6: u64 = 2;

/// What the trie says of a prefix: its addresses may send to VIPs.
pub const PREFIX_ALLOWED: u32 = 0;
/// What the trie says of a prefix: its addresses may not send to VIPs.
pub const PREFIX_DENIED: u32 = 1;

/// A prefix, as the kernel's trie has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Bits of the address that count; of an IPv4 prefix 96 more than one writes.
    pub length: u32,
    /// The address in words, in network byte order.
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<PrefixKey>() == 20);
const _: () = assert!(size_of::<Acl>() == 16 + 8 * (NEAR_WORDS + FAR_WORDS));

impl PrefixKey {
    /// The key of a prefix, or with all 128 bits that of an address that is looked up.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: &Address, length: u32) -> Self {
        let [a, b] = halves(address);
        Self {
            length,
            address: [
                (a as u32).to_le(),
                ((a >> 32) as u32).to_le(),
                (b as u32).to_le(),
                ((b >> 32) as u32).to_le(),
            ],
        }
    }
}

/// What is known of all rules together.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Acl {
    /// Moves after each change of a rule; what a processor remembers of a source is void then.
    pub epoch: u64,
    /// Bits `ACL_*`.
    pub flags: u64,
    /// A mark for each longer beginning of an address that a prefix has.
    pub near: [u64; NEAR_WORDS],
    /// The same for shorter ones. Apart, because they are few: two in twenty would be set else.
    pub far: [u64; FAR_WORDS],
}

impl core::fmt::Debug for Acl {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Acl")
            .field("epoch", &self.epoch)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl Acl {
    /// Whether the trie has to be asked for this source.
    #[must_use]
    pub fn suspects(&self, source: &Address) -> bool {
        let [near, far] = marks(source);
        let is_set = |marks: &[u64], mark: u32| marks[mark as usize / 64] >> (mark % 64) & 1 != 0;
        self.flags & ACL_ON != 0
            && (is_set(&self.near, near)
                || is_set(&self.far, far)
                || self.flags & ACL_WIDE_V6 != 0 && !is_v4(source))
    }

    /// Notes that there is a rule for the prefix of `length` bits (as [`PrefixKey::length`]) that
    /// begins with `address`.
    pub fn note(&mut self, address: &Address, length: u32) {
        let set = |marks: &mut [u64], mark: u32| marks[mark as usize / 64] |= 1 << (mark % 64);
        self.flags |= ACL_ON;
        let [near, far] = marks(address);
        // What the longer and the shorter of two marks need.
        let (longer, shorter) = if is_v4(address) { (120, 112) } else { (48, 32) };
        if length >= longer {
            set(&mut self.near, near);
        } else if length >= shorter {
            set(&mut self.far, far);
        } else if is_v4(address) {
            let first = u16::from_be_bytes([address[12], address[13]]);
            for more in 0..1u32 << (shorter - length) {
                let mut inside = *address;
                let [a, b] = (u32::from(first) + more).to_be_bytes()[2..] else {
                    continue;
                };
                (inside[12], inside[13]) = (a, b);
                set(&mut self.far, marks(&inside)[1]);
            }
        } else {
            self.flags |= ACL_WIDE_V6;
        }
    }
}

/// The two marks of an address: by its first 24 and 16 bits, or 48 and 32 of IPv6.
#[inline(always)]
#[must_use]
pub const fn marks(address: &Address) -> [u32; 2] {
    let [first, second] = halves(address);
    // The first bytes are the lowest. What counts is told apart by a byte that is beyond it.
    let (near, far) = if is_v4(address) {
        let v4 = second >> 32;
        (v4 & 0xff_ffff | 1 << 56, v4 & 0xffff | 2 << 56)
    } else {
        (
            first & 0xffff_ffff_ffff | 3 << 56,
            first & 0xffff_ffff | 4 << 56,
        )
    };
    [mark(near, NEAR_WORDS), mark(far, FAR_WORDS)]
}

#[inline(always)]
const fn mark(beginning: u64, words: usize) -> u32 {
    let bits = words.trailing_zeros() + 6;
    (beginning.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as u32
}

#[cfg(test)]
mod tests {
    use std::{boxed::Box, vec::Vec};

    use super::*;
    use crate::from_v4;

    fn acl() -> Box<Acl> {
        Box::new(Acl {
            epoch: 0,
            flags: 0,
            near: [0; NEAR_WORDS],
            far: [0; FAR_WORDS],
        })
    }

    fn six(text: &str) -> Address {
        text.parse::<std::net::Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn whoever_is_in_a_prefix_is_suspect_and_nearly_nobody_else() {
        for (address, length, inside, outside) in [
            (
                from_v4([192, 0, 2, 7]),
                128,
                from_v4([192, 0, 2, 7]),
                from_v4([192, 0, 3, 7]),
            ),
            (
                from_v4([192, 0, 2, 0]),
                120,
                from_v4([192, 0, 2, 9]),
                from_v4([192, 0, 3, 9]),
            ),
            (
                from_v4([10, 1, 0, 0]),
                112,
                from_v4([10, 1, 200, 1]),
                from_v4([10, 2, 0, 1]),
            ),
            (
                from_v4([10, 0, 0, 0]),
                104,
                from_v4([10, 255, 1, 1]),
                from_v4([11, 0, 1, 1]),
            ),
            (
                from_v4([0, 0, 0, 0]),
                96,
                from_v4([255, 255, 1, 1]),
                six("2001:db8::1"),
            ),
            (
                six("2001:db8:1::"),
                48,
                six("2001:db8:1::9"),
                six("2001:db8:2::9"),
            ),
            (
                six("2001:db8::"),
                33,
                six("2001:db8:7::9"),
                six("2001:db9:7::9"),
            ),
            (six("fc00::"), 7, six("fd12::9"), from_v4([10, 0, 0, 1])),
        ] {
            let mut acl = acl();
            assert!(!acl.suspects(&inside));
            acl.note(&address, length);
            assert!(acl.suspects(&inside), "{inside:?}");
            assert!(!acl.suspects(&outside), "{outside:?}");
        }
    }

    #[test]
    fn a_hundred_thousand_prefixes_leave_most_marks_clear() {
        let mut acl = acl();
        let mut random = 1u64;
        let mut next = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((random >> 33) as u32).to_be_bytes()
        };
        for _ in 0..100_000 {
            acl.note(&from_v4(next()), 120);
        }
        let sources: Vec<Address> = (0..100_000).map(|_| from_v4(next())).collect();
        let suspects = sources.iter().filter(|source| acl.suspects(source)).count();
        assert!((3000..7000).contains(&suspects), "{suspects}");
    }
}
