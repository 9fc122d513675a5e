//! What the packet path would do with a packet, without doing it.
//!
//! A [`Probe`] is a packet that nobody has sent. What answers is not a model of the program but the
//! program: it is loaded a second time, beside the one that serves, over the same maps wherever it
//! only reads, and over maps of its own wherever it writes. So nothing is counted, remembered or
//! sent, and the program that serves does not know of it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lb_common::{Counter, FlowEntry, FlowKey, NextHop, PROTOCOL_TCP, PROTOCOL_UDP};

use super::plan::address;
use crate::model::{Forwarding, Protocol};

/// A packet that nobody has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom it says it is from.
    pub source: SocketAddr,
    /// Whom it is for; of the same family.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The flags of TCP.
    pub flags: TcpFlags,
    /// The interface that it would come in by; the first one when nothing is said.
    pub interface: Option<String>,
}

/// Flags of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Names and bits.
    pub const ALL: [(&'static str, Self); 4] = [
        ("fin", Self(1)),
        ("syn", Self(2)),
        ("rst", Self(4)),
        ("ack", Self(16)),
    ];
    /// The first packet of a connection.
    pub const SYN: Self = Self(2);

    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsed {
    /// The interface that it came in by.
    pub interface: String,
    /// What it was counted as.
    pub fate: Counter,
    /// Other things that it was counted as.
    pub events: Vec<Counter>,
    /// [`lb_common::Vip::id`] of its VIP.
    pub vip: Option<u32>,
    /// How its flow is forwarded, or would be.
    pub forwarding: Option<Forwarding>,
    /// Index of its instance.
    pub instance: Option<u16>,
    /// Its entry in the connection table before, and how long ago that was last used, in
    /// nanoseconds.
    pub known: Option<(FlowEntry, u64)>,
    /// The entry that it would have made.
    pub made: Option<FlowEntry>,
    /// Where its flow is in the table of its VIP, where the flow says that.
    pub slot: Option<SlotView>,
    /// How many slots of that table lead to each index.
    pub shares: Vec<(u16, u32)>,
    /// How it would leave lb; `None` when it would not.
    pub sent: Option<Sent>,
}

/// A slot of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its number.
    pub number: u32,
    /// Index of the instance that new connections go to; 0 is none.
    pub current: u16,
    /// Index of the instance whose the flows are that are not remembered; 0 is none.
    pub owner: u16,
}

/// A packet as it leaves lb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Index of the interface, where it was looked up.
    pub interface: Option<u32>,
    /// MAC address of the next hop.
    pub next_hop: [u8; 6],
    /// The outermost addresses, with ports where these have any.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The outermost ports.
    pub ports: Option<(u16, u16)>,
    /// Length of the frame in bytes.
    pub length: usize,
}

impl Probe {
    /// The key of its flow.
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey {
            source: address(self.source.ip()),
            destination: address(self.destination.ip()),
            source_port: self.source.port().to_be_bytes(),
            destination_port: self.destination.port().to_be_bytes(),
            protocol: match self.protocol {
                Protocol::Tcp => PROTOCOL_TCP,
                Protocol::Udp => PROTOCOL_UDP,
            },
            ..FlowKey::default()
        }
    }

    /// Its bytes; `None` when its addresses are of different families.
    pub(crate) fn frame(&self) -> Option<Vec<u8>> {
        /// Locally administered: of nobody in particular. The program does not look at them.
        const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        const PAYLOAD: [u8; 8] = *b"lb probe";
        let link = PacketBuilder::ethernet2(MACS[0], MACS[1]);
        let packet = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
            _ => return None,
        };
        let (from, to) = (self.source.port(), self.destination.port());
        let mut frame = Vec::with_capacity(128);
        match self.protocol {
            Protocol::Udp => packet.udp(from, to).write(&mut frame, &PAYLOAD).ok()?,
            Protocol::Tcp => {
                let mut packet = packet.tcp(from, to, 1, 65_535);
                for (bit, set) in FLAGS {
                    if self.flags.has(bit) {
                        packet = set(packet);
                    }
                }
                packet.write(&mut frame, &[]).ok()?;
            }
        }
        Some(frame)
    }
}

type Segment = etherparse::PacketBuilderStep<etherparse::TcpHeader>;
type SetFlag = fn(Segment) -> Segment;

/// Flags, and how each gets into a packet.
const FLAGS: [(u8, SetFlag); 4] = [
    (1, Segment::fin),
    (2, Segment::syn),
    (4, Segment::rst),
    (16, |packet| packet.ack(1)),
];

impl Sent {
    /// What a frame says of itself; `way` is what was looked up for it.
    pub(crate) fn of(frame: &[u8], way: Option<NextHop>) -> Self {
        let mut sent = Self {
            interface: way.map(|way| way.interface),
            length: frame.len(),
            ..Self::default()
        };
        if let Some(mac) = frame.first_chunk() {
            sent.next_hop = *mac;
        }
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
            return sent;
        };
        sent.addresses = match packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                Some((
                    header.source_addr().into(),
                    header.destination_addr().into(),
                ))
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                Some((
                    header.source_addr().into(),
                    header.destination_addr().into(),
                ))
            }
            _ => None,
        };
        sent.ports = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(source: &str, destination: &str, protocol: Protocol) -> Probe {
        Probe {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            flags: TcpFlags(2 | 16),
            interface: None,
        }
    }

    #[test]
    fn a_probe_is_the_packet_that_it_says_it_is() {
        for (source, destination) in [
            ("198.51.100.7:40000", "192.0.2.1:80"),
            ("[2001:db8::7]:40000", "[2001:db8:1::1]:80"),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let probe = probe(source, destination, protocol);
                let frame = probe.frame().unwrap();
                let sent = Sent::of(&frame, None);
                assert_eq!(sent.next_hop, [2, 0, 0, 0, 0, 2]);
                let ends = (probe.source.ip(), probe.destination.ip());
                assert_eq!(sent.addresses, Some(ends));
                assert_eq!(sent.ports, Some((40_000, 80)));
                if protocol == Protocol::Tcp {
                    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
                        panic!("expected TCP, found {packet:?}");
                    };
                    assert!(tcp.syn() && tcp.ack() && !tcp.fin() && !tcp.rst());
                }
            }
        }
    }

    #[test]
    fn there_is_no_packet_from_one_family_to_another() {
        let mixed = probe("198.51.100.7:1", "[2001:db8::1]:80", Protocol::Tcp);
        assert_eq!(mixed.frame(), None);
    }
}
