//! Words about dropped packets, for whoever looks for a reason: at most one a second for each reason
//! and processor.
//!
//! The level is a constant that the loader writes before the verifier looks. While it is off, which
//! it is unless `datapath.log` says otherwise, the verifier finds nothing of this reachable and
//! removes it, so it costs nothing.

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_coarse_ns, macros::map, maps::PerCpuArray};
use aya_log_ebpf::{
    macro_support::{Level, level_enabled},
    warn,
};
use lb_common::{COUNTER_COUNT, Counter};

/// Shortest time between two logs of the same reason, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;

/// When each reason was logged last.
#[map]
static LOGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT as u32, 0);

/// Logs that a packet was dropped.
#[inline(always)]
pub(crate) fn dropped(context: &impl EbpfContext, reason: Counter) {
    if level_enabled(Level::Warn) {
        log(context, reason as u32);
    }
}

/// Out of line, to spare the stack of the packet path.
#[inline(never)]
fn log(context: &impl EbpfContext, reason: u32) {
    let Some(logged) = LOGGED.get_ptr_mut(reason) else {
        return;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: this processor's element, which nothing else writes.
    let logged = unsafe { &mut *logged };
    if now.wrapping_sub(*logged) >= PAUSE {
        *logged = now;
        warn!(context, "packet dropped, reason {}", reason);
    }
}
