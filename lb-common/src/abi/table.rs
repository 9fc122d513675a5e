//! Tables of slots: Maglev order for hashing, smooth weighted order for turns.
//!
//! A slot names its *current* instance, which new flows go to. Where flows are not remembered, their
//! packets find their instance by the slot alone, so it also has an *owner*, whose the flows without
//! an entry in the connection table are. In a settled slot, as nearly all are nearly always, the two
//! are the same. Only of others the second column is read, so a settled flow costs one cache line.

use super::MAX_INSTANCES;

/// Slots of a table. A prime, as Maglev (NSDI '16, 3.4) asks, and the size that paper measured.
pub const SLOTS: usize = 65_537;

/// [`Slot`]: the index of the current instance.
const INDEX: u16 = 0x0fff;
/// [`Slot`]: the owner is another one.
const UNSETTLED: u16 = 0x8000;
/// [`Slot`]: the connection table may have flows of this slot.
const ASK: u16 = 0x4000;

const _: () = assert!(MAX_INSTANCES == INDEX as u32 + 1);

/// A slot, as it is in a table.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub u16);

impl Slot {
    /// A settled slot that the connection table knows no flows of. `index` 0 is none.
    #[inline(always)]
    #[must_use]
    pub const fn clear(index: u16) -> Self {
        Self(index & INDEX)
    }

    /// A settled slot some of whose flows may be in the connection table.
    #[inline(always)]
    #[must_use]
    pub const fn settled(index: u16) -> Self {
        Self(index & INDEX | ASK)
    }

    /// A slot whose owner is another instance.
    #[inline(always)]
    #[must_use]
    pub const fn unsettled(index: u16) -> Self {
        Self(index & INDEX | ASK | UNSETTLED)
    }

    /// Index of the current instance; 0 is none.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0 & INDEX
    }

    /// Whether the owner is in the other column, and flows are to be remembered.
    #[inline(always)]
    #[must_use]
    pub const fn is_unsettled(self) -> bool {
        self.0 & UNSETTLED != 0
    }

    /// Whether nothing but the slot has to be asked: it is settled, and the connection table has no
    /// flow of it.
    #[inline(always)]
    #[must_use]
    pub const fn is_clear(self) -> bool {
        self.0 & (UNSETTLED | ASK) == 0
    }
}

/// A whole table as one map value: packed `u16`, 262 KB, written by one system call. As separate
/// array elements each slot would take eight bytes and one call.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The slots, each a [`Slot`].
    pub slots: [u16; SLOTS],
    /// Index of the owner of each unsettled slot, 0 for the others.
    pub owners: [u16; SLOTS],
}

impl Table {
    /// A table of these instance indices, all settled.
    #[must_use]
    pub const fn settled(slots: [u16; SLOTS]) -> Self {
        Self {
            slots,
            owners: [0; SLOTS],
        }
    }
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Table")
            .field("slots", &SLOTS)
            .finish_non_exhaustive()
    }
}
