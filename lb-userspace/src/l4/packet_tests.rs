//! Packets through snapshots: the registry, the plan, the reconciler and the packet library
//! together, as in the daemon, with nothing but the kernel left out.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::{Counter, INSTANCE_ABSENT, InstanceEntry, PROTOCOL_TCP, VipKey, is_v4};
use lb_ebpf::{Tables as _, Verdict};

use super::{
    affinity::Affinities,
    arrivals,
    ceilings::Ceilings,
    cookies,
    datapath::{Datapath as _, memory::Memory},
    filter::Filter,
    fixture::{A, B, C, World, service, vip},
    plan::address,
    reconcile::{GRACE, Reconciler},
    sweep::{Limits, Sweep},
};
use crate::model::{
    AdminState, Algorithm, DatapathSpec, Forwarding, HashKey, Health, Protocol, RecoverySpec,
    ServiceSpec, Timestamp,
};
use crate::{
    registry::{Change, RecoveryStep},
    resilience::{Factors, Progress},
};

mod affinity;
mod fallback;
mod limits;
mod new_connections;
mod ports;
mod settled;

const VIP: &str = "192.0.2.1:80";
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A daemon with its kernel.
struct Balancer {
    memory: Memory,
    state: Reconciler,
    ceilings: Ceilings,
    limits: arrivals::Limits,
    filter: Filter,
    affinities: Affinities,
    now: Timestamp,
    world: World,
}

impl Balancer {
    fn new(services: Vec<ServiceSpec>) -> Self {
        let vips = services
            .iter()
            .map(|spec| vip(VIP, Protocol::Tcp, spec.name.as_str()))
            .take(1)
            .collect();
        let memory = Memory::new(8);
        let state = Reconciler::adopt(&memory, GRACE).unwrap();
        let mut balancer = Self {
            memory,
            state,
            ceilings: Ceilings::default(),
            limits: arrivals::Limits::new(7),
            filter: Filter::default(),
            affinities: Affinities::default(),
            now: Timestamp(0),
            world: World::new(services, vips),
        };
        balancer.settle();
        balancer
    }

    fn web(algorithm: Algorithm, members: &[(&str, u16)]) -> Self {
        Self::new(vec![service("web", algorithm, members)])
    }

    fn settle(&mut self) {
        self.now = self.now + GRACE;
        self.limit();
        let plan = self.world.plan();
        let memory = &mut self.memory.clone();
        self.filter.widen(&plan, memory).unwrap();
        let outcome = self.state.apply(&plan, &mut self.memory.clone(), self.now);
        assert_eq!(outcome.unwrap().later, None);
    }

    /// Brings limits of connections into the kernel, as the daemon does ten times a second.
    fn limit(&mut self) {
        let snapshot = self.world.snapshot();
        let mut datapath = self.memory.clone();
        let limited = self.ceilings.apply(&snapshot, &self.state, &mut datapath);
        limited.unwrap();
    }

    /// Brings limits of new connections into the kernel.
    fn pace(&mut self) {
        let snapshot = self.world.snapshot();
        let mut datapath = self.memory.clone();
        let limited = self.limits.apply(&snapshot, &self.state, &mut datapath);
        limited.unwrap();
    }

    /// Sends a TCP packet of a client to the VIP; where it went.
    fn send(&self, client: [u8; 4], port: u16, flags: u8) -> Result<String, Counter> {
        let mut packet = tcp(client, port, [192, 0, 2, 1], 80, flags);
        match self.memory.send(&mut packet) {
            Verdict::Transmit => {
                let ip = IpAddr::from(<[u8; 4]>::try_from(&packet[30..34]).unwrap());
                let port = u16::from_be_bytes([packet[36], packet[37]]);
                Ok(format!("{ip}:{port}"))
            }
            Verdict::Pass(reason) | Verdict::Drop(reason) => Err(reason),
            left => panic!("left otherwise: {left:?}"),
        }
    }

    fn open(&self, port: u16) -> String {
        self.send([10, 1, 0, 1], port, SYN).unwrap()
    }

    fn goes_on(&self, port: u16) -> Result<String, Counter> {
        self.send([10, 1, 0, 1], port, ACK)
    }

    /// Opens connections from ports on; how many went where.
    fn spread(&self, ports: std::ops::Range<u16>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for port in ports {
            *counts.entry(self.open(port)).or_default() += 1;
        }
        counts
    }

    fn live(&self, instance: &str) -> u64 {
        self.memory
            .live(self.world.id("web", instance).index)
            .unwrap()
    }

    /// Slots of the VIP's table that name an instance.
    fn slots(&self, instance: &str) -> f64 {
        let index = self.world.id("web", instance).index;
        let (_, vip) = self.memory.vips().into_iter().next().unwrap();
        let table = self.memory.table(vip.table);
        table.slots.iter().filter(|slot| **slot == index).count() as f64
    }

    /// Walks over the connection table; what each VIP has open.
    fn walk(&mut self) -> BTreeMap<VipKey, u64> {
        let mut sweep = Sweep::new(Limits::new(&DatapathSpec::default()));
        for _ in 0..1000 {
            if !sweep.is_under_way() {
                self.state.begin_walk(self.now);
                self.filter.begin_walk();
            }
            let known = &mut self.state.walked();
            if sweep.step(&mut self.memory, known).unwrap().is_some() {
                let silence = DatapathSpec::default().tcp_idle_timeout;
                let memory = &mut self.memory.clone();
                let seen = sweep.take_ends();
                self.filter.narrow(seen, &self.state, memory).unwrap();
                self.state.advance(silence, memory, self.now).unwrap();
                let live = sweep.take_live();
                assert_eq!(live.values().sum::<u64>(), self.live_of_all());
                return live;
            }
        }
        panic!("the walk does not end");
    }

    /// Live connections of all instances that are there.
    fn live_of_all(&self) -> u64 {
        let all = self.memory.instances().into_iter();
        let there = all.filter(|(_, entry)| entry.state != INSTANCE_ABSENT);
        there
            .map(|(index, _)| self.memory.live(index).unwrap())
            .sum()
    }
}

fn tcp(source: [u8; 4], sport: u16, target: [u8; 4], dport: u16, flags: u8) -> Vec<u8> {
    let mut packet = vec![0u8; 54];
    packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7]);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14] = 0x45;
    packet[16..18].copy_from_slice(&40u16.to_be_bytes());
    packet[22] = 64;
    packet[23] = PROTOCOL_TCP;
    packet[26..30].copy_from_slice(&source);
    packet[30..34].copy_from_slice(&target);
    packet[34..36].copy_from_slice(&sport.to_be_bytes());
    packet[36..38].copy_from_slice(&dport.to_be_bytes());
    packet[46] = 0x50;
    packet[47] = flags;
    packet
}

#[test]
fn weights_are_shares_under_every_algorithm_that_follows_them() {
    for algorithm in Algorithm::ALL {
        let mut balancer = Balancer::web(algorithm, &[(A, 1), (B, 3)]);
        if algorithm == Algorithm::ConsistentHash {
            // One client would be one key.
            let mut spec = service("web", algorithm, &[(A, 1), (B, 3)]);
            spec.hash_key = HashKey::Path;
            balancer = Balancer::new(vec![spec]);
        }
        let counts = balancer.spread(1000..1800);
        let (few, slack) = match algorithm {
            Algorithm::RoundRobin => (400, 1),
            Algorithm::WeightedRoundRobin => (200, 1),
            // By chance, four standard deviations of a binomial distribution.
            _ => (200, 49),
        };
        let found = counts[A];
        assert!(found.abs_diff(few) <= slack, "{algorithm}: {counts:?}");
        assert_eq!(found + counts[B], 800, "{algorithm}: {counts:?}");
        assert_eq!(balancer.live(A) as usize, found, "{algorithm}");
    }
}

#[test]
fn least_connections_fills_up_who_has_fewer() {
    let balancer = Balancer::web(Algorithm::LeastConnections, &[(A, 1), (B, 1)]);
    let index = balancer.world.id("web", A).index;
    (0..500).for_each(|_| assert!(balancer.memory.kernel().live_begin(index)));
    let counts = balancer.spread(1000..1400);
    // Only where both of two random slots name A does A get any: a quarter.
    assert!(counts[A] < 140 && counts[B] > 260, "{counts:?}");
}

#[test]
fn the_source_keeps_its_instance_when_that_is_the_key() {
    let members: &[(&str, u16)] = &[(A, 1), (B, 1), (C, 1)];
    let balancer = Balancer::web(Algorithm::ConsistentHash, members);
    let mut used = BTreeMap::new();
    for client in 0..60 {
        let first = balancer.send([10, 1, 1, client], 1000, SYN).unwrap();
        for port in 1001..1005 {
            assert_eq!(balancer.send([10, 1, 1, client], port, SYN).unwrap(), first);
        }
        *used.entry(first).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn draining_keeps_connections_and_takes_no_new_ones() {
    let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    let before: Vec<(u16, String)> = (1000..1040)
        .map(|port| (port, balancer.open(port)))
        .collect();
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.settle();
    for (port, place) in &before {
        assert_eq!(balancer.goes_on(*port).as_ref(), Ok(place));
    }
    let after = balancer.spread(2000..2040);
    assert_eq!(after, BTreeMap::from([(B.to_owned(), 40)]));
}

#[test]
fn the_disabled_and_the_dead_lose_their_connections_at_once() {
    for how in ["disabled", "dead", "removed"] {
        let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
        balancer.spread(1000..1040);
        match how {
            "disabled" => balancer.world.admin("web", A, AdminState::Disabled),
            "dead" => balancer.world.health("web", A, Health::Unhealthy),
            _ => {
                let services = vec![service("web", Algorithm::RoundRobin, &[(B, 1)])];
                balancer
                    .world
                    .configure(services, vec![vip(VIP, Protocol::Tcp, "web")]);
            }
        }
        balancer.settle();
        for port in 1000..1040 {
            assert_eq!(balancer.goes_on(port).as_deref(), Ok(B), "{how}");
        }
        let moved = balancer
            .memory
            .kernel()
            .counters()
            .get(Counter::ConnectionsMoved);
        assert_eq!(moved, 20, "{how}");
        assert_eq!(balancer.live(B), 40, "{how}");
    }
}

#[test]
fn another_algorithm_breaks_no_connection() {
    let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1), (B, 1), (C, 1)]);
    let before: Vec<(u16, String)> = (1000..1060)
        .map(|port| (port, balancer.open(port)))
        .collect();
    for algorithm in Algorithm::ALL {
        balancer.world.algorithm("web", algorithm);
        balancer.settle();
        for (port, place) in &before {
            assert_eq!(balancer.goes_on(*port).as_ref(), Ok(place), "{algorithm}");
        }
    }
    assert_eq!(balancer.live(A) + balancer.live(B) + balancer.live(C), 60);
}

#[test]
fn without_an_instance_packets_are_dropped_and_said_so() {
    let mut balancer = Balancer::web(Algorithm::ConsistentHash, &[(A, 1)]);
    balancer.open(1000);
    balancer.world.health("web", A, Health::Unhealthy);
    balancer.settle();
    assert_eq!(balancer.goes_on(1000), Err(Counter::DropNoInstance));
    assert_eq!(
        balancer.send([10, 1, 0, 1], 2000, SYN),
        Err(Counter::DropNoInstance)
    );
    assert!(balancer.memory.kernel().counters().adds_up());
    balancer.world.health("web", A, Health::Healthy);
    balancer.settle();
    assert_eq!(balancer.open(2000), A);
}

#[test]
fn a_restarted_daemon_does_not_disturb_connections() {
    let services = || {
        vec![service(
            "web",
            Algorithm::WeightedRoundRobin,
            &[(A, 2), (B, 1)],
        )]
    };
    let mut balancer = Balancer::new(services());
    let before: Vec<(u16, String)> = (1000..1060)
        .map(|port| (port, balancer.open(port)))
        .collect();
    balancer.state = Reconciler::adopt(&balancer.memory, GRACE).unwrap();
    let known = super::open::known(balancer.state.instances());
    balancer.world = World::knowing(known, services(), vec![vip(VIP, Protocol::Tcp, "web")]);
    balancer.settle();
    for (port, place) in &before {
        assert_eq!(balancer.goes_on(*port).as_ref(), Ok(place));
    }
    assert_eq!(balancer.live(A), 40);
}

#[test]
fn an_index_that_was_freed_before_a_restart_gets_another_generation_after_it() {
    let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1)]);
    balancer.open(1000);
    let vips = || vec![vip(VIP, Protocol::Tcp, "web")];
    balancer
        .world
        .configure(vec![service("web", Algorithm::RoundRobin, &[])], vips());
    balancer.settle();
    balancer.state = Reconciler::adopt(&balancer.memory, GRACE).unwrap();
    let known = super::open::known(balancer.state.instances());
    let services = vec![service("web", Algorithm::RoundRobin, &[(B, 1)])];
    balancer.world = World::knowing(known, services, vips());
    balancer.settle();
    let id = balancer.world.id("web", B);
    assert_eq!((id.index, id.generation), (1, 1));
    // The connection to A is stale, not one of B's.
    assert_eq!(balancer.goes_on(1000).as_deref(), Ok(B));
    assert_eq!(
        balancer
            .memory
            .kernel()
            .counters()
            .get(Counter::ConnectionsMoved),
        1
    );
}

#[test]
fn connections_of_a_vip_that_is_gone_are_forgotten() {
    let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    balancer.spread(1000..1010);
    let other = vip("192.0.2.9:80", Protocol::Tcp, "web");
    let services = vec![service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)])];
    balancer.world.configure(services, vec![other]);
    balancer.settle();
    balancer.walk();
    assert!(balancer.memory.kernel().flows().is_empty());
    assert_eq!(balancer.live(A) + balancer.live(B), 0);
    assert_eq!(balancer.goes_on(1000), Err(Counter::PassedNotVip));
}

#[test]
fn silence_ends_connections_and_their_count() {
    let mut balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1)]);
    balancer.spread(1000..1010);
    let hour = Duration::from_secs(3601).as_nanos() as u64;
    balancer.memory.kernel().set_now(hour);
    balancer.goes_on(1000).unwrap();
    assert!(balancer.walk().into_values().eq([1]));
    assert_eq!(balancer.memory.kernel().flows().len(), 2);
    assert_eq!(balancer.live(A), 1);
}

#[test]
fn what_is_not_forwarded_counts_for_the_instance_that_it_was_for() {
    let balancer = Balancer::web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    let to = balancer.open(1000);
    let mut packet = tcp([10, 1, 0, 1], 1000, [192, 0, 2, 1], 80, ACK);
    packet[22] = 1;
    let verdict = balancer.memory.send(&mut packet);
    assert_eq!(verdict, Verdict::Drop(Counter::DropTtl));
    for name in [A, B] {
        let index = balancer.world.id("web", name).index;
        let traffic = balancer.memory.instance_traffic(index).unwrap();
        assert_eq!(traffic.dropped, u64::from(name == to), "{name}");
    }
    assert_eq!(balancer.memory.vip_traffic(0).unwrap().dropped, 1);
}

#[test]
fn replies_find_their_way_back() {
    let mut spec = service("web", Algorithm::RoundRobin, &[(A, 1)]);
    spec.forwarding = Forwarding::Nat;
    let balancer = Balancer::new(vec![spec]);
    let mut packet = tcp([10, 1, 0, 1], 1000, [192, 0, 2, 1], 80, SYN);
    assert_eq!(balancer.memory.send(&mut packet), Verdict::Transmit);
    let source: [u8; 4] = packet[26..30].try_into().unwrap();
    assert_eq!(
        source,
        [10, 0, 9, 1],
        "not the address of the first interface"
    );
    let port = u16::from_be_bytes([packet[34], packet[35]]);
    let mut reply = tcp([10, 0, 0, 1], 80, source, port, SYN | ACK);
    assert_eq!(balancer.memory.send(&mut reply), Verdict::Transmit);
    assert_eq!(
        reply[26..38],
        [192, 0, 2, 1, 10, 1, 0, 1, 0, 80, 0x03, 0xe8]
    );
    let traffic = balancer.memory.vip_traffic(0).unwrap();
    assert_eq!(
        (traffic.packets_in, traffic.packets_out, traffic.connections),
        (1, 1, 1)
    );
}

#[test]
fn addresses_are_mapped_as_the_program_expects() {
    let entries: Vec<InstanceEntry> = Balancer::web(Algorithm::RoundRobin, &[(A, 1)])
        .memory
        .instances()
        .into_values()
        .collect();
    assert!(is_v4(&entries[0].address));
    assert_eq!(entries[0].address, address("10.0.0.1".parse().unwrap()));
}

#[test]
fn a_recovering_instance_gets_its_share_of_the_connections() {
    for (algorithm, share) in Algorithm::ALL.iter().flat_map(|a| [(*a, 10), (*a, 50)]) {
        let spec = ServiceSpec {
            recovery: Some(RecoverySpec::default()),
            ..service("web", algorithm, &[(A, 10), (B, 10), (C, 10)])
        };
        let mut balancer = Balancer::new(vec![spec]);
        let before: Vec<String> = (1000..1100).map(|port| balancer.open(port)).collect();
        balancer.world.health("web", A, Health::Unhealthy);
        balancer.world.health("web", A, Health::Healthy);
        balancer.settle();
        let waiting = balancer.spread(2000..2200);
        assert_eq!(waiting.get(A), None, "{algorithm}");
        let from = Progress::default();
        let step = RecoveryStep {
            id: balancer.world.id("web", A),
            from,
            to: Some(Progress { share, ..from }),
        };
        balancer.world.apply(Change::Recovery(vec![step]));
        balancer.settle();
        let by_source = algorithm == Algorithm::ConsistentHash;
        let mut got = 0;
        for port in 3000..4600u16 {
            // As many clients as connections, for an algorithm that keeps a client where it is.
            let client = if by_source {
                port.to_be_bytes()
            } else {
                [0, 1]
            };
            let to = balancer.send([10, 1, client[0], client[1]], port, SYN);
            got += u32::from(to.unwrap() == A);
        }
        let got = f64::from(got) / 1600.0;
        let exact = f64::from(share) / f64::from(200 + u16::from(share));
        assert!(
            (got - exact).abs() < 0.02,
            "{algorithm} {share}: {got} for {exact}"
        );
        // Whoever was elsewhere before is there still.
        for (port, place) in (1000..1100).zip(&before).filter(|(_, place)| *place != A) {
            assert_eq!(balancer.goes_on(port).as_ref(), Ok(place), "{algorithm}");
        }
    }
}

#[test]
fn what_was_measured_is_no_part_of_the_quota_of_who_recovers() {
    let measuring = [
        Algorithm::HealthAware,
        Algorithm::LeastResponseTime,
        Algorithm::Adaptive,
    ];
    for (algorithm, measured) in measuring.into_iter().flat_map(|a| {
        [
            (a, [1.0, 1.0, 1.0]),
            (a, [0.25, 1.0, 0.5]),
            (a, [1.0, 0.25, 0.5]),
        ]
    }) {
        let spec = ServiceSpec {
            recovery: Some(RecoverySpec::default()),
            ..service("web", algorithm, &[(A, 10), (B, 10), (C, 10)])
        };
        let mut balancer = Balancer::new(vec![spec]);
        balancer.world.health("web", A, Health::Unhealthy);
        balancer.world.health("web", A, Health::Healthy);
        let factors = [A, B, C].into_iter().zip(measured).map(|(name, measured)| {
            let factors = Factors {
                measured,
                ..Factors::NONE
            };
            (balancer.world.id("web", name), factors)
        });
        balancer.world.apply(Change::Factors(factors.collect()));
        let mut from = Progress::default();
        for share in [10, 20, 60, 90] {
            let to = Progress { share, ..from };
            let step = RecoveryStep {
                id: balancer.world.id("web", A),
                from,
                to: Some(to),
            };
            balancer.world.apply(Change::Recovery(vec![step]));
            from = to;
            balancer.settle();
            let [a, b, c] = [A, B, C].map(|name| balancer.slots(name));
            let exact = f64::from(share) / f64::from(200 + u16::from(share));
            assert!(
                (a / (a + b + c) - exact).abs() < 0.002,
                "{algorithm} {measured:?} at {share}: {a} {b} {c}"
            );
            // The others share the rest by what was measured.
            let ratio = f64::from(measured[1]) / f64::from(measured[2]);
            assert!((b / c - ratio).abs() < 0.02 * ratio, "{algorithm} {b} {c}");
        }
    }
}
