//! Packet memory.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
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
headers!(EthHdr, VlanHdr, Ipv4Hdr, Ipv6Hdr, TcpHdr, UdpHdr);

// SAFETY: any bytes are a valid array of bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

/// A packet from its Ethernet header on.
pub trait Packet {
    /// Length in bytes.
    fn length(&self) -> usize;

    /// Copies a header from `offset`, or `None` when it does not lie in the packet as a whole.
    fn read<H: Header>(&self, offset: usize) -> Option<H>;

    /// Copies a header to `offset`, or `None`, having written nothing, when it does not lie in the
    /// packet as a whole.
    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()>;
}
