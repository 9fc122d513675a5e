//! Whose a packet is that belongs to no remembered flow and begins none.
//!
//! Where flows are not remembered it is the slot's owner's, see [`crate::settled`]. Without owners it
//! is nobody's, and is treated as if it began a flow.

use lb_common::{FlowKey, InstanceEntry, Slot, VIP_OWNED, VIP_SETTLES, Vip};

use crate::{Tables, settled::slot_of};

/// A slot and its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    /// The slot; none for a VIP whose slots have no owners.
    pub(crate) slot: Slot,
    /// Index of the owner; 0 is none.
    pub(crate) owner: u16,
}

/// The slot of a flow, and who owns it.
#[inline(always)]
pub(crate) fn of<T: Tables>(tables: &T, vip: &Vip, key: &FlowKey) -> Owned {
    if vip.flags & VIP_OWNED == 0 {
        return Owned::default();
    }
    let place = slot_of(vip, key);
    let slot = tables.slot(vip.table, place);
    let owner = if slot.is_unsettled() {
        tables.owner(vip.table, place)
    } else if vip.flags & VIP_SETTLES != 0 {
        slot.index()
    } else {
        0
    };
    Owned { slot, owner }
}

/// The entry of an owner that keeps its flows.
#[inline(always)]
pub(crate) fn keeping<T: Tables>(tables: &T, owner: u16) -> Option<InstanceEntry> {
    // Index 0 is nobody, who keeps nothing.
    let instance = tables.instance(owner)?;
    instance.keeps(instance.generation).then_some(instance)
}
