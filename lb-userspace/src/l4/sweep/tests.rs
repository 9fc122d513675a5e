use lb_common::{FLOW_REPLY, FORWARD_L2DSR, FORWARD_NAT, INSTANCE_ACTIVE, PROTOCOL_UDP, from_v4};
use lb_ebpf::{Insert, Tables as _};

use super::*;
use crate::l4::{datapath::memory::Memory, tables::Tables};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 10_000 * SECOND;

fn limits() -> Limits {
    Limits::new(&DatapathSpec::default())
}

fn instance() -> InstanceEntry {
    InstanceEntry {
        state: INSTANCE_ACTIVE,
        generation: 3,
        ..InstanceEntry::default()
    }
}

fn key(port: u16, protocol: u8) -> FlowKey {
    FlowKey {
        source: from_v4([10, 1, 0, 1]),
        destination: from_v4([192, 0, 2, 1]),
        source_port: port.to_be_bytes(),
        destination_port: [0, 80],
        protocol,
        pad: 0,
        pad_end: [0; 2],
    }
}

/// Both entries of a `nat` connection, each silent for so many seconds.
fn nat(port: u16, protocol: u8, silent: (u64, u64), state: u32) -> [(FlowKey, FlowEntry); 2] {
    let key = key(port, protocol);
    let forward = FlowEntry {
        last_seen: NOW - silent.0 * SECOND,
        source: from_v4([10, 0, 9, 1]),
        destination: from_v4([10, 0, 0, 1]),
        source_port: port.to_be_bytes(),
        destination_port: [0x1f, 0x90],
        instance: 1,
        generation: 3,
        direction: FLOW_FORWARD,
        state,
        forward: FORWARD_NAT,
        ..FlowEntry::default()
    };
    let reply_key = key.partner(&forward);
    let reply = FlowEntry {
        last_seen: NOW - silent.1 * SECOND,
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        direction: FLOW_REPLY,
        state: 0,
        ..forward
    };
    [(key, forward), (reply_key, reply)]
}

const BOTH: Ends = Ends {
    has_instance: true,
    has_vip: true,
};

fn judged(of: usize, pair: &[(FlowKey, FlowEntry); 2], partner: bool) -> Judgement {
    let (key, entry) = &pair[of];
    judge(key, entry, BOTH, &limits(), NOW, |asked| {
        assert_eq!(*asked, pair[1 - of].0, "asked for another connection");
        Ok::<_, ()>(partner.then_some(pair[1 - of].1))
    })
    .unwrap()
}

#[test]
fn silence_is_judged_by_protocol_and_state() {
    const UDP: u8 = PROTOCOL_UDP;
    const TCP: u8 = PROTOCOL_TCP;
    for (protocol, state, silent, expected) in [
        (TCP, 0, 3600, Judgement::KeepOpen),
        (TCP, 0, 3601, Judgement::ForgetOpen),
        (TCP, STATE_OPENING, 75, Judgement::KeepOpen),
        (TCP, STATE_OPENING, 76, Judgement::ForgetOpen),
        (TCP, STATE_FIN_CLIENT, 60, Judgement::KeepOpen),
        (TCP, STATE_FIN_INSTANCE, 61, Judgement::ForgetOpen),
        (TCP, STATE_CLOSED, 10, Judgement::Keep),
        (TCP, STATE_CLOSED, 11, Judgement::Forget),
        (UDP, 0, 60, Judgement::KeepOpen),
        (UDP, 0, 61, Judgement::ForgetOpen),
    ] {
        let pair = nat(1000, protocol, (silent, silent), state);
        assert_eq!(
            judged(0, &pair, true),
            expected,
            "{protocol} {state} {silent}"
        );
    }
}

#[test]
fn either_direction_keeps_the_connection() {
    let pair = nat(1000, PROTOCOL_UDP, (500, 1), 0);
    assert_eq!(judged(0, &pair, true), Judgement::KeepOpen);
    let pair = nat(1000, PROTOCOL_UDP, (1, 500), 0);
    assert_eq!(judged(1, &pair, true), Judgement::Keep);
    assert_eq!(judged(1, &pair, false), Judgement::Forget);
}

#[test]
fn entries_of_gone_instances_go_and_are_not_counted_off() {
    let pair = nat(1000, PROTOCOL_TCP, (0, 0), 0);
    let reused = InstanceEntry {
        generation: 4,
        ..instance()
    };
    let absent = InstanceEntry {
        state: INSTANCE_ABSENT,
        ..instance()
    };
    for instances in [
        BTreeMap::new(),
        BTreeMap::from([(1, reused)]),
        BTreeMap::from([(1, absent)]),
    ] {
        for (key, entry) in &pair {
            let ends = Ends::of(key, entry, &instances, &vips());
            assert!(ends.has_vip && !ends.has_instance);
            let none = |_: &FlowKey| Ok::<_, ()>(None);
            let judgement = judge(key, entry, ends, &limits(), NOW, none);
            assert_eq!(judgement, Ok(Judgement::Forget), "{instances:?}");
        }
    }
}

#[test]
fn entries_of_gone_vips_go_and_are_counted_off_once() {
    let pair = nat(1000, PROTOCOL_TCP, (0, 0), 0);
    let judged = pair.map(|(key, entry)| {
        let ends = Ends::of(&key, &entry, &instances(), &BTreeMap::new());
        assert!(!ends.has_vip && ends.has_instance);
        let none = |_: &FlowKey| Ok::<_, ()>(None);
        judge(&key, &entry, ends, &limits(), NOW, none).unwrap()
    });
    assert_eq!(judged, [Judgement::ForgetOpen, Judgement::Forget]);
}

fn instances() -> BTreeMap<u16, InstanceEntry> {
    BTreeMap::from([(1, instance())])
}

fn vips() -> BTreeMap<VipKey, Vip> {
    let vips = [PROTOCOL_TCP, PROTOCOL_UDP].map(|p| (key(0, p).vip(), Vip::default()));
    BTreeMap::from(vips)
}

fn walk(memory: &Memory, sweep: &mut Sweep) -> Pass {
    walk_with(memory, sweep, &vips())
}

fn walk_with(memory: &Memory, sweep: &mut Sweep, vips: &BTreeMap<VipKey, Vip>) -> Pass {
    for _ in 0..100 {
        let mut known = Walked {
            instances: &instances(),
            vips,
            tables: &mut Tables::new(2, Duration::ZERO),
        };
        let step = sweep.step(&mut memory.clone(), &mut known);
        if let Some(pass) = step.unwrap() {
            return pass;
        }
    }
    panic!("the walk does not end");
}

fn put(memory: &Memory, entries: &[(FlowKey, FlowEntry)]) {
    for (key, entry) in entries {
        assert_eq!(memory.kernel().insert_flow(key, entry), Insert::Done);
    }
}

#[test]
fn a_walk_forgets_pairs_whole_and_counts_the_rest() {
    let memory = Memory::new(2);
    memory.kernel().set_now(NOW);
    for port in 0..100 {
        let silent = if port % 4 == 0 { 4000 } else { 5 };
        put(&memory, &nat(port, PROTOCOL_TCP, (silent, silent), 0));
        memory.kernel().live_begin(1);
    }
    let pass = walk(&memory, &mut Sweep::new(limits()));
    assert_eq!((pass.forgotten, pass.corrected), (50, 0));
    assert_eq!(memory.kernel().flows().len(), 150);
    assert_eq!(memory.kernel().live(1), 75);
    let again = walk(&memory, &mut Sweep::new(limits()));
    assert_eq!((again.entries, again.forgotten), (150, 0));
}

#[test]
fn drift_is_corrected_on_a_quiet_table() {
    for wrong in [0, 3, 90] {
        let memory = Memory::new(2);
        memory.kernel().set_now(NOW);
        for port in 0..7 {
            put(&memory, &nat(port, PROTOCOL_UDP, (1, 1), 0));
        }
        let mut direct = nat(9, PROTOCOL_UDP, (1, 1), 0)[0];
        direct.1.forward = FORWARD_L2DSR;
        put(&memory, &[direct]);
        (0..wrong).for_each(|_| assert!(memory.kernel().live_begin(1)));
        memory
            .kernel()
            .instance_traffic(1, |traffic| traffic.connections = 1000);
        let pass = walk(&memory, &mut Sweep::new(limits()));
        assert_eq!(memory.kernel().live(1), 8);
        assert_eq!(pass.corrected, 8u64.abs_diff(wrong));
    }
}

#[test]
fn what_came_and_went_meanwhile_is_no_drift() {
    let tally = |live, connections, open| Tally {
        live,
        connections,
        open,
    };
    // Ten came and four went: the walk may have seen any part of them.
    for open in 92..=120 {
        assert_eq!(drift(&tally(100, 1000, open), 106, 1010), 0, "{open}");
    }
    assert_eq!(drift(&tally(100, 1000, 121), 106, 1010), 1);
    assert_eq!(drift(&tally(100, 1000, 91), 106, 1010), -1);
    assert_eq!(drift(&tally(0, 0, 5), 0, 0), 5);
    assert_eq!(drift(&tally(5, 0, 0), 5, 0), -5);
}

#[test]
fn clients_are_collected_on_demand_and_only_young_ones() {
    let memory = Memory::new(2);
    memory.kernel().set_now(NOW);
    put(&memory, &nat(1, PROTOCOL_UDP, (1, 1), 0));
    let mut old = nat(2, PROTOCOL_UDP, (20, 20), 0);
    old[1].1.destination = from_v4([10, 1, 0, 2]);
    put(&memory, &old);
    let mut sweep = Sweep::new(limits());
    walk(&memory, &mut sweep);
    assert!(sweep.take_clients().is_empty());
    sweep.collect_clients();
    walk(&memory, &mut sweep);
    assert!(
        sweep
            .take_clients()
            .into_iter()
            .eq([from_v4([10, 1, 0, 1])])
    );
    walk(&memory, &mut sweep);
    assert!(sweep.take_clients().is_empty());
}

#[test]
fn a_crowded_table_forgets_closed_connections_sooner() {
    let memory = Memory::new(2);
    memory.kernel().set_now(NOW);
    for port in 0..20 {
        put(&memory, &nat(port, PROTOCOL_TCP, (5, 5), STATE_CLOSED));
    }
    put(&memory, &nat(20, PROTOCOL_TCP, (5, 5), 0));
    let spec = DatapathSpec {
        max_connections: 52,
        ..DatapathSpec::default()
    };
    let mut sweep = Sweep::new(Limits::new(&spec));
    let first = walk(&memory, &mut sweep);
    assert_eq!((first.entries, first.forgotten), (42, 0));
    assert!(sweep.is_crowded());
    let second = walk(&memory, &mut sweep);
    assert_eq!((second.entries, second.forgotten), (2, 40));
    assert!(!sweep.is_crowded());
    sweep.note_crowd();
    assert!(sweep.is_crowded());
}

fn with_id(id: u32) -> Vip {
    Vip {
        id,
        ..Vip::default()
    }
}

fn of_port(port: u16, protocol: u8) -> VipKey {
    VipKey::new(from_v4([192, 0, 2, 1]), port.to_be_bytes(), protocol)
}

fn of_ports(first: u16, last: u16) -> VipKey {
    let range = PortRange::new(PROTOCOL_TCP, first, last);
    VipKey::of_ports(from_v4([192, 0, 2, 1]), range)
}

/// Both entries of a connection to a port of the VIP with this id.
fn to(port: u16, id: u16, client: u16) -> [(FlowKey, FlowEntry); 2] {
    let [(mut key, mut forward), (reply_key, mut reply)] = nat(client, PROTOCOL_TCP, (1, 1), 0);
    key.destination_port = port.to_be_bytes();
    reply.source_port = port.to_be_bytes();
    (forward.vip, reply.vip) = (id, id);
    [(key, forward), (reply_key, reply)]
}

#[test]
fn vips_have_open_what_instances_have() {
    let memory = Memory::new(2);
    memory.kernel().set_now(NOW);
    let states = [0, STATE_OPENING, STATE_FIN_CLIENT, STATE_CLOSED];
    for (client, state) in (0..).zip(states) {
        put(&memory, &nat(client, PROTOCOL_TCP, (5, 5), state));
    }
    put(&memory, &nat(10, PROTOCOL_TCP, (4000, 4000), 0));
    memory.kernel().live_begin(1);
    put(&memory, &nat(11, PROTOCOL_TCP, (4000, 5), 0));
    for client in 20..22 {
        let [(key, mut entry), _] = nat(client, PROTOCOL_UDP, (1, 1), 0);
        (entry.vip, entry.forward) = (1, FORWARD_L2DSR);
        put(&memory, &[(key, entry)]);
    }
    put(&memory, &to(8500, 2, 30));
    // One port of the range is another VIP by now. What has begun before goes on as the range's.
    put(&memory, &to(8600, 2, 31));
    put(&memory, &to(8600, 3, 32));
    let (tcp, udp) = (of_port(80, PROTOCOL_TCP), of_port(80, PROTOCOL_UDP));
    let (many, apart) = (of_ports(8000, 8999), of_port(8600, PROTOCOL_TCP));
    let idle = of_port(443, PROTOCOL_TCP);
    let vips: BTreeMap<_, _> = (0..)
        .zip([tcp, udp, many, apart, idle])
        .map(|(id, key)| (key, with_id(id)))
        .collect();
    let mut sweep = Sweep::new(limits());
    assert!(sweep.take_live().is_empty());
    walk_with(&memory, &mut sweep, &vips);
    let live = sweep.take_live();
    let expected = [(tcp, 4), (udp, 2), (many, 2), (apart, 1), (idle, 0)];
    assert_eq!(live, BTreeMap::from(expected));
    // With nothing left to forget the instance's is put right exactly.
    walk_with(&memory, &mut sweep, &vips);
    assert_eq!(sweep.take_live(), live);
    assert_eq!(memory.kernel().live(1), live.values().sum::<u64>());
    assert!(sweep.take_live().is_empty());
}

#[test]
fn who_has_the_id_of_another_vip_has_none_of_its_connections() {
    let memory = Memory::new(2);
    memory.kernel().set_now(NOW);
    // They began when their VIPs had the ids 0 and 1, in which there are others now.
    for client in 0..5 {
        put(&memory, &to(80, 0, client));
    }
    put(&memory, &to(8500, 1, 5));
    let (http, other) = (of_port(80, PROTOCOL_TCP), of_port(81, PROTOCOL_TCP));
    let (many, any) = (of_ports(8000, 8999), of_ports(1, u16::MAX));
    let back = [
        (other, with_id(0)),
        (of_port(82, PROTOCOL_TCP), with_id(1)),
        (http, with_id(2)),
        (many, with_id(3)),
        (any, with_id(4)),
    ];
    let mut sweep = Sweep::new(limits());
    walk_with(&memory, &mut sweep, &BTreeMap::from(back));
    let live = sweep.take_live();
    assert_eq!(
        [http, other, many, any].map(|vip| live[&vip]),
        [5, 0, 1, 0],
        "{live:?}"
    );
    // Without any VIP that holds them they go.
    walk_with(&memory, &mut sweep, &BTreeMap::from([(other, with_id(0))]));
    assert_eq!(sweep.take_live(), BTreeMap::from([(other, 0)]));
    assert!(memory.kernel().flows().is_empty());
}
