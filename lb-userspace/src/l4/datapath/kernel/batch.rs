//! Reading a hash map in bulk: `BPF_MAP_LOOKUP_BATCH`, which aya does not offer.
//!
//! One call returns hundreds of entries where a walk by keys takes two calls each, and the cursor
//! is a bucket, so that removing entries on the way does not derail the walk.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`, `linux/bpf.h`.
const LOOKUP_BATCH: libc::c_long = 24;

/// Entries asked for at a time. Doubled while a single bucket holds more.
const START: usize = 512;
const MOST: usize = 1 << 16;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Appends the next entries of the hash map `map` to `into`; returns where to go on, or `None` at
/// the end.
///
/// # Errors
/// What the system says.
pub(super) fn lookup<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    into: &mut Vec<(K, V)>,
) -> io::Result<Option<u32>> {
    let mut room = START;
    loop {
        match lookup_at_most(map, from, room, into) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < MOST => room *= 2,
            result => return result,
        }
    }
}

fn lookup_at_most<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    room: usize,
    into: &mut Vec<(K, V)>,
) -> io::Result<Option<u32>> {
    let mut keys = vec![K::default(); room];
    let mut values = vec![V::default(); room];
    let from_bucket = from.unwrap_or_default();
    let mut next_bucket = 0u32;
    let address = |pointer: *const u8| pointer as u64;
    let mut attributes = Attributes {
        in_batch: if from.is_some() {
            address((&raw const from_bucket).cast())
        } else {
            0
        },
        out_batch: address((&raw mut next_bucket).cast_const().cast()),
        keys: address(keys.as_mut_ptr().cast_const().cast()),
        values: address(values.as_mut_ptr().cast_const().cast()),
        count: room as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Attributes::default()
    };
    // SAFETY: `attributes` is laid out as the kernel's `union bpf_attr` for this command and
    // outlives the call. `keys` and `values` have room for `count` elements, and K and V are what
    // the caller made the map of, whose sizes were checked when it was opened; any bytes make a
    // valid `Pod`. Both buckets are `u32`s, as hash maps have them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LOOKUP_BATCH,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let is_end = match (result, io::Error::last_os_error()) {
        (0.., _) => false,
        (_, error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        (_, error) => return Err(error),
    };
    let count = (attributes.count as usize).min(room);
    into.extend(keys.into_iter().zip(values).take(count));
    Ok((!is_end).then_some(next_bucket))
}
