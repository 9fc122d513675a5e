//! Packet memory.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::plain::{OverV4, OverV6};

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

    /// Cuts off what is behind the first `length` bytes, of which there must be more; `None`, having
    /// changed nothing, when the packet cannot be cut.
    fn cut(&mut self, length: usize) -> Option<()>;
}
