//! The way of a packet.
//!
//! The connection table is asked before the VIPs, although a VIP comes first in thought: the entry
//! of a known connection says all that the VIP would have said, so the packets that are by far the
//! most numerous cost one hash look-up instead of two, and a reply from an instance, which is for
//! no VIP, is found by the same look-up. Removing a VIP therefore means removing its connections
//! too, which the daemon does.

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_L2DSR, FORWARD_NAT, FlowKey, NextHop, Traffic,
};

use crate::{
    Flow, Packet, Scratch, Tables, Verdict,
    begin::{self, Begun},
    conntrack::{self, Known},
    hop,
    parse::{self, Layout},
    rewrite,
};

/// Decides over a packet, rewrites it where it is to be forwarded, and counts it: once under
/// [`Counter::Received`] and once under the verdict's counter.
///
/// `interface` is the index of the interface that the packet came in by; what is in `scratch` does
/// not matter.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Verdict {
    tables.count(Counter::Received);
    let verdict = decide(packet, tables, scratch, interface);
    tables.count(verdict.counter());
    verdict
}

#[inline(always)]
fn decide<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Verdict {
    scratch.key = FlowKey::default();
    let layout = match parse::parse(packet, &mut scratch.key) {
        Ok(layout) => layout,
        Err(reason) => return Verdict::Pass(reason),
    };
    let (flow, now) = match conntrack::find(tables, &scratch.key, &layout) {
        Known::Flow(flow, now) => (flow, now),
        Known::Decided(verdict) => return verdict,
        Known::No => match begin::begin(tables, scratch, layout.tcp_flags, layout.fragment) {
            Begun::Decided(verdict) => return verdict,
            Begun::Unremembered {
                vip,
                index,
                generation,
            } => {
                let way = Way::new(packet, vip, index, FLOW_FORWARD);
                return match stateless(packet, tables, interface, &layout, index, generation) {
                    Ok(out) => way.forwarded(tables, out, interface),
                    Err(reason) => way.refused(tables, reason),
                };
            }
            Begun::Remembered => match tables.flow(&scratch.key) {
                Some(flow) => (flow, tables.now()),
                // Removed again by another processor.
                None => return Verdict::Drop(Counter::DropTableFull),
            },
        },
    };
    let entry = flow.entry();
    let way = Way::new(packet, entry.vip, entry.instance, entry.direction);
    match forward(packet, tables, interface, now, &scratch.key, &layout, &flow) {
        Ok(out) => {
            if layout.has(parse::TCP_FIN | parse::TCP_RST) {
                conntrack::note_end(tables, &scratch.key, layout.tcp_flags, &flow);
            }
            way.forwarded(tables, out, interface)
        }
        Err(reason) => way.refused(tables, reason),
    }
}

/// Finds the way of a packet and rewrites it; returns the interface to leave by. On an error the
/// packet is as it was.
///
/// The entry is read anew wherever it is needed. A copy that lives across calls of helpers would
/// have to lie on the stack.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    now: u64,
    key: &FlowKey,
    layout: &Layout,
    flow: &T::Flow,
) -> Result<u32, Counter> {
    let entry = flow.entry();
    let nat = entry.forward == FORWARD_NAT;
    let hop = if entry.direction == FLOW_REPLY {
        hop::to_client(tables, interface, now, flow)?
    } else {
        hop::to_instance(
            tables,
            interface,
            entry.instance,
            entry.generation,
            now,
            entry.forward,
        )?
    };
    check(&hop, layout, interface)?;
    if nat {
        rewrite::nat::rewrite(packet, key, layout, flow)?;
    }
    rewrite::l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    Ok(hop.interface)
}

/// Finds the way of a packet of an `l2dsr` connection for which the table has no room.
#[inline(always)]
fn stateless<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    layout: &Layout,
    index: u16,
    generation: u16,
) -> Result<u32, Counter> {
    let now = tables.now();
    let hop = hop::to_instance(tables, interface, index, generation, now, FORWARD_L2DSR)?;
    check(&hop, layout, interface)?;
    rewrite::l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    Ok(hop.interface)
}

/// Whether a packet may go this way as it is.
#[inline(always)]
const fn check(hop: &NextHop, layout: &Layout, interface: u32) -> Result<(), Counter> {
    if hop.mtu != 0 && layout.ip_length > hop.mtu {
        return Err(Counter::DropTooBig);
    }
    if hop.interface != interface && layout.is_tagged() {
        return Err(Counter::DropTagged);
    }
    Ok(())
}

/// Whose traffic a packet is.
#[derive(Clone, Copy)]
struct Way {
    vip: u16,
    index: u16,
    bytes: u64,
    reply: bool,
}

impl Way {
    #[inline(always)]
    fn new<P: Packet>(packet: &P, vip: u16, index: u16, direction: u8) -> Self {
        Self {
            vip,
            index,
            bytes: packet.length() as u64,
            reply: direction == FLOW_REPLY,
        }
    }

    /// Counts a packet that leaves by `out`, having come in by `interface`.
    #[inline(always)]
    fn forwarded<T: Tables>(self, tables: &T, out: u32, interface: u32) -> Verdict {
        let add = |traffic: &mut Traffic| {
            if self.reply {
                traffic.packets_out += 1;
                traffic.bytes_out += self.bytes;
            } else {
                traffic.packets_in += 1;
                traffic.bytes_in += self.bytes;
            }
        };
        tables.vip_traffic(u32::from(self.vip), add);
        tables.instance_traffic(self.index, add);
        if out == interface {
            Verdict::Transmit
        } else {
            Verdict::Redirect(out)
        }
    }

    /// Counts a packet that is refused.
    #[inline(always)]
    fn refused<T: Tables>(self, tables: &T, reason: Counter) -> Verdict {
        tables.vip_traffic(u32::from(self.vip), |traffic| traffic.dropped += 1);
        tables.instance_traffic(self.index, |traffic| traffic.dropped += 1);
        Verdict::Drop(reason)
    }
}
