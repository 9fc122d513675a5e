//! Packets whose checksum is still to be made, by whoever sends them at last: a card is played here that finds the
//! segment where it was, and one that finds it only where no message is around it.

use lb_common::{
    FORWARD_NAT, NextHop, PROTOCOL_TCP, PROTOCOL_UDP, Settings, VIP_REFUSES, Vip, VipKey, from_v4,
};
use proptest::prelude::*;

use super::{instance, packet, send_as, table, tables, v6, vip};
use crate::{
    Header, Packet, Route, Tables as _, Verdict,
    checksum::{Difference, Sum},
    memory::{Frame, MemoryTables},
};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A frame whose segment begins at `start`.
struct Unfinished<'a> {
    frame: Frame<'a>,
    start: usize,
    check: usize,
}

impl<'a> Unfinished<'a> {
    /// Leaves the checksum of a segment open.
    fn new(frame: &'a mut Vec<u8>, protocol: u8) -> Self {
        let v4 = frame[12] == 8;
        let start = if v4 { 34 } else { 54 };
        let check = if protocol == PROTOCOL_TCP { 16 } else { 6 };
        let addresses = if v4 { &frame[26..34] } else { &frame[22..54] };
        let open = pseudo(addresses, protocol, frame.len() - start).folded();
        frame[start + check..start + check + 2].copy_from_slice(&open);
        Self {
            frame: Frame(frame),
            start,
            check,
        }
    }

    /// What a card does that was told where the segment is.
    fn finish(&mut self) {
        let check = sum(&self.frame.0[self.start..]).checksum();
        let at = self.start + self.check;
        self.frame.0[at..at + 2].copy_from_slice(&check);
    }
}

impl Packet for Unfinished<'_> {
    fn length(&self) -> usize {
        self.frame.length()
    }

    fn forget(&mut self, value: u64) -> u64 {
        self.frame.forget(value)
    }

    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        self.frame.read(offset)
    }

    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()> {
        self.frame.write(offset, header)
    }

    fn grow(&mut self, bytes: usize) -> Option<()> {
        self.start += bytes;
        self.frame.grow(bytes)
    }

    fn strip(&mut self, _bytes: usize) -> Option<()> {
        panic!("nothing has tags here")
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        // As the kernel does it, behind.
        self.frame.0.resize(length, 0xee);
        Some(())
    }

    fn change_checksum(
        &mut self,
        at: usize,
        pseudo: Difference,
        _segment: Difference,
        _of: (u8, bool),
    ) -> Option<()> {
        let open: [u8; 2] = self.read(at)?;
        let changed = Sum::none().word(open).words(pseudo.word32().to_ne_bytes());
        self.write(at, changed.folded())
    }

    fn is_unfinished(&mut self, at: usize) -> bool {
        assert_eq!(at, self.start + self.check);
        true
    }
}

fn sum(bytes: &[u8]) -> Sum {
    bytes.chunks(2).fold(Sum::none(), |sum, pair| {
        sum.word([pair[0], pair.get(1).copied().unwrap_or(0)])
    })
}

fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> Sum {
    sum(addresses)
        .word([0, protocol])
        .word((length as u16).to_be_bytes())
}

/// Whether the checksum of what is behind the IP header is right.
fn is_right(frame: &[u8]) -> bool {
    let v4 = frame[12] == 8;
    let (start, protocol, addresses) = if v4 {
        (34, frame[23], &frame[26..34])
    } else {
        (54, frame[20], &frame[22..54])
    };
    let segment = sum(&frame[start..]);
    let all = if protocol == 1 {
        segment
    } else {
        pseudo(addresses, protocol, frame.len() - start).plus(segment)
    };
    all.checksum() == [0; 2]
}

fn world(is_v4: bool, protocol: u8, instances: &[u16], mtu: u32) -> (MemoryTables, Vec<u8>) {
    let tables = tables(1 << 10);
    let settings = tables.settings().unwrap_or_default();
    tables.set_settings(Settings {
        icmp_rate: 1000,
        ..settings
    });
    if let Route::Found(hop) = super::way() {
        tables.set_default_route(Route::Found(NextHop {
            mtu_and_epoch: mtu,
            ..hop
        }));
    }
    let [client, own, to] = if is_v4 {
        [[10, 2, 0, 1], [10, 1, 1, 1], [10, 0, 0, 11]].map(from_v4)
    } else {
        [v6(2), v6(100), v6(11)]
    };
    tables.set_table(1, table(instances));
    tables.set_instance(1, instance(to));
    let of = Vip {
        table: 1,
        forward: FORWARD_NAT,
        flags: VIP_REFUSES,
        ..vip(1)
    };
    tables.set_vip(VipKey::new(own, 80_u16.to_be_bytes(), protocol), of);
    let flags = if mtu < 1500 { ACK } else { SYN };
    (tables, packet((client, 5000), (own, 80), protocol, flags))
}

/// Puts payload behind a packet's headers.
fn fill(frame: &mut Vec<u8>, payload: &[u8]) {
    frame.extend_from_slice(payload);
    let length = frame.len() - 14;
    if frame[12] == 8 {
        frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
        let check = sum(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&check);
    } else {
        frame[18..20].copy_from_slice(&(length as u16 - 40).to_be_bytes());
    }
}

proptest! {
    #[test]
    fn what_is_forwarded_is_right_when_it_is_finished(
        is_v4: bool,
        is_tcp: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let protocol = if is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        let (tables, mut frame) = world(is_v4, protocol, &[1], 1500);
        fill(&mut frame, &payload);
        let mut packet = Unfinished::new(&mut frame, protocol);
        prop_assert_eq!(send_as(&tables, &mut packet), Verdict::Transmit);
        packet.finish();
        prop_assert!(is_right(&frame), "{:02x?}", frame);
    }

    #[test]
    fn what_is_refused_is_right_when_it_is_finished(
        is_v4: bool,
        is_tcp: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let protocol = if is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        let (tables, mut frame) = world(is_v4, protocol, &[], 1500);
        fill(&mut frame, &payload);
        let mut packet = Unfinished::new(&mut frame, protocol);
        let verdict = send_as(&tables, &mut packet);
        prop_assert!(matches!(verdict, Verdict::Answer(_)), "{verdict:?}");
        packet.finish();
        prop_assert!(is_right(&frame), "{:02x?}", frame);
    }

    #[test]
    fn what_is_too_big_is_told_so_whether_a_card_finds_the_segment_or_not(
        is_v4: bool,
        payload in prop::collection::vec(any::<u8>(), 1300..1400),
    ) {
        let (tables, mut frame) = world(is_v4, PROTOCOL_TCP, &[1], 1500);
        prop_assert_eq!(super::send(&tables, &mut frame), Verdict::Transmit);
        if let Route::Found(hop) = super::way() {
            let narrow = NextHop { mtu_and_epoch: 1280, ..hop };
            tables.set_default_route(Route::Found(narrow));
            tables.set_now(10_000_000_000);
        }
        let (_, mut frame) = world(is_v4, PROTOCOL_TCP, &[1], 1280);
        fill(&mut frame, &payload);
        let mut packet = Unfinished::new(&mut frame, PROTOCOL_TCP);
        let verdict = send_as(&tables, &mut packet);
        prop_assert!(matches!(verdict, Verdict::Answer(_)), "{verdict:?}");
        let before = packet.frame.0.clone();
        packet.finish();
        prop_assert_eq!(&before, &frame);
        prop_assert!(is_right(&frame), "{:02x?}", frame);
    }
}
