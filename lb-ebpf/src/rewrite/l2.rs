//! The MAC addresses.

use core::mem::offset_of;

use lb_common::NextHop;
use network_types::eth::EthHdr;

use crate::Packet;

// Destination and source lie side by side, so one write does for both.
const _: () = assert!(offset_of!(EthHdr, dst_addr) == 0 && offset_of!(EthHdr, src_addr) == 6);

/// Addresses the frame to the next hop, from the outgoing interface. VLAN tags stay. The source
/// must be lb's own MAC address, or bridges learn a wrong way to the client.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, hop: &NextHop) -> Option<()> {
    let (d, s) = (hop.destination, hop.source);
    packet.write(
        0,
        [
            d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5],
        ],
    )
}
