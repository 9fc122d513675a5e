//! Parts of map values, read and changed in place.

use core::ptr;

use lb_common::{
    ACL_WIDE_V6, Acl, Address, AddressFilter, FAR_WORDS, FILTER_WORDS, FlowKey, NEAR_WORDS,
    REPLY_WORDS, SLOTS, Table, filter_bit, is_v4, marks,
};

use lb_ebpf::opaque;

use crate::{
    atomic,
    maps::{ACL, CEILINGS, LIVE, TABLES},
};

/// Whether the filter is off, or has a bit of one of the ends.
#[inline(always)]
pub(crate) fn is_expected(filter: *const AddressFilter, key: &FlowKey) -> bool {
    let read = |words: *const u64, bit: u32, length: usize| {
        let word = opaque(u64::from(bit / 64)) as usize & (length - 1);
        // SAFETY: a word of a part of a map value; its place is below their number.
        unsafe { ptr::read(words.add(word)) >> (bit % 64) & 1 }
    };
    // SAFETY: fields of a map value, which the daemon writes word by word.
    let (replies, destinations, sources) = unsafe {
        (
            (&raw const (*filter).replies).cast(),
            (&raw const (*filter).destinations).cast(),
            (&raw const (*filter).sources).cast(),
        )
    };
    let to = filter_bit(&key.destination);
    // What is for a VIP is not to pay for the rest, not even for the line that the first fields lie in.
    if read(destinations, to, FILTER_WORDS) != 0 {
        return true;
    }
    // SAFETY: as above.
    let (is_on, first, last) = unsafe {
        (
            ptr::read_volatile(&raw const (*filter).is_on),
            ptr::read_volatile(&raw const (*filter).nat_port_first),
            ptr::read_volatile(&raw const (*filter).nat_port_last),
        )
    };
    let from = filter_bit(&key.source);
    let port = u64::from(u16::from_be_bytes(key.destination_port));
    // Joined without branches, which the verifier would go all ways of: a difference below zero has its
    // uppermost bit set.
    let below = port.wrapping_sub(u64::from(first));
    let above = u64::from(last).wrapping_sub(port);
    let is_port = !opaque(below | above) >> 63;
    let is_off = u64::from(is_on) ^ 1;
    let met = is_off | read(sources, from, FILTER_WORDS) | read(replies, to, REPLY_WORDS) & is_port;
    opaque(met) != 0
}

/// What is known of all rules of the source ACL, once there were any.
#[inline(always)]
pub(crate) fn acl() -> Option<*const Acl> {
    let acl = ACL.get_value_ptr_mut(0, &0)?;
    Some(acl.cast_const())
}

/// Whether one of the marks of a source is set. The parts are joined without branches, which the
/// verifier would go all ways of.
#[inline(always)]
pub(crate) fn is_marked(acl: *const Acl, flags: u64, source: &Address) -> bool {
    let read = |marks: *const u64, words: usize, mark: u32| {
        let word = opaque(u64::from(mark / 64)) as usize & (words - 1);
        // SAFETY: a word of a part of a map value; its place is below their number.
        unsafe { ptr::read(marks.add(word)) >> (mark % 64) }
    };
    // SAFETY: fields of a map value that the pointer is of.
    let (nears, fars) = unsafe {
        (
            (&raw const (*acl).near).cast(),
            (&raw const (*acl).far).cast(),
        )
    };
    let [near, far] = marks(source);
    let wide = u64::from(flags & ACL_WIDE_V6 != 0) & u64::from(!is_v4(source));
    (read(nears, NEAR_WORDS, near) | read(fars, FAR_WORDS, far) | wide) & 1 != 0
}

/// A value of one column of a table; 0 where there is none.
#[inline(always)]
pub(crate) fn column(table: u32, slot: u32, of: impl FnOnce(*const Table) -> *const u16) -> u16 {
    let Some(table) = TABLES.get_value_ptr_mut(table, &0) else {
        return 0;
    };
    let slot = opaque(u64::from(slot)) as usize;
    if slot >= SLOTS {
        return 0;
    }
    // SAFETY: the slot is in the table. The daemon writes spare tables only.
    unsafe { ptr::read(of(table).add(slot)) }
}

#[inline(always)]
pub(crate) fn ceiling(index: u16) -> u64 {
    CEILINGS.get(index as u32).copied().unwrap_or(0)
}

#[inline(always)]
pub(crate) fn add_live(index: u16, change: u64) {
    if let Some(live) = LIVE.get_ptr_mut(index as u32) {
        // SAFETY: a map value of eight aligned bytes; all writers are atomic.
        unsafe { atomic::add(live, change) }
    }
}
