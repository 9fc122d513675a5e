//! VLAN tags.
//!
//! The kernel's routes name a VLAN by an interface of its own, which XDP cannot send by: frames leave
//! by the interface below, and the tags that say which VLAN they are on are for the program to write
//! ([`lb_common::Subinterface`]). Where the way names no VLAN the tags of a frame that goes back by
//! the interface it came in by stay, as does whoever sent it; on another interface they mean
//! something else, or nothing, and are taken off.
//!
//! A way has room for the id of one VLAN (802.1Q), which is what most have. Of all others, a VLAN within a VLAN and
//! one of a provider's (802.1ad), it names the interface, and what there is to know of that is asked here, where
//! nobody else pays for it.

use lb_common::{Counter, HOP_TAGGED, HOP_VLAN, TAG_CUSTOMER, names_subinterface, tag};
use network_types::eth::EthHdr;

use crate::{Packet, Tables};

/// Bytes of a tag.
const TAG: usize = 4;

/// Whether a packet whose IP header is at `l3` leaves with other tags than it has, by a way with these
/// [`lb_common::NextHop::flags`].
#[inline(always)]
#[must_use]
pub fn changes<P: Packet>(packet: &P, l3: usize, flags: u16, is_elsewhere: bool) -> bool {
    flags & HOP_TAGGED != 0 || is_elsewhere && packet.is_tagged(l3)
}

/// Gives a packet whose IP header is at `l3`, and which came in by `interface`, the tags that its way asks for:
/// [`lb_common::NextHop::interface`] and [`lb_common::NextHop::flags`]. The priority stays. Returns the interface
/// that it leaves by.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub fn rewrite<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    l3: usize,
    (out, flags): (u32, u16),
    interface: u32,
) -> Result<u32, Counter> {
    if !changes(packet, l3, flags, out != interface) {
        return Ok(out);
    }
    let (out, outer, inner) = if names_subinterface(flags) {
        // Since the way was found, it may have become one that nothing can be sent to.
        let below = tables.subinterface(out).filter(|below| below.outer != 0);
        let below = below.ok_or(Counter::DropNoRoute)?;
        (below.parent, below.outer, below.inner)
    } else if flags & HOP_TAGGED != 0 {
        (out, tag(TAG_CUSTOMER, flags >> HOP_VLAN), 0)
    } else {
        (out, 0, 0)
    };
    packet
        .retag(l3, outer, inner)
        .ok_or(Counter::DropHeadroom)?;
    Ok(out)
}

/// [`Packet::retag`] where all tags are among the packet's bytes.
#[inline(always)]
pub(crate) fn write<P: Packet + ?Sized>(
    packet: &mut P,
    l3: usize,
    outer: u32,
    inner: u32,
) -> Option<()> {
    let macs: [u8; 12] = packet.read(0)?;
    let mut priority = 0;
    if l3 > EthHdr::LEN {
        let [control, _]: [u8; 2] = packet.read(EthHdr::LEN)?;
        priority = control & 0xf0;
        // The ether type in front of the IP header is the one that stays.
        packet.strip(l3 - EthHdr::LEN)?;
    }
    for tag in [inner, outer] {
        if tag != 0 {
            packet.grow(TAG)?;
            let [e0, e1, high, low] = tag.to_be_bytes();
            packet.write(EthHdr::LEN - 2, [e0, e1, priority | high, low])?;
        }
    }
    packet.write(0, macs)
}
