//! What is done to frames: they are turned round, reported, tunnelled, damaged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::build::Mac;
use crate::packet::network::ROUTER_MAC;
use crate::packet::random::Random;
use crate::packet::tunnel::{IcmpError, Outer};

/// Bytes of a link header without tags.
pub(super) const L3: usize = 14;

/// The most tags that are looked behind here.
const TAGS: usize = 4;

/// Where the IP header of a frame is, and the version that its ether type says.
pub(super) fn network(frame: &[u8]) -> Option<(usize, u8)> {
    let mut at = 12;
    for _ in 0..=TAGS {
        match frame.get(at..at + 2)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            [0x08, 0x00] => return Some((at + 2, 4)),
            [0x86, 0xdd] => return Some((at + 2, 6)),
            _ => return None,
        }
    }
    None
}

/// Where the transport header of a plain packet is, and its protocol.
fn transport(frame: &[u8]) -> Option<(usize, u8)> {
    let (l3, version) = network(frame)?;
    if version == 4 {
        let words = usize::from(frame.get(l3)? & 0xf);
        return Some((l3 + 4 * words, *frame.get(l3 + 9)?));
    }
    Some((l3 + 40, *frame.get(l3 + 6)?))
}

/// Makes of a frame its receiver's answer: addresses and ports change places, which no checksum notices.
pub(super) fn turn_round(frame: &mut [u8]) {
    let Some((l3, version)) = network(frame) else {
        return;
    };
    let (at, length) = if version == 4 {
        (l3 + 12, 4)
    } else {
        (l3 + 8, 16)
    };
    let ports = transport(frame).map(|(l4, _)| l4);
    for (at, length) in [(0, 6), (at, length)]
        .into_iter()
        .chain(ports.map(|at| (at, 2)))
    {
        if let Some(both) = frame.get_mut(at..at + 2 * length) {
            let (one, other) = both.split_at_mut(length);
            one.swap_with_slice(other);
        }
    }
}

/// Sets the flags of a TCP segment; the checksum, which nobody here looks at, is left as it is.
pub(super) fn set_tcp_flags(frame: &mut [u8], flags: u8) {
    if let Some((l4, 6)) = transport(frame)
        && let Some(byte) = frame.get_mut(l4 + 13)
    {
        *byte = flags;
    }
}

/// The flags of a TCP segment.
pub(super) fn tcp_flags(frame: &[u8]) -> Option<u8> {
    let (l4, protocol) = transport(frame)?;
    (protocol == 6)
        .then(|| frame.get(l4 + 13).copied())
        .flatten()
}

/// Whether a frame is what opens a client's window: a segment with one byte of nothing.
pub(super) fn is_probe(frame: &[u8]) -> bool {
    transport(frame)
        .is_some_and(|(l4, protocol)| protocol == 6 && frame.get(l4 + 20..) == Some(&[0]))
}

/// Makes a TCP segment, turned round, acknowledge the one that it was; as above.
pub(super) fn acknowledge(frame: &mut [u8]) {
    if let Some((l4, 6)) = transport(frame)
        && let Some(numbers) = frame.get_mut(l4 + 4..l4 + 12)
    {
        let (own, other) = numbers.split_at_mut(4);
        own.swap_with_slice(other);
        if let Ok(number) = <[u8; 4]>::try_from(&*other) {
            let next = u32::from_be_bytes(number).wrapping_add(1);
            other.copy_from_slice(&next.to_be_bytes());
        }
    }
}

/// An ICMP error about a frame, from a router on its way to the sender of the packet or to somebody
/// else; nothing when the frame has no IP packet.
pub(super) fn report(random: &mut Random, about: &[u8], to: Option<IpAddr>) -> Option<Vec<u8>> {
    let (l3, version) = network(about)?;
    let length = random.pick(&[8, 28, 48, 60, 128, 548]);
    let quoted = about.get(l3..)?;
    let quoted = quoted[..quoted.len().min(length)].to_vec();
    let sender = sender(about)?;
    let to = to
        .filter(|to| to.is_ipv4() == (version == 4))
        .unwrap_or(sender);
    let router = if version == 4 {
        IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x254))
    };
    let head = if version == 4 {
        random.pick(&[
            [3, 4],
            [3, 4],
            [3, 1],
            [3, 3],
            [11, 0],
            [12, 0],
            [4, 0],
            [5, 1],
        ])
    } else {
        random.pick(&[[2, 0], [2, 0], [1, 0], [1, 4], [3, 0], [4, 0], [137, 0]])
    };
    let message = IcmpError {
        macs: ([2, 0, 0, 0, 1, 1], ROUTER_MAC),
        ends: (router, to),
        class: random.pick(&[0, 0xc0]),
        ttl: random.pick(&[64, 64, 1]),
        head,
        rest: random.pick(&[1400_u32, 1280, 576, 0]).to_be_bytes(),
        quoted,
    };
    Some(message.bytes())
}

/// The source address of a frame.
pub(super) fn sender(frame: &[u8]) -> Option<IpAddr> {
    let (l3, version) = network(frame)?;
    if version == 4 {
        let octets: [u8; 4] = frame.get(l3 + 12..l3 + 16)?.try_into().ok()?;
        return Some(octets.into());
    }
    let octets: [u8; 16] = frame.get(l3 + 8..l3 + 24)?.try_into().ok()?;
    Some(octets.into())
}

/// Damages a frame in one way, or in several.
pub(super) fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.pick(&[1, 1, 1, 2, 3]) {
        match random.below(10) {
            0 | 1 => flip(random, frame),
            2 => overwrite(random, frame),
            3 => cut_short(random, frame),
            4 => lengthen(random, frame),
            5 | 6 => lie(random, frame),
            7 => shift(random, frame),
            8 => tag(random, frame),
            _ => wrap(random, frame),
        }
    }
}

/// Where damage is done: headers, mostly.
fn place(random: &mut Random, frame: &[u8]) -> usize {
    let reach = random.pick(&[26, 80, 80, 160]);
    random.below(frame.len().clamp(1, reach))
}

fn flip(random: &mut Random, frame: &mut [u8]) {
    for _ in 0..random.pick(&[1, 1, 2, 5]) {
        let place = place(random, frame);
        if let Some(byte) = frame.get_mut(place) {
            *byte ^= 1 << random.below(8);
        }
    }
}

/// Bytes that mean something somewhere.
const SPECIAL: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 8, 17, 20, 40, 41, 43, 44, 45, 50, 51, 58, 59, 60, 0x40, 0x45, 0x46, 0x4f,
    0x60, 0x7f, 0x80, 0x81, 0x86, 0x88, 0xff,
];

fn overwrite(random: &mut Random, frame: &mut [u8]) {
    let place = place(random, frame);
    if let Some(byte) = frame.get_mut(place) {
        *byte = if random.one_in(3) {
            random.byte()
        } else {
            random.pick(SPECIAL)
        };
    }
}

fn cut_short(random: &mut Random, frame: &mut Vec<u8>) {
    let length = if random.one_in(2) {
        random.below(frame.len().max(1))
    } else {
        frame.len().saturating_sub(1 + random.below(30))
    };
    frame.truncate(length.max(L3));
}

fn lengthen(random: &mut Random, frame: &mut Vec<u8>) {
    let more = random.pick(&[1, 2, 4, 8, 20, 40, 100, 1500]);
    let byte = random.byte();
    frame.resize(frame.len() + more, byte);
}

/// Makes a length something else: of the packet, of its header, of the datagram, of the TCP header.
fn lie(random: &mut Random, frame: &mut [u8]) {
    let Some((l3, version)) = network(frame) else {
        return;
    };
    let l4 = transport(frame);
    let wide = if version == 4 { l3 + 2 } else { l3 + 4 };
    match (random.below(4), l4) {
        (0, _) if version == 4 => nibble(random, frame, l3, false),
        (1, Some((l4, 17))) => number(random, frame, l4 + 4),
        (1, Some((l4, 6))) => nibble(random, frame, l4 + 12, true),
        (2, Some((l4, _))) => {
            let field = random.below(20);
            number(random, frame, l4 + field);
        }
        _ => number(random, frame, wide),
    }
}

fn nibble(random: &mut Random, frame: &mut [u8], at: usize, high: bool) {
    let new = random.byte() & 0xf;
    if let Some(byte) = frame.get_mut(at) {
        *byte = if high {
            *byte & 0x0f | new << 4
        } else {
            *byte & 0xf0 | new
        };
    }
}

fn number(random: &mut Random, frame: &mut [u8], at: usize) {
    let Some([high, low]) = frame.get_mut(at..at + 2) else {
        return;
    };
    let old = u16::from_be_bytes([*high, *low]);
    let new = match random.below(4) {
        0 => random.pick(&[0, 1, 7, 8, 19, 20, 0x7fff, 0xffff]),
        1 => random.any() as u16,
        2 => old.wrapping_add(1 + random.below(16) as u16),
        _ => old.wrapping_sub(1 + random.below(16) as u16),
    };
    [*high, *low] = new.to_be_bytes();
}

/// Takes bytes out, or puts some in, so that all that follows stands elsewhere.
fn shift(random: &mut Random, frame: &mut Vec<u8>) {
    let place = place(random, frame).min(frame.len());
    let count = random.pick(&[1, 2, 4, 8]);
    if random.one_in(2) {
        let end = (place + count).min(frame.len());
        frame.drain(place..end);
    } else {
        let byte = random.pick(SPECIAL);
        frame.splice(place..place, std::iter::repeat_n(byte, count));
    }
}

fn tag(random: &mut Random, frame: &mut Vec<u8>) {
    let kind = random.pick(&[[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]]);
    let control = random.pick(&[[0, 7], [0, 9], [0xff, 0xff]]);
    if frame.len() >= L3 {
        frame.splice(12..12, [kind[0], kind[1], control[0], control[1]]);
    }
}

/// Puts the packet into a tunnel: to a VIP, or to lb.
fn wrap(random: &mut Random, frame: &mut Vec<u8>) {
    if network(frame).is_none_or(|(l3, _)| frame.len() <= l3) {
        return;
    }
    let ends = if random.one_in(2) {
        let from = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 9));
        (from, random.pick(&[[10, 1, 1, 1], [10, 0, 1, 1]]).into())
    } else {
        let to = random.pick(&[
            Ipv6Addr::new(0xfd00, 0xf, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
        ]);
        let from = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);
        (IpAddr::V6(from), IpAddr::V6(to))
    };
    let macs: (Mac, Mac) = ([2, 0, 0, 0, 1, 1], ROUTER_MAC);
    let port = random.pick(&[80, 6080]);
    let outer = Outer {
        macs,
        ends,
        class: 0,
        label: 0,
        ports: random.one_in(2).then_some((5000, port)),
        checksum: random.one_in(2),
    };
    *frame = outer.around(frame);
}
