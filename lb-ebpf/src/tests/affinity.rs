//! Clients that stay with their instance.

use lb_common::{
    Affinity, ClientPin, Counter, FORWARD_L2DSR, INSTANCE_DRAINING, InstanceEntry, PROTOCOL_TCP,
    PROTOCOL_UDP, SELECT_TURN, VIP_LIMITED, Vip, VipKey, from_v4,
};

use super::{instance, packet, send, table, tables, vip};
use crate::{
    Tables as _, Verdict,
    memory::{CLIENTS, MemoryTables},
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const TTL: u64 = 60_000_000_000;

/// Two VIPs in turn over two instances, one of TCP and one of UDP, that remember clients together.
fn balancer() -> MemoryTables {
    let tables = tables(4096);
    for index in [1, 2] {
        tables.set_instance(index, instance(from_v4([10, 0, 0, 10 + index as u8])));
        tables.set_service_of(index, 9);
    }
    tables.set_table(1, table(&[1, 2]));
    for (id, protocol) in [(1, PROTOCOL_TCP), (2, PROTOCOL_UDP)] {
        let key = VipKey::new(from_v4([10, 1, 1, 1]), [0, 80], protocol);
        let value = Vip {
            forward: FORWARD_L2DSR,
            select: SELECT_TURN,
            flags: VIP_LIMITED,
            table: 1,
            ..vip(id)
        };
        tables.set_vip(key, value);
        tables.set_affinity(
            id,
            Affinity {
                ttl: TTL,
                service: 9,
            },
        );
    }
    tables
}

fn to(tables: &MemoryTables, client: u16, port: u16, protocol: u8, flags: u8) -> Verdict {
    let [a, b] = client.to_be_bytes();
    let source = (from_v4([10, 9, a, b]), port);
    let mut frame = packet(source, (from_v4([10, 1, 1, 1]), 80), protocol, flags);
    let verdict = send(tables, &mut frame);
    assert!(tables.counters().adds_up());
    verdict
}

/// The instance of a new connection of a client, whose handshake is completed.
fn connect(tables: &MemoryTables, client: u16, port: u16) -> u16 {
    for flags in [SYN, ACK] {
        let verdict = to(tables, client, port, PROTOCOL_TCP, flags);
        assert_eq!(verdict, Verdict::Transmit);
    }
    flow(tables, client, port)
}

fn flow(tables: &MemoryTables, client: u16, port: u16) -> u16 {
    let [a, b] = client.to_be_bytes();
    let mut flows = tables.flows().into_iter();
    let found = flows.find(|(key, _)| {
        key.source == from_v4([10, 9, a, b]) && key.source_port == port.to_be_bytes()
    });
    found.unwrap().1.instance
}

#[test]
fn a_client_stays_whatever_the_algorithm_says_and_over_all_vips_of_its_service() {
    let tables = balancer();
    let first = connect(&tables, 1, 5000);
    for port in 5001..5020 {
        assert_eq!(connect(&tables, 1, port), first);
    }
    assert_eq!(to(&tables, 1, 6000, PROTOCOL_UDP, 0), Verdict::Transmit);
    assert_eq!(flow(&tables, 1, 6000), first);
    let followed = tables.counters().get(Counter::AffinityFollowed);
    assert_eq!(followed, 20);
    let others: Vec<u16> = (2..10)
        .map(|client| connect(&tables, client, 5000))
        .collect();
    assert!(others.contains(&1) && others.contains(&2), "{others:?}");
}

#[test]
fn it_is_forgotten_when_it_has_begun_nothing_for_the_time() {
    let tables = balancer();
    let pin = |tables: &MemoryTables| -> ClientPin { tables.clients()[0].1 };
    connect(&tables, 1, 5000);
    assert_eq!(pin(&tables).until, 1 + TTL);
    tables.set_now(TTL);
    connect(&tables, 1, 5001);
    assert_eq!(
        pin(&tables).until,
        2 * TTL,
        "each connection is for the whole time"
    );
    assert_eq!(tables.counters().get(Counter::AffinityFollowed), 1);
    tables.set_now(2 * TTL);
    connect(&tables, 1, 5002);
    assert_eq!(tables.counters().get(Counter::AffinityFollowed), 1);
}

#[test]
fn it_leaves_an_instance_that_takes_nothing_new_and_stays_with_the_next() {
    for gone in [
        InstanceEntry {
            state: INSTANCE_DRAINING,
            ..instance(from_v4([10, 0, 0, 1]))
        },
        // Another one under the same index.
        InstanceEntry {
            generation: 2,
            state: INSTANCE_DRAINING,
            ..instance(from_v4([10, 0, 0, 1]))
        },
    ] {
        let tables = balancer();
        let first = connect(&tables, 1, 5000);
        tables.set_instance(first, gone);
        let second = connect(&tables, 1, 5001);
        assert_ne!(second, first);
        let back = InstanceEntry {
            state: 1,
            ..instance(from_v4([10, 0, 0, 1]))
        };
        tables.set_instance(first, back);
        assert_eq!(connect(&tables, 1, 5002), second);
    }
    let tables = balancer();
    let first = connect(&tables, 1, 5000);
    tables.set_ceiling(first, Some(1));
    assert_ne!(connect(&tables, 1, 5001), first, "it is full");
}

#[test]
fn syns_alone_are_remembered_by_nobody() {
    let tables = balancer();
    for client in 0..100 {
        let verdict = to(&tables, client, 5000, PROTOCOL_TCP, SYN);
        assert_eq!(verdict, Verdict::Transmit);
    }
    assert!(tables.clients().is_empty());
    assert_eq!(tables.live(1) + tables.live(2), 100);
}

#[test]
fn without_room_clients_are_served_without_it() {
    let tables = balancer();
    let clients = CLIENTS as u16 + 50;
    for client in 0..clients {
        connect(&tables, client, 5000);
    }
    assert_eq!(tables.clients().len(), CLIENTS);
    let unremembered = tables.counters().get(Counter::AffinityUnremembered);
    assert_eq!(unremembered, 50);
    let known = connect(&tables, 0, 5001);
    assert_eq!(known, flow(&tables, 0, 5000));
}

#[test]
fn nobody_is_sent_to_an_instance_of_another_service() {
    let tables = balancer();
    assert_eq!(to(&tables, 1, 5000, PROTOCOL_TCP, SYN), Verdict::Transmit);
    // Between the SYN and what follows, the VIP has become another service's.
    for id in [1, 2] {
        tables.set_affinity(
            id,
            Affinity {
                ttl: TTL,
                service: 8,
            },
        );
    }
    assert_eq!(to(&tables, 1, 5000, PROTOCOL_TCP, ACK), Verdict::Transmit);
    assert!(tables.clients().is_empty());
    for index in [1, 2] {
        tables.set_service_of(index, 8);
    }
    let first = connect(&tables, 1, 5001);
    tables.set_service_of(first, 7);
    connect(&tables, 1, 5002);
    assert_eq!(tables.counters().get(Counter::AffinityFollowed), 0);
}
