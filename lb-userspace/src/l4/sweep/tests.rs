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
    for _ in 0..100 {
        let mut known = Walked {
            instances: &instances(),
            vips: &vips(),
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
