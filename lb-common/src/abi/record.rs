//! Flow events: what became of a packet, for whoever follows packets.
//!
//! Nobody follows nearly all of the time, and then one word says so. While somebody does, the stage
//! [`crate::names::STAGE_RECORD`] holds every packet against what each follower wants to see, and
//! writes those that somebody wants into a ring.

use super::{Address, Counter, FlowKey, MAX_VIPS, halves};

/// The most who can follow packets at one time.
pub const MAX_FOLLOWERS: u32 = 8;

/// The most bytes of a packet that an event has: enough for Ethernet with two tags, an outer IPv6 and a
/// UDP header, an inner IPv6 and a TCP header with all options.
pub const EVENT_BYTES: usize = 192;

/// Events that a processor records in a second. Whoever follows everything on a busy machine gets so
/// many and is told how many are lost, and the machine does not become slower the busier it is.
pub const EVENTS_PER_SECOND: u32 = 10_000;

/// [`Follower::flags`]: of packets that are forwarded, those alone that begin a connection.
pub const FOLLOW_NEW: u32 = 1;
/// [`Follower::flags`]: packets of all VIPs, and those of none.
pub const FOLLOW_ALL_VIPS: u32 = 2;

/// [`FlowEvent::flags`]: the packet has begun a connection.
pub const EVENT_NEW: u16 = 1;

/// What a follower wants to see. One of zeros is nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// A bit for each [`Counter`] whose packets are wanted.
    pub counters: u64,
    /// A bit for each [`super::Vip::id`] whose packets are wanted.
    pub vips: [u64; MAX_VIPS as usize / 64],
    /// [`halves`] of the prefix that a packet's source has to be in.
    pub prefix: [u64; 2],
    /// The bits of it that matter.
    pub mask: [u64; 2],
    /// One in so many of the packets that are wanted; 0 and 1 are all.
    pub sample: u32,
    /// Bits `FOLLOW_*`.
    pub flags: u32,
}

impl Follower {
    /// Wants the packets that are counted under `counter`.
    pub const fn want(&mut self, counter: Counter) {
        self.counters |= 1 << counter as u32;
    }

    /// Wants the packets of the VIP with this id, if there can be one.
    pub fn want_vip(&mut self, id: u32) {
        if let Some(word) = self.vips.get_mut(id as usize / 64) {
            *word |= 1 << (id % 64);
        }
    }

    /// Wants those packets alone whose source shares its first `length` bits with `address`.
    pub const fn want_source(&mut self, address: &Address, length: u8) {
        let ones = u128::MAX;
        let ones = match ones.checked_shr(length as u32) {
            Some(rest) => !rest,
            None => ones,
        };
        let (mask, address) = (halves(&ones.to_be_bytes()), halves(address));
        self.mask = mask;
        self.prefix = [address[0] & mask[0], address[1] & mask[1]];
    }
}

/// All who follow, by place: one look-up serves all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followers {
    /// The places.
    pub places: [Follower; MAX_FOLLOWERS as usize],
}

/// What became of a packet, and the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time: u64,
    /// The tuple of the packet as it came; all zero when it has none. Of an ICMP message about a
    /// connection, that of the connection's packets that go the same way.
    pub key: FlowKey,
    /// What it was counted under: its verdict, and why.
    pub counter: u32,
    /// A bit for each place of a follower who wants it.
    pub followers: u32,
    /// Index of the interface that it came in by.
    pub interface: u32,
    /// Index of the one that it left by; 0 when it did not.
    pub out: u32,
    /// Length of its frame in bytes, as it leaves.
    pub length: u32,
    /// How many of [`Self::bytes`] are the packet's.
    pub captured: u32,
    /// One more than the id of its VIP; 0: none is known.
    pub vip: u16,
    /// Index of its instance; 0: none is known.
    pub index: u16,
    /// Generation of that.
    pub generation: u16,
    /// Bits `EVENT_*`.
    pub flags: u16,
    /// Its first bytes: as it leaves when it is forwarded, else as it came.
    pub bytes: [u8; EVENT_BYTES],
}

impl FlowEvent {
    /// The event with these bytes, as the ring has them; `None` when they are too few.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.first_chunk()?;
        // SAFETY: as many bytes as the value has; it is built of integers and arrays of bytes without
        // padding between them, so any bytes are a valid one.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    /// The packet's bytes.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        let captured = (self.captured as usize).min(EVENT_BYTES);
        self.bytes.get(..captured).unwrap_or_default()
    }
}

const _: () = assert!(size_of::<Follower>() == 112 && size_of::<Followers>() == 896);
const _: () = assert!(size_of::<FlowEvent>() == 8 + size_of::<FlowKey>() + 32 + EVENT_BYTES);
const _: () = assert!(size_of::<FlowEvent>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_v4;

    #[test]
    fn a_source_is_wanted_by_its_first_bits() {
        let wants = |follower: &Follower, source: &Address| {
            let source = halves(source);
            (0..2).all(|half| (source[half] ^ follower.prefix[half]) & follower.mask[half] == 0)
        };
        let mut follower = Follower::default();
        assert!(wants(&follower, &from_v4([198, 51, 100, 7])));
        follower.want_source(&from_v4([198, 51, 100, 99]), 96 + 24);
        assert!(wants(&follower, &from_v4([198, 51, 100, 7])));
        assert!(!wants(&follower, &from_v4([198, 51, 101, 7])));
        follower.want_source(&[0xfd; 16], 9);
        let mut other = [0; 16];
        other[..2].copy_from_slice(&[0xfd, 0x80]);
        assert!(wants(&follower, &other));
        other[1] = 0x7f;
        assert!(!wants(&follower, &other));
        follower.want_source(&other, 128);
        assert!(wants(&follower, &other) && !wants(&follower, &[0xfd; 16]));
        follower.want_source(&other, 0);
        assert!(wants(&follower, &[1; 16]));
    }

    #[test]
    fn an_event_is_read_from_its_bytes() {
        let mut bytes = [0_u8; size_of::<FlowEvent>() + 3];
        bytes[..8].copy_from_slice(&77_u64.to_ne_bytes());
        let captured = core::mem::offset_of!(FlowEvent, captured);
        bytes[captured..captured + 4].copy_from_slice(&1000_u32.to_ne_bytes());
        let event = FlowEvent::read(&bytes);
        assert_eq!(event.map(|event| event.time), Some(77));
        assert_eq!(event.map(|event| event.packet().len()), Some(EVENT_BYTES));
        assert_eq!(FlowEvent::read(&bytes[..40]), None);
    }
}
