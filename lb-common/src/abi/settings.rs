//! Settings of the packet path.

use super::{Address, from_halves, halves};

/// What the daemon tells the program once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Source address of translated IPv4 packets and of IPv4 tunnels (IPv4-mapped), or zero: neither
    /// is to be had.
    pub nat_source_v4: Address,
    /// The same for IPv6.
    pub nat_source_v6: Address,
    /// First source port for `nat`, native byte order.
    pub nat_port_first: u16,
    /// Last source port for `nat`, inclusive, native byte order.
    pub nat_port_last: u16,
    /// How long a looked-up next hop is used before it is looked up again, in milliseconds.
    pub next_hop_ttl_ms: u32,
    /// ICMP messages of lb's own that each processor may send in a second.
    pub icmp_rate: u32,
    /// UDP port that `gue` sends to, network byte order.
    pub gue_port: [u8; 2],
    /// Echo requests for VIPs that each processor answers in a second; 0: they go to the host.
    pub echo_rate: u16,
    /// 1 when there is a VIP of several ports.
    pub has_ranges: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl Settings {
    /// lb's source address of a family; all zero when there is none.
    #[inline(always)]
    #[must_use]
    pub const fn nat_source(&self, v4: bool) -> Address {
        // Chosen by a mask. Chosen by a branch, the compiler makes of it the choice of a place, and
        // the verifier accepts no computed places on the program's stack.
        let (four, six) = (halves(&self.nat_source_v4), halves(&self.nat_source_v6));
        let mask = (v4 as u64).wrapping_neg();
        let chosen = [
            (four[0] & mask) | (six[0] & !mask),
            (four[1] & mask) | (six[1] & !mask),
        ];
        from_halves(chosen)
    }
}

const _: () = assert!(size_of::<Settings>() == 52);
