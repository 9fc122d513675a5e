//! The VLAN tag.
//!
//! The kernel's routes name a VLAN by an interface of its own, which XDP cannot send by: frames leave
//! by the interface below, and the tag that says which VLAN they are on is for the program to write
//! ([`lb_common::Subinterface`]). Where the way names no VLAN the tags of a frame that goes back by
//! the interface it came in by stay, as does whoever sent it; on another interface they mean
//! something else, or nothing, and are taken off.

use lb_common::{HOP_TAGGED, HOP_VLAN};
use network_types::eth::EthHdr;

use crate::Packet;

/// Bytes of a tag.
const TAG: usize = 4;
/// Ether type of a tag (IEEE 802.1Q).
const KIND: [u8; 2] = [0x81, 0];

/// Whether a packet whose IP header is at `l3` leaves with other tags than it has, by a way with these
/// [`lb_common::NextHop::flags`].
#[inline(always)]
#[must_use]
pub fn changes<P: Packet>(packet: &P, l3: usize, flags: u16, is_elsewhere: bool) -> bool {
    flags & HOP_TAGGED != 0 || is_elsewhere && packet.is_tagged(l3)
}

/// Gives a packet whose IP header is at `l3` the tag that the way asks for and no other. The priority
/// stays. `None` when there is no room for it, or the packet ends before.
#[inline(always)]
#[must_use]
pub fn rewrite<P: Packet>(packet: &mut P, l3: usize, flags: u16) -> Option<()> {
    let vlan = (flags & HOP_TAGGED != 0).then_some(flags >> HOP_VLAN);
    packet.retag(l3, vlan)
}

/// The same where all tags are among the packet's bytes.
#[inline(always)]
pub(crate) fn write<P: Packet + ?Sized>(
    packet: &mut P,
    l3: usize,
    vlan: Option<u16>,
) -> Option<()> {
    let macs: [u8; 12] = packet.read(0)?;
    // The compiler would compare `l3` with the packet's end, and the verifier would not see what for.
    let at = packet.blur(l3.checked_sub(2)?);
    let ether_type: [u8; 2] = packet.read(at)?;
    let mut priority = 0;
    if l3 > EthHdr::LEN {
        let [control, _]: [u8; 2] = packet.read(EthHdr::LEN)?;
        priority = control & 0xf0;
        packet.strip(l3 - EthHdr::LEN)?;
    }
    let Some(vlan) = vlan else {
        packet.write(0, macs)?;
        return packet.write(EthHdr::LEN - 2, ether_type);
    };
    packet.grow(TAG)?;
    let [high, low] = vlan.to_be_bytes();
    packet.write(0, macs)?;
    packet.write(EthHdr::LEN - 2, KIND)?;
    packet.write(EthHdr::LEN, [priority | high, low])?;
    packet.write(EthHdr::LEN + 2, ether_type)
}
