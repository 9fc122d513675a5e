//! The entry points of XDP.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::entries::entries;

entries!(xdp, lb_xdp, XdpContext, u32);

/// Passes every packet: the floor of benchmarks, and what the peer of a veth needs so that packets
/// that were transmitted by XDP reach it.
#[xdp]
pub fn lb_pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
