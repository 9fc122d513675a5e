//! Any bytes at all.

use lb_common::{FORWARD_L2DSR, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, Vip, VipKey, from_v4};
use proptest::prelude::*;

use super::{instance, packet, send, table, tables, v6, vip};
use crate::memory::Frame;
use crate::packet::MAX_OFFSET;
use crate::parse::{self, Layout, TCP_SYN};
use crate::plain;
use crate::{Header, Packet, Verdict};

/// A packet that checks what is asked of it.
struct Watched<'a>(Frame<'a>);

impl Packet for Watched<'_> {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn forget(&mut self, value: u64) -> u64 {
        self.0.forget(value)
    }

    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        assert!(offset <= MAX_OFFSET, "the kernel would refuse {offset}");
        assert!(size_of::<H>() >= 2, "the verifier would refuse one byte");
        self.0.read(offset)
    }

    fn write<H: Header>(&mut self, _offset: usize, _header: H) -> Option<()> {
        panic!("parsing writes nothing")
    }

    fn grow(&mut self, _bytes: usize) -> Option<()> {
        panic!("parsing makes no room")
    }

    fn strip(&mut self, _bytes: usize) -> Option<()> {
        panic!("parsing strips nothing")
    }

    fn resize(&mut self, _length: usize) -> Option<()> {
        panic!("parsing leaves the length as it is")
    }
}

fn valid() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), any::<bool>(), 0..3_usize, any::<u8>()).prop_map(|(six, tcp, tags, flags)| {
        let (from, to) = if six {
            (v6(2), v6(80))
        } else {
            (from_v4([10, 0, 0, 2]), from_v4([10, 1, 1, 1]))
        };
        let protocol = if tcp { PROTOCOL_TCP } else { 17 };
        let mut frame = packet((from, 5000), (to, 80), protocol, flags);
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0x00, 0, 5]);
        }
        frame
    })
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_passed(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let length = bytes.len();
        if let Ok(layout) = parse::parse(&mut Watched(Frame(&mut bytes)), &mut Default::default()) {
            prop_assert!(layout.l3 < layout.l4 && layout.l4 + 8 <= length);
            prop_assert!(layout.l3 + layout.ip_length as usize <= length);
        }
    }

    #[test]
    fn frequent_shapes_are_read_as_by_who_reads_all(
        mut frame in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        padding in 0..20_usize,
    ) {
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.resize(frame.len() + padding, 0);
        let (mut one, mut other) = (FlowKey::default(), FlowKey::default());
        if let Some(layout) = plain::parse(&Watched(Frame(&mut frame)), &mut one) {
            let any = parse::any(&mut Watched(Frame(&mut frame)), &mut other);
            prop_assert_eq!(any, Ok(layout));
            prop_assert_eq!(one, other);
            prop_assert_eq!(Layout::unpacked(layout.packed()), layout);
        }
    }

    #[test]
    fn damaged_packets_are_parsed_or_passed(
        mut frame in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.truncate(cut.index(frame.len() + 1));
        let length = frame.len();
        if let Ok(layout) = parse::parse(&mut Watched(Frame(&mut frame)), &mut Default::default()) {
            prop_assert!(layout.l3 < layout.l4 && layout.l4 + 8 <= length);
            prop_assert!(layout.l3 + layout.ip_length as usize <= length);
        }
    }

    #[test]
    fn no_part_of_a_packet_is_a_packet(frame in valid(), cut in any::<prop::sample::Index>()) {
        let mut part = frame[..cut.index(frame.len())].to_vec();
        let before = part.clone();
        let verdict = send(&serving(), &mut part);
        prop_assert!(matches!(verdict, Verdict::Pass(_)), "{verdict:?}");
        prop_assert_eq!(part, before);
    }

    #[test]
    fn what_is_not_forwarded_is_not_changed(
        mut frame in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let tables = serving();
        let before = frame.clone();
        let verdict = send(&tables, &mut frame);
        if !matches!(verdict, Verdict::Transmit | Verdict::Redirect(_)) {
            prop_assert_eq!(frame, before);
        }
        prop_assert!(tables.counters().adds_up());
    }
}

/// Both families' VIP, one by each way of forwarding.
fn serving() -> crate::memory::MemoryTables {
    let tables = tables(64);
    tables.set_instance(1, instance(from_v4([10, 0, 0, 11])));
    tables.set_table(0, table(&[1]));
    let l2dsr = Vip {
        forward: FORWARD_L2DSR,
        ..vip(2)
    };
    for protocol in [PROTOCOL_TCP, 17] {
        let port = 80_u16.to_be_bytes();
        tables.set_vip(VipKey::new(from_v4([10, 1, 1, 1]), port, protocol), vip(1));
        tables.set_vip(VipKey::new(v6(80), port, protocol), l2dsr);
    }
    tables
}

#[test]
fn the_packets_of_these_tests_are_forwarded() {
    let tables = serving();
    let clients = [
        (from_v4([10, 0, 0, 2]), from_v4([10, 1, 1, 1])),
        (v6(2), v6(80)),
    ];
    for (client, vip) in clients {
        for protocol in [PROTOCOL_TCP, 17] {
            let mut frame = packet((client, 5000), (vip, 80), protocol, TCP_SYN);
            assert_eq!(send(&tables, &mut frame), Verdict::Transmit);
        }
    }
}

#[test]
fn frequent_shapes_are_the_plain_ones() {
    let addresses = |v6_of: bool| {
        if v6_of {
            [v6(1), v6(2)]
        } else {
            [from_v4([10, 0, 0, 2]), from_v4([10, 1, 1, 1])]
        }
    };
    for is_v6 in [false, true] {
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            let [client, vip] = addresses(is_v6);
            let mut frame = packet((client, 5000), (vip, 80), protocol, TCP_SYN);
            // As short as Ethernet lets them be, and a little longer.
            frame.resize(frame.len().max(68), 0);
            let mut key = FlowKey::default();
            let layout = plain::parse(&Frame(&mut frame), &mut key).expect("it is plain");
            let flags = if protocol == PROTOCOL_TCP { TCP_SYN } else { 0 };
            assert_eq!((layout.tcp_flags, layout.v4), (flags, !is_v6));
            assert_eq!((key.source, key.destination), (client, vip));
            // A fragment, or an extension header.
            let at = if is_v6 { 20 } else { 21 };
            frame[at] = if is_v6 { 0 } else { 1 };
            assert_eq!(plain::parse(&Frame(&mut frame), &mut key), None);
        }
    }
}
