//! The epoch of VIPs and instances, moved without a system call.
//!
//! It is odd while one is being changed, and an even number that it never was after that: what programs keep of
//! them ([`lb_ebpf::settled`]) holds for one even epoch. A change is to take as few calls as can be. The kernel
//! lets memory of such an array be mapped, so what would be four calls, to read and to write it twice, is two
//! instructions.

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

    /// Makes void what programs have kept until now, also if whoever was here before ended in a change.
    pub(super) fn move_on(&self) {
        let word = self.word();
        let past = word.load(Ordering::SeqCst);
        word.store(past + 2 - past % 2, Ordering::SeqCst);
    }

    /// Changes a VIP or an instance. Programs keep nothing before it is done, and nothing that they kept holds
    /// as soon as it has begun: whichever of both the packets of a moment find, all processors find the same.
    pub(super) fn change<T>(&self, write: impl FnOnce() -> T) -> T {
        self.word().fetch_add(1, Ordering::SeqCst);
        let written = write();
        self.word().fetch_add(1, Ordering::SeqCst);
        written
    }

    const fn word(&self) -> &AtomicU64 {
        // SAFETY: it is mapped until this value is dropped, aligned to a page, and only ever changed
        // atomically.
        unsafe { self.word.as_ref() }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // SAFETY: what was mapped when this value was made, and nobody has a reference to it.
        let _ = unsafe { munmap(self.word.as_ptr().cast(), BYTES) };
    }
}
