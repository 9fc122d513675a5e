//! Sources that the ACL denies.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use lb_common::{
    ACL_ON, Acl, Address, Counter, FAR_WORDS, FORWARD_L2DSR, NEAR_WORDS, PREFIX_ALLOWED,
    PREFIX_DENIED, PROTOCOL_TCP, PROTOCOL_UDP, PrefixKey, Slot, Table, VIP_OWNED, VIP_SETTLES, Vip,
    VipKey, from_v4,
};
use proptest::prelude::*;

use super::{instance, packet, send, table, tables, v6, vip};
use crate::{Verdict, memory::MemoryTables};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The rules that are in force.
fn rule(tables: &MemoryTables, rules: &[(Address, u32, u32)]) {
    for key in tables.prefixes().keys() {
        tables.set_prefix(*key, None);
    }
    let mut acl = Box::new(Acl {
        epoch: tables.acl().map_or(0, |acl| acl.epoch) + 1,
        flags: 0,
        near: [0; NEAR_WORDS],
        far: [0; FAR_WORDS],
    });
    for (address, length, rule) in rules {
        tables.set_prefix(PrefixKey::new(address, *length), Some(*rule));
        acl.note(address, *length);
    }
    tables.set_acl(acl);
}

/// VIPs on port 80 and UDP port 53 of both families (`nat`, by instances 1 and 2), and on port 81
/// (`l2dsr`, settled, by instance 1).
fn balancer() -> MemoryTables {
    let tables = tables(256);
    tables.set_instance(1, instance(from_v4([10, 0, 0, 11])));
    tables.set_instance(2, instance(v6(11)));
    tables.set_table(1, table(&[1]));
    tables.set_table(2, table(&[2]));
    tables.set_table(
        3,
        std::sync::Arc::new(Table::settled([Slot::clear(1).0; _])),
    );
    for (id, address) in [(1, from_v4([10, 1, 1, 1])), (2, v6(99))] {
        for (protocol, port) in [(PROTOCOL_TCP, 80_u16), (PROTOCOL_UDP, 53)] {
            let key = VipKey::new(address, port.to_be_bytes(), protocol);
            tables.set_vip(
                key,
                Vip {
                    table: id,
                    ..vip(id)
                },
            );
        }
        tables.set_vip_address(address, lb_common::PortRanges::default());
    }
    let key = VipKey::new(from_v4([10, 1, 1, 1]), 81_u16.to_be_bytes(), PROTOCOL_TCP);
    let settling = Vip {
        table: 3,
        forward: FORWARD_L2DSR,
        flags: VIP_OWNED | VIP_SETTLES,
        ..vip(3)
    };
    tables.set_vip(key, settling);
    tables
}

fn v4(last: u8) -> Address {
    from_v4([192, 0, 2, last])
}

fn to(tables: &MemoryTables, source: Address, port: u16, flags: u8) -> Verdict {
    let destination = if lb_common::is_v4(&source) {
        from_v4([10, 1, 1, 1])
    } else {
        v6(99)
    };
    let mut frame = packet((source, 7000), (destination, port), PROTOCOL_TCP, flags);
    let verdict = send(tables, &mut frame);
    assert!(tables.counters().adds_up());
    verdict
}

const DENIED: Verdict = Verdict::Drop(Counter::DropDenied);

#[test]
fn a_rule_holds_for_the_next_packet_of_every_flow() {
    let tables = balancer();
    let six = |last| {
        let mut address = v6(last);
        address[1] = 7;
        address
    };
    for (port, source) in [(80, v4(7)), (81, v4(7)), (80, six(7))] {
        assert_eq!(to(&tables, source, port, SYN), Verdict::Transmit);
        assert_eq!(to(&tables, source, port, ACK), Verdict::Transmit);
    }
    let mut sixes = six(0);
    sixes[15] = 0;
    rule(
        &tables,
        &[(v4(0), 120, PREFIX_DENIED), (sixes, 64, PREFIX_DENIED)],
    );
    let before = tables.traffic_of_vip(1).dropped;
    for (port, source) in [(80, v4(7)), (81, v4(7)), (80, six(7))] {
        for flags in [ACK, SYN] {
            assert_eq!(
                to(&tables, source, port, flags),
                DENIED,
                "{port} {source:?}"
            );
        }
    }
    assert_eq!(tables.traffic_of_vip(1).dropped - before, 2);
    assert_eq!(
        to(&tables, from_v4([192, 0, 3, 7]), 80, SYN),
        Verdict::Transmit
    );
    // The longest prefix decides, and so on with every change.
    let more = (v4(7), 128, PREFIX_ALLOWED);
    rule(&tables, &[(v4(0), 120, PREFIX_DENIED), more]);
    assert_eq!(to(&tables, v4(7), 80, ACK), Verdict::Transmit);
    assert_eq!(to(&tables, v4(7), 81, ACK), Verdict::Transmit);
    assert_eq!(to(&tables, v4(8), 80, SYN), DENIED);
    rule(&tables, &[]);
    assert_eq!(to(&tables, v4(8), 80, SYN), Verdict::Transmit);
}

#[test]
fn what_is_for_no_vip_and_what_instances_answer_is_left_alone() {
    let tables = balancer();
    assert_eq!(
        to(&tables, from_v4([203, 0, 113, 9]), 80, SYN),
        Verdict::Transmit
    );
    let flows = tables.flows();
    let reply = flows
        .iter()
        .find(|(_, entry)| entry.direction == lb_common::FLOW_REPLY);
    let (key, _) = reply.unwrap();
    // Everybody but one client is denied.
    let one = (from_v4([203, 0, 113, 9]), 128, PREFIX_ALLOWED);
    rule(&tables, &[(from_v4([0; 4]), 96, PREFIX_DENIED), one]);
    assert_eq!(
        to(&tables, from_v4([203, 0, 113, 9]), 80, ACK),
        Verdict::Transmit
    );
    let ports = |port| u16::from_be_bytes(port);
    let mut frame = packet(
        (key.source, ports(key.source_port)),
        (key.destination, ports(key.destination_port)),
        PROTOCOL_TCP,
        ACK,
    );
    assert_eq!(send(&tables, &mut frame), Verdict::Transmit);
    assert_eq!(
        to(&tables, v4(9), 8080, SYN),
        Verdict::Pass(Counter::PassedNotVip)
    );
}

#[test]
fn packets_without_ports_are_refused_too() {
    let tables = balancer();
    rule(&tables, &[(v4(0), 120, PREFIX_DENIED)]);
    let echo = |source: u8, destination: [u8; 4]| {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, source, 7]);
        frame.extend_from_slice(&destination);
        frame.extend_from_slice(&[8, 0, 0, 0, 0, 1, 0, 1]);
        send(&tables, &mut frame)
    };
    assert_eq!(echo(2, [10, 1, 1, 1]), DENIED);
    assert_eq!(
        echo(2, [10, 1, 1, 2]),
        Verdict::Pass(Counter::PassedOtherProtocol)
    );
    assert_eq!(
        echo(3, [10, 1, 1, 1]),
        Verdict::Pass(Counter::PassedOtherProtocol)
    );
    let mut fragment = packet((v4(7), 7000), (from_v4([10, 1, 1, 1]), 53), PROTOCOL_UDP, 0);
    (fragment[20], fragment[21]) = (0x20, 0);
    assert_eq!(send(&tables, &mut fragment.clone()), DENIED);
    (fragment[20], fragment[21]) = (0, 1);
    assert_eq!(send(&tables, &mut fragment), DENIED);
    assert!(tables.counters().adds_up());
}

/// What the rules mean, without marks, tries or copies.
fn naive(rules: &BTreeMap<(Ipv6Addr, u32), u32>, source: Address) -> bool {
    let is_in = |first: Ipv6Addr, length: u32| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        (first.to_bits() ^ Ipv6Addr::from(source).to_bits()) & mask == 0
    };
    let holding = rules
        .iter()
        .filter(|((first, length), _)| is_in(*first, *length));
    let longest = holding.max_by_key(|((_, length), _)| *length);
    longest.is_some_and(|(_, rule)| *rule == PREFIX_DENIED)
}

/// Addresses that share beginnings, so that prefixes hold some.
fn address() -> impl Strategy<Value = Address> {
    let near = prop::sample::select(vec![0_u8, 1, 128, 255]);
    let v4 = prop::array::uniform4(near.clone()).prop_map(from_v4);
    let v6 = prop::array::uniform6(near).prop_map(|bytes| {
        let mut address = [0; 16];
        for (byte, place) in bytes.into_iter().zip([0, 1, 3, 5, 7, 15]) {
            address[place] = byte;
        }
        address[2] = 1;
        address
    });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn the_longest_prefix_decides(
        steps in prop::collection::vec(
            (prop::collection::vec((address(), 0_u32..=128, any::<bool>()), 0..12),
             prop::collection::vec(address(), 1..24)),
            1..4,
        ),
    ) {
        let tables = balancer();
        for (wanted, sources) in steps {
            let mut rules = BTreeMap::new();
            for (address, length, denies) in wanted {
                let length = if lb_common::is_v4(&address) { 96 + length % 33 } else { length };
                let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                let first = Ipv6Addr::from_bits(Ipv6Addr::from(address).to_bits() & mask);
                rules.insert((first, length), if denies { PREFIX_DENIED } else { PREFIX_ALLOWED });
            }
            // Prefixes of IPv6 do not hold IPv4: see the daemon's side.
            rules.entry((Ipv6Addr::from(from_v4([0; 4])), 96)).or_insert(PREFIX_ALLOWED);
            let list: Vec<(Address, u32, u32)> = rules
                .iter()
                .map(|((first, length), rule)| (first.octets(), *length, *rule))
                .collect();
            rule(&tables, &list);
            prop_assert!(tables.acl().unwrap().flags & ACL_ON != 0);
            for source in sources {
                let expected = naive(&rules, source);
                // Twice: what was kept says the same.
                for _ in 0..2 {
                    let shown = IpAddr::from(source);
                    prop_assert_eq!(to(&tables, source, 80, SYN) == DENIED, expected, "{}", shown);
                }
            }
        }
    }
}
