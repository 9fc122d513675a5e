//! Tables of slots: Maglev order for hashing, smooth weighted order for turns.

/// Slots of a table. A prime, as Maglev (NSDI '16, 3.4) asks, and the size that paper measured.
pub const SLOTS: usize = 65_537;

/// A whole table as one map value: packed `u16` instance indices, 131 KB, written by one system
/// call. As separate array elements each slot would take eight bytes and one call.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Instance index of each slot; 0 is none.
    pub slots: [u16; SLOTS],
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Table")
            .field("slots", &SLOTS)
            .finish_non_exhaustive()
    }
}
