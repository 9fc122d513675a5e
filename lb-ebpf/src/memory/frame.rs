//! Packet memory.

use crate::{Header, Packet};

/// A packet in a byte vector.
#[derive(Debug)]
pub struct Frame<'a>(pub &'a mut Vec<u8>);

/// What new bytes in front hold: not zero, as in the kernel's test runs, so that a test which
/// compares the two finds a byte that nobody has written.
const FRESH: u8 = 0xff;

impl Packet for Frame<'_> {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn forget(&mut self, value: u64) -> u64 {
        value
    }

    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        let bytes = self.0.get(offset..offset.checked_add(size_of::<H>())?)?;
        // SAFETY: the slice has the size of `H`, of which any bytes are a valid value.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()> {
        let bytes = self
            .0
            .get_mut(offset..offset.checked_add(size_of::<H>())?)?;
        // SAFETY: the slice has the size of `H`, which is plain bytes.
        unsafe { bytes.as_mut_ptr().cast::<H>().write_unaligned(header) };
        Some(())
    }

    fn grow(&mut self, bytes: usize) -> Option<()> {
        self.0.splice(..0, std::iter::repeat_n(FRESH, bytes));
        Some(())
    }

    fn strip(&mut self, bytes: usize) -> Option<()> {
        (bytes < self.0.len()).then(|| drop(self.0.drain(..bytes)))
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        if let Some(missing) = length.checked_sub(self.0.len()) {
            return self.grow(missing);
        }
        self.0.truncate(length);
        Some(())
    }
}
