//! What the first bytes of a packet say of it.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// Protocols that have a name.
const NAMES: [(u8, &str); 6] = [
    (1, "icmp"),
    (4, "ipip"),
    (6, "tcp"),
    (17, "udp"),
    (41, "ipip"),
    (58, "icmp"),
];

/// The outermost headers of a packet, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// MAC address that the frame is for.
    pub to: [u8; 6],
    /// Source and destination.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// The flags of TCP.
    pub flags: Option<u8>,
}

impl Headers {
    /// Reads the beginning of a frame.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let mut headers = Self::default();
        if let Some(mac) = frame.first_chunk() {
            headers.to = *mac;
        }
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return headers;
        };
        match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let ends = (header.source_addr(), header.destination_addr());
                headers.addresses = Some((ends.0.into(), ends.1.into()));
                headers.protocol = Some(ip.payload().ip_number.0);
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let ends = (header.source_addr(), header.destination_addr());
                headers.addresses = Some((ends.0.into(), ends.1.into()));
                headers.protocol = Some(ip.payload().ip_number.0);
            }
            _ => {}
        }
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                headers.ports = Some((tcp.source_port(), tcp.destination_port()));
                headers.flags = tcp.slice().get(13).copied();
            }
            Some(TransportSlice::Udp(udp)) => {
                headers.ports = Some((udp.source_port(), udp.destination_port()));
            }
            _ => {}
        }
        headers
    }

    /// The name of a protocol, or its number.
    #[must_use]
    pub fn name(protocol: u8) -> String {
        let found = NAMES.iter().find(|(number, _)| *number == protocol);
        found.map_or_else(|| protocol.to_string(), |(_, name)| (*name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn what_is_cut_off_is_no_obstacle() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64)
            .tcp(40_000, 80, 7, 1000)
            .syn()
            .ack(9)
            .write(&mut frame, &[0; 1000])
            .unwrap();
        let ends = (
            "198.51.100.7".parse().unwrap(),
            "192.0.2.10".parse().unwrap(),
        );
        for length in [frame.len(), 192, 14 + 20 + 20] {
            let headers = Headers::of(&frame[..length]);
            assert_eq!(headers.to, [4; 6]);
            assert_eq!(headers.addresses, Some(ends));
            assert_eq!(headers.ports, Some((40_000, 80)));
            assert_eq!((headers.protocol, headers.flags), (Some(6), Some(0x12)));
        }
        let headers = Headers::of(&frame[..14 + 20 + 4]);
        assert_eq!((headers.addresses, headers.ports), (Some(ends), None));
        for length in 0..20 {
            assert_eq!(Headers::of(&frame[..length]).addresses, None);
        }
    }

    #[test]
    fn datagrams_and_tags_are_read_as_well() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(7.try_into().unwrap())
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .udp(40_000, 53)
            .write(&mut frame, &[0; 1000])
            .unwrap();
        let headers = Headers::of(&frame[..192]);
        assert_eq!((headers.protocol, headers.flags), (Some(17), None));
        assert_eq!(headers.ports, Some((40_000, 53)));
    }

    #[test]
    fn protocols_have_names_or_numbers() {
        assert_eq!(Headers::name(17), "udp");
        assert_eq!(Headers::name(132), "132");
    }
}
