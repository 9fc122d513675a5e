//! Values that the compiler knows nothing of.

/// Gives `value` back and hides where it comes from. For the kernel: the compiler otherwise proves a
/// comparison superfluous that the verifier, who knows less arithmetic, insists on, or writes in pieces what
/// was put together of pieces.
#[inline(always)]
#[must_use]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: copies a register to itself. Without any instruction at all, the debug information
        // would name the same place twice, which the kernel refuses.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
        value
    };
    value
}
