//! There and back again.

use lb_common::{Address, PROTOCOL_TCP, VipKey, from_v4};
use proptest::prelude::*;

use super::{instance, packet, send, table, tables, vip};
use crate::Verdict;
use crate::memory::Frame;
use crate::parse::{self, TCP_ACK, TCP_SYN};

fn addresses() -> impl Strategy<Value = [Address; 3]> {
    let four = any::<[[u8; 4]; 3]>().prop_map(|four| four.map(from_v4));
    let six = any::<[[u8; 16]; 3]>().prop_map(|six| {
        six.map(|mut address| {
            address[0] = 0x20;
            address
        })
    });
    prop_oneof![four, six].prop_filter("three hosts", |[a, b, c]| a != b && b != c && a != c)
}

/// What a frame says of itself.
fn tuple(frame: &mut Vec<u8>) -> (Address, u16, Address, u16) {
    let mut key = lb_common::FlowKey::default();
    parse::parse(&mut Frame(frame), &mut key).unwrap();
    (
        key.source,
        u16::from_be_bytes(key.source_port),
        key.destination,
        u16::from_be_bytes(key.destination_port),
    )
}

/// The sum over the pseudo header and the segment, which is all ones when the checksum is right.
fn sum(frame: &mut Vec<u8>) -> u16 {
    let mut key = lb_common::FlowKey::default();
    let layout = parse::parse(&mut Frame(frame), &mut key).unwrap();
    let end = layout.l3 + layout.ip_length as usize;
    let mut covered = Vec::new();
    covered.extend_from_slice(&key.source);
    covered.extend_from_slice(&key.destination);
    // Twice the prefix of mapped addresses is zero in one's complement.
    covered.extend_from_slice(&((end - layout.l4) as u32).to_be_bytes());
    covered.extend_from_slice(&[0, key.protocol]);
    covered.extend_from_slice(&frame[layout.l4..end]);
    fold(&covered)
}

fn fold(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Writes the checksums of a packet that was built without.
fn seal(frame: &mut Vec<u8>) {
    let mut key = lb_common::FlowKey::default();
    let layout = parse::parse(&mut Frame(frame), &mut key).unwrap();
    let at = layout.l4 + if key.protocol == PROTOCOL_TCP { 16 } else { 6 };
    let value = (!sum(frame)).to_be_bytes();
    frame[at..at + 2].copy_from_slice(&value);
    if layout.v4 {
        let value = (!fold(&frame[layout.l3..layout.l4])).to_be_bytes();
        frame[layout.l3 + 10..layout.l3 + 12].copy_from_slice(&value);
    }
}

fn is_sealed(frame: &mut Vec<u8>) -> bool {
    let mut key = lb_common::FlowKey::default();
    let layout = parse::parse(&mut Frame(frame), &mut key).unwrap();
    let header = !layout.v4 || fold(&frame[layout.l3..layout.l4]) == 0xffff;
    header && sum(frame) == 0xffff
}

proptest! {
    #[test]
    fn a_reply_reaches_the_client_from_the_vip(
        [client, address, server] in addresses(),
        ports in any::<[u16; 2]>(),
        tcp: bool,
    ) {
        let protocol = if tcp { PROTOCOL_TCP } else { 17 };
        let tables = tables(16);
        tables.set_instance(1, instance(server));
        tables.set_table(0, table(&[1]));
        tables.set_vip(VipKey::new(address, ports[1].to_be_bytes(), protocol), vip(1));
        let mut request = packet((client, ports[0]), (address, ports[1]), protocol, TCP_SYN);
        seal(&mut request);
        prop_assert!(is_sealed(&mut request));
        prop_assert_eq!(send(&tables, &mut request), Verdict::Transmit);
        prop_assert!(is_sealed(&mut request), "{:02x?}", request);
        let (source, port, destination, to) = tuple(&mut request);
        prop_assert_eq!((destination, to), (server, 8080));
        prop_assert!((40_000..50_000).contains(&port));

        let mut reply = packet((destination, to), (source, port), protocol, TCP_SYN | TCP_ACK);
        seal(&mut reply);
        prop_assert_eq!(send(&tables, &mut reply), Verdict::Transmit);
        prop_assert!(is_sealed(&mut reply), "{:02x?}", reply);
        prop_assert_eq!(tuple(&mut reply), (address, ports[1], client, ports[0]));
        let place = if lb_common::is_v4(&client) { 22 } else { 21 };
        prop_assert_eq!((request[place], reply[place]), (63, 63));
        prop_assert_eq!(tables.flows().len(), 2);
    }
}
