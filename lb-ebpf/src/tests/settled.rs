//! Flows that are not remembered: settled slots, slots that change hands, full tables.

use std::sync::Arc;

use lb_common::{
    Counter, FORWARD_L2DSR, FORWARD_NAT, INSTANCE_ABSENT, INSTANCE_ACTIVE, INSTANCE_DOWN,
    INSTANCE_DRAINING, InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, SLOTS, Slot, Table,
    VIP_OWNED, VIP_SETTLES, Vip, VipKey, from_v4,
};

use super::{instance, packet, send, tables, vip};
use crate::{Tables as _, Verdict, memory::MemoryTables};

const VIP: [u8; 4] = [10, 1, 1, 1];
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// The VIP `10.1.1.1:80` over instances 1 to 3, whose slots are all like `slot`, owned by `owner`.
struct Balancer(MemoryTables);

impl Balancer {
    fn new(capacity: usize, slot: Slot, owner: u16) -> Self {
        let balancer = Self(tables(capacity));
        for index in 1..=3 {
            let address = from_v4([10, 0, 0, 10 + index as u8]);
            balancer.0.set_instance(index, instance(address));
        }
        balancer.slots(slot, owner);
        balancer
    }

    /// Flips the VIP to a table whose slots are all alike.
    fn slots(&self, slot: Slot, owner: u16) {
        self.flip(slot, owner, settling());
    }

    fn flip(&self, slot: Slot, owner: u16, vip: Vip) {
        let key = |protocol| VipKey::new(from_v4(VIP), 80_u16.to_be_bytes(), protocol);
        let vips = self.0.vips();
        let table = vips.first().map_or(1, |(_, vip)| vip.table + 1);
        let columns = Table {
            slots: [slot.0; SLOTS],
            owners: [owner; SLOTS],
        };
        self.0.set_table(table, Arc::new(columns));
        self.0.set_vip(key(PROTOCOL_TCP), Vip { table, ..vip });
    }

    fn state(&self, index: u16, state: u8) {
        let entry = self.0.instance(index).unwrap();
        self.0.set_instance(index, InstanceEntry { state, ..entry });
    }

    /// Sends a packet; the instance that it went to.
    fn send(&self, port: u16, flags: u8) -> Result<u16, Counter> {
        let before: Vec<u64> = (1..=3).map(|i| self.packets(i)).collect();
        let client = (from_v4([10, 0, 1, 2]), port);
        let mut frame = packet(client, (from_v4(VIP), 80), PROTOCOL_TCP, flags);
        let verdict = send(&self.0, &mut frame);
        assert!(self.0.counters().adds_up());
        match verdict {
            Verdict::Transmit => {
                let mut all = 1..=3;
                let to = all.find(|i| self.packets(*i) > before[usize::from(*i) - 1]);
                Ok(to.unwrap())
            }
            Verdict::Drop(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn packets(&self, index: u16) -> u64 {
        self.0.traffic_of_instance(index).packets_in
    }

    fn count(&self, counter: Counter) -> u64 {
        self.0.counters().get(counter)
    }

    fn flows(&self) -> usize {
        self.0.flows().len()
    }
}

fn settling() -> Vip {
    Vip {
        forward: FORWARD_L2DSR,
        flags: VIP_OWNED | VIP_SETTLES,
        ..vip(1)
    }
}

#[test]
fn settled_flows_are_not_remembered() {
    let balancer = Balancer::new(64, Slot::clear(1), 0);
    for port in 1000..1100 {
        for flags in [SYN, ACK, ACK, ACK | FIN, ACK, RST] {
            assert_eq!(balancer.send(port, flags), Ok(1));
        }
    }
    assert_eq!(balancer.flows(), 0);
    assert_eq!(balancer.0.live(1), 0);
    assert_eq!(balancer.count(Counter::PacketsSettled), 600);
    assert_eq!(balancer.count(Counter::Transmitted), 600);
    assert_eq!(balancer.count(Counter::ConnectionsOpened), 100);
    assert_eq!(balancer.0.traffic_of_instance(1).connections, 100);
    assert_eq!(balancer.0.traffic_of_vip(1).connections, 100);
}

#[test]
fn a_slot_that_changes_hands_twice_breaks_no_flow() {
    let balancer = Balancer::new(64, Slot::clear(1), 0);
    let to = |port, flags| balancer.send(port, flags);
    assert_eq!(
        (to(1000, SYN), to(1001, SYN), to(1002, SYN)),
        (Ok(1), Ok(1), Ok(1))
    );
    balancer.slots(Slot::unsettled(2), 1);
    assert_eq!((to(1000, ACK), to(2000, SYN)), (Ok(1), Ok(2)));
    // The one that was heard of is remembered, as is the new one.
    assert_eq!((balancer.0.live(1), balancer.0.live(2)), (1, 1));
    assert_eq!(balancer.count(Counter::ConnectionsFound), 1);
    balancer.slots(Slot::unsettled(3), 1);
    assert_eq!(
        (to(1000, ACK), to(1001, ACK), to(2000, ACK)),
        (Ok(1), Ok(1), Ok(2))
    );
    assert_eq!(to(3000, SYN), Ok(3));
    // Back to where it was: what has begun meanwhile stays where it is.
    balancer.slots(Slot::settled(1), 0);
    assert_eq!(to(4000, SYN), Ok(1));
    assert_eq!(
        (to(1000, ACK), to(2000, ACK), to(3000, ACK)),
        (Ok(1), Ok(2), Ok(3))
    );
    // Whoever was silent all the time is known by the slot again.
    assert_eq!((to(1002, ACK), to(4000, ACK)), (Ok(1), Ok(1)));
    assert_eq!(balancer.flows(), 4);
    balancer.slots(Slot::unsettled(3), 1);
    balancer.slots(Slot::settled(3), 0);
    assert_eq!(
        (to(1000, ACK), to(2000, ACK), to(3000, ACK)),
        (Ok(1), Ok(2), Ok(3))
    );
    assert_eq!(to(1002, ACK), Ok(3), "silence has ended it");
}

#[test]
fn a_remembered_flow_ends_and_begins_anew_where_its_slot_says() {
    let balancer = Balancer::new(64, Slot::unsettled(2), 1);
    let to = |flags| balancer.send(1000, flags);
    assert_eq!((to(ACK), to(ACK | FIN)), (Ok(1), Ok(1)));
    assert_eq!(balancer.0.live(1), 0);
    assert_eq!((to(SYN), to(ACK)), (Ok(2), Ok(2)));
    assert_eq!((balancer.0.live(2), balancer.flows()), (1, 1));
    // A reset is the end of something, and is not remembered itself.
    assert_eq!((balancer.send(1001, RST), balancer.flows()), (Ok(1), 1));
}

#[test]
fn instances_that_drain_or_fail_before_their_table_is_replaced() {
    let balancer = Balancer::new(64, Slot::clear(1), 0);
    let to = |port, flags| balancer.send(port, flags);
    assert_eq!(to(1000, SYN), Ok(1));
    balancer.state(1, INSTANCE_DRAINING);
    assert_eq!(to(1000, ACK), Ok(1));
    assert_eq!(
        to(1001, SYN),
        Err(Counter::DropNoInstance),
        "all slots are its"
    );
    balancer.slots(Slot::unsettled(2), 1);
    assert_eq!((to(1001, SYN), to(1000, ACK)), (Ok(2), Ok(1)));
    for state in [INSTANCE_DOWN, INSTANCE_ABSENT] {
        balancer.state(1, state);
        // Its flows go to the current one, which resets them; that is what a dead instance means.
        assert_eq!(to(1000, ACK), Ok(2));
        assert_eq!(to(1002, ACK), Ok(2));
        assert_eq!(to(1003, RST), Err(Counter::DropStrayReset));
    }
    assert_eq!(balancer.count(Counter::ConnectionsMoved), 1);
}

#[test]
fn what_is_kept_of_an_instance_holds_until_the_daemon_changes_one() {
    let balancer = Balancer::new(64, Slot::clear(1), 0);
    let to = |flags| balancer.send(1000, flags);
    let is_kept = || {
        let epoch = balancer.0.vip_epoch();
        let hop = balancer.0.instance_hop(1).unwrap();
        hop.leads_on(epoch, balancer.0.now())
    };
    // The first packet makes a copy of the VIP and asks for the way, the second looks at the instance.
    assert_eq!(
        (to(ACK), is_kept(), to(ACK), is_kept()),
        (Ok(1), false, Ok(1), true)
    );
    for (state, syn, ack) in [
        (INSTANCE_DRAINING, Err(Counter::DropNoInstance), Ok(1)),
        (
            INSTANCE_DOWN,
            Err(Counter::DropNoInstance),
            Err(Counter::DropNoInstance),
        ),
        (
            INSTANCE_ABSENT,
            Err(Counter::DropNoInstance),
            Err(Counter::DropNoInstance),
        ),
    ] {
        balancer.state(1, state);
        assert_eq!((to(SYN), to(ACK), is_kept()), (syn, ack, false), "{state}");
        balancer.state(1, INSTANCE_ACTIVE);
        assert_eq!(
            (to(SYN), to(ACK), is_kept()),
            (Ok(1), Ok(1), true),
            "{state}"
        );
    }
    // Of another tenant of the index, the way is asked for anew.
    let lookups = || balancer.count(Counter::RouteLookups);
    let (before, entry) = (lookups(), balancer.0.instance(1).unwrap());
    let generation = entry.generation + 1;
    balancer.0.set_instance(
        1,
        InstanceEntry {
            generation,
            ..entry
        },
    );
    assert_eq!((to(ACK), to(ACK), is_kept()), (Ok(1), Ok(1), true));
    assert_eq!(lookups(), before + 1);
    // So is one that is not fresh any more.
    let ttl = u64::from(balancer.0.settings().unwrap().next_hop_ttl_ms) * 1_000_000;
    balancer.0.set_now(balancer.0.now() + ttl);
    assert_eq!(
        (to(ACK), to(ACK), to(ACK), is_kept()),
        (Ok(1), Ok(1), Ok(1), true)
    );
    assert_eq!(lookups(), before + 2);
}

#[test]
fn without_room_a_flow_goes_where_it_will_be_looked_for() {
    let balancer = Balancer::new(1, Slot::unsettled(2), 1);
    let to = |port, flags| balancer.send(port, flags);
    assert_eq!(to(1000, SYN), Ok(2));
    // There is room for one. The next one is known by the owner alone, so it is the owner's.
    assert_eq!(
        (to(1001, SYN), to(1001, ACK), to(1002, ACK)),
        (Ok(1), Ok(1), Ok(1))
    );
    assert_eq!(balancer.count(Counter::ConnectionsUnremembered), 3);
    balancer.state(1, INSTANCE_DRAINING);
    assert_eq!(to(1003, SYN), Err(Counter::DropTableFull));
    assert_eq!(to(1001, ACK), Ok(1));
    // A settled slot needs no room.
    balancer.slots(Slot::settled(2), 0);
    assert_eq!((to(1003, SYN), to(1003, ACK)), (Ok(2), Ok(2)));
    assert_eq!((balancer.0.live(1), balancer.0.live(2)), (0, 1));
}

#[test]
fn without_room_it_goes_there_as_it_will_be_forwarded() {
    let balancer = Balancer::new(1, Slot::clear(1), 0);
    let translating = Vip {
        forward: FORWARD_NAT,
        flags: VIP_OWNED,
        owned_forward: FORWARD_L2DSR,
        ..settling()
    };
    balancer.flip(Slot::unsettled(2), 1, translating);
    for flags in [SYN, ACK] {
        assert_eq!(balancer.send(1000, flags), Ok(1));
    }
    assert_eq!((balancer.packets(1), balancer.packets(2)), (2, 0));
}

#[test]
fn another_algorithm_keeps_what_was_not_remembered() {
    let balancer = Balancer::new(64, Slot::clear(1), 0);
    assert_eq!(balancer.send(1000, SYN), Ok(1));
    let turns = Vip {
        select: SELECT_TURN,
        flags: VIP_OWNED,
        ..settling()
    };
    balancer.flip(Slot::unsettled(2), 1, turns);
    assert_eq!(
        (balancer.send(1001, SYN), balancer.send(1001, ACK)),
        (Ok(2), Ok(2))
    );
    assert_eq!((balancer.send(1000, ACK), balancer.flows()), (Ok(1), 2));
    // Once it is settled everything is remembered, as under any such algorithm.
    balancer.flip(Slot::clear(2), 0, turns);
    assert_eq!((balancer.send(1002, ACK), balancer.flows()), (Ok(2), 3));
}

#[test]
fn udp_of_the_same_table_is_remembered() {
    let balancer = Balancer::new(64, Slot::unsettled(2), 1);
    let vips = balancer.0.vips();
    let key = VipKey::new(from_v4(VIP), 80_u16.to_be_bytes(), PROTOCOL_UDP);
    balancer.0.set_vip(
        key,
        Vip {
            flags: 0,
            ..vips[0].1
        },
    );
    let client = (from_v4([10, 0, 1, 2]), 1000);
    let mut frame = packet(client, (from_v4(VIP), 80), PROTOCOL_UDP, 0);
    assert_eq!(send(&balancer.0, &mut frame), Verdict::Transmit);
    assert_eq!((balancer.packets(2), balancer.flows()), (1, 1));
}
