//! The epoch of VIPs and instances, moved without a system call.
//!
//! Each change of one moves it, and a change is to take as few calls as can be. The kernel lets memory of
//! such an array be mapped, so what would be two calls, to read and to write it, is one instruction.

use std::{
    fmt, io,
    os::fd::AsFd as _,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Array, IterableMap as _, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes that are mapped: of a whole page, whatever its size, the kernel takes the first ones.
const BYTES: usize = size_of::<u64>();

/// See the module.
pub(super) struct Epoch {
    word: NonNull<AtomicU64>,
    /// The program, which is loaded later, names it by its descriptor.
    _array: Array<MapData, u64>,
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch").finish_non_exhaustive()
    }
}

// SAFETY: the word is shared memory that all threads, and programs, change atomically.
unsafe impl Send for Epoch {}

impl Epoch {
    /// Maps the only element of `array`.
    ///
    /// # Errors
    /// When the array was not made to be mapped.
    pub(super) fn of(array: Array<MapData, u64>) -> io::Result<Self> {
        let read_and_write = ProtFlags::READ | ProtFlags::WRITE;
        let descriptor = array.map().fd().as_fd();
        // SAFETY: at a place that the kernel chooses, so nothing that is there is covered.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                BYTES,
                read_and_write,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }?;
        let word = NonNull::new(page.cast());
        let word = word.ok_or_else(|| io::Error::other("mapped at no place"))?;
        Ok(Self {
            word,
            _array: array,
        })
    }

    /// Makes void what programs have copied under the epoch until now.
    pub(super) fn move_on(&self) {
        // SAFETY: it is mapped until this value is dropped, aligned to a page, and only ever changed
        // atomically.
        let word = unsafe { self.word.as_ref() };
        // After what was written before it, for whoever sees it.
        word.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // SAFETY: what was mapped when this value was made, and nobody has a reference to it.
        let _ = unsafe { munmap(self.word.as_ptr().cast(), BYTES) };
    }
}
