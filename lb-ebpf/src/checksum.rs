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
