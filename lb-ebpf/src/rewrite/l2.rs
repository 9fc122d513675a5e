//! The MAC addresses.

use core::mem::offset_of;

use lb_common::NextHop;
use network_types::eth::EthHdr;

use crate::Packet;

// What `NextHop::macs` takes for granted.
const _: () = assert!(offset_of!(EthHdr, dst_addr) == 0 && offset_of!(EthHdr, src_addr) == 6);

/// Addresses the frame to the next hop, from the outgoing interface. VLAN tags are
/// [somebody else's work](super::tag). The source
/// must be lb's own MAC address, or bridges learn a wrong way to the client.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, hop: &NextHop) -> Option<()> {
    packet.write(0, hop.macs)
}
