//! Frames: of clients to VIPs and elsewhere, answers to what was forwarded, ICMP messages about it, and
//! all of that damaged.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::Counter;
use lb_ebpf::Verdict;

use super::mutate::{self, L3};
use super::world::{FIRST_PORT, PORTS, VIPS};
use crate::packet::build::{Build, extension, tcp};
use crate::packet::lab::{Seen, at};
use crate::packet::network::{BACK, FRONT};
use crate::packet::pieces;
use crate::packet::random::Random;

/// The longest frames: what is longer does not fit the kernel's page.
pub(super) const MOST: usize = 3000;

/// Frames that left the balancer and are remembered to be answered.
const ANSWERABLE: usize = 64;

/// SYNs of a flood: more than any table keeps of those of which nothing else is heard.
const FLOOD: u32 = 1500;

/// Where frames come from, with what has become of the last ones.
#[derive(Debug, Default)]
pub(super) struct Frames {
    out: Vec<Vec<u8>>,
    place: usize,
    last: Vec<u8>,
    /// What follows in handshakes that begin with a cookie, and where it comes in.
    next: VecDeque<(Vec<u8>, u32)>,
    /// SYNs that instances have got in such handshakes.
    seconds: u32,
    /// Whom SYNs are poured over, and how many more.
    flooded: Option<SocketAddr>,
    flood: u32,
}

impl Frames {
    /// The next frames, more than one when a datagram comes in fragments, each with the interface that
    /// it comes in by.
    pub(super) fn next(&mut self, random: &mut Random) -> Vec<(Vec<u8>, u32)> {
        let interface = if random.one_in(12) { BACK } else { FRONT };
        let mut frames = match random.below(40) {
            0..=9 => vec![self.answer(random)],
            10..=12 => vec![self.report(random)],
            13..=16 => vec![Some(self.again(random))],
            17 => fragments(random).into_iter().map(Some).collect(),
            _ => vec![None],
        }
        .into_iter()
        .map(|frame| frame.unwrap_or_else(|| request(random).bytes()))
        .collect::<Vec<_>>();
        if random.one_in(4) {
            for frame in &mut frames {
                mutate::damage(random, frame);
            }
        }
        for frame in &mut frames {
            frame.resize(frame.len().clamp(L3, MOST), 0);
        }
        frames.into_iter().map(|frame| (frame, interface)).collect()
    }

    /// What comes between other packets: now and then the next one of a handshake that began with a
    /// cookie, rarely a flood of SYNs.
    pub(super) fn between(&mut self, random: &mut Random) -> Option<(Vec<u8>, u32)> {
        if let Some(target) = self.flooded {
            self.flood -= 1;
            self.flooded = self.flooded.filter(|_| self.flood > 0);
            let from = client(random, target.is_ipv4());
            let from = SocketAddr::new(from.ip(), random.any() as u16 | 1);
            return Some((Build::tcp(from, target, tcp::SYN).bytes(), FRONT));
        }
        if random.one_in(10_000) {
            self.flooded = Some(at_vip(random));
            self.flood = FLOOD;
        }
        if self.next.is_empty() || !random.one_in(3) {
            return None;
        }
        let (mut frame, interface) = self.next.pop_front()?;
        if random.one_in(8) {
            mutate::damage(random, &mut frame);
            frame.resize(frame.len().clamp(L3, MOST), 0);
        }
        Some((frame, interface))
    }

    /// Notes what comes next where two handshakes are made one: a client shows its cookie, an instance
    /// answers, a client goes on.
    fn expect(&mut self, frame: &[u8], seen: &Seen) {
        let is_cookie = seen.verdict == Verdict::Answer(Counter::AnsweredCookie);
        let syn = mutate::tcp_flags(&seen.frame) == Some(tcp::SYN);
        let was_ack = mutate::tcp_flags(frame).is_some_and(|flags| flags & tcp::ACK != 0);
        let is_second = goes(seen) && was_ack && (syn || mutate::is_probe(&seen.frame));
        if !is_cookie && !is_second || self.next.len() >= ANSWERABLE {
            return;
        }
        let mut answer = seen.frame.clone();
        mutate::turn_round(&mut answer);
        mutate::acknowledge(&mut answer);
        // One instance in five knows an older connection.
        self.seconds += u32::from(syn);
        let flags = if syn && !self.seconds.is_multiple_of(5) {
            tcp::SYN | tcp::ACK
        } else {
            tcp::ACK
        };
        mutate::set_tcp_flags(&mut answer, flags);
        let interface = match seen.verdict {
            Verdict::Redirect(interface) => interface,
            _ => FRONT,
        };
        self.next.push_back((answer, interface));
    }

    /// Takes note of what has become of a frame.
    pub(super) fn saw(&mut self, frame: &[u8], seen: &Seen) {
        self.last = frame.to_vec();
        self.expect(frame, seen);
        if !goes(seen) {
            return;
        }
        if self.out.len() < ANSWERABLE {
            self.out.push(seen.frame.clone());
        } else {
            self.out[self.place] = seen.frame.clone();
        }
        self.place = (self.place + 1) % ANSWERABLE;
    }

    /// What the receiver of a forwarded frame would answer.
    fn answer(&self, random: &mut Random) -> Option<Vec<u8>> {
        let mut frame = self.out.get(random.below(ANSWERABLE))?.clone();
        mutate::turn_round(&mut frame);
        if random.one_in(3) {
            mutate::set_tcp_flags(&mut frame, random.pick(FLAGS));
        }
        Some(frame)
    }

    /// An ICMP message about a frame that was forwarded, or about its answer.
    fn report(&self, random: &mut Random) -> Option<Vec<u8>> {
        let mut about = self.out.get(random.below(ANSWERABLE))?.clone();
        if random.one_in(3) {
            mutate::turn_round(&mut about);
        }
        let to = random.one_in(4).then(|| at_vip(random).ip());
        mutate::report(random, &about, to)
    }

    /// The last frame once more, perhaps with other flags: a retransmission, an end, a new beginning.
    fn again(&self, random: &mut Random) -> Vec<u8> {
        let mut frame = self.last.clone();
        if random.one_in(2) {
            mutate::set_tcp_flags(&mut frame, random.pick(FLAGS));
        }
        frame
    }
}

const fn goes(seen: &Seen) -> bool {
    matches!(seen.verdict, Verdict::Transmit | Verdict::Redirect(_))
}

pub(super) const FLAGS: &[u8] = &[
    tcp::SYN,
    tcp::SYN,
    tcp::ACK,
    tcp::ACK,
    tcp::PSH | tcp::ACK,
    tcp::SYN | tcp::ACK,
    tcp::FIN | tcp::ACK,
    tcp::RST,
    tcp::RST | tcp::ACK,
    0,
    0xff,
];

fn at_vip(random: &mut Random) -> SocketAddr {
    let port = FIRST_PORT + random.below(usize::from(PORTS) + 2) as u16;
    let port = if random.one_in(12) {
        random.any() as u16
    } else {
        port
    };
    let ip = at(&bracketed(random.pick(VIPS), 0)).ip();
    SocketAddr::new(ip, port)
}

fn bracketed(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// A client: on the link, behind the router, without a neighbour entry, without a route.
fn client(random: &mut Random, v4: bool) -> SocketAddr {
    let host = random.any() as u16;
    let [a, b] = if random.one_in(3) {
        host.to_be_bytes()
    } else {
        [0, 9]
    };
    let ip = if v4 {
        IpAddr::V4(random.pick(&[
            Ipv4Addr::new(10, 0, 1, 2),
            Ipv4Addr::new(10, 0, 1, 2),
            Ipv4Addr::new(10, 9, a, b),
            Ipv4Addr::new(10, 9, a, b),
            Ipv4Addr::new(10, 0, 1, 99),
            Ipv4Addr::new(192, 0, 2, b),
            Ipv4Addr::new(10, 66, a, b),
        ]))
    } else {
        IpAddr::V6(random.pick(&[
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2),
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2),
            Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, u16::from_be_bytes([a, b])),
            Ipv6Addr::new(0xfd00, 9, host, 0, 0, 0, 0, 9),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        ]))
    };
    let ports = random.pick(&[4, 200, 2000]);
    let port = 5000 + random.below(ports) as u16;
    SocketAddr::new(ip, port)
}

/// Whom packets are for: nearly always a VIP, else lb itself, an instance, or somebody else.
fn target(random: &mut Random) -> SocketAddr {
    if !random.one_in(12) {
        return at_vip(random);
    }
    let port = random.pick(&[80, 8080, 40_000, 40_010]);
    let host = random.pick(&[
        "10.0.1.1",
        "fd00:1::1",
        "10.0.1.11",
        "fd00:2::21",
        "198.51.100.1",
    ]);
    at(&bracketed(host, port))
}

pub(super) fn request(random: &mut Random) -> Build {
    let to = target(random);
    let from = client(random, to.is_ipv4());
    let mut build = if random.one_in(3) {
        Build::udp(from, to, &vec![7; random.below(40)])
    } else {
        Build::tcp(from, to, random.pick(FLAGS))
    };
    if build.flags & tcp::SYN != 0 {
        build.tcp_options = tcp_options(random);
    }
    build.checksum = !random.one_in(5);
    build.ttl = random.pick(&[64, 64, 64, 64, 255, 2, 1, 0]);
    for _ in 0..random.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 3]) {
        build
            .tags
            .push((random.pick(&[0x8100, 0x88a8]), random.pick(&[7, 9, 0x600a])));
    }
    build.options = vec![1; 4 * random.pick(&[0, 0, 0, 0, 0, 0, 1, 10])];
    build.fragments = 0x4000;
    if random.one_in(12) {
        build.fragments = random.pick(&[0, 0, 0x2000, 0x0003, 0x2004]);
    }
    for _ in 0..random.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 4, 5]) {
        build.extensions.push(header(random));
    }
    if random.one_in(20) {
        build.protocol = if build.source.is_ipv4() { 1 } else { 58 };
        // What is in the place of the source port are type and code.
        let types = [0x0800, 0x8000, 0x0801, 0x0000, 0x8100, 0x0301];
        build.source.set_port(random.pick(&types));
    }
    if random.one_in(60) {
        build.protocol = random.byte();
    }
    build.padding = random.pick(&[0, 0, 0, 6]);
    if random.one_in(16) {
        build.payload = vec![9; 1180 + random.below(400)];
    }
    build
}

/// Options of a segment that opens a connection: some with an MSS, some that are broken.
pub(super) fn tcp_options(random: &mut Random) -> Vec<u8> {
    random.pick(&[
        vec![],
        vec![2, 4, 5, 180],
        vec![1, 2, 4, 5, 180, 1, 1, 0],
        vec![2, 4, 255, 255],
        vec![4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 5, 180],
        vec![3, 0, 2, 4],
    ])
}

fn header(random: &mut Random) -> (u8, Vec<u8>) {
    let number = random.pick(&[
        extension::HOP_BY_HOP,
        extension::ROUTING,
        extension::FRAGMENT,
        extension::DESTINATION,
    ]);
    if number == extension::FRAGMENT {
        let flags = random.pick(&[0, 0, 1, 8, 9]);
        return (number, vec![0, 0, flags, 0, 0, 0, random.pick(&[1, 2])]);
    }
    let units = random.pick(&[0, 0, 1, 3, 60]);
    let mut body = vec![units];
    body.resize(8 * (usize::from(units) + 1) - 1, 0);
    (number, body)
}

/// A datagram in fragments, in any order; now and then one is missing.
fn fragments(random: &mut Random) -> Vec<Vec<u8>> {
    let to = at_vip(random);
    let from = client(random, to.is_ipv4());
    let payload_length = 40 + random.below(200);
    let payload = vec![3; payload_length];
    let whole = if random.one_in(4) {
        Build::tcp(from, to, random.pick(FLAGS)).with(|build| build.payload = payload)
    } else {
        Build::udp(from, to, &payload)
    };
    let whole = whole.with(|build| build.fragments = 0);
    // Few numbers: the kernel's memory of fragments may forget one that another would displace.
    let id = random.below(4) as u32;
    let size = (payload_length / random.pick(&[1, 2, 3])).next_multiple_of(8);
    let mut pieces = pieces::cut(&whole.bytes(), id, size);
    for place in 1..pieces.len() {
        if random.one_in(3) {
            pieces.swap(place, random.below(place));
        }
    }
    if random.one_in(6) {
        pieces.remove(random.below(pieces.len()));
    }
    pieces
}
