//! The connections of the program before this one.
//!
//! When the sizes of maps have changed, or what is in them, a daemon makes new ones, copies the connections,
//! and puts this program in the place of the one before. Connections that have begun in between are in the
//! former table alone, and their packets must not wait until the daemon has copied the rest. So for a program
//! that follows another one the connection table is both: what is not in its own is looked for in the
//! former one and, where it is there, taken over.
//!
//! The former table may have been made by another version, with other structures. Where its fields are the
//! loader has written into constants ([`lb_common::layout`]), of which the verifier knows the values, so it
//! checks each access as if it had been compiled in.
//!
//! Whether there is a former table is a constant as well. Where there is none, as nearly always, the verifier
//! finds nothing of this reachable and removes it.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use lb_common::{
    Address, FlowEntry, FlowKey, halves,
    layout::{FORMER_KEY, FORMER_PLACES, MAX_FORMER_KEY, OUR_PLACES, Place},
};

use crate::maps::CONNECTIONS;

/// 1 when [`FORMER`] is the table of a former program; its name is [`lb_common::names::HAS_FORMER`].
#[unsafe(no_mangle)]
static LB_HAS_FORMER: Global<u8> = Global::new(0);

/// Where the fields are in keys and entries of [`FORMER`]: where they are in ours, unless the loader says
/// otherwise. Its name is [`lb_common::names::FORMER_PLACES`].
#[unsafe(no_mangle)]
static LB_FORMER_PLACES: [Global<Place>; FORMER_PLACES] = {
    let mut places = [const { Global::new(Place { at: 0, size: 0 }) }; FORMER_PLACES];
    let mut at = 0;
    while at < FORMER_PLACES {
        places[at] = Global::new(OUR_PLACES[at]);
        at += 1;
    }
    places
};

/// The former table, in whose place the loader puts it; else an empty one.
#[map]
static FORMER: HashMap<[u64; KEY_WORDS], FlowEntry> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// A key and an entry that are translated: the stack has no room for them.
#[map]
static TRANSLATION: PerCpuArray<Translation> = PerCpuArray::with_max_entries(1, 0);

// What addresses are copied by.
const _: () = assert!(
    core::mem::offset_of!(FlowEntry, source).is_multiple_of(8)
        && core::mem::offset_of!(FlowEntry, destination).is_multiple_of(8)
);

const KEY_WORDS: usize = MAX_FORMER_KEY / size_of::<u64>();

#[repr(C)]
struct Translation {
    /// As the former table wants it.
    key: [u64; KEY_WORDS],
    /// As ours does.
    entry: FlowEntry,
}

#[inline(always)]
pub(crate) fn exists() -> bool {
    LB_HAS_FORMER.load() != 0
}

/// Takes a connection over, if the former table has it; whether it had.
#[inline(never)]
pub(crate) fn take_over(key: &FlowKey) -> bool {
    let Some(translation) = TRANSLATION.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this processor's element, which nothing else uses; the key that is looked for is in it. What
    // is found is valid while the program runs, and the loader has checked that the places are in it.
    unsafe {
        write_key(key, &raw mut (*translation).key);
        let Some(found) = FORMER.get_ptr(&(*translation).key) else {
            return false;
        };
        if !read_entry(found.cast(), &raw mut (*translation).entry) {
            return false;
        }
        // Another processor may have done the same; without room it is lost, like any other then.
        let _ = CONNECTIONS.insert(key, &(*translation).entry, BPF_NOEXIST as u64);
    }
    true
}

/// Forgets a connection, so that nobody takes it over any more.
#[inline(never)]
pub(crate) fn forget(key: &FlowKey) -> bool {
    let Some(translation) = TRANSLATION.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as above.
    unsafe {
        write_key(key, &raw mut (*translation).key);
        FORMER.remove(&(*translation).key).is_ok()
    }
}

/// Writes a key as the former table wants it.
///
/// # Safety
/// Nobody else may use what `into` points to, and places of keys must be below [`MAX_FORMER_KEY`].
#[inline(always)]
unsafe fn write_key(key: &FlowKey, into: *mut [u64; KEY_WORDS]) {
    let to = into.cast::<u8>();
    // SAFETY: the caller's promise.
    unsafe {
        *into = [0; KEY_WORDS];
        write_address::<0>(to, &key.source);
        write_address::<1>(to, &key.destination);
        write_number::<2>(to, u16::from_ne_bytes(key.source_port).into());
        write_number::<3>(to, u16::from_ne_bytes(key.destination_port).into());
        write_number::<4>(to, key.protocol.into());
    }
}

/// Reads an entry of the former table; whether it could be read, that is, no number is too large for ours.
///
/// # Safety
/// `from` must point to such an entry, and places must be in it; nobody else may use what `into` points to.
#[inline(always)]
unsafe fn read_entry(from: *const u8, into: *mut FlowEntry) -> bool {
    const AT: usize = FORMER_KEY.len();
    // SAFETY: the caller's promise.
    unsafe {
        put(&raw mut (*into).last_seen, number::<{ AT }>(from));
        read_address::<{ AT + 1 }>(from, &raw mut (*into).source);
        read_address::<{ AT + 2 }>(from, &raw mut (*into).destination);
        let port = number::<{ AT + 3 }>(from) as u16;
        put((&raw mut (*into).source_port).cast(), port);
        let port = number::<{ AT + 4 }>(from) as u16;
        put((&raw mut (*into).destination_port).cast(), port);
        let instance = number::<{ AT + 5 }>(from);
        put(&raw mut (*into).instance, instance as u16);
        let mut above = instance >> 16;
        let generation = number::<{ AT + 6 }>(from);
        put(&raw mut (*into).generation, generation as u16);
        above |= generation >> 16;
        let state = number::<{ AT + 7 }>(from);
        put(&raw mut (*into).state, state as u32);
        above |= state >> 32;
        let vip = number::<{ AT + 8 }>(from);
        put(&raw mut (*into).vip, vip as u16);
        above |= vip >> 16;
        let direction = number::<{ AT + 9 }>(from);
        put(&raw mut (*into).direction, direction as u8);
        above |= direction >> 8;
        let forward = number::<{ AT + 10 }>(from);
        put(&raw mut (*into).forward, forward as u8);
        above | forward >> 8 == 0
    }
}

/// Writes one field after the other: left to itself, the compiler reads many of them first, and keeps them on
/// a stack that has no room.
///
/// # Safety
/// As for [`ptr::write_volatile`].
#[inline(always)]
unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_volatile(to, value) }
}

/// An integer of the width that it has there.
///
/// # Safety
/// The place `I` must be in what `from` points to, and aligned.
#[inline(always)]
unsafe fn number<const I: usize>(from: *const u8) -> u64 {
    let Place { at, size } = LB_FORMER_PLACES[I].load();
    // SAFETY: the caller's promise.
    unsafe {
        let from = from.add(at as usize);
        match size {
            1 => *from as u64,
            2 => *from.cast::<u16>() as u64,
            4 => *from.cast::<u32>() as u64,
            8 => *from.cast::<u64>(),
            _ => 0,
        }
    }
}

/// # Safety
/// As for [`number`], and `into` must be aligned to eight bytes.
#[inline(always)]
unsafe fn read_address<const I: usize>(from: *const u8, into: *mut Address) {
    let Place { at, size } = LB_FORMER_PLACES[I].load();
    let into = into.cast::<u64>();
    // SAFETY: the caller's promise.
    unsafe {
        let from = from.add(at as usize).cast::<u64>();
        if size as usize == size_of::<Address>() {
            put(into, *from);
            put(into.add(1), *from.add(1));
        } else {
            put(into, 0);
            put(into.add(1), 0);
        }
    }
}

/// # Safety
/// As for [`number`].
#[inline(always)]
unsafe fn write_number<const I: usize>(to: *mut u8, value: u64) {
    let Place { at, size } = LB_FORMER_PLACES[I].load();
    // SAFETY: the caller's promise.
    unsafe {
        let to = to.add(at as usize);
        match size {
            1 => put(to, value as u8),
            2 => put(to.cast(), value as u16),
            4 => put(to.cast(), value as u32),
            8 => put(to.cast(), value),
            _ => {}
        }
    }
}

/// # Safety
/// As for [`number`].
#[inline(always)]
unsafe fn write_address<const I: usize>(to: *mut u8, value: &Address) {
    let Place { at, .. } = LB_FORMER_PLACES[I].load();
    let [first, second] = halves(value);
    // SAFETY: the caller's promise.
    unsafe {
        let to = to.add(at as usize).cast::<u64>();
        put(to, first.to_le());
        put(to.add(1), second.to_le());
    }
}
