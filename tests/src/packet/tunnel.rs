//! What a tunnel should make of a packet, and what a message about one that is too large should look
//! like: written down in the plainest way there is.

use std::net::IpAddr;

use super::build::{Mac, checksum};

/// The outer headers of a tunnelled packet.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Where the frame goes and where it comes from.
    pub macs: (Mac, Mac),
    /// Addresses of the two ends, of one family.
    pub ends: (IpAddr, IpAddr),
    /// Type of service or traffic class.
    pub class: u8,
    /// Flow label, for IPv6.
    pub label: u32,
    /// Source and destination port, for `gue`.
    pub ports: Option<(u16, u16)>,
    /// Whether UDP over IPv6 has a checksum.
    pub checksum: bool,
}

impl Outer {
    /// The frame that `inner`, a frame without Ethernet padding, becomes.
    ///
    /// # Panics
    /// When the ends are of two families.
    #[must_use]
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        let l3 = network(inner);
        let packet = &inner[l3..];
        let (payload, protocol) = match self.ports {
            None => (packet.to_vec(), if packet[0] >> 4 == 4 { 4 } else { 41 }),
            Some(ports) => (self.datagram(ports, packet), 17),
        };
        let mut frame = [self.macs.0, self.macs.1].concat();
        frame.extend_from_slice(&inner[12..l3 - 2]);
        frame.extend(network_header(
            self.ends,
            protocol,
            (self.class, 64),
            self.label,
            &payload,
        ));
        frame.extend(payload);
        frame
    }

    fn datagram(&self, (source, destination): (u16, u16), packet: &[u8]) -> Vec<u8> {
        let length = (8 + packet.len()) as u16;
        let mut datagram = Vec::new();
        for field in [source, destination, length, 0] {
            datagram.extend_from_slice(&field.to_be_bytes());
        }
        datagram.extend_from_slice(packet);
        if self.checksum && self.ends.0.is_ipv6() {
            let sum = match checksum(&covered(self.ends, 17, &datagram)) {
                [0, 0] => [0xff; 2],
                sum => sum,
            };
            datagram[6..8].copy_from_slice(&sum);
        }
        datagram
    }
}

/// An ICMP error, of the version of its ends.
#[derive(Clone, Debug)]
pub struct IcmpError {
    /// Where the frame goes and where it comes from.
    pub macs: (Mac, Mac),
    /// Who sends it, and to whom.
    pub ends: (IpAddr, IpAddr),
    /// Type of service or traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type and code.
    pub head: [u8; 2],
    /// What follows the checksum.
    pub rest: [u8; 4],
    /// The beginning of the packet that it is about.
    pub quoted: Vec<u8>,
}

impl IcmpError {
    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.head[0], self.head[1], 0, 0];
        message.extend_from_slice(&self.rest);
        message.extend_from_slice(&self.quoted);
        let (protocol, sum) = if self.ends.0.is_ipv4() {
            (1, checksum(&message))
        } else {
            (58, checksum(&covered(self.ends, 58, &message)))
        };
        message[2..4].copy_from_slice(&sum);
        let header = network_header(self.ends, protocol, (self.class, self.ttl), 0, &message);
        let mut frame = [self.macs.0, self.macs.1].concat();
        frame.extend(header);
        frame.extend(message);
        frame
    }
}

/// The message that `frame` is too large for a way that takes `mtu`, back to where it came from.
///
/// # Panics
/// When the frame holds no IP packet.
#[must_use]
pub fn too_big(frame: &[u8], mtu: u32) -> Vec<u8> {
    let l3 = network(frame);
    let packet = &frame[l3..];
    let (head, quote) = if packet[0] >> 4 == 4 {
        ([3, 4], 548)
    } else {
        ([2, 0], 1232)
    };
    let mac = |at: usize| std::array::from_fn(|byte| frame[at + byte]);
    let mut answer = IcmpError {
        macs: (mac(6), mac(0)),
        ends: ends(packet),
        class: 0xc0,
        ttl: 64,
        head,
        rest: mtu.to_be_bytes(),
        quoted: packet[..quote].to_vec(),
    }
    .bytes();
    answer.splice(12..12, frame[12..l3 - 2].iter().copied());
    answer
}

/// Source and destination of what answers a packet.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let four =
        |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    if packet[0] >> 4 == 4 {
        return (four(16), four(12));
    }
    let six = |at: usize| {
        let mut octets = [0_u8; 16];
        octets.copy_from_slice(&packet[at..at + 16]);
        IpAddr::from(octets)
    };
    (six(24), six(8))
}

/// Where the IP header of a frame is.
fn network(frame: &[u8]) -> usize {
    let mut at = 12;
    while [[0x81, 0], [0x88, 0xa8]].contains(&[frame[at], frame[at + 1]]) {
        at += 4;
    }
    at + 2
}

/// An ether type and an IP header.
fn network_header(
    ends: (IpAddr, IpAddr),
    protocol: u8,
    (class, ttl): (u8, u8),
    label: u32,
    payload: &[u8],
) -> Vec<u8> {
    match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, class];
            header.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
            header.extend_from_slice(&[0, 0, 0x40, 0, ttl, protocol, 0, 0]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            [&[0x08, 0x00], &header[..]].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let first = 6 << 28 | u32::from(class) << 20 | label;
            let mut header = first.to_be_bytes().to_vec();
            header.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            header.extend_from_slice(&[protocol, ttl]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            [&[0x86, 0xdd], &header[..]].concat()
        }
        families => panic!("expected addresses of one family, found {families:?}"),
    }
}

/// What the checksum of a payload over IPv6 covers.
fn covered(ends: (IpAddr, IpAddr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut covered = Vec::new();
    for end in [ends.0, ends.1] {
        match end {
            IpAddr::V4(address) => covered.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => covered.extend_from_slice(&address.octets()),
        }
    }
    covered.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    covered.extend_from_slice(&[0, 0, 0, protocol]);
    covered.extend_from_slice(payload);
    covered
}
