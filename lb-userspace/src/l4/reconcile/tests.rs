//! What ends up in the maps, in which order, and that nothing is left behind.

use lb_common::{
    INSTANCE_ACTIVE, INSTANCE_DRAINING, INSTANCE_FAILED, PortRanges, Subinterface, TAG_CUSTOMER,
    Table, VipKey, tag,
};
use lb_ebpf::Tables as _;
use proptest::prelude::*;

use super::*;
use crate::{
    l4::{
        datapath::memory::Memory,
        fixture::{A, B, C, World, service, vip},
    },
    model::{AdminState, Algorithm, Health, Protocol, ServiceSpec, VipSpec},
};

const VIP: &str = "192.0.2.1:80";

mod room;

/// A reconciler, its maps, and a clock.
#[derive(Debug)]
struct Kernel {
    memory: Memory,
    state: Reconciler,
    now: Timestamp,
}

impl Kernel {
    fn new(tables: u32) -> Self {
        Self::over(Memory::new(tables))
    }

    fn over(memory: Memory) -> Self {
        // What is a program's alone begins empty.
        for (address, _) in memory.kernel().vip_addresses() {
            memory.kernel().remove_vip_address(&address);
        }
        let state = Reconciler::adopt(&memory, GRACE).unwrap();
        Self {
            memory,
            state,
            now: Timestamp(1),
        }
    }

    fn try_apply(&mut self, plan: &Plan) -> Result<Outcome, ReconcileError> {
        self.state.apply(plan, &mut self.memory.clone(), self.now)
    }

    fn apply(&mut self, world: &World) -> Outcome {
        self.try_apply(&world.plan()).unwrap()
    }

    /// Applies until nothing has to wait any more.
    fn settle(&mut self, world: &World) {
        for _ in 0..10 {
            match self.apply(world).later {
                None => return,
                Some(at) => self.now = self.now.max(at),
            }
        }
        panic!("the plan never gets into the maps");
    }

    fn take_log(&self) -> Vec<String> {
        self.memory.take_log()
    }

    fn only_vip(&self) -> Vip {
        *self.memory.vips().values().next().unwrap()
    }

    fn table(&self, index: u32) -> Table {
        *self.memory.table(index)
    }

    /// Asserts that the maps hold what `plan` says and nothing else.
    fn assert_is(&self, plan: &Plan) {
        let (vips, instances) = (self.memory.vips(), self.memory.instances());
        let settings = self.memory.adopted().unwrap().settings;
        assert_eq!(settings.as_ref(), Some(&plan.settings));
        for (index, entry) in &instances {
            match plan.instances.get(index) {
                Some(wanted) => assert_eq!(entry, wanted, "instance {index}"),
                None => assert_eq!(entry.state, INSTANCE_ABSENT, "instance {index}"),
            }
        }
        assert!(
            plan.instances
                .keys()
                .all(|index| instances.contains_key(index))
        );
        assert!(vips.keys().eq(plan.vips.keys()));
        let mut ids = BTreeSet::new();
        for (key, found) in &vips {
            let wanted = &plan.vips[key];
            assert_eq!(
                (found.forward, found.select),
                (wanted.forward(), wanted.select)
            );
            assert!(
                *self.memory.table(found.table) == *wanted.recipe.table(),
                "VIP {} points to a table that is not its own",
                wanted.spec
            );
            assert!(ids.insert(found.id), "VIP id {} is used twice", found.id);
        }
        let addresses: BTreeSet<_> = plan.vips.keys().map(|key| key.address).collect();
        let noted: BTreeMap<_, _> = self.memory.kernel().vip_addresses().into_iter().collect();
        assert!(noted.keys().eq(&addresses));
        for (address, ranges) in noted {
            let of = plan.vips.keys().filter(|key| key.address == address);
            assert_eq!(ranges, PortRanges::new(of.filter_map(VipKey::range)));
        }
        assert!(self.memory.table(EMPTY).slots.iter().all(|slot| *slot == 0));
    }
}

fn web(algorithm: Algorithm, members: &[(&str, u16)]) -> World {
    World::new(
        vec![service("web", algorithm, members)],
        vec![vip(VIP, Protocol::Tcp, "web")],
    )
}

#[test]
fn publishes_instances_before_the_table_and_that_before_the_vip() {
    let mut kernel = Kernel::new(4);
    let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    kernel.settle(&world);
    assert_eq!(
        kernel.take_log(),
        [
            "settings",
            "reset instance 1",
            "instance 1 state 1",
            "reset instance 2",
            "instance 2 state 1",
            "table 1",
            "reset vip 0",
            "vip 0",
            "vip address",
            "activate",
        ]
    );
    kernel.assert_is(&world.plan());
    assert_eq!(kernel.apply(&world), Outcome::default());
    assert_eq!(kernel.take_log(), [""; 0]);
}

#[test]
fn vlans_are_told_to_each_program_as_they_come_and_go() {
    let mut kernel = Kernel::new(4);
    let world = web(Algorithm::RoundRobin, &[(A, 1)]);
    kernel.settle(&world);
    kernel.take_log();
    let of = |parent, vlan| Subinterface {
        parent,
        outer: tag(TAG_CUSTOMER, vlan),
        inner: 0,
    };
    let mut plan = world.plan();
    let known = BTreeMap::from([(7, of(2, 9)), (8, of(2, 10))]);
    plan.vlans = None;
    assert!(kernel.try_apply(&plan).is_err());
    plan.vlans = Some(known);
    // It is no change of what VIPs are, so it is none of the writes.
    assert_eq!(kernel.try_apply(&plan), Ok(Outcome::default()));
    assert_eq!(
        kernel.take_log(),
        ["tag 81000009 of 2 is 7", "tag 8100000a of 2 is 8"]
    );
    assert_eq!(kernel.try_apply(&plan), Ok(Outcome::default()));
    assert_eq!(kernel.take_log(), [""; 0]);
    plan.vlans = Some(BTreeMap::from([(8, of(3, 10))]));
    kernel.memory.fail_after(Some(1));
    assert!(kernel.try_apply(&plan).is_err());
    assert_eq!(kernel.take_log(), ["7 is no vlan"]);
    assert_eq!(kernel.try_apply(&plan), Ok(Outcome::default()));
    assert_eq!(kernel.take_log(), ["tag 8100000a of 3 is 8"]);
    let mut next = Kernel::over(kernel.memory.clone());
    next.try_apply(&plan).unwrap();
    assert!(
        next.take_log()
            .contains(&"tag 8100000a of 3 is 8".to_owned())
    );
}

#[test]
fn withdraws_the_vip_before_its_instances() {
    let mut kernel = Kernel::new(4);
    let world = web(Algorithm::RoundRobin, &[(A, 1)]);
    kernel.settle(&world);
    kernel.take_log();
    world.configure(
        vec![service("web", Algorithm::RoundRobin, &[(A, 1)])],
        vec![],
    );
    kernel.settle(&world);
    assert_eq!(
        kernel.take_log(),
        ["remove vip", "remove vip address", "instance 1 state 0"]
    );
    kernel.assert_is(&world.plan());
}

#[test]
fn a_changed_weight_takes_a_spare_table_and_one_flip() {
    let mut kernel = Kernel::new(4);
    let world = web(Algorithm::WeightedRoundRobin, &[(A, 1), (B, 1)]);
    kernel.settle(&world);
    let before = kernel.only_vip();
    kernel.take_log();
    world.configure(
        vec![service(
            "web",
            Algorithm::WeightedRoundRobin,
            &[(A, 1), (B, 3)],
        )],
        vec![vip(VIP, Protocol::Tcp, "web")],
    );
    kernel.settle(&world);
    assert_eq!(
        kernel.take_log(),
        ["instance 2 state 1", "table 2", "vip 0"]
    );
    let after = kernel.only_vip();
    assert_eq!(
        (after.id, after.generation),
        (before.id, before.generation + 1)
    );
    assert_ne!(after.table, before.table);
    kernel.assert_is(&world.plan());
}

#[test]
fn a_table_rests_before_it_is_written_again() {
    let mut kernel = Kernel::new(3);
    let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 1), (C, 1)]);
    kernel.settle(&world);
    world.admin("web", A, AdminState::Draining);
    assert_eq!(kernel.apply(&world).later, None);
    let second = kernel.only_vip().table;
    world.admin("web", B, AdminState::Draining);
    // The first table has not rested, and there is no third.
    let later = kernel.apply(&world).later.unwrap();
    assert_eq!(later, kernel.now + GRACE);
    assert_eq!(kernel.only_vip().table, second);
    kernel.now = later;
    assert_eq!(kernel.apply(&world).later, None);
    assert_eq!(kernel.only_vip().table, 1);
    kernel.assert_is(&world.plan());
}

#[test]
fn going_back_within_the_grace_time_finds_the_old_table() {
    let mut kernel = Kernel::new(3);
    let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    kernel.settle(&world);
    world.admin("web", A, AdminState::Draining);
    kernel.settle(&world);
    kernel.take_log();
    world.admin("web", A, AdminState::Enabled);
    kernel.settle(&world);
    assert_eq!(kernel.take_log(), ["instance 1 state 1", "vip 0"]);
    kernel.assert_is(&world.plan());
}

#[test]
fn without_an_instance_the_table_is_the_empty_one_and_never_stale() {
    let mut kernel = Kernel::new(3);
    let world = web(Algorithm::ConsistentHash, &[(A, 1), (B, 1)]);
    kernel.settle(&world);
    for instance in [A, B] {
        world.health("web", instance, Health::Unhealthy);
    }
    kernel.settle(&world);
    assert_eq!(kernel.only_vip().table, EMPTY);
    assert!(kernel.table(EMPTY).slots.iter().all(|slot| *slot == 0));
    world.health("web", A, Health::Healthy);
    kernel.settle(&world);
    assert_ne!(kernel.only_vip().table, EMPTY);
    kernel.assert_is(&world.plan());
}

#[test]
fn vips_of_a_service_share_one_table() {
    let mut kernel = Kernel::new(2);
    let services = vec![service("web", Algorithm::RoundRobin, &[(A, 1)])];
    let vips = vec![
        vip(VIP, Protocol::Tcp, "web"),
        vip(VIP, Protocol::Udp, "web"),
    ];
    let world = World::new(services, vips);
    kernel.settle(&world);
    kernel.assert_is(&world.plan());
    assert_eq!(kernel.state.tables_in_use(), 1);
}

#[test]
fn too_few_tables_are_an_error_that_spares_the_others() {
    let mut kernel = Kernel::new(2);
    let services = vec![
        service("a", Algorithm::RoundRobin, &[(A, 1)]),
        service("b", Algorithm::RoundRobin, &[(B, 1)]),
    ];
    let vips = vec![
        vip(VIP, Protocol::Tcp, "a"),
        vip("192.0.2.2:80", Protocol::Tcp, "b"),
    ];
    let world = World::new(services, vips);
    let error = kernel.try_apply(&world.plan()).unwrap_err();
    assert!(
        matches!(error, ReconcileError::Tables { capacity: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("192.0.2.2"), "{error}");
    assert_eq!(kernel.memory.vips().len(), 1);
}

#[test]
fn an_index_gets_its_next_tenant_only_when_no_table_means_the_last_one() {
    let mut kernel = Kernel::new(2);
    let named = |spec: &str, algorithm, members: &[(&str, u16)]| service(spec, algorithm, members);
    let world = web(Algorithm::RoundRobin, &[(A, 1)]);
    kernel.settle(&world);
    let mut plan = world.plan();
    // The registry reuses indices late; here it is made to do so at once.
    let other = World::new(
        vec![named("other", Algorithm::RoundRobin, &[(B, 1)])],
        vec![vip("192.0.2.2:80", Protocol::Tcp, "other")],
    );
    plan.instances = other.plan().instances;
    plan.vips = other.plan().vips;
    let outcome = kernel.try_apply(&plan).unwrap();
    assert_eq!(outcome.later, Some(kernel.now + GRACE));
    assert_eq!(kernel.memory.instances()[&1].state, INSTANCE_ABSENT);
    assert_eq!(kernel.only_vip().table, EMPTY);
    kernel.now = kernel.now + GRACE;
    assert_eq!(kernel.try_apply(&plan).unwrap().later, None);
    kernel.assert_is(&plan);
}

#[test]
fn a_failure_anywhere_is_made_good_by_the_next_attempt() {
    for fail_after in 0..12 {
        let mut kernel = Kernel::new(4);
        let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
        kernel.memory.fail_after(Some(fail_after));
        let first = kernel.try_apply(&world.plan());
        assert_eq!(first.is_err(), fail_after < 10, "{fail_after}");
        kernel.memory.fail_after(None);
        kernel.settle(&world);
        kernel.assert_is(&world.plan());
    }
}

#[test]
fn a_restarted_daemon_writes_nothing_that_is_there_already() {
    let services = || vec![service("web", Algorithm::ConsistentHash, &[(A, 1), (B, 2)])];
    let vips = || vec![vip(VIP, Protocol::Tcp, "web")];
    let mut kernel = Kernel::new(4);
    let world = World::new(services(), vips());
    world.admin("web", B, AdminState::Draining);
    kernel.settle(&world);
    let before = kernel.only_vip();
    kernel.take_log();
    // The next daemon lists the members the other way round and knows nothing of the drain.
    let mut next = Kernel::over(kernel.memory.clone());
    let known = crate::l4::open::known(next.state.instances());
    let reversed = vec![service("web", Algorithm::ConsistentHash, &[(B, 2), (A, 1)])];
    let again = World::knowing(known.clone(), reversed, vips());
    assert_eq!(again.id("web", A), world.id("web", A));
    assert_eq!(again.id("web", B), world.id("web", B));
    again.admin("web", B, AdminState::Draining);
    next.settle(&again);
    // What is this program's alone is written for each one.
    assert_eq!(next.take_log(), ["vip address", "activate"]);
    assert_eq!(next.only_vip(), before);
    // And with another configuration it moves on, as any daemon does.
    let mut last = Kernel::over(kernel.memory.clone());
    let changed = World::knowing(
        known,
        vec![service("web", Algorithm::RoundRobin, &[(C, 1)])],
        vips(),
    );
    last.settle(&changed);
    last.assert_is(&changed.plan());
    assert_eq!(last.only_vip().id, before.id);
}

#[test]
fn a_vip_id_is_reused_with_fresh_figures() {
    let mut kernel = Kernel::new(4);
    let world = web(Algorithm::RoundRobin, &[(A, 1)]);
    kernel.settle(&world);
    kernel
        .memory
        .kernel()
        .vip_traffic(0, |traffic| traffic.packets_in = 7);
    let services = vec![service("web", Algorithm::RoundRobin, &[(A, 1)])];
    world.configure(services, vec![vip("192.0.2.2:80", Protocol::Tcp, "web")]);
    kernel.settle(&world);
    assert_eq!(kernel.only_vip().id, 0);
    assert_eq!(kernel.memory.kernel().traffic_of_vip(0), Default::default());
}

/// Name, members with their weights, algorithm.
type RandomService = (usize, Vec<(usize, u16)>, Algorithm);
/// Address, service, whether UDP.
type RandomVip = (usize, usize, bool);

/// One thing that can happen.
#[derive(Clone, Debug)]
enum Step {
    Configure(Vec<RandomService>, Vec<RandomVip>),
    Admin(usize, usize, AdminState),
    Health(usize, usize, Health),
    Algorithm(usize, Algorithm),
    Wait(u64),
    Restart,
    Fail(u32),
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const ENDPOINTS: [&str; 5] = [A, B, C, "10.0.0.4:80", "[fd00::5]:80"];
const VIPS: [&str; 4] = [VIP, "192.0.2.2:80", "192.0.2.3:443", "[2001:db8::1]:80"];

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let members = prop::collection::btree_map(0..ENDPOINTS.len(), 0u16..4, 0..4)
        .prop_map(|members| members.into_iter().collect::<Vec<_>>());
    let services = prop::collection::btree_map(0..NAMES.len(), (members, algorithm()), 1..=3)
        .prop_map(|s| {
            s.into_iter()
                .map(|(n, (m, a))| (n, m, a))
                .collect::<Vec<_>>()
        });
    let vips = prop::collection::vec((0..VIPS.len(), 0..NAMES.len(), any::<bool>()), 0..4);
    let admin = prop::sample::select(vec![
        AdminState::Enabled,
        AdminState::Draining,
        AdminState::Disabled,
    ]);
    let health = prop::sample::select(vec![Health::Healthy, Health::Unhealthy]);
    prop_oneof![
        3 => (services, vips).prop_map(|(services, vips)| Step::Configure(services, vips)),
        3 => (0..3usize, 0..4usize, admin).prop_map(|(s, i, state)| Step::Admin(s, i, state)),
        3 => (0..3usize, 0..4usize, health).prop_map(|(s, i, health)| Step::Health(s, i, health)),
        1 => (0..3usize, algorithm()).prop_map(|(s, a)| Step::Algorithm(s, a)),
        2 => (0u64..2_000).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => (0u32..8).prop_map(Step::Fail),
    ]
}

fn desired(services: &[RandomService], vips: &[RandomVip]) -> (Vec<ServiceSpec>, Vec<VipSpec>) {
    let specs: Vec<ServiceSpec> = services
        .iter()
        .map(|(name, members, algorithm)| {
            let members: Vec<(&str, u16)> = members
                .iter()
                .map(|(i, weight)| (ENDPOINTS[*i], *weight))
                .collect();
            service(NAMES[*name], *algorithm, &members)
        })
        .collect();
    let mut seen = BTreeSet::new();
    let vips = vips
        .iter()
        .filter(|(address, _, udp)| seen.insert((*address, *udp)))
        .map(|(address, service, udp)| {
            let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
            let (name, ..) = services[service % services.len()];
            vip(VIPS[*address], protocol, NAMES[name])
        })
        .collect();
    (specs, vips)
}

/// Does what `step` says, as far as it can be done.
fn take(step: &Step, world: &mut World, kernel: &mut Kernel) {
    let snapshot = world.snapshot();
    let service = |position: &usize| snapshot.services.get(*position);
    match step {
        Step::Configure(services, vips) => {
            let (services, vips) = desired(services, vips);
            world.configure(services, vips);
        }
        Step::Admin(position, member, state) => {
            if let Some(service) = service(position)
                && let Some(member) = service.members.get(*member)
            {
                world.admin(
                    service.name().as_str(),
                    member.instance.endpoint.name(),
                    *state,
                );
            }
        }
        Step::Health(position, member, health) => {
            if let Some(service) = service(position)
                && let Some(member) = service.members.get(*member)
            {
                world.health(
                    service.name().as_str(),
                    member.instance.endpoint.name(),
                    *health,
                );
            }
        }
        Step::Algorithm(position, algorithm) => {
            if let Some(service) = service(position) {
                world.algorithm(service.name().as_str(), *algorithm);
            }
        }
        Step::Wait(ms) => kernel.now = kernel.now + Duration::from_millis(*ms),
        Step::Fail(after) => kernel.memory.fail_after(Some(*after)),
        Step::Restart => {
            *kernel = Kernel {
                now: kernel.now,
                ..Kernel::over(kernel.memory.clone())
            };
            let known = crate::l4::open::known(kernel.state.instances());
            let services = snapshot
                .services
                .iter()
                .map(|s| (*s.spec).clone())
                .collect();
            *world = World::knowing(known, services, snapshot.vips.to_vec());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// After any history, a pass later than all grace times makes the maps what a fresh plan says;
    /// and at no time was a table written that a VIP pointed to (the memory datapath asserts it).
    #[test]
    fn after_any_history_the_maps_equal_a_fresh_plan(
        steps in prop::collection::vec(step(), 1..14),
    ) {
        let mut kernel = Kernel::new(5);
        let mut world = World::new(vec![service("a", Algorithm::RoundRobin, &[(A, 1)])], vec![]);
        for step in &steps {
            take(step, &mut world, &mut kernel);
            // Failures and shortages are part of the history.
            let _ = kernel.try_apply(&world.plan());
        }
        kernel.memory.fail_after(None);
        kernel.settle(&world);
        kernel.assert_is(&world.plan());
        let active = [INSTANCE_ABSENT, INSTANCE_ACTIVE, INSTANCE_DRAINING, INSTANCE_DOWN, INSTANCE_FAILED];
        prop_assert!(kernel.memory.instances().values().all(|i| active.contains(&i.state)));
    }
}
