//! Atomic changes of map values.
//!
//! The target has atomic instructions, but `core` does not offer them for it, because the oldest
//! BPF instruction set has none that return a value. They are in the kernel since 5.12.

use core::arch::asm;

/// Adds to `place` without returning anything.
///
/// # Safety
///
/// `place` must be a valid, aligned map value that is only changed atomically.
#[inline(always)]
pub(crate) unsafe fn add(place: *mut u64, change: u64) {
    // SAFETY: the caller guarantees the place; the instruction touches nothing else.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) += {change}",
            place = in(reg) place,
            change = in(reg) change,
            options(nostack),
        );
    }
}

/// Adds to `place` and returns its value as it was before.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(place: *mut u64, change: u64) -> u64 {
    let mut value = change;
    // SAFETY: the caller guarantees the place; the instruction touches nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({place} + 0), {value})",
            place = in(reg) place,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// Clears bits of `place`.
///
/// # Safety
///
/// As for [`fetch_or`].
#[inline(always)]
pub(crate) unsafe fn clear(place: *mut u32, bits: u32) {
    let keep = !(bits as u64);
    // SAFETY: the caller guarantees the place; the instruction touches nothing else.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) &= {keep}",
            place = in(reg) place,
            keep = in(reg) keep,
            options(nostack),
        );
    }
}

/// Makes `new` of `place`, if it is `old`; returns what it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn compare_exchange(place: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    // SAFETY: the caller guarantees the place; the instruction touches nothing else.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inout("r0") found,
            options(nostack),
        );
    }
    found
}

/// Sets bits of `place` and returns its value as it was before.
///
/// The instruction for 32 bits needs registers that the compiler offers as an unstable feature
/// only, so this one takes the 64 bits that begin at `place` and leaves the upper half alone.
///
/// # Safety
///
/// As for [`add`], and eight aligned bytes must begin at `place`.
#[inline(always)]
pub(crate) unsafe fn fetch_or(place: *mut u32, bits: u32) -> u32 {
    const {
        assert!(
            cfg!(target_endian = "little"),
            "the lower half must come first"
        )
    };
    let mut value = bits as u64;
    // SAFETY: the caller guarantees the place; the instruction touches nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_or((u64 *)({place} + 0), {value})",
            place = in(reg) place,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value as u32
}
