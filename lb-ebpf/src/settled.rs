//! Packets whose instance follows from their slot.
//!
//! Where a flow's instance follows from its hash, and packets keep their addresses, nothing has to be
//! remembered of it: its packets find the instance by the slot of the VIP's table, as its first one
//! did. What that takes is that a slot changes hands only when its flows are known to be over, or
//! remembered:
//!
//! - A slot whose current instance is another one than before keeps the former as its *owner*. It is
//!   unsettled: new flows go to the current instance and are remembered, a packet without an entry
//!   belongs to the owner, and is remembered from then on ([`crate::begin`]).
//! - Whatever was not heard of for as long as idle connections are remembered is over. So after that
//!   time the current instance becomes the owner, and the slot is settled again. However often it has
//!   changed meanwhile: all flows that began meanwhile have entries.
//! - As long as the connection table may have flows of a settled slot it is asked first. The daemon,
//!   which walks the table, takes out those that the slot says the same of, and clears the slot when
//!   none is left.
//!
//! A clear slot whose instance is up is all there is to ask, which is what is done here, for VIPs of
//! which this processor has a copy. That the instance is up is kept with the way to it ([`crate::hop`]), so who
//! is sent there as he is looks at three things: the VIP, the slot and the way. Everything else goes the way of
//! all packets.

use lb_common::{
    Counter, FLOW_FORWARD, FlowEntry, FlowKey, PROTOCOL_TCP, STATE_CLOSED, STATE_REMOVED,
    VIP_LIMITED, VIP_OWNED_BY_SOURCE, Vip, VipKey, halves, same_address,
};

use crate::{Hop as _, Tables, hash, hash::slot, hop, parse::Layout};

/// Places for copies of VIPs; a power of two.
pub const RECENT_VIPS: usize = 256;

/// A copy of a VIP whose flows are not remembered.
///
/// It holds for one epoch, an even one. While the daemon changes a VIP or an instance the epoch is odd, and
/// nobody keeps anything: so at no moment does one processor go by a new table, and another one by its copy of
/// what was before. Should the daemon end meanwhile the epoch stays odd, which costs time and nothing else.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RecentVip {
    /// What its packets are for.
    pub key: VipKey,
    /// The VIP.
    pub vip: Vip,
    /// Always zero.
    pub pad: u32,
    /// The epoch of the VIPs, read before the VIP was; 0, which no epoch is: there is no copy.
    pub epoch: u64,
}

impl RecentVip {
    /// A copy; `epoch` was read before the VIP was, and is even.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &VipKey, vip: &Vip, epoch: u64) -> Self {
        Self {
            key: *key,
            vip: *vip,
            pad: 0,
            epoch,
        }
    }

    /// Whether the copy holds for a packet with this key in this epoch.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, key: &FlowKey, epoch: u64) -> bool {
        u16::from_ne_bytes(self.key.port) == u16::from_ne_bytes(key.destination_port)
            && same_address(&self.key.address, &key.destination)
            && epoch == self.epoch
    }
}

/// The place of the copy of the VIP with this address and port.
#[inline(always)]
#[must_use]
pub const fn place(address: &lb_common::Address, port: [u8; 2]) -> usize {
    let [a, b] = halves(address);
    let words = a ^ b.rotate_left(31) ^ u16::from_ne_bytes(port) as u64;
    (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}

const _: () = assert!(RECENT_VIPS == 1 << (64 - 56));

/// The slot whose owner has a flow of the VIP.
#[inline(always)]
#[must_use]
pub const fn slot_of(vip: &Vip, key: &FlowKey) -> u32 {
    slot(if vip.flags & VIP_OWNED_BY_SOURCE != 0 {
        hash::address(&key.source)
    } else {
        hash::flow(key)
    })
}

/// What the slot of a packet says.
#[derive(Debug)]
pub(crate) enum Found<F, H> {
    /// The flow of a packet that has a clear slot, the time, and the way to its instance if that is kept.
    Flow(F, u64, Option<H>),
    /// Nothing: others are to be asked.
    No,
    /// The packet begins a flow where it matters how fast flows begin, or of its instance nothing is kept: the stage
    /// that admits has to look at it.
    Later,
}

/// Finds the flow of a packet by its slot. `ADMITS`: whether this is the stage that looks at everything, the
/// instance included.
#[inline(always)]
pub(crate) fn find<T: Tables, const ADMITS: bool>(
    tables: &T,
    key: &FlowKey,
    layout: &Layout,
) -> Found<T::Flow, T::Hop> {
    if key.protocol != PROTOCOL_TCP || layout.fragment || !tables.has_recent_vips() {
        return Found::No;
    }
    let epoch = tables.vip_epoch();
    let Some(vip) = tables.recent_vip(key, epoch) else {
        return Found::No;
    };
    let slot = tables.slot(vip.table, slot_of(&vip, key));
    if !slot.is_clear() {
        return Found::No;
    }
    let now = tables.now();
    let (hop, generation) = if ADMITS {
        match hop::note_active(tables, slot.index(), epoch, now) {
            hop::NOT_ACTIVE => return Found::No,
            generation => (None, generation as u16),
        }
    } else if let Some(hop) = hop::to_active(tables, slot.index(), epoch, now) {
        (Some(hop), hop.get().generation)
    } else {
        return Found::Later;
    };
    if layout.is_opening() {
        if vip.flags & VIP_LIMITED != 0 {
            return Found::Later;
        }
        note_begin(tables, vip.id, slot.index());
    }
    tables.count(Counter::PacketsSettled);
    let entry = entry(&vip, slot.index(), generation);
    Found::Flow(tables.without_entry(&entry), now, hop)
}

/// The state of a flow without an entry: whose end was counted, so nobody counts it.
pub(crate) const UNREMEMBERED: u32 = STATE_CLOSED | STATE_REMOVED;

/// What the entry of a flow would be that has none.
#[inline(always)]
pub(crate) fn entry(vip: &Vip, index: u16, generation: u16) -> FlowEntry {
    FlowEntry {
        instance: index,
        generation,
        state: UNREMEMBERED,
        vip: vip.id as u16,
        direction: FLOW_FORWARD,
        forward: vip.forward,
        ..FlowEntry::default()
    }
}

/// Counts a flow that begins.
#[inline(always)]
pub(crate) fn note_begin<T: Tables>(tables: &T, vip: u32, index: u16) {
    tables.count(Counter::ConnectionsOpened);
    tables.note_begun();
    tables.vip_traffic(vip, |traffic| traffic.connections += 1);
    tables.instance_traffic(index, |traffic| traffic.connections += 1);
}

#[cfg(test)]
mod tests {
    use lb_common::from_v4;

    use super::*;

    fn key(last: u8, port: u16) -> FlowKey {
        FlowKey {
            source: from_v4([10, 0, 0, 2]),
            destination: from_v4([10, 1, 1, last]),
            source_port: [9, 9],
            destination_port: port.to_be_bytes(),
            protocol: PROTOCOL_TCP,
            ..FlowKey::default()
        }
    }

    #[test]
    fn neighbouring_vips_are_at_different_places() {
        let places = |vips: &mut dyn Iterator<Item = (u8, u16)>| {
            let mut places: Vec<usize> = vips
                .map(|(last, port)| place(&from_v4([10, 1, 1, last]), port.to_be_bytes()))
                .collect();
            assert!(places.iter().all(|place| *place < RECENT_VIPS));
            places.sort_unstable();
            places.dedup();
            places.len()
        };
        // By chance 64 balls fall into 57 of 256 holes.
        let (by_port, by_address) = (
            places(&mut (8000..8064).map(|port| (1, port))),
            places(&mut (1..65).map(|last| (last, 80))),
        );
        assert!(by_port > 50 && by_address > 50, "{by_port} {by_address}");
    }

    #[test]
    fn a_copy_holds_for_its_key_and_its_epoch() {
        let key = key(1, 80);
        let copy = RecentVip::new(&key.vip(), &Vip::default(), 4);
        assert!(copy.holds(&key, 4));
        assert!(!copy.holds(&key, 5) && !copy.holds(&key, 6));
        assert!(!copy.holds(&self::key(2, 80), 4));
        assert!(!copy.holds(&self::key(1, 81), 4));
    }
}
