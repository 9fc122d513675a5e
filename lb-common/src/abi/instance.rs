//! Instances as the packet path sees them.

use super::{Address, FlowEntry, STATE_STAYS};

/// Elements of the instance arrays. An instance index is from 1 to `MAX_INSTANCES - 1`; 0 means
/// none, so that a zeroed slot or value can never name an instance.
pub const MAX_INSTANCES: u32 = 4096;

/// [`InstanceEntry::state`]: the index is not in use.
pub const INSTANCE_ABSENT: u8 = 0;
/// [`InstanceEntry::state`]: takes new and old connections.
pub const INSTANCE_ACTIVE: u8 = 1;
/// [`InstanceEntry::state`]: keeps its connections, gets no new ones.
pub const INSTANCE_DRAINING: u8 = 2;
/// [`InstanceEntry::state`]: disabled or taken out; its connections go to others at once.
pub const INSTANCE_DOWN: u8 = 3;
/// [`InstanceEntry::state`]: its checks fail. What [`INSTANCE_DOWN`] is, but for flows that stay: see
/// [`super::STATE_STAYS`].
pub const INSTANCE_FAILED: u8 = 4;

/// One instance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceEntry {
    /// Where the instance listens.
    pub address: Address,
    /// Fingerprint of service and endpoint, from which a restarted daemon finds the index again.
    pub identity: u64,
    /// Port in network byte order.
    pub port: [u8; 2],
    /// Changes with each reuse of the index; a flow that names another generation is stale.
    pub generation: u16,
    /// Configured weight, 0 to 65535: what live connections are divided by.
    pub weight: u16,
    /// One of the `INSTANCE_*` states.
    pub state: u8,
    /// Always zero.
    pub pad: u8,
}

impl InstanceEntry {
    /// Whether the instance takes new connections.
    #[inline(always)]
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.state == INSTANCE_ACTIVE
    }

    /// Whether the instance keeps a connection that was begun under `generation`.
    #[inline(always)]
    #[must_use]
    pub const fn keeps(&self, generation: u16) -> bool {
        (self.state == INSTANCE_ACTIVE || self.state == INSTANCE_DRAINING)
            && self.generation == generation
    }

    /// Whether the instance keeps a connection with this entry. The same, but for flows that stay with
    /// an instance whose checks fail.
    #[inline(always)]
    #[must_use]
    pub const fn keeps_flow(&self, entry: &FlowEntry) -> bool {
        self.keeps(entry.generation)
            || entry.state & STATE_STAYS != 0
                && self.state == INSTANCE_FAILED
                && self.generation == entry.generation
    }

    /// Whether the instance is there and takes nothing.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.state == INSTANCE_DOWN || self.state == INSTANCE_FAILED
    }
}

/// Where to send a packet for an instance; a cache of the kernel's route and neighbour tables, and of the
/// instance's state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// `CLOCK_MONOTONIC` nanoseconds until which the entry is fresh; 0: never filled.
    pub fresh_until: u64,
    /// The first twelve bytes of the frame: MAC address of the next hop, MAC address of the
    /// outgoing interface.
    pub macs: [u8; 12],
    /// Interface to leave by; with [`HOP_TAGGED`] it may be one above that.
    pub interface: u32,
    /// In the lower half, the [MTU](NextHop::mtu); with [`HOP_ACTIVE`], in the upper half the lowest bits of half the
    /// epoch in which the instance was found active. As one field, since the compiler copies two in pieces that
    /// the verifier refuses.
    pub mtu_and_epoch: u32,
    /// Generation of the instance that the entry was made for.
    pub generation: u16,
    /// Bits `HOP_*`.
    pub flags: u16,
}

/// [`NextHop::flags`]: the next hop is a router, not the destination itself.
pub const HOP_GATEWAY: u16 = 1;
/// [`NextHop::flags`]: frames leave with a VLAN tag, whose id begins at the bit [`HOP_VLAN`]. Without an id it is
/// other tags than one of 802.1Q: [`NextHop::interface`] is then a [`Subinterface`], which knows them and what is
/// below it.
pub const HOP_TAGGED: u16 = 2;
/// [`NextHop::flags`]: the instance took new connections in the epoch of [`NextHop::mtu_and_epoch`].
pub const HOP_ACTIVE: u16 = 4;
/// [`NextHop::flags`]: what is known of the path beyond the next hop is in [`NextHop::mtu`].
pub const HOP_PATH: u16 = 8;
/// [`NextHop::flags`]: the number of the lowest bit of the VLAN id.
pub const HOP_VLAN: u16 = 4;

/// Whether a way with these [`NextHop::flags`] names a [`Subinterface`], which knows the tags.
#[inline(always)]
#[must_use]
pub const fn names_subinterface(flags: u16) -> bool {
    flags & HOP_TAGGED != 0 && flags >> HOP_VLAN == 0
}

/// The time of a [note](NextHop::note_active) is in units of so many bits of nanoseconds: 17 milliseconds.
const NOTED_UNIT: u32 = 24;
/// As many units as these bits hold are 4.9 hours, which no entry is fresh for.
const NOTED_BITS: u64 = (1 << 20) - 1;
/// Units for which a note holds: a second.
const NOTE_HOLDS: u64 = 60;

impl NextHop {
    /// Largest IP packet that the way takes, in bytes; 0: not known, or any that there is.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.mtu_and_epoch & 0xffff
    }

    /// Lowers the [MTU](Self::mtu) to what the path takes beyond the next hop, if something is known of that.
    #[inline(always)]
    pub const fn narrow(&mut self, mtu: u32) {
        let known = self.mtu();
        if mtu != 0 && mtu <= 0xffff && (known == 0 || mtu < known) {
            self.mtu_and_epoch = self.mtu_and_epoch & !0xffff | mtu;
        }
    }

    /// Notes at `now` that the instance takes new connections in this epoch, which is even. That holds for a second
    /// at most, which is less than the epoch's bits take to come round. When it was noted lies in the lowest bits of
    /// the time until which the entry is fresh, to which they mean a millisecond.
    #[inline(always)]
    pub const fn note_active(&mut self, epoch: u64, now: u64) {
        self.mtu_and_epoch = (epoch as u32 >> 1) << 16 | self.mtu();
        self.flags |= HOP_ACTIVE;
        self.fresh_until = self.fresh_until & !NOTED_BITS | now >> NOTED_UNIT & NOTED_BITS;
    }

    /// Whether the entry is fresh at `now`, and is the way to an instance that takes new connections: all that
    /// there is to know of it, as long as the epoch is this one, which is even.
    #[inline(always)]
    #[must_use]
    pub const fn leads_on(&self, epoch: u64, now: u64) -> bool {
        let age = (now >> NOTED_UNIT).wrapping_sub(self.fresh_until) & NOTED_BITS;
        now < self.fresh_until
            && age < NOTE_HOLDS
            && self.mtu_and_epoch >> 16 == epoch as u32 >> 1 & 0xffff
            && self.flags & HOP_ACTIVE != 0
    }
}

/// An interface that is a VLAN of another one, or a VLAN within a VLAN of another one. Frames that the kernel's
/// routes send to it leave by the other one, with tags.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subinterface {
    /// Index of the other interface, which is no VLAN itself.
    pub parent: u32,
    /// The [`tag()`] that comes first in a frame; 0: frames cannot be sent there.
    pub outer: u32,
    /// The [`tag()`] behind it; 0: there is none.
    pub inner: u32,
}

/// Ether type of a VLAN's tag (IEEE 802.1Q).
pub const TAG_CUSTOMER: u16 = 0x8100;
/// Ether type of the tag of a provider's VLAN (IEEE 802.1ad), within which there may be others.
pub const TAG_SERVICE: u16 = 0x88a8;

/// A tag as the number that its four bytes are: the ether type, the VLAN id (0 to 4094).
#[inline(always)]
#[must_use]
pub const fn tag(ether_type: u16, vlan: u16) -> u32 {
    (ether_type as u32) << 16 | vlan as u32
}

/// VLANs of interfaces that are told of at most.
pub const MAX_SUBINTERFACES: u32 = 4096;

impl Subinterface {
    /// [`NextHop::interface`] and [`NextHop::flags`] of the ways that lead there, where `index` is its own; `None`
    /// when there are none.
    #[inline(always)]
    #[must_use]
    pub const fn way(&self, index: u32) -> Option<(u32, u16)> {
        if self.outer == 0 {
            return None;
        }
        let is_plain = self.outer >> 16 == TAG_CUSTOMER as u32 && self.inner == 0;
        // A way without an id means something else.
        let is_plain = is_plain && self.outer & 0xfff != 0;
        Some(if is_plain {
            (self.parent, HOP_TAGGED | (self.outer as u16) << HOP_VLAN)
        } else {
            (index, HOP_TAGGED)
        })
    }
}

/// Elements of the client hop cache: a power of two.
pub const CLIENT_HOPS: u32 = 4096;

/// Where to send a packet for a client; one element of a cache that is indexed by a hash of the
/// client's address, so the address decides whether the element is meant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHop {
    /// The client's address.
    pub address: Address,
    /// The way to it; [`NextHop::generation`] is not used.
    pub hop: NextHop,
}

const _: () = assert!(size_of::<InstanceEntry>() == 32 && align_of::<InstanceEntry>() == 8);
const _: () = assert!(size_of::<Subinterface>() == 12);
const _: () = assert!(size_of::<NextHop>() == 32 && align_of::<NextHop>() == 8);
const _: () = assert!(size_of::<ClientHop>() == 48 && CLIENT_HOPS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_leads_on_in_its_epoch_for_a_second_while_it_is_fresh() {
        const SECOND: u64 = 1_000_000_000;
        // At the start, and where the bits of the note's time come round.
        for now in [SECOND, (1 << 44) - SECOND / 2, 7 << 50] {
            let mut hop = NextHop {
                fresh_until: now + 3600 * SECOND,
                mtu_and_epoch: 1500,
                flags: HOP_TAGGED | 7 << HOP_VLAN,
                ..NextHop::default()
            };
            let epoch = 0x7_0003_8002;
            assert!(!hop.leads_on(0, now), "nobody has looked at the instance");
            hop.note_active(0, now - SECOND);
            hop.note_active(epoch, now);
            assert!(hop.leads_on(epoch, now) && hop.leads_on(epoch, now + SECOND / 10 * 9));
            assert!(!hop.leads_on(epoch, now + SECOND / 10 * 11));
            assert!(!hop.leads_on(epoch - 2, now) && !hop.leads_on(epoch + 2, now));
            assert_eq!((hop.mtu(), hop.flags >> HOP_VLAN), (1500, 7));
            let ends = hop.fresh_until.abs_diff(now + 3600 * SECOND);
            assert!(ends < SECOND / 500, "{ends}");
            // Nothing is known of a way that is not fresh, whenever it was noted.
            hop.fresh_until = now + SECOND / 10;
            hop.note_active(epoch, now);
            assert!(!hop.leads_on(epoch, now + SECOND / 5));
        }
    }

    #[test]
    fn flows_that_stay_do_so_with_an_instance_that_fails_and_with_no_other() {
        let instance = |state| InstanceEntry {
            state,
            generation: 3,
            ..InstanceEntry::default()
        };
        let entry = |generation, state| FlowEntry {
            generation,
            state,
            ..FlowEntry::default()
        };
        let (moves, stays) = (entry(3, 0), entry(3, STATE_STAYS));
        for (state, keeps) in [
            (INSTANCE_ABSENT, [false, false]),
            (INSTANCE_ACTIVE, [true, true]),
            (INSTANCE_DRAINING, [true, true]),
            (INSTANCE_DOWN, [false, false]),
            (INSTANCE_FAILED, [false, true]),
        ] {
            let instance = instance(state);
            let found = [moves, stays].map(|entry| instance.keeps_flow(&entry));
            assert_eq!(found, keeps, "{state}");
            // Another tenant of the index is another instance.
            assert!(!instance.keeps_flow(&entry(2, STATE_STAYS)), "{state}");
            assert!(!instance.takes_new() || state == INSTANCE_ACTIVE);
        }
    }
}
