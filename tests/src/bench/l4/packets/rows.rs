//! What is measured, and the packets that are sent for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use anyhow::Result;

use super::{
    FLOOR, cookies,
    vips::{CLIENT, COOKIED, DSR, GUE, IPIP, LIMITED, LIMITED_SETTLED, NAT, SETTLED, STAYS},
};
use crate::packet::{Build, Kernel};

pub(super) const ACK: u8 = 0x10;
pub(super) const SYN: u8 = 0x02;

/// Packets of one measurement that sends them one at a time.
const SINGLE: usize = 20_000;
/// The most connections that packets are spread over.
const MOST: u32 = 1_000_000;
/// New `nat` connections of a measurement: source ports are finite, and none is given back. After nine rounds
/// of two rows a fifth of them is taken; with twice as many one connection in thousands finds none.
const NEW_NAT: u32 = 500;
/// Where the numbers of the connections of a flood begin, beyond those of all others.
const FLOOD: u32 = 4 * MOST;

/// What one measurement sends.
pub(super) enum Load {
    /// One frame over and over.
    One(Vec<u8>),
    /// Packets of so many connections of a VIP, at random, with these flags.
    Of(u32, SocketAddr, u8),
    /// First packets of connections that are new in each round, and go on afterwards.
    New(SocketAddr, u32),
    /// First packets of which nothing follows: what the program remembers of each pushes out another one.
    Flood(SocketAddr, u32),
    /// Packets of clients that show the cookie which they have been answered with, each once.
    Shown(SocketAddr, u32),
}

/// A row: its name, and what is sent.
pub(super) struct Row(pub(super) &'static str, pub(super) Load);

pub(super) fn rows(kernel: &mut Kernel) -> Result<Vec<Row>> {
    use Load::{Flood, New, Of, One, Shown};
    let client = SocketAddr::from((CLIENT, 40_000));
    let stranger = SocketAddr::from(([10, 0, 1, 1], 22));
    let request = packet(9, NAT, SYN);
    let reply = cookies::answer_to(kernel, &request, ACK)?.bytes();
    let udp = Build::udp(client, DSR, b"datagram").bytes();
    Ok(vec![
        Row(FLOOR, One(packet(7, DSR, ACK))),
        Row(
            "not for a VIP",
            One(Build::tcp(client, stranger, ACK).bytes()),
        ),
        Row("by table, 1 connection", Of(1, DSR, ACK)),
        Row("by table, 1,000", Of(1_000, DSR, ACK)),
        Row("by table, 100,000", Of(100_000, DSR, ACK)),
        Row("by table, 1,000,000", Of(MOST, DSR, ACK)),
        Row("by table, new", New(DSR, SINGLE as u32)),
        Row("by table, flood of SYNs", Flood(DSR, SINGLE as u32)),
        Row("by table, UDP", One(udp)),
        Row("settled, 1 connection", Of(1, SETTLED, ACK)),
        Row("settled, 1,000", Of(1_000, SETTLED, ACK)),
        Row("settled, 100,000", Of(100_000, SETTLED, ACK)),
        Row("settled, 1,000,000", Of(MOST, SETTLED, ACK)),
        Row("settled, new", New(SETTLED, SINGLE as u32)),
        Row("nat, request", One(packet(9, NAT, ACK))),
        Row("nat, reply", One(reply)),
        Row("nat, new", New(NAT, NEW_NAT)),
        Row("ipip, 1 connection", Of(1, IPIP, ACK)),
        Row("ipip, 100,000", Of(100_000, IPIP, ACK)),
        Row("gue, 1 connection", Of(1, GUE, ACK)),
        Row("gue, 100,000", Of(100_000, GUE, ACK)),
        Row("with limits, 1 connection", Of(1, LIMITED, ACK)),
        Row("with limits, new", New(LIMITED, SINGLE as u32)),
        Row(
            "with limits, settled, new",
            New(LIMITED_SETTLED, SINGLE as u32),
        ),
        Row("clients stay, new", New(STAYS, SINGLE as u32)),
        Row("cookies, a SYN", Flood(COOKIED, SINGLE as u32)),
        Row("cookies, shown", Shown(COOKIED, NEW_NAT)),
        Row("cookies, request", One(cookies::spliced(kernel)?)),
    ])
}

fn numbers(from: u32, count: u32, round: u32) -> Range<u32> {
    from + round * count..from + (round + 1) * count
}

/// Packets of connections that only this round has.
fn first(from: u32, vip: SocketAddr, count: u32, round: u32, flags: u8) -> Vec<Vec<u8>> {
    numbers(from, count, round)
        .map(|number| packet(number, vip, flags))
        .collect()
}

impl Load {
    /// The frames of a measurement.
    pub(super) fn frames(&self, kernel: &mut Kernel, round: u32) -> Result<Vec<Vec<u8>>> {
        Ok(match *self {
            Self::One(ref frame) => vec![frame.clone(); SINGLE],
            // A stride that shares no factor with the number of connections meets all of them.
            Self::Of(count, vip, flags) => (0..SINGLE as u32)
                .map(|n| {
                    packet(
                        n.wrapping_mul(49_999).wrapping_add(round) % count,
                        vip,
                        flags,
                    )
                })
                .collect(),
            Self::New(vip, count) => first(MOST, vip, count, round, SYN),
            Self::Flood(vip, count) => first(FLOOD, vip, count, round, SYN),
            Self::Shown(vip, count) => numbers(MOST, count, round)
                .map(|number| Ok(cookies::shown(kernel, &client(number, vip, SYN))?.bytes()))
                .collect::<Result<_>>()?,
        })
    }

    /// What follows each frame, unmeasured; nothing, or a frame for each.
    pub(super) fn answers(&self, round: u32) -> Vec<Vec<u8>> {
        match *self {
            Self::New(vip, count) => first(MOST, vip, count, round, ACK),
            Self::One(_) | Self::Of(..) | Self::Flood(..) | Self::Shown(..) => Vec::new(),
        }
    }
}

/// A client's packet; `number` makes up its address and port.
pub(super) fn packet(number: u32, vip: SocketAddr, flags: u8) -> Vec<u8> {
    client(number, vip, flags).bytes()
}

/// The same before it is bytes.
pub(super) fn client(number: u32, vip: SocketAddr, flags: u8) -> Build {
    let port = 1024 + (number % 60_000) as u16;
    let host = match vip {
        SocketAddr::V4(_) => {
            let [_, a, b, c] = (u32::from(CLIENT) + number / 60_000).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, a, b, c))
        }
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2)),
    };
    Build::tcp(SocketAddr::new(host, port), vip, flags)
}
