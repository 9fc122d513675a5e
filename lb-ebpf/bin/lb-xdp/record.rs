//! Flow events: [`lb_ebpf::record`] over a ring buffer.
//!
//! Whether somebody follows is a variable of the program, because reading one is a single load without
//! a look-up. It does not say yes or no but until when, as the clock has it: a daemon that is killed
//! leaves it as it is, and the first packet after that time sets it back.

use core::{cell::UnsafeCell, mem::MaybeUninit, ptr};

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, RingBuf},
};
use lb_common::{
    Counter, EVENT_BYTES, EVENT_NEW, EVENTS_PER_SECOND, FlowEvent, Followers, MAX_FOLLOWERS,
};
use lb_ebpf::{
    Scratch, Tables as _, opaque,
    record::{Whose, is_sample, wants},
};

use crate::{atomic, hook::Hook, tables::Maps};

/// Bytes of [`FLOW_EVENTS`]: some two thousand events, which is what comes in while the daemon does
/// something else for a tenth of a second. It is there whether anybody follows or not.
const RING: u32 = 512 << 10;

/// A variable that the daemon writes too.
#[repr(transparent)]
struct Until(UnsafeCell<u64>);

// SAFETY: eight aligned bytes, which the program reads as a whole and writes atomically.
unsafe impl Sync for Until {}

/// [`lb_common::names::MAP_FOLLOWED`].
#[unsafe(no_mangle)]
static LB_FOLLOWED: Until = Until(UnsafeCell::new(0));

/// Not pinned, as [`crate::maps::CEILINGS`].
#[map]
static FOLLOWERS: Array<Followers> = Array::with_max_entries(1, 0);

/// Not pinned, as [`crate::maps::CEILINGS`].
#[map]
static FLOW_EVENTS: RingBuf = RingBuf::with_byte_size(RING, 0);

/// Whether somebody follows packets.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    until() != 0
}

#[inline(always)]
fn until() -> u64 {
    // SAFETY: a variable of the program's; see its type.
    unsafe { ptr::read_volatile(LB_FOLLOWED.0.get()) }
}

/// Writes down what became of a packet, if somebody wants to see it: [`Scratch::fate`].
#[inline(always)]
pub(crate) fn record(context: &impl Hook, maps: &Maps<'_>, scratch: &mut Scratch) {
    let until = until();
    // The exact time is for those packets alone that somebody wants.
    let now = maps.now();
    if now >= until {
        // Unless the daemon has just moved it on.
        //
        // SAFETY: a variable of the program's; see its type.
        unsafe { atomic::compare_exchange(LB_FOLLOWED.0.get(), until, 0) };
        return;
    }
    let whose = maps.whose();
    let followers = followers(scratch, whose);
    if followers == 0 {
        return;
    }
    if !maps.may_record(now, EVENTS_PER_SECOND) {
        maps.count(Counter::FlowsLost);
        return;
    }
    let Some(mut entry) = FLOW_EVENTS.reserve::<FlowEvent>(0) else {
        maps.count(Counter::FlowsLost);
        return;
    };
    write(context, maps, scratch, (whose, followers), &mut entry);
    entry.submit(0);
    maps.count(Counter::FlowsRecorded);
}

/// A bit for each follower who wants to see the packet. They are gathered in memory of which the verifier
/// knows nothing: known, each set of them would be a way of its own through all that follows.
#[inline(always)]
fn followers(scratch: &mut Scratch, whose: Whose) -> u32 {
    scratch.followers = 0;
    let Some(all) = FOLLOWERS.get(0) else {
        return 0;
    };
    for place in 0..MAX_FOLLOWERS {
        // One of a place that is being written is anybody's for this one packet.
        let follower = &all.places[place as usize];
        if !wants(follower, &scratch.fate, whose, &scratch.key) {
            continue;
        }
        // SAFETY: a helper without arguments.
        if !is_sample(follower, || unsafe { bpf_get_prandom_u32() }) {
            continue;
        }
        // SAFETY: a field of this processor's memory. Volatile, so that it stays there.
        unsafe {
            let followers = &raw mut scratch.followers;
            ptr::write_volatile(followers, ptr::read_volatile(followers) | 1 << place);
        }
    }
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const scratch.followers) }
}

#[inline(always)]
fn write(
    context: &impl Hook,
    maps: &Maps<'_>,
    scratch: &Scratch,
    (whose, followers): (Whose, u32),
    entry: &mut MaybeUninit<FlowEvent>,
) {
    let event = entry.as_mut_ptr();
    let length = context.length();
    let captured = opaque(u64::from(length).min(EVENT_BYTES as u64));
    let generation = maps
        .instance(whose.index)
        .map_or(0, |instance| instance.generation);
    // SAFETY: fields of memory that the ring has given us, all of which are written but for bytes that
    // no packet has; and helpers, one without arguments, one that writes as many bytes there as fit.
    unsafe {
        (*event).time = bpf_ktime_get_ns();
        (*event).key = scratch.key;
        (*event).counter = scratch.fate.counter;
        (*event).followers = followers;
        (*event).interface = context.interface();
        (*event).out = scratch.fate.out;
        (*event).length = length;
        (*event).vip = whose.vip;
        (*event).index = whose.index;
        (*event).generation = generation;
        (*event).flags = if whose.begun == 0 { 0 } else { EVENT_NEW };
        (*event).captured = 0;
        if captured > EVENT_BYTES as u64 {
            return;
        }
        // Hidden once more: the compiler makes one comparison of the two, of another register than the one that
        // the helper gets.
        let captured = opaque(captured);
        let bytes = (&raw mut (*event).bytes).cast();
        if captured > 0 && context.load(bytes, captured as u32) {
            (*event).captured = captured as u32;
        }
    }
}
