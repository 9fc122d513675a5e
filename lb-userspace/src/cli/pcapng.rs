//! Captures in the pcapng format, as Wireshark, tshark and tcpdump read them
//! (draft-ietf-opsawg-pcapng).
//!
//! Only what is needed to write one: a section, an interface for each name, a packet with what became of
//! it as a comment, and the XDP program's verdict; and how many are missing. Every block is written whole and at once, so a
//! capture that is broken off is a capture.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Type of a section header block.
const SECTION: u32 = 0x0a0d_0d0a;
/// Type of an interface description block.
const INTERFACE: u32 = 1;
/// Type of an interface statistics block.
const STATISTICS: u32 = 5;
/// Type of an enhanced packet block.
const PACKET: u32 = 6;

/// By which readers tell the order of bytes, here the machine's own.
const ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// `opt_comment`.
const COMMENT: u16 = 1;
/// `if_name`.
const NAME: u16 = 2;
/// `if_tsresol`: 10 to the power of so many times minus one.
const RESOLUTION: u16 = 9;
/// `isb_ifdrop`.
const DROPPED: u16 = 5;
/// `epb_flags`.
const FLAGS: u16 = 2;
/// `epb_verdict`.
const VERDICT: u16 = 7;
/// The interface of what is of any of them, as other programs call it.
const ANY: &str = "any";

/// A verdict of XDP, in the first byte of `epb_verdict`.
const XDP: u8 = 2;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into the machine.
    In = 1,
    /// Out of it.
    Out = 2,
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// Name of the interface.
    pub(super) interface: &'a str,
    pub(super) direction: Direction,
    pub(super) at: SystemTime,
    /// Its first bytes, from the Ethernet header on.
    pub(super) bytes: &'a [u8],
    /// How many it has.
    pub(super) length: u32,
    /// One of `XDP_*`.
    pub(super) verdict: u64,
    /// For people.
    pub(super) comment: &'a str,
}

/// Writes a capture.
pub(super) struct Capture<W> {
    out: W,
    /// Numbers of interfaces.
    interfaces: HashMap<String, u32>,
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut capture = Self {
            out,
            interfaces: HashMap::new(),
        };
        let mut body = Vec::new();
        body.extend(ORDER.to_ne_bytes());
        // Version 1.0, and a length that nobody knows yet.
        body.extend(1_u16.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        body.extend(u64::MAX.to_ne_bytes());
        capture.block(SECTION, &body)?;
        Ok(capture)
    }

    /// Appends a packet.
    pub(super) fn write(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface)?;
        let [high, low] = time(packet.at);
        let mut body = Vec::new();
        for word in [
            interface,
            high,
            low,
            packet.bytes.len() as u32,
            packet.length.max(packet.bytes.len() as u32),
        ] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(packet.bytes);
        pad(&mut body);
        option(&mut body, COMMENT, packet.comment.as_bytes());
        option(&mut body, FLAGS, &(packet.direction as u32).to_ne_bytes());
        let mut verdict = vec![XDP];
        verdict.extend(packet.verdict.to_ne_bytes());
        option(&mut body, VERDICT, &verdict);
        end_options(&mut body);
        self.block(PACKET, &body)
    }

    /// Says how many packets are missing up to now, since the beginning. Nobody knows of which interface.
    pub(super) fn lost(&mut self, at: SystemTime, packets: u64) -> io::Result<()> {
        let interface = self.interface(ANY)?;
        let [high, low] = time(at);
        let mut body = Vec::new();
        for word in [interface, high, low] {
            body.extend(word.to_ne_bytes());
        }
        option(&mut body, DROPPED, &packets.to_ne_bytes());
        end_options(&mut body);
        self.block(STATISTICS, &body)
    }

    /// The number of an interface, which is described when it is met for the first time.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        let mut body = Vec::new();
        body.extend(ETHERNET.to_ne_bytes());
        body.extend([0; 2]);
        // Packets of any length.
        body.extend(0_u32.to_ne_bytes());
        option(&mut body, NAME, name.as_bytes());
        option(&mut body, RESOLUTION, &[9]);
        end_options(&mut body);
        self.block(INTERFACE, &body)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        // Type and length in front, the length again behind.
        let length = (body.len() as u32 + 12).to_ne_bytes();
        let mut block = Vec::with_capacity(body.len() + 12);
        block.extend(kind.to_ne_bytes());
        block.extend(length);
        block.extend(body);
        block.extend(length);
        self.out.write_all(&block)?;
        self.out.flush()
    }
}

/// The two halves of a time in nanoseconds.
fn time(at: SystemTime) -> [u32; 2] {
    let since = at.duration_since(UNIX_EPOCH);
    // Those of the next five centuries fit.
    let time = since.unwrap_or(Duration::ZERO).as_nanos() as u64;
    [(time >> 32) as u32, time as u32]
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn end_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Fills up to a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Blocks as type and body.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let length = word(bytes, 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(bytes, length - 4) as usize, length);
            blocks.push((word(bytes, 0), &bytes[8..length - 4]));
            bytes = &bytes[length..];
        }
        blocks
    }

    /// Options as code and value.
    fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut options = Vec::new();
        loop {
            let half = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
            let (code, length) = (half(0), usize::from(half(2)));
            if code == 0 {
                assert_eq!((length, bytes.len()), (0, 4));
                return options;
            }
            options.push((code, &bytes[4..4 + length]));
            bytes = &bytes[4 + length.next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_capture_has_its_packets_with_their_verdicts() {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file).unwrap();
        let at = UNIX_EPOCH + Duration::new(1_768_473_000, 123_456_789);
        for (interface, direction, length) in [
            ("eth0", Direction::In, 5),
            ("eth1", Direction::Out, 8),
            ("eth0", Direction::Out, 3),
        ] {
            let packet = Packet {
                interface,
                direction,
                at,
                bytes: &[1, 2, 3, 4, 5, 6, 7, 8][..length],
                length: 1500,
                verdict: 1,
                comment: "dropped: no_instance",
            };
            capture.write(&packet).unwrap();
        }
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET]
        );
        let name = |block: usize| options(&blocks[block].1[8..])[0].1;
        assert_eq!((name(1), name(3)), (&b"eth0"[..], &b"eth1"[..]));
        assert_eq!(options(&blocks[1].1[8..])[1], (RESOLUTION, &[9][..]));
        for (block, interface, length, direction) in [(2, 0, 5, 1), (4, 1, 8, 2), (5, 0, 3, 2)] {
            let body = blocks[block].1;
            assert_eq!(word(body, 0), interface);
            let time = u64::from(word(body, 4)) << 32 | u64::from(word(body, 8));
            assert_eq!(time, 1_768_473_000_123_456_789);
            assert_eq!((word(body, 12), word(body, 16)), (length, 1500));
            assert_eq!(body[20..][..length as usize][..3], [1, 2, 3]);
            let options = options(&body[20 + length.next_multiple_of(4) as usize..]);
            assert_eq!(options[0], (COMMENT, &b"dropped: no_instance"[..]));
            assert_eq!(options[1].1, direction_bytes(direction));
            assert_eq!(options[2].1[0], XDP);
            assert_eq!(options[2].1[1..], 1_u64.to_ne_bytes());
        }
    }

    #[test]
    fn a_capture_says_how_much_is_missing() {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file).unwrap();
        let at = UNIX_EPOCH + Duration::new(1_768_473_000, 123_456_789);
        capture.lost(at, 7).unwrap();
        capture.lost(at, 17).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, STATISTICS, STATISTICS]);
        assert_eq!(options(&blocks[1].1[8..])[0], (NAME, &b"any"[..]));
        for (block, lost) in [(2, 7_u64), (3, 17)] {
            let body = blocks[block].1;
            let [high, low] = time(at);
            assert_eq!(
                (word(body, 0), word(body, 4), word(body, 8)),
                (0, high, low)
            );
            assert_eq!(options(&body[12..]), [(DROPPED, &lost.to_ne_bytes()[..])]);
        }
    }

    fn direction_bytes(direction: u32) -> [u8; 4] {
        direction.to_ne_bytes()
    }
}
