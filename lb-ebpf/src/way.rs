//! Whose traffic a packet is, and how it is counted there.

use lb_common::{Counter, FLOW_REPLY, Traffic};

use crate::{Packet, Tables, Verdict, step::Handover};

/// Whose traffic a packet is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    vip: u16,
    index: u16,
    bytes: u64,
    reply: bool,
}

impl Way {
    #[inline(always)]
    pub(crate) fn new<P: Packet>(packet: &P, vip: u16, index: u16, direction: u8) -> Self {
        Self {
            vip,
            index,
            bytes: packet.length() as u64,
            reply: direction == FLOW_REPLY,
        }
    }

    /// The way of a packet that was handed on.
    #[inline(always)]
    pub(crate) fn of<P: Packet>(packet: &P, handover: &Handover) -> Self {
        Self::new(packet, handover.vip, handover.index, handover.direction)
    }

    /// Counts a packet that leaves by `out`, having come in by `interface`.
    #[inline(always)]
    pub(crate) fn forwarded<T: Tables>(self, tables: &T, out: u32, interface: u32) -> Verdict {
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
    pub(crate) fn refused<T: Tables>(self, tables: &T, reason: Counter) -> Verdict {
        self.lost(tables, reason);
        Verdict::Drop(reason)
    }

    /// Counts a packet that does not get any further.
    #[inline(always)]
    pub(crate) fn lost<T: Tables>(self, tables: &T, reason: Counter) {
        tables.vip_dropped(u32::from(self.vip), reason);
        tables.instance_traffic(self.index, |traffic| traffic.dropped += 1);
    }
}
