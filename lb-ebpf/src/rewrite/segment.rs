//! TCP segments of lb's own, each made of the packet that it is in answer to or in the place of.
//!
//! None has data that anybody would miss, so all headers are written anew and checksums are not
//! changed but made, unless whoever sends the packet at last makes them ([`Packet::is_unfinished`]).

use core::mem::offset_of;

use lb_common::{FlowKey, PROTOCOL_TCP};
use network_types::tcp::TcpHdr;

use super::{
    link::Link,
    outer::{Outer, TTL},
};
use crate::{Packet, checksum::Sum};

/// Bytes of a header without options.
const HEADER: usize = TcpHdr::LEN;
/// Where the checksum is in it.
pub(crate) const CHECK: usize = offset_of!(TcpHdr, check);

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    Nothing,
    /// The option that says how large segments may be.
    Mss(u16),
    /// One byte of data, a zero.
    Byte,
}

/// A segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// The number of its first byte.
    pub(crate) number: u32,
    /// The number that its sender expects next; counts only with [`crate::parse::TCP_ACK`].
    pub(crate) acknowledged: u32,
    /// Its flags.
    pub(crate) flags: u8,
    /// How much its sender takes.
    pub(crate) window: u16,
    /// What follows the header.
    pub(crate) tail: Tail,
}

/// Where a packet is going that becomes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Back to where it came from.
    Back,
    /// Where it was going to.
    On,
}

impl Segment {
    /// Bytes of header and tail.
    #[inline(always)]
    pub(crate) const fn length(&self) -> usize {
        HEADER
            + match self.tail {
                Tail::Nothing => 0,
                Tail::Mss(_) => 4,
                Tail::Byte => 1,
            }
    }

    /// Makes it of a packet with this tuple, whose IP header is at `l3` and has no options or extension
    /// headers. One that goes on has the TTL that the packet has. `None` when the packet ends before
    /// its headers do or there is no room in front of it; it is not to be sent then.
    #[inline(always)]
    #[must_use]
    pub(crate) fn replace<P: Packet>(
        &self,
        packet: &mut P,
        key: &FlowKey,
        (l3, v4): (usize, bool),
        bound: Bound,
    ) -> Option<()> {
        let header = Outer::length(v4);
        let is_back = matches!(bound, Bound::Back);
        let link = Link::read(packet, l3)?;
        let macs: [u8; 12] = packet.read(0)?;
        let [v4_ttl, _]: [u8; 2] = packet.read(l3 + 8)?;
        let [_, v6_limit]: [u8; 2] = packet.read(l3 + 6)?;
        packet.resize(l3 + header + self.length())?;
        let is_unfinished = packet.is_unfinished(l3 + header + CHECK);
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
        let macs = if is_back {
            [g, h, i, j, k, l, a, b, c, d, e, f]
        } else {
            macs
        };
        link.write(packet, macs, v4)?;
        let outer = Outer {
            source: if is_back { key.destination } else { key.source },
            destination: if is_back { key.source } else { key.destination },
            protocol: PROTOCOL_TCP,
            class: 0,
            label: 0,
            ttl: match bound {
                Bound::Back => TTL,
                Bound::On if v4 => v4_ttl,
                Bound::On => v6_limit,
            },
            payload: self.length() as u16,
        };
        if v4 {
            outer.write_v4(packet, l3)?;
        } else {
            outer.write_v6(packet, l3)?;
        }
        let (from, to) = if is_back {
            (key.destination_port, key.source_port)
        } else {
            (key.source_port, key.destination_port)
        };
        let head = pseudo(key, PROTOCOL_TCP, self.length());
        if is_unfinished {
            self.write(packet, (from, to), l3 + header, |_| head.folded())
        } else {
            let whole = |segment| head.plus(segment).checksum();
            self.write(packet, (from, to), l3 + header, whole)
        }
    }

    /// Writes header and tail, with the checksum that `check` makes of the sum of all else.
    #[inline(always)]
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        (from, to): ([u8; 2], [u8; 2]),
        at: usize,
        check: impl FnOnce(Sum) -> [u8; 2],
    ) -> Option<()> {
        let (number, acknowledged) = (self.number.to_be_bytes(), self.acknowledged.to_be_bytes());
        let window = self.window.to_be_bytes();
        let offset = if matches!(self.tail, Tail::Mss(_)) {
            0x60
        } else {
            0x50
        };
        let option = match self.tail {
            Tail::Mss(mss) => {
                let [high, low] = mss.to_be_bytes();
                [2, 4, high, low]
            }
            Tail::Nothing | Tail::Byte => [0; 4],
        };
        let sum = Sum::none()
            .word(from)
            .word(to)
            .words(number)
            .words(acknowledged)
            .word([offset, self.flags])
            .word(window)
            .words(option);
        let [c0, c1] = check(sum);
        packet.write(at, [from[0], from[1], to[0], to[1]])?;
        packet.write(at + 4, number)?;
        packet.write(at + 8, acknowledged)?;
        packet.write(
            at + 12,
            [offset, self.flags, window[0], window[1], c0, c1, 0, 0],
        )?;
        match self.tail {
            Tail::Nothing => Some(()),
            Tail::Mss(_) => packet.write(at + HEADER, option),
            // A header is two bytes at least; the other one is there already, as the last of the header.
            Tail::Byte => packet.write(at + HEADER - 1, [0; 2]),
        }
    }
}

/// The sum of the pseudo-header of what goes from one end of a flow to the other; in which direction
/// makes no difference.
#[inline(always)]
pub(crate) const fn pseudo(key: &FlowKey, protocol: u8, length: usize) -> Sum {
    Sum::none()
        .address(&key.source)
        .address(&key.destination)
        .word([0, protocol])
        .word((length as u16).to_be_bytes())
}
