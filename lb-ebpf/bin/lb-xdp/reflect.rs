//! The yardstick on the wire: what it costs to steer packets when there is nothing to decide.

use aya_ebpf::Global;
use lb_ebpf::{
    Packet,
    record::{Fate, PASS, TRANSMIT},
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

use crate::hook::{Depth, Hook};

/// The address whose packets are sent on, as it stands in them; its name is
/// [`lb_common::names::REFLECTED`].
#[unsafe(no_mangle)]
static LB_REFLECTED: Global<[u8; 4]> = Global::new([0; 4]);

/// The MAC address that they are sent to, in the first six bytes; its name is
/// [`lb_common::names::REFLECTED_TO`].
#[unsafe(no_mangle)]
static LB_REFLECTED_TO: Global<[u8; 8]> = Global::new([0; 8]);

/// Sends a packet for one IPv4 address back to one MAC address, and passes all others.
#[inline(always)]
pub(crate) fn reflect<H: Hook>(context: &H) -> H::Action {
    let is_readdressed = readdress(&mut context.packet(Depth::Ports)).is_some();
    context.carry_out(Fate {
        action: if is_readdressed { TRANSMIT } else { PASS },
        ..Fate::default()
    })
}

#[inline(always)]
fn readdress<P: Packet>(packet: &mut P) -> Option<()> {
    let mut ethernet: EthHdr = packet.read(0)?;
    let ip: Ipv4Hdr = packet.read(EthHdr::LEN)?;
    if ethernet.ether_type != EtherType::Ipv4 as u16 || ip.dst_addr != LB_REFLECTED.load() {
        return None;
    }
    let to = LB_REFLECTED_TO.load();
    ethernet.src_addr = ethernet.dst_addr;
    ethernet.dst_addr = [to[0], to[1], to[2], to[3], to[4], to[5]];
    packet.write(0, ethernet)
}
