//! An element of the connection table in place.

use core::ptr;

use lb_common::{FlowEntry, NextHop, Splice};
use lb_ebpf::{Flow, Hop};

use crate::atomic;

/// An element of the connection table.
///
/// It may be removed while the program holds it. The kernel keeps its memory until the program has
/// ended, though it may give it to another connection of the same table by then, as with every
/// BPF hash map; a packet in flight at that moment meets the new owner's entry.
pub(crate) struct MapFlow(pub(crate) *mut FlowEntry);

impl Flow for MapFlow {
    #[inline(always)]
    fn entry(&self) -> FlowEntry {
        // SAFETY: a pointer to a whole map value, valid while the program runs.
        unsafe { ptr::read(self.0) }
    }

    #[inline(always)]
    fn touch(&self, now: u64) {
        // SAFETY: as above; eight aligned bytes are written at once.
        unsafe { ptr::write_volatile(&raw mut (*self.0).last_seen, now) }
    }

    #[inline(always)]
    fn set_state(&self, bits: u32) -> u32 {
        // SAFETY: as above; all writers of the field are atomic, and the assertion below this block
        // says that it begins eight aligned bytes.
        unsafe { atomic::fetch_or(&raw mut (*self.0).state, bits) }
    }

    #[inline(always)]
    fn clear_state(&self, bits: u32) {
        // SAFETY: as above.
        unsafe { atomic::clear(&raw mut (*self.0).state, bits) }
    }

    #[inline(always)]
    fn splice(&self) -> Splice {
        // SAFETY: as above: the eight aligned bytes that begin there are read at once.
        Splice(unsafe { ptr::read_volatile((&raw const (*self.0).state).cast()) })
    }

    #[inline(always)]
    fn change_splice(&self, old: Splice, new: Splice) -> bool {
        // SAFETY: as above.
        let place = unsafe { &raw mut (*self.0).state }.cast();
        // SAFETY: as above.
        unsafe { atomic::compare_exchange(place, old.0, new.0) == old.0 }
    }
}

// What `atomic::fetch_or` asks of the field.
const _: () = assert!(core::mem::offset_of!(FlowEntry, state) % 8 == 0);

/// The way to an instance in place.
#[derive(Clone, Copy)]
pub(crate) struct MapHop(pub(crate) *const NextHop);

impl Hop for MapHop {
    #[inline(always)]
    fn get(&self) -> NextHop {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe { ptr::read(self.0) }
    }
}
