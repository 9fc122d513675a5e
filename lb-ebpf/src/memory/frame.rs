//! Packet memory.

use crate::{Header, Packet, packet::MAX_OFFSET};

/// A packet in a byte slice.
#[derive(Debug)]
pub struct Frame<'a>(pub &'a mut [u8]);

impl Packet for Frame<'_> {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn blur(&mut self, offset: usize) -> usize {
        debug_assert!(offset <= MAX_OFFSET);
        offset
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
}
