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

use lb_common::{FlowEntry, FlowKey, halves, same_flow};

/// Places for copies; a power of two. With 112 bytes each they fill a quarter of a megabyte, which
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
    /// `CLOCK_MONOTONIC` nanoseconds until which the copy holds; 0: there is none.
    pub until: u64,
    /// The epoch of the place when the copy was made.
    pub epoch: u64,
}

/// Where and when a copy is asked for.
///
/// The epoch is read before the table is: had the entry been removed in between, the copy would be
/// void from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// [`place`] of the connection.
    pub place: u32,
    /// The place's epoch.
    pub epoch: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub now: u64,
}

impl Recent {
    /// Whether the copy holds for no packet any more.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self, moment: Moment) -> bool {
        moment.now >= self.until || moment.epoch != self.epoch
    }

    /// Whether the copy holds for packets with this key.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, key: &FlowKey, moment: Moment) -> bool {
        !self.is_over(moment) && same_flow(&self.key, key)
    }
}

/// The place of a connection. Neighbouring ports and addresses are to fall into different places;
/// nothing else is asked of it, so one multiplication is enough.
#[inline(always)]
#[must_use]
pub const fn place(key: &FlowKey) -> u32 {
    let ([a, b], [c, d]) = (halves(&key.source), halves(&key.destination));
    let ports = (u16::from_ne_bytes(key.source_port) as u64) << 16
        | u16::from_ne_bytes(key.destination_port) as u64;
    let words = a ^ b ^ c.rotate_left(17) ^ d.rotate_left(29) ^ ports.rotate_left(7);
    (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as u32
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
    fn neighbouring_ports_are_at_different_places() {
        let mut places: Vec<u32> = (40_000..41_000).map(|port| place(&key(port))).collect();
        assert!(places.iter().all(|place| *place < RECENT));
        places.sort_unstable();
        places.dedup();
        // By chance a thousand balls fall into about 790 of 2048 holes.
        assert!(places.len() > 700, "{}", places.len());
    }

    #[test]
    fn a_copy_holds_for_its_key_its_time_and_its_epoch() {
        let recent = Recent {
            key: key(1),
            until: 100,
            epoch: 3,
            ..Recent::default()
        };
        let at = |now, epoch| Moment {
            place: 0,
            epoch,
            now,
        };
        assert!(recent.holds(&key(1), at(99, 3)));
        assert!(!recent.holds(&key(1), at(100, 3)));
        assert!(!recent.holds(&key(1), at(99, 4)));
        assert!(!recent.holds(&key(2), at(99, 3)));
        let udp = FlowKey {
            protocol: 17,
            ..key(1)
        };
        assert!(!recent.holds(&udp, at(99, 3)));
        assert!(!Recent::default().holds(&FlowKey::default(), at(0, 0)));
    }
}
