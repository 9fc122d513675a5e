//! What routers have said of the ways to instances.

/// Nanoseconds for which what a router has said holds: ten minutes, as RFC 1191 (6.3) and RFC 8201 (4) recommend.
pub const PATH_MTU_HOLDS: u64 = 600_000_000_000;

/// The MTU of the path to an instance behind a tunnel. All zero: nothing was said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathMtu {
    /// `CLOCK_MONOTONIC` nanoseconds until which it holds.
    pub until: u64,
    /// Largest IP packet that the path takes, in bytes.
    pub mtu: u32,
    /// Always zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<PathMtu>() == 16);
