//! The connections of the program before this one.
//!
//! When the sizes of maps have changed, a daemon makes new ones, copies the connections, and puts this
//! program in the place of the one before. Connections that have begun in between are in the former
//! table alone, and their packets must not wait until the daemon has copied the rest. So for a program
//! that follows another one the connection table is both: what is not in its own is looked for in the
//! former one and, where it is there, taken over.
//!
//! Whether there is a former table is a constant that the loader writes. Where there is none, as nearly
//! always, the verifier finds nothing of this reachable and removes it.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::HashMap,
};
use lb_common::{FlowEntry, FlowKey};

use crate::maps::CONNECTIONS;

/// 1 when [`FORMER`] is the table of a former program; its name is [`lb_common::names::HAS_FORMER`].
#[unsafe(no_mangle)]
static LB_HAS_FORMER: Global<u8> = Global::new(0);

/// The former table, in whose place the loader puts it; else an empty one.
#[map]
static FORMER: HashMap<FlowKey, FlowEntry> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[inline(always)]
pub(crate) fn exists() -> bool {
    LB_HAS_FORMER.load() != 0
}

/// Takes a connection over, if the former table has it; whether it had.
#[inline(never)]
pub(crate) fn take_over(key: &FlowKey) -> bool {
    let Some(entry) = FORMER.get_ptr(key) else {
        return false;
    };
    // SAFETY: a pointer to a whole map value, valid while the program runs. The kernel copies it.
    let entry = unsafe { &*entry };
    // Another processor may have done the same; without room it is lost, like any other then.
    let _ = CONNECTIONS.insert(key, entry, BPF_NOEXIST as u64);
    true
}

/// Forgets a connection, so that nobody takes it over any more.
#[inline(never)]
pub(crate) fn forget(key: &FlowKey) -> bool {
    FORMER.remove(key).is_ok()
}
