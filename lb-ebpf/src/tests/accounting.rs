//! Sequences of packets and events at random, after which all must add up.

use std::collections::HashMap;

use lb_common::{
    Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_L2DSR, FORWARD_NAT, HOP_TAGGED, INSTANCE_ABSENT,
    INSTANCE_ACTIVE, INSTANCE_DOWN, INSTANCE_DRAINING, INSTANCE_FAILED, InstanceEntry, NextHop,
    PROTOCOL_TCP, SELECT_HASH, SELECT_LEAST_CONNECTIONS, SELECT_TURN, STATE_CLOSED, Subinterface,
    TAG_CUSTOMER, TAG_SERVICE, Vip, VipKey, from_v4, tag,
};
use proptest::prelude::*;

use super::{INTERFACE, instance, packet, send, table, tables};
use crate::memory::MemoryTables;
use crate::{Route, Tables, Verdict};

#[derive(Clone, Debug)]
enum Event {
    /// A client's packet: client, VIP, TCP flags.
    Request(u8, u8, u8),
    /// The reply to the connection that is at this place in the table.
    Reply(prop::sample::Index, u8),
    /// An instance changes its state.
    State(u16, u8),
    /// An index is used for another endpoint.
    Reuse(u16),
    /// A VIP gets another table.
    Table(u8, Vec<u16>),
    /// Time passes, in milliseconds.
    Time(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags = prop_oneof![Just(0x02), Just(0x10), Just(0x11), Just(0x14), Just(0x12)];
    let states = prop_oneof![
        3 => Just(INSTANCE_ACTIVE),
        1 => Just(INSTANCE_DRAINING),
        1 => Just(INSTANCE_DOWN),
        1 => Just(INSTANCE_FAILED),
        1 => Just(INSTANCE_ABSENT),
    ];
    let event = prop_oneof![
        12 => (0..12_u8, 0..4_u8, flags.clone()).prop_map(|(c, v, f)| Event::Request(c, v, f)),
        8 => (any::<prop::sample::Index>(), flags).prop_map(|(i, f)| Event::Reply(i, f)),
        2 => (1..5_u16, states).prop_map(|(i, s)| Event::State(i, s)),
        1 => (1..5_u16).prop_map(Event::Reuse),
        1 => (0..4_u8, prop::collection::vec(1..5_u16, 0..4)).prop_map(|(v, t)| Event::Table(v, t)),
        1 => any::<u16>().prop_map(Event::Time),
    ];
    prop::collection::vec(event, 1..150)
}

const VIP: [u8; 4] = [10, 1, 1, 1];

fn vip_key(vip: u8) -> VipKey {
    VipKey::new(from_v4(VIP), [0, 80 + vip], PROTOCOL_TCP)
}

fn entry(index: u16, generation: u16) -> InstanceEntry {
    InstanceEntry {
        generation,
        ..instance(from_v4([10, 0, (generation % 200) as u8, 10 + index as u8]))
    }
}

struct World {
    tables: MemoryTables,
    instances: HashMap<u16, InstanceEntry>,
    now: u64,
    received: u64,
}

impl World {
    fn new(capacity: usize) -> Self {
        let tables = tables(capacity);
        for (vip, forward, select) in [
            (0, FORWARD_NAT, SELECT_HASH),
            (1, FORWARD_L2DSR, SELECT_HASH),
            (2, FORWARD_L2DSR, SELECT_TURN),
            (3, FORWARD_NAT, SELECT_LEAST_CONNECTIONS),
        ] {
            tables.set_table(u32::from(vip), table(&[1, 2, 3, 4]));
            let value = Vip {
                id: u32::from(vip),
                table: u32::from(vip),
                forward,
                select,
                ..Vip::default()
            };
            tables.set_vip(vip_key(vip), value);
        }
        let instances: HashMap<u16, InstanceEntry> = (1..5).map(|i| (i, entry(i, 1))).collect();
        for (index, entry) in &instances {
            tables.set_instance(*index, *entry);
        }
        Self {
            tables,
            instances,
            now: 1,
            received: 0,
        }
    }

    fn send(&mut self, frame: &mut Vec<u8>) {
        let verdict = send(&self.tables, frame);
        self.received += 1;
        assert_ne!(verdict, Verdict::Drop(Counter::DropRewrite));
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Request(client, vip, flags) => {
                let from = (from_v4([10, 0, 0, 2]), 5000 + u16::from(client));
                let to = (from_v4(VIP), 80 + u16::from(vip));
                self.send(&mut packet(from, to, PROTOCOL_TCP, flags));
            }
            Event::Reply(place, flags) => {
                let mut flows = self.tables.flows();
                flows.retain(|(_, flow)| flow.direction == FLOW_REPLY);
                flows.sort_by_key(|(key, _)| (key.source, key.destination_port));
                if !flows.is_empty() {
                    let (key, _) = flows[place.index(flows.len())];
                    let from = (key.source, u16::from_be_bytes(key.source_port));
                    let to = (key.destination, u16::from_be_bytes(key.destination_port));
                    self.send(&mut packet(from, to, PROTOCOL_TCP, flags));
                }
            }
            Event::State(index, state) => self.change(index, |entry| entry.state = state),
            Event::Reuse(index) => {
                self.change(index, |old| *old = entry(index, old.generation + 1));
                self.tables.reset_live(index);
            }
            Event::Table(vip, instances) => {
                self.tables.set_table(u32::from(vip), table(&instances));
            }
            Event::Time(milliseconds) => {
                self.now += u64::from(milliseconds) * 1_000_000;
                self.tables.set_now(self.now);
            }
        }
    }

    fn change(&mut self, index: u16, change: impl FnOnce(&mut InstanceEntry)) {
        if let Some(entry) = self.instances.get_mut(&index) {
            change(entry);
            self.tables.set_instance(index, *entry);
        }
    }

    /// Every packet is counted twice, once on the way in; every pair is whole; live connections are
    /// those in the table that have not ended and that belong to the instance as it is now.
    fn check(&self) {
        let counters = self.tables.counters();
        assert!(counters.adds_up(), "{counters:?}");
        assert_eq!(counters.get(Counter::Received), self.received);

        let flows: HashMap<_, _> = self.tables.flows().into_iter().collect();
        let mut live: HashMap<u16, u64> = HashMap::new();
        for (key, flow) in &flows {
            if flow.forward == FORWARD_NAT && flow.direction == FLOW_FORWARD {
                let partner = flows.get(&key.partner(flow)).expect("the reply entry");
                assert_eq!(partner.direction, FLOW_REPLY);
                assert_eq!(key.partner(flow).partner(partner), *key);
            }
            let current = self.instances[&flow.instance].generation == flow.generation;
            if flow.direction == FLOW_FORWARD && current && flow.state & STATE_CLOSED == 0 {
                *live.entry(flow.instance).or_default() += 1;
            }
        }
        for index in self.instances.keys() {
            let expected = live.get(index).copied().unwrap_or(0);
            assert_eq!(self.tables.live(*index), expected, "of instance {index}");
        }
        let traffic = (0..4).map(|vip| self.tables.traffic_of_vip(vip));
        let (mut forwarded, mut dropped) = (0, 0);
        for vip in traffic {
            forwarded += vip.packets_in + vip.packets_out;
            dropped += vip.dropped;
        }
        assert_eq!(forwarded, counters.get(Counter::Transmitted));
        assert_eq!(dropped, counters.total(lb_common::CounterKind::Dropped));
    }
}

#[test]
fn what_gets_no_tags_is_lost_and_was_not_forwarded() {
    const VLAN: u32 = 9;
    let world = World::new(100);
    world.tables.set_default_route(Route::Found(NextHop {
        interface: VLAN,
        flags: HOP_TAGGED,
        ..NextHop::default()
    }));
    let known = Subinterface {
        parent: INTERFACE,
        outer: tag(TAG_SERVICE, 7),
        inner: tag(TAG_CUSTOMER, 8),
    };
    let no_route = Verdict::Drop(Counter::DropNoRoute);
    let mut sent = 0;
    for (is_known, expected) in [(false, no_route), (true, Verdict::Transmit)] {
        let of = is_known.then_some(known);
        world.tables.set_subinterface(VLAN, of);
        for (vip, flags) in [(0, 0x02), (0, 0x10), (1, 0x02), (1, 0x10)] {
            let to = (from_v4(VIP), 80 + vip);
            let mut frame = packet((from_v4([10, 0, 0, 2]), 5000), to, PROTOCOL_TCP, flags);
            assert_eq!(send(&world.tables, &mut frame), expected, "{vip} {flags}");
            sent += 1;
            let both = [0, 1].map(|vip| world.tables.traffic_of_vip(vip));
            let forwarded: u64 = both.iter().map(|vip| vip.packets_in).sum();
            let dropped: u64 = both.iter().map(|vip| vip.dropped).sum();
            assert_eq!((forwarded + dropped, dropped), (sent, sent.min(4)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_adds_up(events in events(), small: bool) {
        let mut world = World::new(if small { 10 } else { 1000 });
        for event in events {
            world.apply(event);
            world.check();
        }
    }
}
