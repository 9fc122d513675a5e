//! Flows that are not remembered, through whatever happens to instances.

use lb_common::Slot;
use proptest::prelude::*;

use super::*;
use crate::model::LimitSpec;

const HOUR: Duration = Duration::from_secs(3600);
const D: &str = "10.0.0.4:80";
const ALL: [&str; 4] = [A, B, C, D];

fn spec(members: &[(&str, u16)]) -> ServiceSpec {
    ServiceSpec {
        forwarding: Forwarding::L2Dsr,
        hash_key: HashKey::Path,
        ..service("web", Algorithm::ConsistentHash, members)
    }
}

impl Balancer {
    /// Sends a packet of the flow from this port; the instance that it went to.
    fn packet(&self, port: u16, flags: u8) -> Result<String, Counter> {
        let packets = |name: &&str| {
            let snapshot = self.world.snapshot();
            let service = snapshot.service("web").unwrap();
            let index = service
                .find(name)
                .map(|at| service.members[at].instance.id.index);
            index.map_or(0, |i| self.memory.instance_traffic(i).unwrap().packets_in)
        };
        let before = ALL.map(|name| packets(&name));
        let mut packet = tcp([10, 1, 0, 1], port, [192, 0, 2, 1], 80, flags);
        let verdict = self.memory.send(&mut packet);
        assert!(self.memory.counters().unwrap().adds_up());
        match verdict {
            Verdict::Transmit => {
                let mut all = ALL.iter().zip(before);
                let to = all.find(|(name, before)| packets(name) > *before);
                Ok((*to.unwrap().0).to_owned())
            }
            Verdict::Drop(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn begin(&self, ports: std::ops::Range<u16>) -> Vec<(u16, String)> {
        ports
            .map(|port| (port, self.packet(port, SYN).unwrap()))
            .collect()
    }

    fn assert_go_on(&self, flows: &[(u16, String)]) {
        for (port, to) in flows {
            assert_eq!(self.packet(*port, ACK).as_ref(), Ok(to), "flow {port}");
        }
    }

    fn flows(&self) -> usize {
        self.memory.kernel().flows().len()
    }

    fn only_table(&self) -> (lb_common::Vip, std::sync::Arc<lb_common::Table>) {
        let (_, vip) = self.memory.vips().into_iter().next().unwrap();
        (vip, self.memory.table(vip.table))
    }

    /// Slots that are not settled, and those that are not clear.
    fn unsettled(&self) -> (usize, usize) {
        let (_, table) = self.only_table();
        let count = |is: fn(Slot) -> bool| table.slots.iter().filter(|s| is(Slot(**s))).count();
        (count(Slot::is_unsettled), count(|slot| !slot.is_clear()))
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.memory.kernel().set_now(1 + self.now.0 * 1000);
    }

    /// The same maps under another daemon.
    fn restart(&mut self, services: Vec<ServiceSpec>) {
        self.state = Reconciler::adopt(&self.memory, GRACE).unwrap();
        let known = super::super::open::known(self.state.instances());
        self.world = World::knowing(known, services, vec![vip(VIP, Protocol::Tcp, "web")]);
        self.settle();
    }

    fn reconfigure(&mut self, spec: ServiceSpec) {
        let vips = vec![vip(VIP, Protocol::Tcp, "web")];
        self.world.configure(vec![spec], vips);
        self.settle();
    }
}

const THREE: &[(&str, u16)] = &[(A, 1), (B, 1), (C, 1)];

#[test]
fn a_quiet_service_remembers_nothing() {
    let mut balancer = Balancer::new(vec![spec(THREE)]);
    let flows = balancer.begin(1000..1200);
    balancer.assert_go_on(&flows);
    assert_eq!((balancer.flows(), balancer.unsettled()), (0, (0, 0)));
    let counters = balancer.memory.counters().unwrap();
    assert_eq!(counters.get(Counter::PacketsSettled), 400);
    assert!(balancer.walk().into_values().eq([0]));
}

#[test]
fn a_drain_moves_new_flows_and_in_the_end_the_slots() {
    let mut balancer = Balancer::new(vec![spec(THREE)]);
    let old = balancer.begin(1000..1300);
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.settle();
    assert!(balancer.state.owns(balancer.world.id("web", A).index));
    let new = balancer.begin(2000..2300);
    assert!(new.iter().all(|(_, to)| to != A));
    balancer.assert_go_on(&old);
    balancer.assert_go_on(&new);
    // Maglev moves a few slots between the others as well; their flows are kept like A's.
    let of_a = old.iter().filter(|(_, to)| to == A).count() as u64;
    assert_eq!(balancer.live(A), of_a);
    let (unsettled, _) = balancer.unsettled();
    assert!(unsettled > 65_537 / 3, "{unsettled}");

    // What is heard of all the time stays where it is.
    balancer.pass(HOUR - GRACE * 2);
    balancer.assert_go_on(&old);
    balancer.pass(GRACE * 3);
    balancer.walk();
    assert_eq!(balancer.unsettled().0, 0);
    assert!(!balancer.state.owns(balancer.world.id("web", A).index));
    balancer.assert_go_on(&old);
    assert_eq!(balancer.live(A), of_a);
    // What the slots say by themselves is forgotten; A's are remembered to their end.
    balancer.pass(GRACE * 2);
    balancer.walk();
    assert_eq!(balancer.live(A), of_a);
    assert!(balancer.flows() as u64 <= of_a + 20, "{}", balancer.flows());
    balancer.assert_go_on(&old);
    balancer.pass(HOUR + GRACE);
    balancer.walk();
    balancer.pass(GRACE * 2);
    balancer.walk();
    assert_eq!((balancer.flows(), balancer.unsettled()), (0, (0, 0)));
    assert_eq!(balancer.live(A) + balancer.live(B) + balancer.live(C), 0);
}

#[test]
fn slots_of_the_dead_change_hands_at_once() {
    for how in ["dead", "removed"] {
        let mut balancer = Balancer::new(vec![spec(THREE)]);
        let old = balancer.begin(1000..1200);
        match how {
            "dead" => balancer.world.health("web", A, Health::Unhealthy),
            _ => {
                let vips = vec![vip(VIP, Protocol::Tcp, "web")];
                let services = vec![spec(&[(B, 1), (C, 1)])];
                balancer.world.configure(services, vips);
            }
        }
        balancer.settle();
        let (vip, table) = balancer.only_table();
        assert!(vip.table != 0 && table.owners.iter().all(|owner| *owner != 1));
        for (port, to) in &old {
            let now = balancer.packet(*port, ACK).unwrap();
            assert!(to == A || now == *to, "{how}: {port} was {to}, is {now}");
        }
    }
}

#[test]
fn a_restarted_daemon_knows_the_owners() {
    let mut balancer = Balancer::new(vec![spec(THREE)]);
    let old = balancer.begin(1000..1200);
    balancer.memory.take_log();
    balancer.restart(vec![spec(THREE)]);
    assert_eq!(balancer.memory.take_log(), ["vip address", "activate"]);
    balancer.reconfigure(spec(&[(A, 1), (B, 3), (C, 1)]));
    let new = balancer.begin(2000..2200);
    let unsettled = balancer.unsettled();
    assert!(unsettled.0 > 1000);
    balancer.memory.take_log();
    balancer.restart(vec![spec(&[(A, 1), (B, 3), (C, 1)])]);
    assert_eq!(balancer.memory.take_log(), ["vip address", "activate"]);
    assert_eq!(balancer.unsettled(), unsettled);
    // And with another change while it was not there.
    balancer.restart(vec![spec(&[(A, 5), (B, 3), (C, 1)])]);
    balancer.assert_go_on(&old);
    balancer.assert_go_on(&new);
}

#[test]
fn when_all_drain_their_flows_go_on() {
    let mut balancer = Balancer::new(vec![spec(&[(A, 1), (B, 1)])]);
    let old = balancer.begin(1000..1100);
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.world.admin("web", B, AdminState::Draining);
    balancer.settle();
    balancer.assert_go_on(&old);
    assert_eq!(balancer.packet(2000, SYN), Err(Counter::DropNoInstance));
    balancer.world.admin("web", A, AdminState::Enabled);
    balancer.settle();
    balancer.assert_go_on(&old);
    assert_eq!(balancer.packet(2000, SYN).as_deref(), Ok(A));
}

#[test]
fn what_begins_to_be_remembered_loses_nothing() {
    let limited = ServiceSpec {
        limits: LimitSpec {
            connections: std::num::NonZeroU32::new(100_000),
            ..LimitSpec::default()
        },
        ..spec(THREE)
    };
    let by_source = ServiceSpec {
        hash_key: HashKey::Source,
        ..spec(THREE)
    };
    let turns = ServiceSpec {
        algorithm: Algorithm::RoundRobin,
        ..spec(THREE)
    };
    let forwarded = |forwarding| ServiceSpec {
        forwarding,
        ..spec(THREE)
    };
    for (name, other) in [
        ("limit", limited),
        ("source", by_source),
        ("turns", turns),
        ("tunnels", forwarded(Forwarding::Ipip)),
        ("translates", forwarded(Forwarding::Nat)),
    ] {
        let mut balancer = Balancer::new(vec![spec(THREE)]);
        let old = balancer.begin(1000..1150);
        balancer.reconfigure(other.clone());
        let new = balancer.begin(2000..2150);
        balancer.assert_go_on(&old);
        balancer.assert_go_on(&new);
        let entries = if name == "translates" { 450 } else { 300 };
        assert_eq!(balancer.flows(), entries, "{name}");
        balancer.pass(HOUR - GRACE * 2);
        balancer.assert_go_on(&old);
        balancer.pass(GRACE * 3);
        balancer.walk();
        balancer.settle();
        balancer.assert_go_on(&old);
        let (vip, _) = balancer.only_table();
        assert_eq!(
            vip.flags & lb_common::VIP_SETTLES != 0,
            ["source", "tunnels"].contains(&name),
            "{name}"
        );
        // And back again.
        balancer.reconfigure(spec(THREE));
        balancer.assert_go_on(&old);
        let newest = balancer.begin(3000..3100);
        balancer.assert_go_on(&newest);
        balancer.assert_go_on(&old);
    }
}

#[test]
fn an_index_of_an_owner_has_no_other_tenant() {
    let mut balancer = Balancer::new(vec![spec(&[(A, 1), (B, 1)])]);
    let old = balancer.begin(1000..1100);
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.settle();
    balancer.assert_go_on(&old);
    // A goes without having been drained, and C gets its index.
    balancer.reconfigure(spec(&[(B, 1)]));
    balancer.reconfigure(spec(&[(B, 1), (C, 1)]));
    let c = balancer.world.id("web", C);
    assert_eq!(
        balancer.memory.instances()[&c.index].generation,
        c.generation
    );
    for (port, to) in &old {
        let now = balancer.packet(*port, ACK).unwrap();
        assert!(to == A || now == *to, "{port} was {to}, is {now}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u16),
    Packets,
    Admin(usize, bool),
    Weight(usize, u16),
    Fails(usize),
    Passes(u64),
    Walks,
    Restarts,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u16..20).prop_map(Step::Begin),
        3 => Just(Step::Packets),
        3 => (0usize..4, any::<bool>()).prop_map(|(at, drains)| Step::Admin(at, drains)),
        3 => (0usize..4, 1u16..5).prop_map(|(at, weight)| Step::Weight(at, weight)),
        1 => (0usize..4).prop_map(Step::Fails),
        2 => (1u64..2500).prop_map(Step::Passes),
        2 => Just(Step::Walks),
        1 => Just(Step::Restarts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// A flow that is heard of once an hour stays with its instance until that fails, whatever happens
    /// to the others and to the daemon.
    #[test]
    fn no_flow_leaves_an_instance_that_works(steps in prop::collection::vec(step(), 1..24)) {
        let mut weights = [1u16; 4];
        let members = |weights: &[u16; 4]| -> Vec<(&str, u16)> {
            ALL.into_iter().zip(weights.iter().copied()).collect()
        };
        let mut balancer = Balancer::new(vec![spec(&members(&weights))]);
        let mut flows: Vec<(u16, String)> = Vec::new();
        let (mut next, mut silent) = (1000u16, Duration::ZERO);
        for step in steps {
            match step {
                Step::Begin(count) => {
                    for port in next..next + count {
                        if let Ok(to) = balancer.packet(port, SYN) {
                            // Without it nobody is there after a minute or so.
                            prop_assert_eq!(balancer.packet(port, ACK), Ok(to.clone()));
                            flows.push((port, to));
                        }
                    }
                    next += count;
                }
                Step::Packets => {
                    balancer.assert_go_on(&flows);
                    silent = Duration::ZERO;
                }
                Step::Admin(at, drains) => {
                    let state = if drains { AdminState::Draining } else { AdminState::Enabled };
                    balancer.world.admin("web", ALL[at], state);
                    balancer.settle();
                }
                Step::Weight(at, weight) => {
                    weights[at] = weight;
                    balancer.reconfigure(spec(&members(&weights)));
                }
                Step::Fails(at) => {
                    balancer.world.health("web", ALL[at], Health::Unhealthy);
                    balancer.settle();
                    flows.retain(|(_, to)| to != ALL[at]);
                    balancer.world.health("web", ALL[at], Health::Healthy);
                    balancer.settle();
                }
                Step::Passes(seconds) => {
                    let time = Duration::from_secs(seconds);
                    if silent + time >= HOUR {
                        balancer.assert_go_on(&flows);
                        silent = Duration::ZERO;
                    }
                    silent += time;
                    balancer.pass(time);
                }
                Step::Walks => {
                    balancer.walk();
                }
                Step::Restarts => balancer.restart(vec![spec(&members(&weights))]),
            }
        }
        balancer.assert_go_on(&flows);
    }
}
