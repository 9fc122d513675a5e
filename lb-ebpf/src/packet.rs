//! Packet memory.

use lb_common::PROTOCOL_UDP;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    checksum::Difference,
    plain::{OverV4, OverV6},
    rewrite::tag,
};

/// A value that any bytes of a packet form.
///
/// # Safety
///
/// Every bit pattern must be a valid value and the type must have no padding, so that it can be
/// copied from and to bytes.
pub unsafe trait Header: Copy {}

macro_rules! headers {
    ($($t:ty),+) => { $(
        // SAFETY: `#[repr(C)]`, built of integers and byte arrays without padding between them.
        unsafe impl Header for $t {}
    )+ };
}
headers!(
    EthHdr, VlanHdr, Ipv4Hdr, Ipv6Hdr, TcpHdr, UdpHdr, OverV4, OverV6
);

// SAFETY: any bytes are a valid array of bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

/// No header lies at a higher offset: Ethernet, two tags, IPv6 and the extension headers that are
/// walked are less, as is what an ICMP message quotes of a packet. All ones in binary, so that it is
/// also a mask.
pub const MAX_OFFSET: usize = 0x7ff;

/// A packet from its Ethernet header on.
///
/// Most of it is memory. What has a body here is what more is to be known of the kernel's socket buffers, which
/// keep some of a packet beside its bytes: a VLAN tag, a checksum that is still to be made or that the card has
/// made, several packets in one.
pub trait Packet {
    /// Length in bytes.
    fn length(&self) -> usize;

    /// Gives `value` back. The kernel's verifier walks each path to its end, and two paths that
    /// differ in nothing but a known value are two to it; an implementation for the kernel makes
    /// it forget what it knows of the value and of the packet's length, so they become one.
    fn forget(&mut self, value: u64) -> u64;

    /// [Forgets](Self::forget) an offset, which is at most [`MAX_OFFSET`].
    #[inline(always)]
    fn blur(&mut self, offset: usize) -> usize {
        debug_assert!(offset <= MAX_OFFSET);
        self.forget(offset as u64) as usize & MAX_OFFSET
    }

    /// Copies a header of two bytes at least from `offset`, or `None` when it does not lie in the packet as a whole.
    fn read<H: Header>(&self, offset: usize) -> Option<H>;

    /// Copies a header to `offset`, or `None`, having written nothing, when it does not lie in the
    /// packet as a whole.
    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()>;

    /// Makes room for so many bytes in front, whose contents are anything; `None`, having changed
    /// nothing, when there is no room.
    fn grow(&mut self, bytes: usize) -> Option<()>;

    /// Takes so many bytes away in front, of which there must be more; `None`, having changed nothing,
    /// when that cannot be.
    fn strip(&mut self, bytes: usize) -> Option<()>;

    /// Makes a packet `length` bytes long whose headers are all written anew afterwards. What it is too long by
    /// is cut off behind; what it is too short by may come in front, so that bytes have other places then.
    /// `None` when that cannot be; the packet is not to be sent then.
    fn resize(&mut self, length: usize) -> Option<()>;

    /// Makes room for the outer headers of a tunnel, as [`Self::grow`] does: of IPv4 or IPv6, with UDP or not.
    #[inline(always)]
    fn wrap(&mut self, bytes: usize, _v4: bool, _udp: bool) -> Option<()> {
        self.grow(bytes)
    }

    /// Takes the outer headers of a tunnel away, as [`Self::strip`] does; what is inside is IPv4 or IPv6.
    #[inline(always)]
    fn unwrap(&mut self, bytes: usize, _v4: bool) -> Option<()> {
        self.strip(bytes)
    }

    /// Changes the checksum of TCP or UDP at `at` because what it covers has changed: the pseudo-header,
    /// and the segment itself. `None`, having changed nothing, when it does not lie in the packet.
    #[inline(always)]
    fn change_checksum(
        &mut self,
        at: usize,
        pseudo: Difference,
        segment: Difference,
        (protocol, _v4): (u8, bool),
    ) -> Option<()> {
        let old: [u8; 2] = self.read(at)?;
        let change = pseudo.plus(segment);
        let check = if protocol == PROTOCOL_UDP {
            change.apply_udp(old)
        } else {
            change.apply(old)
        };
        self.write(at, check)
    }

    /// Tells of a change of IP headers that no checksum in the packet makes up for.
    #[inline(always)]
    fn resum(&mut self, _change: Difference) {}

    /// Whether the checksum of TCP or UDP at `at` is still to be made, by whoever sends the packet at last: it
    /// covers all from its segment's header to the packet's end, and until then the sum of the pseudo-header is in its place.
    #[inline(always)]
    fn is_unfinished(&mut self, _at: usize) -> bool {
        false
    }

    /// The length of the largest IP packet that this one is on a wire, which has several headers less than it
    /// itself when it is made several there. The IP header is at `l3` and that of `protocol`, TCP or UDP, at
    /// `l4`.
    #[inline(always)]
    fn largest(&self, ip_length: u32, _l3: usize, _l4: usize, _protocol: u8) -> u32 {
        ip_length
    }

    /// Whether this is several packets, which are made of it when it is sent.
    #[inline(always)]
    fn is_several(&self) -> bool {
        false
    }

    /// Whether a packet whose IP header is at `l3` has a VLAN tag.
    #[inline(always)]
    fn is_tagged(&self, l3: usize) -> bool {
        l3 != EthHdr::LEN
    }

    /// Gives a packet whose IP header is at `l3` these VLAN tags and no others, as [`lb_common::tag`] has them; 0 is
    /// none. The priority stays. `None` when there is no room for them, or the packet ends before.
    #[inline(always)]
    fn retag(&mut self, l3: usize, outer: u32, inner: u32) -> Option<()> {
        tag::write(self, l3, outer, inner)
    }
}
