//! Packets to order.
//!
//! A [`Build`] is a description; [`Build::bytes`] writes it down with lengths and checksums filled
//! in, computed in the plainest way there is. What a program should make of a packet is the same
//! description with other addresses.

use std::net::{IpAddr, SocketAddr};

use lb_common::{PROTOCOL_TCP, PROTOCOL_UDP};

/// A MAC address.
pub type Mac = [u8; 6];

/// Flags of a TCP header.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection is broken off.
    pub const RST: u8 = 0x04;
    /// Data to be handed on at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// Numbers of IPv6 extension headers.
pub mod extension {
    /// Options for each router.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routers to visit.
    pub const ROUTING: u8 = 43;
    /// A fragment.
    pub const FRAGMENT: u8 = 44;
    /// Options for the destination.
    pub const DESTINATION: u8 = 60;
}

/// A packet to be built.
#[derive(Clone, Debug)]
pub struct Build {
    /// Where the frame goes and where it comes from.
    pub macs: (Mac, Mac),
    /// VLAN tags, outermost first: ether type of the tag and its control information.
    pub tags: Vec<(u16, u16)>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port, of the same family.
    pub destination: SocketAddr,
    /// IANA protocol number; the transport header is TCP's for TCP and UDP's for all others.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification.
    pub id: u16,
    /// Lowest bits of the IPv6 flow label.
    pub label: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv4 flags and fragment offset.
    pub fragments: u16,
    /// IPv6 extension headers: number and body after the first byte, seven bytes more than a
    /// multiple of eight.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// TCP flags.
    pub flags: u8,
    /// TCP sequence number.
    pub number: u32,
    /// TCP acknowledgement number.
    pub acknowledged: u32,
    /// TCP window.
    pub window: u16,
    /// TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// Whether a UDP packet has a checksum.
    pub checksum: bool,
    /// Bytes after the packet that belong to the frame only.
    pub padding: usize,
}

impl Build {
    /// A TCP packet with these flags.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self {
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            tags: Vec::new(),
            source,
            destination,
            protocol: PROTOCOL_TCP,
            ttl: 64,
            id: 0x1234,
            label: 7,
            options: Vec::new(),
            fragments: 0x4000,
            extensions: Vec::new(),
            flags,
            number: 1,
            acknowledged: 2,
            window: 0xffff,
            tcp_options: Vec::new(),
            payload: Vec::new(),
            checksum: true,
            padding: 0,
        }
    }

    /// A UDP packet.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        Self {
            protocol: PROTOCOL_UDP,
            payload: payload.to_vec(),
            ..Self::tcp(source, destination, 0)
        }
    }

    /// The same packet changed.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend_from_slice(&self.macs.0);
        frame.extend_from_slice(&self.macs.1);
        for (kind, control) in &self.tags {
            frame.extend_from_slice(&kind.to_be_bytes());
            frame.extend_from_slice(&control.to_be_bytes());
        }
        let segment = self.segment();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend_from_slice(&[0x08, 0x00]);
                frame.extend(self.v4(source.octets(), destination.octets(), segment.len()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend_from_slice(&[0x86, 0xdd]);
                frame.extend(self.v6(source.octets(), destination.octets(), segment.len()));
            }
            families => panic!("expected addresses of one family, found {families:?}"),
        }
        frame.extend(segment);
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    fn v4(&self, source: [u8; 4], destination: [u8; 4], segment: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend_from_slice(&((length + segment) as u16).to_be_bytes());
        header.extend_from_slice(&self.id.to_be_bytes());
        header.extend_from_slice(&self.fragments.to_be_bytes());
        header.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        header.extend_from_slice(&source);
        header.extend_from_slice(&destination);
        header.extend_from_slice(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn v6(&self, source: [u8; 16], destination: [u8; 16], segment: usize) -> Vec<u8> {
        let numbers: Vec<u8> = (self.extensions.iter().map(|(number, _)| *number))
            .chain([self.protocol])
            .collect();
        let mut chain = Vec::new();
        for ((_, body), next) in self.extensions.iter().zip(&numbers[1..]) {
            chain.push(*next);
            chain.extend_from_slice(body);
        }
        let mut header = vec![0x60, 0, 0, self.label];
        header.extend_from_slice(&((chain.len() + segment) as u16).to_be_bytes());
        header.extend_from_slice(&[numbers[0], self.ttl]);
        header.extend_from_slice(&source);
        header.extend_from_slice(&destination);
        header.extend(chain);
        header
    }

    /// The transport header with its payload.
    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend_from_slice(&self.source.port().to_be_bytes());
        segment.extend_from_slice(&self.destination.port().to_be_bytes());
        let place = if self.protocol == PROTOCOL_TCP {
            let offset = 0x50 + (self.tcp_options.len() as u8) * 4;
            segment.extend_from_slice(&self.number.to_be_bytes());
            segment.extend_from_slice(&self.acknowledged.to_be_bytes());
            segment.extend_from_slice(&[offset, self.flags]);
            segment.extend_from_slice(&self.window.to_be_bytes());
            segment.extend_from_slice(&[0, 0, 0, 0]);
            segment.extend_from_slice(&self.tcp_options);
            16
        } else {
            segment.extend_from_slice(&((8 + self.payload.len()) as u16).to_be_bytes());
            segment.extend_from_slice(&[0, 0]);
            6
        };
        segment.extend_from_slice(&self.payload);
        if self.checksum {
            let mut covered = Vec::new();
            for address in [self.source.ip(), self.destination.ip()] {
                match address {
                    IpAddr::V4(address) => covered.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => covered.extend_from_slice(&address.octets()),
                }
            }
            covered.extend_from_slice(&(segment.len() as u32).to_be_bytes());
            covered.extend_from_slice(&[0, 0, 0, self.protocol]);
            covered.extend_from_slice(&segment);
            let mut sum = checksum(&covered);
            if self.protocol == PROTOCOL_UDP && sum == [0, 0] {
                sum = [0xff; 2];
            }
            segment[place..place + 2].copy_from_slice(&sum);
        }
        segment
    }
}

/// The Internet checksum (RFC 1071), two bytes at a time.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
