//! The commands of `bpf(2)` that aya does not offer, and opening a pinned link for one of them.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;

/// Values of `enum bpf_cmd`, `linux/bpf.h`.
const MAP_LOOKUP: libc::c_long = 1;
const MAP_DELETE: libc::c_long = 3;
const OBJ_GET: libc::c_long = 7;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_DETACH: libc::c_long = 34;

/// Calls `bpf(2)`.
///
/// # Safety
/// `attributes` must be laid out as the part of `union bpf_attr` that `command` takes, and what it
/// points to must be valid for the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the size is that of what is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `BPF_OBJ_*`.
#[repr(C)]
#[derive(Default)]
struct ObjectAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `BPF_LINK_DETACH`.
#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    link_fd: u32,
}

/// Takes the program off that a pinned link has attached. When this returns it is off; removing the
/// pin alone leaves that to a work queue of the kernel, which may be slower than whoever attaches
/// the next program.
///
/// # Errors
/// What the system says.
pub(super) fn detach_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut object = ObjectAttributes {
        pathname: path.as_ptr() as u64,
        ..ObjectAttributes::default()
    };
    // SAFETY: the attributes of BPF_OBJ_GET; the path is a string that outlives the call.
    let descriptor = unsafe { bpf(OBJ_GET, &mut object) }?;
    // SAFETY: the call has made this descriptor for nobody but us.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    let mut attributes = LinkAttributes {
        link_fd: link.as_raw_fd() as u32,
    };
    // SAFETY: the attributes of BPF_LINK_DETACH; the descriptor is open.
    unsafe { bpf(LINK_DETACH, &mut attributes) }.map(drop)
}

/// `BPF_MAP_*_ELEM`.
#[repr(C)]
#[derive(Default)]
struct ElementAttributes {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Entries asked for at a time. Doubled while a single bucket holds more.
const START: usize = 512;
const MOST: usize = 1 << 16;

/// Appends the next entries of the hash map `map` to `into`; returns where to go on, or `None` at
/// the end.
///
/// One call returns hundreds of entries where a walk by keys takes two calls each, and the cursor
/// is a bucket, so that removing entries on the way does not derail the walk.
///
/// # Errors
/// What the system says.
pub(super) fn lookup_batch<K: Pod + Default, V: Pod + Default>(
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

/// All entries of a hash map of such keys and values.
///
/// # Errors
/// As [`lookup_batch`].
pub(super) fn lookup_all<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
) -> io::Result<Vec<(K, V)>> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        from = lookup_batch(map, from, &mut all)?;
        if from.is_none() {
            return Ok(all);
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
    // SAFETY: both have room for as many entries, and K and V are what the caller made the map of.
    let (count, next) = unsafe { read(map, from, &mut keys, &mut values, room) }?;
    into.extend(keys.into_iter().zip(values).take(count));
    Ok(next)
}

/// Reads the next entries of a hash map whose keys and values have these sizes; says how many there are
/// in `keys` and `values` then, and where to go on, or `None` at the end.
///
/// # Safety
/// The map must have been made with keys and values of these sizes, the latter as they are padded and
/// repeated for processors.
///
/// # Errors
/// What the system says.
pub(super) unsafe fn lookup_bytes(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    (key_size, value_size): (usize, usize),
    keys: &mut Vec<u8>,
    values: &mut Vec<u8>,
) -> io::Result<(usize, Option<u32>)> {
    let mut room = START;
    loop {
        keys.resize(room * key_size, 0);
        values.resize(room * value_size, 0);
        // SAFETY: there is room for so many entries of the sizes that the caller vouches for.
        match unsafe { read(map, from, keys, values, room) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < MOST => room *= 2,
            result => return result,
        }
    }
}

/// Reads the next `room` elements of `map`; says how many there were and where to go on, `None` after the
/// last one: at a bucket of a hash map, after a key of an array.
///
/// # Safety
/// `keys` and `values` must have room for those of so many elements, as the map was made.
unsafe fn read<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
    room: usize,
) -> io::Result<(usize, Option<u32>)> {
    let here = from.unwrap_or_default();
    let mut next = 0_u32;
    let mut attributes = BatchAttributes {
        in_batch: from.map_or(0, |_| (&raw const here) as u64),
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttributes::default()
    };
    // SAFETY: the attributes of BPF_MAP_LOOKUP_BATCH, and the caller's promise; any bytes make a valid
    // `Pod`. Where to go on is a `u32` for hash maps and for arrays.
    let is_end = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attributes) } {
        Ok(_) => false,
        // The last elements come with this error.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    let count = (attributes.count as usize).min(room);
    Ok((count, (!is_end).then_some(next)))
}

/// The values of the first `count` elements of the array `map`, each of which has `per` of them: one, or
/// one of each processor that there may be.
///
/// # Errors
/// What the system says; also when there are fewer.
pub(super) fn lookup_array<V: Pod + Default>(
    map: BorrowedFd<'_>,
    count: usize,
    per: usize,
) -> io::Result<Vec<V>> {
    let mut keys = vec![0_u32; count];
    let mut values = vec![V::default(); count * per];
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    // SAFETY: there is room for `per` values of each key, which are what the caller made the map of; of
    // each processor they are padded to eight bytes, which is asserted to change nothing.
    let (found, _) = unsafe { read(map, None, &mut keys, &mut values, count) }?;
    if found != count {
        return Err(io::Error::other(format!(
            "expected {count} elements, found {found}"
        )));
    }
    Ok(values)
}

/// Reads the element of `key` into `value`.
///
/// # Safety
/// The map must have been made with keys and values of these sizes, the latter as they are padded and
/// repeated for processors.
///
/// # Errors
/// What the system says.
pub(super) unsafe fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..ElementAttributes::default()
    };
    // SAFETY: the attributes of BPF_MAP_LOOKUP_ELEM, and the caller's promise.
    unsafe { bpf(MAP_LOOKUP, &mut attributes) }.map(drop)
}

/// Takes the element of `key` out of `map`.
///
/// # Safety
/// The map must have been made with keys of this size.
///
/// # Errors
/// What the system says.
pub(super) unsafe fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        ..ElementAttributes::default()
    };
    // SAFETY: the attributes of BPF_MAP_DELETE_ELEM, and the caller's promise.
    unsafe { bpf(MAP_DELETE, &mut attributes) }.map(drop)
}

/// Inserts or replaces elements of `map`, which is made of `K` and `V`; on an error some of them.
/// There are as many `values` as `keys`.
///
/// # Errors
/// What the system says.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let mut attributes = BatchAttributes {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttributes::default()
    };
    // SAFETY: the attributes of BPF_MAP_UPDATE_BATCH. `keys` and `values` have `count` elements each,
    // of the sizes that the map was made with.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attributes) }.map(drop)
}
