//! Internet checksums, changed incrementally.
//!
//! RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`, in one's complement arithmetic. The sum does not
//! depend on byte order (RFC 1071, 2 B) nor on the width of its words as long as the width is a
//! multiple of 16 bits, so words are taken as they lie in memory and four bytes at a time.

use lb_common::{Address, halves};

/// What a change of header fields adds to the one's complement sum: `~m + m'` of each changed word,
/// not folded yet. 64 bits hold the sums of four thousand million words, far more than any header
/// has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(u64);

impl Difference {
    /// No change.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A changed pair of bytes, at an even offset from the beginning of the header.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_ne_bytes(old)) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// A changed address. The prefix of mapped IPv4 addresses is not in the packet, but is the same
    /// before and after, and `m + ~m` is zero in one's complement.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: &Address, new: &Address) -> Self {
        let ([a, b], [c, d]) = (halves(old), halves(new));
        Self(self.0 + sum(!a.to_le()) + sum(!b.to_le()) + sum(c.to_le()) + sum(d.to_le()))
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a sum of 32 bits, as the kernel keeps them.
    #[inline(always)]
    #[must_use]
    pub const fn word32(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// The checksum after the change, given the checksum before.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = self.0 + (!u16::from_ne_bytes(checksum)) as u64;
        (!fold(sum)).to_ne_bytes()
    }

    /// As [`Self::apply`], for UDP, in which a checksum of zero means that there is none and a
    /// checksum that comes out as zero is sent as all ones (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(checksum) == 0 {
            return checksum;
        }
        match u16::from_ne_bytes(self.apply(checksum)) {
            0 => [0xff; 2],
            changed => changed.to_ne_bytes(),
        }
    }
}

/// The one's complement sum of what is checksummed, not folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A pair of bytes at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(word) as u64)
    }

    /// Two pairs of bytes.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, words: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(words) as u64)
    }

    /// What both are the sums of.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Takes away a pair of bytes: the other way to say that its complement is added.
    #[inline(always)]
    #[must_use]
    pub const fn less(self, word: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_ne_bytes(word)) as u64)
    }

    /// An address. The prefix of a mapped IPv4 address, which is not in the packet, sums up to
    /// 0xffff, and that is zero in one's complement.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, address: &Address) -> Self {
        let [a, b] = halves(address);
        Self(self.0 + sum(a.to_le()) + sum(b.to_le()))
    }

    /// Takes away an address.
    #[inline(always)]
    #[must_use]
    pub const fn less_address(self, address: &Address) -> Self {
        let [a, b] = halves(address);
        Self(self.0 + sum(!a.to_le()) + sum(!b.to_le()))
    }

    /// The checksum.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }

    /// The sum of this without another one that is part of it.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, part: Self) -> Self {
        Self(self.0 + (!fold(part.0)) as u64)
    }

    /// The sum itself, which is what is in the place of a checksum that is still to be made.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> [u8; 2] {
        fold(self.0).to_ne_bytes()
    }

    /// The checksum of UDP, where zero would mean that there is none (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn checksum_udp(self) -> [u8; 2] {
        match u16::from_ne_bytes(self.checksum()) {
            0 => [0xff; 2],
            sum => sum.to_ne_bytes(),
        }
    }
}

/// The sum of two words of 32 bits.
#[inline(always)]
const fn sum(words: u64) -> u64 {
    (words & 0xffff_ffff) + (words >> 32)
}

/// Folds a sum into 16 bits with end-around carry.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum from scratch, two bytes at a time.
    fn whole(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_the_standard() {
        // RFC 1624, 4: the word 0x5555 becomes 0x3285 and the checksum 0xdd2f becomes 0x0000.
        let difference = Difference::none().word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(difference.apply([0xdd, 0x2f]), [0, 0]);
        assert_eq!(difference.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
        assert_eq!(difference.apply_udp([0, 0]), [0, 0]);
    }

    proptest! {
        #[test]
        fn incremental_is_the_same_as_from_scratch(
            mut bytes in prop::collection::vec(any::<u8>(), 64..1500),
            source: [u8; 16],
            destination: [u8; 16],
            word: [u8; 2],
        ) {
            // All zero has two checksums; no packet is.
            bytes[63] |= 1;
            let before = whole(&bytes);
            let old_source: [u8; 16] = bytes[..16].try_into().unwrap();
            let old_destination: [u8; 16] = bytes[16..32].try_into().unwrap();
            let old_word = [bytes[40], bytes[41]];
            bytes[..16].copy_from_slice(&source);
            bytes[16..32].copy_from_slice(&destination);
            bytes[40..42].copy_from_slice(&word);
            let difference = Difference::none()
                .address(&old_source, &source)
                .address(&old_destination, &destination)
                .word(old_word, word);
            prop_assert_eq!(difference.apply(before), whole(&bytes));
        }

        #[test]
        fn what_is_taken_away_leaves_no_trace(
            address: [u8; 16],
            four: [u8; 4],
            words: [u8; 4],
            word: [u8; 2],
        ) {
            let mut plain = words.to_vec();
            plain.extend_from_slice(&word);
            plain.push(1);
            plain.push(0);
            let of = Sum::none().words(words).word(word).word([1, 0]);
            prop_assert_eq!(of.checksum(), whole(&plain));
            let there_and_back = of.address(&address).less_address(&address).word(word).less(word);
            prop_assert_eq!(there_and_back.checksum(), whole(&plain));
            plain.extend_from_slice(&four);
            prop_assert_eq!(of.address(&lb_common::from_v4(four)).checksum(), whole(&plain));
        }

        #[test]
        fn the_prefix_of_mapped_addresses_does_not_count(old: [u8; 4], new: [u8; 4], sum: [u8; 2]) {
            let mapped = Difference::none()
                .address(&lb_common::from_v4(old), &lb_common::from_v4(new));
            let plain = Difference::none()
                .word([old[0], old[1]], [new[0], new[1]])
                .word([old[2], old[3]], [new[2], new[3]]);
            prop_assert_eq!(mapped.apply(sum), plain.apply(sum));
        }
    }
}
