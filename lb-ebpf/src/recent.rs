//! Connections that this processor has just seen.
//!
//! Looking up the connection table costs more than all the rest of a packet's way: the kernel
//! hashes forty bytes with a function that was made for safety, and calls it, and calls a
//! comparison. Most packets come in trains, so each processor keeps copies of entries in a small
//! direct-mapped array that costs a multiplication and a comparison of words.
//!
//! A copy never says anything that the table would not say:
//!
//! - it holds until the entry's [`FlowEntry::last_seen`] is due to be rewritten, so the table is
//!   visited once in [`crate::conntrack::TOUCH_AFTER`] in any case;
//! - packets that begin or end a connection do not look here;
//! - the instance's state is looked up for each packet, so an instance that goes down loses its
//!   connections at once;
//! - when the program takes a connection out of the table, it moves the epoch of the connection's
//!   place, which all processors share, and with it all copies at that place are void.
//!
//! The daemon, which removes connections that are idle or whose VIP is gone, moves no epoch: copies
//! of the former do not exist any more, and those of the latter hold for a second at most.
//!
//! A place is taken over only when what is there has run out. With many more connections than
//! places the first ones stay, and the others pay for one comparison, not for a copy each.
//!
//! That comparison is with a [`Mark`], not with the copy: the marks of all places are sixteen kilobytes, which a
//! processor has at hand, so who has no copy does not wait for memory to find that out.

use lb_common::{FlowEntry, FlowKey, halves};

/// Places for copies; a power of two. With 96 bytes each and a mark they fill two tenths of a megabyte, which
/// is what the second-level cache of a processor may spare.
pub const RECENT: u32 = 2048;

/// A copy of an entry of the connection table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    /// Whose entry it is.
    pub key: FlowKey,
    /// The entry.
    pub entry: FlowEntry,
}

/// Where and when a copy is asked for.
///
/// The epoch is read before the table is: had the entry been removed in between, the copy would be
/// void from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Where the connection's copy is.
    pub place: u32,
    /// What a mark of the connection begins with, in this epoch.
    name: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub now: u64,
}

impl Moment {
    /// The place of a connection at `now`, when its epoch is this one.
    #[inline(always)]
    #[must_use]
    pub const fn new(spot: Spot, epoch: u64, now: u64) -> Self {
        Self {
            place: spot.place,
            name: spot.tag | (epoch as u32) << 16,
            now,
        }
    }
}

/// What is known of a copy without looking at it: in the lowest quarter bits that its connection shares with few
/// others, in the next one the lowest bits of the place's epoch when it was made, in the upper half until
/// when it holds.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u64);

/// Bits of nanoseconds that a mark leaves out: a copy ends 17 milliseconds too early at most.
const LEFT_OUT: u32 = 24;
/// Units of a mark's time that a copy holds at most. Whatever is further away lies in the past, however long a
/// machine runs.
const MOST: u32 = 64;

const _: () = assert!(crate::conntrack::TOUCH_AFTER >> LEFT_OUT < MOST as u64);

impl Mark {
    /// The mark of a copy that holds until then.
    #[inline(always)]
    #[must_use]
    pub const fn new(moment: Moment, until: u64) -> Self {
        Self(moment.name as u64 | until >> LEFT_OUT << 32)
    }

    /// Whether the copy holds for no packet any more.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self, moment: Moment) -> bool {
        let left = ((self.0 >> 32) as u32).wrapping_sub((moment.now >> LEFT_OUT) as u32);
        let is_of_now = left.wrapping_sub(1) < MOST;
        !is_of_now || (self.0 as u32 ^ moment.name) >> 16 != 0
    }

    /// Whether the copy may be of the connection: it is, if it has the connection's key.
    #[inline(always)]
    #[must_use]
    pub const fn holds(self, moment: Moment) -> bool {
        !self.is_over(moment) && self.0 as u32 == moment.name
    }
}

/// Where a connection's copy is, and what tells it from others' there.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Below [`RECENT`].
    pub place: u32,
    /// Sixteen bits.
    tag: u32,
}

/// The spot of a connection. Neighbouring ports and addresses are to fall into different places;
/// nothing else is asked of it, so one multiplication is enough.
#[inline(always)]
#[must_use]
pub const fn spot(key: &FlowKey) -> Spot {
    let ([a, b], [c, d]) = (halves(&key.source), halves(&key.destination));
    let ports = (u16::from_ne_bytes(key.source_port) as u64) << 16
        | u16::from_ne_bytes(key.destination_port) as u64;
    let words = a ^ b ^ c.rotate_left(17) ^ d.rotate_left(29) ^ ports.rotate_left(7);
    let product = words.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Spot {
        place: (product >> 53) as u32,
        tag: (product >> 37) as u32 & 0xffff,
    }
}

const _: () = assert!(RECENT == 1 << (64 - 53));

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::from_v4;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            source: from_v4([10, 0, 0, 2]),
            destination: from_v4([10, 1, 1, 1]),
            source_port: port.to_be_bytes(),
            destination_port: [0, 80],
            protocol: 6,
            ..FlowKey::default()
        }
    }

    #[test]
    fn neighbouring_ports_are_at_different_places_and_have_other_tags_there() {
        let mut places: Vec<u32> = (40_000..41_000)
            .map(|port| spot(&key(port)).place)
            .collect();
        assert!(places.iter().all(|place| *place < RECENT));
        places.sort_unstable();
        places.dedup();
        // By chance a thousand balls fall into about 790 of 2048 holes.
        assert!(places.len() > 700, "{}", places.len());
        let mut spots: Vec<_> = (1..=u16::MAX).map(|port| spot(&key(port))).collect();
        spots.sort_unstable_by_key(|spot| (spot.place, spot.tag));
        let alike = spots
            .windows(2)
            .filter(|two| (two[0].place, two[0].tag) == (two[1].place, two[1].tag));
        // 65,535 connections of 2^27 spots: by chance 16 pairs.
        let alike = alike.count();
        assert!(alike < 64, "{alike}");
    }

    const SECOND: u64 = crate::conntrack::TOUCH_AFTER;

    fn at(port: u16, now: u64, epoch: u64) -> Moment {
        Moment::new(spot(&key(port)), epoch, now)
    }

    #[test]
    fn a_copy_holds_for_its_connection_its_time_and_its_epoch() {
        // From a second after the start to beyond the 2.3 years after which a mark's time begins anew.
        for made in [SECOND, SECOND << 20, (1 << 56) - SECOND / 2, 3 << 56] {
            let until = made + SECOND;
            let mark = Mark::new(at(1, made, 0x1_0003), until);
            assert!(mark.holds(at(1, made, 0x1_0003)), "{made}");
            assert!(
                mark.holds(at(1, until - (2 << LEFT_OUT), 0x1_0003)),
                "{made}"
            );
            assert!(!mark.holds(at(2, made, 0x1_0003)), "another's, {made}");
            assert!(!mark.is_over(at(2, made, 0x1_0003)), "another's, {made}");
            assert!(mark.is_over(at(1, until, 0x1_0003)), "{made}");
            assert!(mark.is_over(at(1, made, 0x1_0004)), "{made}");
            assert!(mark.is_over(at(1, made + (1 << 40), 0x1_0003)), "{made}");
        }
    }

    #[test]
    fn a_place_that_was_never_taken_is_free() {
        // But for the last second of each 2.3 years, in which it is taken a second later.
        for now in [0, 1, SECOND, 1 << 54, (1 << 55) + SECOND, 1 << 56] {
            assert!(Mark::default().is_over(at(1, now, 0)), "{now}");
        }
    }
}
