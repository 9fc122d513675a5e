//! The way of a packet.
//!
//! The connection table is asked before the VIPs, although a VIP comes first in thought: the entry
//! of a known connection says all that the VIP would have said, so the packets that are by far the
//! most numerous cost one hash look-up instead of two, and a reply from an instance, which is for
//! no VIP, is found by the same look-up. Removing a VIP therefore means removing its connections
//! too, which the daemon does.

use lb_common::{
    Address, Counter, FLOW_REPLY, FORWARD_L2DSR, FORWARD_NAT, FlowEntry, NextHop, Traffic,
};

use crate::{
    Flow, Packet, Tables, Verdict,
    conntrack::{self, Begun, Known},
    hop,
    parse::{self, Parsed},
    rewrite,
};

/// Decides over a packet, rewrites it where it is to be forwarded, and counts it: once under
/// [`Counter::Received`] and once under the verdict's counter.
///
/// `interface` is the index of the interface that the packet came in by.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, interface: u32) -> Verdict {
    tables.count(Counter::Received);
    let verdict = decide(packet, tables, interface);
    tables.count(verdict.counter());
    verdict
}

#[inline(always)]
fn decide<P: Packet, T: Tables>(packet: &mut P, tables: &T, interface: u32) -> Verdict {
    let parsed = match parse::parse(packet) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Pass(reason),
    };
    let flow = match conntrack::find(tables, &parsed) {
        Known::Flow(flow) => flow,
        Known::Decided(verdict) => return verdict,
        Known::No => match conntrack::begin(tables, &parsed) {
            Begun::Decided(verdict) => return verdict,
            Begun::Unremembered { vip, index } => {
                return stateless(packet, tables, interface, &parsed, vip, index);
            }
            Begun::Remembered => match tables.flow(&parsed.key) {
                Some(flow) => flow,
                // Removed again by another processor.
                None => return Verdict::Drop(Counter::DropTableFull),
            },
        },
    };
    let entry = flow.entry();
    let way = Way {
        vip: entry.vip,
        index: entry.instance,
        bytes: packet.length() as u64,
        reply: entry.direction == FLOW_REPLY,
    };
    match forward(packet, tables, interface, &parsed, &entry) {
        Ok(hop) => {
            way.forwarded(tables);
            if parsed.has(parse::TCP_FIN | parse::TCP_RST) {
                conntrack::note_end(tables, &parsed.key, parsed.tcp_flags, &flow);
            }
            leave(&hop, interface)
        }
        Err(reason) => way.refused(tables, reason),
    }
}

/// Finds the way and rewrites the packet; on an error the packet is as it was.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    parsed: &Parsed,
    entry: &FlowEntry,
) -> Result<NextHop, Counter> {
    let now = tables.now();
    let nat = entry.forward == FORWARD_NAT;
    let hop = if entry.direction == FLOW_REPLY {
        hop::to_client(tables, interface, now, &entry.source, &entry.destination)?
    } else {
        let source = if nat {
            &entry.source
        } else {
            &parsed.key.source
        };
        hop::to_instance(
            tables,
            interface,
            entry.instance,
            now,
            source,
            entry.forward,
        )?
    };
    if hop.mtu != 0 && parsed.ip_length > hop.mtu {
        return Err(Counter::DropTooBig);
    }
    if nat {
        // A packet must not be forwarded with a TTL of zero (RFC 1812, 5.3.1).
        if rewrite::nat::ttl(packet, parsed).is_none_or(|ttl| ttl <= 1) {
            return Err(Counter::DropTtl);
        }
        rewrite::nat::rewrite(packet, parsed, entry).ok_or(Counter::DropRewrite)?;
    }
    rewrite::l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    Ok(hop)
}

/// Forwards a packet of an `l2dsr` connection for which the table has no room.
#[inline(always)]
fn stateless<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    parsed: &Parsed,
    vip: u16,
    index: u16,
) -> Verdict {
    let way = Way {
        vip,
        index,
        bytes: packet.length() as u64,
        reply: false,
    };
    let source: &Address = &parsed.key.source;
    let now = tables.now();
    let hop = match hop::to_instance(tables, interface, index, now, source, FORWARD_L2DSR) {
        Ok(hop) => hop,
        Err(reason) => return way.refused(tables, reason),
    };
    if hop.mtu != 0 && parsed.ip_length > hop.mtu {
        return way.refused(tables, Counter::DropTooBig);
    }
    if rewrite::l2::rewrite(packet, &hop).is_none() {
        return way.refused(tables, Counter::DropRewrite);
    }
    way.forwarded(tables);
    leave(&hop, interface)
}

#[inline(always)]
fn leave(hop: &NextHop, interface: u32) -> Verdict {
    if hop.interface == interface {
        Verdict::Transmit
    } else {
        Verdict::Redirect(hop.interface)
    }
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
    fn forwarded<T: Tables>(self, tables: &T) {
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
    }

    #[inline(always)]
    fn refused<T: Tables>(self, tables: &T, reason: Counter) -> Verdict {
        tables.vip_traffic(u32::from(self.vip), |traffic| traffic.dropped += 1);
        tables.instance_traffic(self.index, |traffic| traffic.dropped += 1);
        Verdict::Drop(reason)
    }
}
