//! Connections of which nothing but one packet was heard.

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_L2DSR, FORWARD_SPLICED, FlowKey, PROTOCOL_TCP,
    STATE_OPENING, STATE_STRAY, Settings, Vip, VipKey, from_v4, most_opening,
};

use super::{instance, packet, send, table, tables, vip};
use crate::{Flow as _, Insert, Tables as _, Verdict, memory::MemoryTables};

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

const ENTRIES: u32 = 4096;

/// A `nat` VIP on port 80 and one of `l2dsr` on port 81.
fn balancer(ports: u16) -> MemoryTables {
    let tables = tables(ENTRIES as usize);
    let settings = tables.settings().unwrap();
    tables.set_settings(Settings {
        nat_port_last: settings.nat_port_first + ports - 1,
        ..settings
    });
    tables.set_instance(1, instance(from_v4([10, 0, 0, 11])));
    tables.set_table(1, table(&[1]));
    for (id, port, forward) in [(1, 80_u16, vip(1).forward), (2, 81, FORWARD_L2DSR)] {
        let key = VipKey::new(from_v4([10, 1, 1, 1]), port.to_be_bytes(), PROTOCOL_TCP);
        let value = Vip {
            forward,
            table: 1,
            ..vip(id)
        };
        tables.set_vip(key, value);
    }
    tables
}

fn to(tables: &MemoryTables, client: u32, port: u16, flags: u8) -> Verdict {
    with_ttl(tables, client, port, flags, 64)
}

fn with_ttl(tables: &MemoryTables, client: u32, port: u16, flags: u8, ttl: u8) -> Verdict {
    let [_, _, a, b] = client.to_be_bytes();
    let source = (from_v4([10, 9, a, b]), 5000);
    let mut frame = packet(source, (from_v4([10, 1, 1, 1]), port), PROTOCOL_TCP, flags);
    frame[22] = ttl;
    let verdict = send(tables, &mut frame);
    assert!(tables.counters().adds_up());
    verdict
}

/// Clients whose connections are there, those that are opening apart.
fn known(tables: &MemoryTables) -> (usize, usize) {
    let flows = tables.flows().into_iter();
    let forward: Vec<_> = flows
        .filter(|(_, entry)| entry.direction == FLOW_FORWARD)
        .collect();
    let opening = forward
        .iter()
        .filter(|(_, entry)| entry.state & STATE_OPENING != 0);
    let opening = opening.count();
    (forward.len() - opening, opening)
}

#[test]
fn a_flood_pushes_out_its_own_and_nobody_who_has_gone_on() {
    for port in [80, 81] {
        let tables = balancer(10_000);
        for client in 0..100 {
            assert_eq!(to(&tables, client, port, SYN), Verdict::Transmit);
            assert_eq!(to(&tables, client, port, ACK), Verdict::Transmit);
        }
        assert_eq!(known(&tables), (100, 0));
        for client in 1000..9000 {
            assert_eq!(
                to(&tables, client, port, SYN),
                Verdict::Transmit,
                "{client}"
            );
        }
        let most = most_opening(ENTRIES, 22_528);
        assert_eq!(known(&tables), (100, most as usize), "{port}");
        assert_eq!(tables.live(1), u64::from(100 + most));
        // The ring has had the hundred, too.
        let forgotten = tables.counters().get(Counter::OpeningsForgotten);
        assert_eq!(forgotten, u64::from(8000 - most));
        // Who is slow, but faster than the ring, is established with the packet that he sends next.
        for client in 8900..9000 {
            assert_eq!(to(&tables, client, port, ACK), Verdict::Transmit);
        }
        assert_eq!(known(&tables), (200, most as usize - 100), "{port}");
    }
}

/// Whatever their first packet was, and whether that has left or not.
#[test]
fn nobody_fills_the_table_with_first_packets() {
    let most = most_opening(ENTRIES, 22_528) as usize;
    for (port, flags, ttl) in [
        (80, ACK, 64),
        (81, ACK, 64),
        (80, ACK | FIN, 64),
        (80, SYN, 1),
        (80, ACK, 1),
    ] {
        let tables = balancer(10_000);
        to(&tables, 1, port, SYN);
        to(&tables, 1, port, ACK);
        for client in 1000..9000 {
            let verdict = with_ttl(&tables, client, port, flags, ttl);
            assert_eq!(verdict == Verdict::Transmit, ttl > 1, "{verdict:?}");
        }
        assert_eq!(known(&tables), (1, most), "port {port}, {flags:#x}, {ttl}");
    }
}

/// The packet before it was not asked what a SYN is asked.
#[test]
fn a_syn_that_follows_a_stray_packet_begins_anew() {
    let strays = |tables: &MemoryTables| {
        let flows = tables.flows().into_iter();
        flows
            .filter(|(_, entry)| entry.direction == FLOW_FORWARD)
            .map(|(_, entry)| entry.state & STATE_STRAY != 0)
            .collect::<Vec<_>>()
    };
    for port in [80, 81] {
        let tables = balancer(10_000);
        to(&tables, 1, port, ACK);
        assert_eq!((strays(&tables), tables.live(1)), (vec![true], 1));
        to(&tables, 1, port, SYN);
        assert_eq!((strays(&tables), tables.live(1)), (vec![false], 1));
        to(&tables, 1, port, ACK);
        // One that goes on after a SYN is not begun anew by another one.
        to(&tables, 1, port, SYN);
        assert_eq!((known(&tables), tables.live(1)), ((1, 0), 1));
    }
}

/// What a reply's entry has in the place of a state is what its packets are numbered by.
#[test]
fn an_instances_syn_changes_nothing_of_two_handshakes() {
    let tables = balancer(10_000);
    to(&tables, 1, 80, SYN);
    let reply = tables.flows().into_iter();
    let reply = reply.filter(|(_, entry)| entry.direction == FLOW_REPLY);
    for (key, mut entry) in reply {
        (entry.state, entry.forward) = (1024, entry.forward | FORWARD_SPLICED);
        tables.remove_flow(&key);
        assert_eq!(tables.insert_flow(&key, &entry), Insert::Done);
        let ports = [key.source_port, key.destination_port].map(u16::from_be_bytes);
        let ends = ((key.source, ports[0]), (key.destination, ports[1]));
        send(&tables, &mut packet(ends.0, ends.1, PROTOCOL_TCP, SYN));
        let state = tables.flow(&key).unwrap().entry().state;
        assert_eq!(state, 1024);
    }
}

#[test]
fn a_connection_that_begins_again_and_again_is_not_forgotten_for_itself() {
    let tables = balancer(1000);
    for _ in 0..3 * ENTRIES {
        assert_eq!(to(&tables, 1, 80, SYN), Verdict::Transmit);
        assert_eq!(to(&tables, 1, 80, 4 | ACK), Verdict::Transmit);
    }
}

/// What falls out of the ring has to be looked up, if it is there.
#[test]
fn who_has_sent_more_leaves_no_key_behind() {
    for port in [80, 81] {
        let tables = balancer(20_000);
        let at = tables.opening();
        to(&tables, 1, port, SYN);
        to(&tables, 2, port, SYN);
        to(&tables, 1, port, ACK);
        assert_eq!(known(&tables), (1, 1));
        let most = most_opening(ENTRIES, 22_528);
        let left = (0..most).filter(|_| {
            let mut key = FlowKey::default();
            tables.swap_opening(&mut key);
            key.protocol != 0
        });
        assert_eq!((at, left.count()), (0, 1), "port {port}");
    }
}

#[test]
fn source_ports_are_found_while_eight_in_ten_are_in_use() {
    let tables = balancer(1024);
    let (mut open, mut refused) = (0, 0);
    for client in 1..2000 {
        match to(&tables, client, 80, SYN) {
            Verdict::Transmit => open += 1,
            Verdict::Drop(Counter::DropNatPorts) => {
                refused += 1;
                continue;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(to(&tables, client, 80, ACK), Verdict::Transmit);
        if open == 820 {
            break;
        }
    }
    // By chance one or two: the sum of `(n / 1024)^16` for all n below 820 is 1.4.
    assert!(refused <= 10, "{refused}");
}
