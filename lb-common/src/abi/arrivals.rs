//! How fast new connections may begin.

use super::{Address, MAX_VIPS};

/// Sets of buckets of sources; a power of two.
pub const SOURCE_SETS: u32 = 1 << 14;
/// Buckets of a set: with eight bytes each they are half a line of the cache.
pub const SOURCE_WAYS: usize = 4;

/// Words that belong to services, each by [`Arrivals::bucket`]: buckets of new connections first.
pub const BUCKETS: u32 = MAX_VIPS * 3;
/// Where among them the buckets begin that say whether SYNs are answered by cookies.
pub const COOKIE_PACES: u32 = MAX_VIPS;
/// Where the words begin that say when a cookie was sent last, in `CLOCK_MONOTONIC` nanoseconds; they
/// are behind the truth by a little.
pub const COOKIE_TIMES: u32 = MAX_VIPS * 2;

/// Nanoseconds of the unit of [`Arrivals::source_interval`] and [`Arrivals::source_window`].
pub const SOURCE_UNIT_NS: u64 = 16;

/// How fast new connections of a VIP may begin, and from where.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Nanoseconds for which a new connection of the service takes its bucket; 0: no limit.
    pub interval: u64,
    /// Nanoseconds that the bucket is worth when it is full.
    pub window: u64,
    /// The same for each source, in units of [`SOURCE_UNIT_NS`]; 0: no limit.
    pub source_interval: u64,
    /// What a source's bucket is worth when it is full.
    pub source_window: u64,
    /// Nanoseconds between two SYNs of the service at the rate above which they are answered by cookies;
    /// 0: none ever is.
    pub cookie_interval: u64,
    /// Nanoseconds by which SYNs may come too early before they are; 0: all are.
    pub cookie_window: u64,
    /// What sources are hashed with, so that nobody can know which ones share a set.
    pub seed: u64,
    /// Bits of an IPv4 address, mapped, that tell sources apart.
    pub mask_v4: Address,
    /// The same of an IPv6 address.
    pub mask_v6: Address,
    /// Index of the service's bucket, below [`super::MAX_VIPS`]. VIPs of one service share it.
    pub bucket: u32,
    /// Always zero.
    pub pad: u32,
}

/// The buckets of sources whose hashes fall together; see `arrivals.rs` of the packet library for what
/// a word holds.
pub type SourceSet = [u64; SOURCE_WAYS];

const _: () = assert!(size_of::<Arrivals>() == 96);
