//! Bytes of packets, which the verifier lets be touched behind a comparison only that it understands.

use lb_ebpf::{Header, packet::MAX_OFFSET};

/// The address of `H` at `offset` of the bytes from `start` to `end`, if it lies there as a whole.
#[inline(always)]
pub(crate) fn place<H: Header>(start: usize, end: usize, offset: usize) -> Option<*mut H> {
    // The compiler turns `start + 1 > end` into `start >= end`, from which the verifier learns
    // nothing.
    const { assert!(size_of::<H>() > 1, "a header has two bytes at least") };
    // Without a limit the verifier cannot follow `data + offset`.
    if offset > MAX_OFFSET {
        return None;
    }
    let start = start + offset;
    if start + size_of::<H>() > end {
        return None;
    }
    Some(start as *mut H)
}
