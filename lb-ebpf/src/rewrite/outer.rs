//! IP headers of lb's own: those around tunnelled packets and those of ICMP messages.

use lb_common::Address;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{Packet, checksum::Sum};

/// TTL and hop limit of packets that lb makes (RFC 1700's recommendation, and Linux' default).
pub const TTL: u8 = 64;

/// "Don't fragment" (RFC 791, 3.1).
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// An IP header to be written.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Number of what follows.
    pub protocol: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Label of the flow, 20 bits; of no use in IPv4.
    pub label: u32,
    /// Bytes that follow the header.
    pub payload: u16,
}

impl Outer {
    /// Bytes of the header.
    #[inline(always)]
    #[must_use]
    pub const fn length(v4: bool) -> usize {
        if v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN }
    }

    /// Writes an IPv4 header without options. Packets are never fragmented on the way, so their
    /// identification may be anything (RFC 6864, 4.1).
    #[inline(always)]
    #[must_use]
    pub fn write_v4<P: Packet>(&self, packet: &mut P, at: usize) -> Option<()> {
        let length = (Ipv4Hdr::LEN as u16)
            .wrapping_add(self.payload)
            .to_be_bytes();
        let (s, d) = (&self.source, &self.destination);
        let check = Sum::none()
            .word([0x45, self.class])
            .word(length)
            .word(DONT_FRAGMENT)
            .word([self.ttl, self.protocol])
            .address(s)
            .address(d)
            .checksum();
        packet.write(
            at,
            [
                0x45,
                self.class,
                length[0],
                length[1],
                0,
                0,
                DONT_FRAGMENT[0],
                DONT_FRAGMENT[1],
                self.ttl,
                self.protocol,
                check[0],
                check[1],
            ],
        )?;
        packet.write(at + 12, [s[12], s[13], s[14], s[15]])?;
        packet.write(at + 16, [d[12], d[13], d[14], d[15]])
    }

    /// Writes an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub fn write_v6<P: Packet>(&self, packet: &mut P, at: usize) -> Option<()> {
        let first = (6 << 28 | u32::from(self.class) << 20 | self.label & 0xf_ffff).to_be_bytes();
        let length = self.payload.to_be_bytes();
        packet.write(
            at,
            [
                first[0],
                first[1],
                first[2],
                first[3],
                length[0],
                length[1],
                self.protocol,
                self.ttl,
            ],
        )?;
        packet.write(at + 8, self.source)?;
        packet.write(at + 24, self.destination)
    }
}
