//! Making room in front of an IP packet, and putting the link's header before what comes there.

use core::mem::offset_of;

use network_types::eth::{EthHdr, EtherType};

use crate::Packet;

/// Bytes of the two MAC addresses.
const MACS: usize = offset_of!(EthHdr, ether_type);

/// The part of the link's header that stays: its VLAN tags.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    l3: usize,
    /// What follows the MAC addresses: two tags at most.
    tags: [[u8; 4]; 2],
}

impl Link {
    /// Reads it from a packet whose IP header is at `l3`, behind a tag or two or none.
    #[inline(always)]
    #[must_use]
    pub fn read<P: Packet>(packet: &P, l3: usize) -> Option<Self> {
        let mut tags = [[0; 4]; 2];
        if l3 > EthHdr::LEN {
            tags[0] = packet.read(MACS)?;
        }
        if l3 > EthHdr::LEN + 4 {
            tags[1] = packet.read(MACS + 4)?;
        }
        Some(Self { l3, tags })
    }

    /// Writes it, with these MAC addresses, to the front of a packet that has grown: the IP header
    /// that belongs at the former place of the old one is of this version.
    #[inline(always)]
    #[must_use]
    pub fn write<P: Packet>(&self, packet: &mut P, macs: [u8; 12], v4: bool) -> Option<()> {
        packet.write(0, macs)?;
        if self.l3 > EthHdr::LEN {
            packet.write(MACS, self.tags[0])?;
        }
        if self.l3 > EthHdr::LEN + 4 {
            packet.write(MACS + 4, self.tags[1])?;
        }
        let ether_type = if v4 { EtherType::Ipv4 } else { EtherType::Ipv6 };
        // `EtherType` has the values in the byte order of the packet.
        packet.write(self.l3 - 2, (ether_type as u16).to_ne_bytes())
    }
}
