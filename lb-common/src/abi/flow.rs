//! The connection table.
//!
//! One map holds both directions. An entry says what the packet's addresses and ports become, so
//! translating a request and translating its reply are the same operation. A `nat` or `dnat` connection has
//! two entries: the forward one (client → VIP) and the reply one (instance → lb). A connection whose
//! replies go straight to the client has the forward one only, and its packets keep their addresses.
//!
//! The packet path never evicts: the daemon sweeps idle entries, both of a pair at once. A pair is
//! as young as the younger of its two entries, since traffic may flow in one direction only.
//!
//! A connection that was begun by a SYN cookie has two handshakes, one with whom lb made the cookie for
//! and one with the instance, which has numbers of its own. Its entries say that it is *spliced*
//! ([`FORWARD_SPLICED`]), and the reply one has in the place of a state what [`Splice`] reads there.

use super::{Address, FORWARD_SPLICED, FORWARD_WAITING, VipKey, same_address};

/// [`FlowEntry::direction`]: from the client.
pub const FLOW_FORWARD: u8 = 1;
/// [`FlowEntry::direction`]: from the instance.
pub const FLOW_REPLY: u8 = 2;

/// [`FlowEntry::state`]: no end seen.
pub const STATE_OPEN: u32 = 0;
/// [`FlowEntry::state`] bit: the client has sent a FIN.
pub const STATE_FIN_CLIENT: u32 = 1;
/// [`FlowEntry::state`] bit: the instance has sent a FIN.
pub const STATE_FIN_INSTANCE: u32 = 2;
/// [`FlowEntry::state`] bit: over, and no longer counted as live.
pub const STATE_CLOSED: u32 = 4;
/// [`FlowEntry::state`] bit: being removed, by the processor that has set it. Removing is by key, so
/// a second one might remove what has been inserted since.
pub const STATE_REMOVED: u32 = 8;
/// [`FlowEntry::state`] bit: it stays with its instance while that is [`super::INSTANCE_FAILED`].
pub const STATE_STAYS: u32 = 32;

/// [`FlowEntry::state`] bit: nothing was heard of its client but the packet that it was begun for, or SYNs.
/// Whoever sends with addresses of others never sends more.
pub const STATE_OPENING: u32 = 16;
/// [`FlowEntry::state`] bit: begun by a packet of TCP that opens nothing, so no limit was asked. A SYN begins
/// it anew.
pub const STATE_STRAY: u32 = 64;
/// [`FlowEntry::state`]: with [`STATE_OPENING`], the bits from this one on say where the connection is among
/// the latest ones of the processor that has inserted it.
pub const STATE_OPENING_AT: u32 = 16;

/// Connections of which one packet was heard that all processors together keep in a table of so
/// many entries, while `nat` has so many source ports for each instance: of an eighth of the entries,
/// which with `nat` is a quarter of the table, and half of the ports, the lesser. A table that is smaller than any that
/// can be configured may be full of them.
#[must_use]
pub const fn most_opening(entries: u32, nat_ports: u32) -> u32 {
    if entries < 1024 {
        entries
    } else if entries / 8 < nat_ports / 2 {
        entries / 8
    } else {
        nat_ports / 2
    }
}

// What [`STATE_OPENING_AT`] has room for.
const _: () = assert!(most_opening(u32::MAX, u16::MAX as u32 + 1) < 1 << (32 - STATE_OPENING_AT));

/// The tuple of a packet as it arrives.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network byte order.
    pub source_port: [u8; 2],
    /// Destination port, network byte order.
    pub destination_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
    /// Always zero; apart from `pad`, since the verifier refuses to write two bytes at an odd place.
    pub pad_end: [u8; 2],
}

/// What is remembered of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet, rewritten about once a second.
    pub last_seen: u64,
    /// The source address that a translated packet gets, else zero.
    pub source: Address,
    /// The destination address that a translated packet gets, else zero.
    pub destination: Address,
    /// The source port that a translated packet gets.
    pub source_port: [u8; 2],
    /// The destination port that a translated packet gets.
    pub destination_port: [u8; 2],
    /// Index of the instance.
    pub instance: u16,
    /// Generation of the instance when the flow began.
    pub generation: u16,
    /// Bits `STATE_*`; kept in the forward entry only, in whose partner there may be what [`Splice`]
    /// reads. 32 bits wide because that is the least that
    /// the kernel can change atomically.
    pub state: u32,
    /// [`super::Vip::id`] of the VIP.
    pub vip: u16,
    /// [`FLOW_FORWARD`] or [`FLOW_REPLY`].
    pub direction: u8,
    /// One of the `FORWARD_*` numbers, with [`FORWARD_SPLICED`] and [`FORWARD_WAITING`] added.
    pub forward: u8,
}

/// What the reply entry of a spliced connection has to say: the eight bytes from [`FlowEntry::state`] to
/// its end, which are read and replaced at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice(pub u64);

impl Splice {
    /// What an entry says.
    #[inline(always)]
    #[must_use]
    pub const fn of(entry: &FlowEntry) -> Self {
        Self(
            entry.state as u64
                | (entry.vip as u64) << 32
                | (entry.direction as u64) << 48
                | (entry.forward as u64) << 56,
        )
    }

    /// Puts it into an entry.
    #[inline(always)]
    pub const fn write(self, entry: &mut FlowEntry) {
        entry.state = self.0 as u32;
        entry.vip = (self.0 >> 32) as u16;
        entry.direction = (self.0 >> 48) as u8;
        entry.forward = (self.0 >> 56) as u8;
    }

    /// While it [waits](Self::is_waiting) the number of the SYN-ACK that the client has got, which is the
    /// cookie; afterwards what has to be added to the instance's numbers to make them the client's.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Whether it is of a spliced connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_spliced(self) -> bool {
        self.0 >> 56 & FORWARD_SPLICED as u64 != 0
    }

    /// Whether the instance has not answered yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        self.0 >> 56 & FORWARD_WAITING as u64 != 0
    }

    /// What it becomes when the instance has answered with this number.
    #[inline(always)]
    #[must_use]
    pub const fn answered(self, number: u32) -> Self {
        let difference = self.number().wrapping_sub(number);
        let rest = self.0 & !(0xffff_ffff | (FORWARD_WAITING as u64) << 56);
        Self(rest | difference as u64)
    }
}

// What is read at once.
const _: () = assert!(
    core::mem::offset_of!(FlowEntry, state) == 48
        && core::mem::offset_of!(FlowEntry, vip) == 52
        && core::mem::offset_of!(FlowEntry, direction) == 54
        && core::mem::offset_of!(FlowEntry, forward) == 55
);

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 8);
const _: () = assert!(size_of::<FlowEntry>() == 56 && align_of::<FlowEntry>() == 8);

/// Whether two keys are of the same flow, as a comparison of words: that of slices calls a function.
#[inline(always)]
#[must_use]
pub const fn same_flow(one: &FlowKey, other: &FlowKey) -> bool {
    same_address(&one.source, &other.source)
        && same_address(&one.destination, &other.destination)
        && u16::from_ne_bytes(one.source_port) == u16::from_ne_bytes(other.source_port)
        && u16::from_ne_bytes(one.destination_port) == u16::from_ne_bytes(other.destination_port)
        && one.protocol == other.protocol
}

impl FlowKey {
    /// What the VIP of a packet with this key is looked up by.
    #[inline(always)]
    #[must_use]
    pub const fn vip(&self) -> VipKey {
        VipKey::new(self.destination, self.destination_port, self.protocol)
    }

    /// The key of the other direction, given what `entry` makes of packets with this key.
    ///
    /// A packet (a → b) that leaves as (c → d) is answered by (d → c).
    #[inline(always)]
    #[must_use]
    pub const fn partner(&self, entry: &FlowEntry) -> Self {
        Self {
            source: entry.destination,
            destination: entry.source,
            source_port: entry.destination_port,
            destination_port: entry.source_port,
            protocol: self.protocol,
            pad: 0,
            pad_end: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splice_waits_for_the_instance_and_then_knows_the_difference() {
        let mut entry = FlowEntry {
            state: 0x1000_0005,
            vip: 300,
            direction: FLOW_REPLY,
            forward: 1 | FORWARD_SPLICED | FORWARD_WAITING,
            ..FlowEntry::default()
        };
        let waiting = Splice::of(&entry);
        assert!(waiting.is_spliced() && waiting.is_waiting());
        assert_eq!(waiting.number(), 0x1000_0005);
        let answered = waiting.answered(0xf000_0000);
        assert!(answered.is_spliced() && !answered.is_waiting());
        assert_eq!(answered.number().wrapping_add(0xf000_0000), 0x1000_0005);
        answered.write(&mut entry);
        assert_eq!(entry.forward, 1 | FORWARD_SPLICED);
        assert_eq!((entry.vip, entry.direction), (300, FLOW_REPLY));
        assert_eq!(Splice::of(&entry), answered);
        assert!(!Splice::of(&FlowEntry::default()).is_spliced());
    }
}
