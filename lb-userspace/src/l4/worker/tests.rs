use lb_common::Counter;
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::{
    l4::{
        Handle,
        datapath::memory::Memory,
        fixture::{A, B, World, service, vip},
        reconcile::GRACE,
        report::PathMode,
        unserved,
    },
    model::{AclAction, AclSpec, AdminState, Algorithm, Forwarding, Protocol, Timestamp},
    registry::{Change, Desired},
};

const VIP: &str = "192.0.2.1:80";

fn worker(memory: &Memory, world: &World, clock: &Clock) -> Worker {
    Worker::new(
        Box::new(memory.clone()),
        crate::l4::fixture::host().spec,
        String::new(),
        Reconciler::adopt(memory, GRACE).unwrap(),
        Arc::clone(&world.0),
        clock.clone(),
    )
}

/// A worker over maps in memory, on paused time.
struct Daemon {
    memory: Memory,
    world: World,
    clock: Clock,
    handle: Handle,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let world = World::new(
            vec![service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)])],
            vec![vip(VIP, Protocol::Tcp, "web")],
        );
        Self::over(Memory::new(8), world)
    }

    fn over(memory: Memory, world: World) -> Self {
        let clock = Clock::manual(Timestamp(1));
        let worker = worker(&memory, &world, &clock);
        let handle = worker.reporter().handle();
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(worker.run(async {
            let _ = ended.await;
        }));
        Self {
            memory,
            world,
            clock,
            handle,
            end,
            task,
        }
    }

    async fn pass(&self, time: Duration) {
        // Tokio's time and the clock are paused both; the worker reads the one and waits by the
        // other.
        let step = Duration::from_millis(1);
        for _ in 0..time.as_millis() {
            self.clock.advance(step);
            tokio::time::sleep(step).await;
        }
    }

    fn is_settled(&self) -> bool {
        self.handle.report().reconcile.revision == self.world.snapshot().revision
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_in_the_kernel_within_milliseconds() {
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    assert!(daemon.is_settled());
    let report = daemon.handle.report();
    assert_eq!(report.mode, Some(PathMode::Native));
    assert_eq!((report.vips.len(), report.tables_used), (1, 1));
    daemon.world.admin("web", A, AdminState::Draining);
    assert!(!daemon.is_settled());
    daemon.pass(Duration::from_millis(10)).await;
    assert!(daemon.is_settled());
    assert_eq!(daemon.handle.report().vips[0].generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_two_passes() {
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    daemon.memory.take_log();
    for weight in 2..50 {
        let members: &[(&str, u16)] = &[(A, 1), (B, weight)];
        let services = vec![service("web", Algorithm::WeightedRoundRobin, members)];
        daemon
            .world
            .configure(services, vec![vip(VIP, Protocol::Tcp, "web")]);
        tokio::task::yield_now().await;
    }
    daemon.pass(Duration::from_millis(10)).await;
    assert!(daemon.is_settled());
    let pass = |table| ["instance 2 state 1".to_owned(), table, "vip 0".to_owned()];
    let passes = ["table 2", "table 3"].map(str::to_owned).map(pass);
    assert_eq!(daemon.memory.take_log(), passes.concat());
}

#[tokio::test(start_paused = true)]
async fn changes_faster_than_tables_rest_end_with_the_last_one() {
    let daemon = Daemon::start();
    for weight in 1..30 {
        let members: &[(&str, u16)] = &[(A, 1), (B, weight)];
        let services = vec![service("web", Algorithm::WeightedRoundRobin, members)];
        daemon
            .world
            .configure(services, vec![vip(VIP, Protocol::Tcp, "web")]);
        daemon.pass(Duration::from_millis(20)).await;
    }
    assert!(!daemon.is_settled(), "there are not so many tables");
    daemon.pass(GRACE).await;
    assert!(daemon.is_settled());
    let recipe = daemon
        .world
        .plan()
        .vips
        .values()
        .next()
        .unwrap()
        .recipe
        .table();
    let table = daemon.handle.report().vips[0].table;
    assert!(*daemon.memory.table(table) == *recipe);
}

#[tokio::test(start_paused = true)]
async fn failures_are_reported_and_tried_again() {
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    daemon.memory.fail_after(Some(0));
    daemon.world.admin("web", A, AdminState::Draining);
    daemon.pass(Duration::from_millis(10)).await;
    let report = daemon.handle.report();
    assert_eq!(report.reconcile.failures, 1);
    assert!(
        report
            .reconcile
            .error
            .as_ref()
            .unwrap()
            .contains("injected")
    );
    daemon.pass(RETRY.0).await;
    assert!(daemon.is_settled());
    assert_eq!(daemon.handle.report().reconcile.error, None);
}

/// A configuration with a rule, and this VIP beside the first one.
fn ruled(daemon: &Daemon, other: Option<&str>) {
    let rule = ("10.9.0.0/16".parse().unwrap(), AclAction::Deny);
    let vips = [Some(VIP), other].into_iter().flatten();
    let desired = Desired {
        services: vec![service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)])],
        vips: vips
            .map(|address| vip(address, Protocol::Tcp, "web"))
            .collect(),
        acl: AclSpec {
            rules: [rule].into_iter().collect(),
            ..AclSpec::default()
        },
        ..Desired::default()
    };
    daemon.world.apply(Change::Configure(Box::new(desired)));
}

#[tokio::test(start_paused = true)]
async fn rules_that_find_no_memory_hold_up_new_vips_and_nothing_else() {
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    for refused in ["acl", "prefixes"] {
        daemon.memory.refuse(Some(refused));
        ruled(&daemon, Some("192.0.2.2:80"));
        daemon.world.admin("web", A, AdminState::Draining);
        daemon.pass(Duration::from_millis(10)).await;
        let report = daemon.handle.report();
        let error = report.reconcile.error.clone().unwrap();
        assert!(error.contains("injected"), "{error}");
        assert_eq!(
            daemon.memory.vips().len(),
            1,
            "nobody may be sent to a VIP without its rules"
        );
        let id = daemon.world.id("web", A);
        let entry = daemon.memory.instances()[&id.index];
        assert_eq!(entry.state, lb_common::INSTANCE_DRAINING);
        assert!(!daemon.is_settled());
        daemon.memory.refuse(None);
        daemon.pass(RETRY.1).await;
        assert!(daemon.is_settled());
        assert_eq!(daemon.handle.report().reconcile.error, None);
        assert_eq!(daemon.memory.vips().len(), 2);
        // And all over again.
        let services = vec![service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)])];
        let vips = vec![vip(VIP, Protocol::Tcp, "web")];
        daemon.world.configure(services, vips);
        daemon.world.admin("web", A, AdminState::Enabled);
        daemon.pass(GRACE).await;
        assert!(daemon.is_settled());
    }
}

#[tokio::test(start_paused = true)]
async fn no_program_begins_without_its_rules() {
    let daemon = Daemon::start();
    daemon.memory.refuse(Some("acl"));
    ruled(&daemon, None);
    let has_begun = || daemon.memory.take_log().contains(&"activate".to_owned());
    daemon.pass(Duration::from_millis(10)).await;
    assert!(!has_begun() && daemon.memory.vips().is_empty());
    daemon.memory.refuse(None);
    daemon.pass(RETRY.1).await;
    assert!(has_begun());
    assert_eq!(daemon.memory.vips().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_program_serves_follows_while_the_next_one_waits_for_its_rules() {
    let earlier = Daemon::start();
    earlier.pass(Duration::from_millis(10)).await;
    earlier.end.send(()).unwrap();
    earlier.task.await.unwrap();
    let daemon = Daemon::over(earlier.memory, earlier.world);
    daemon.memory.take_log();
    daemon.memory.refuse(Some("acl"));
    ruled(&daemon, Some("192.0.2.2:80"));
    daemon.world.admin("web", A, AdminState::Draining);
    daemon.pass(Duration::from_millis(10)).await;
    let id = daemon.world.id("web", A);
    let entry = daemon.memory.instances()[&id.index];
    assert_eq!(entry.state, lb_common::INSTANCE_DRAINING);
    assert_eq!(daemon.memory.vips().len(), 1);
    assert!(!daemon.memory.take_log().contains(&"activate".to_owned()));
    daemon.memory.refuse(None);
    daemon.pass(RETRY.1).await;
    assert!(daemon.memory.take_log().contains(&"activate".to_owned()));
    assert_eq!(daemon.memory.vips().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn figures_reach_the_instances_within_a_second() {
    use std::sync::atomic::Ordering;

    use lb_ebpf::Tables as _;
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    let id = daemon.world.id("web", A);
    daemon
        .memory
        .kernel()
        .instance_traffic(id.index, |t| (t.packets_in, t.dropped) = (7, 2));
    daemon.memory.kernel().live_begin(id.index);
    daemon.memory.kernel().vip_traffic(0, |t| t.bytes_in = 99);
    daemon.pass(READ).await;
    let snapshot = daemon.world.snapshot();
    let kernel = &snapshot.services[0].members[0].instance.kernel;
    assert_eq!(kernel.packets_in.load(Ordering::Relaxed), 7);
    assert_eq!(kernel.dropped.load(Ordering::Relaxed), 2);
    assert_eq!(daemon.handle.report().vips[0].traffic.bytes_in, 99);
    // The walk over the table finds no connection behind the count.
    daemon.pass(WALK).await;
    daemon.pass(WALK).await;
    assert_eq!(kernel.live.load(Ordering::Relaxed), 0);
    assert_eq!(daemon.handle.report().connections.corrected, 1);
}

/// An open connection to the VIP `address`, which has the id 0.
fn connect(daemon: &Daemon, address: [u8; 4], port: u16) {
    use lb_common::{FLOW_FORWARD, FORWARD_L2DSR, FlowEntry, FlowKey, PROTOCOL_TCP, from_v4};
    use lb_ebpf::{Insert, Tables as _};
    let id = daemon.world.id("web", A);
    let key = FlowKey {
        source: from_v4([10, 1, 0, 1]),
        destination: from_v4(address),
        source_port: port.to_be_bytes(),
        destination_port: [0, 80],
        protocol: PROTOCOL_TCP,
        ..FlowKey::default()
    };
    let entry = FlowEntry {
        last_seen: daemon.memory.now(),
        instance: id.index,
        generation: id.generation,
        direction: FLOW_FORWARD,
        forward: FORWARD_L2DSR,
        ..FlowEntry::default()
    };
    let inserted = daemon.memory.kernel().insert_flow(&key, &entry);
    assert_eq!(inserted, Insert::Done);
}

#[tokio::test(start_paused = true)]
async fn what_a_vip_has_open_is_known_after_a_walk_and_never_another_ones() {
    let daemon = Daemon::start();
    let live = || daemon.handle.report().vips[0].live;
    let read = WALK + READ;
    daemon.pass(Duration::from_millis(10)).await;
    (1000..1003).for_each(|port| connect(&daemon, [192, 0, 2, 1], port));
    daemon.pass(READ).await;
    assert_eq!(live(), None, "no walk has begun with the VIP there");
    daemon.pass(read).await;
    assert_eq!(live(), Some(3));
    // Another VIP gets the id.
    let services = || vec![service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)])];
    let other = vec![vip("192.0.2.2:80", Protocol::Tcp, "web")];
    daemon.world.configure(services(), other);
    daemon.pass(Duration::from_millis(10)).await;
    let report = daemon.handle.report();
    assert_eq!((report.vips[0].id, report.vips[0].live), (0, None));
    daemon.pass(read).await;
    assert_eq!(live(), Some(0));
    connect(&daemon, [192, 0, 2, 2], 1000);
    daemon.pass(read).await;
    assert_eq!(live(), Some(1));
    // And back again.
    let first = vec![vip(VIP, Protocol::Tcp, "web")];
    daemon.world.configure(services(), first);
    daemon.pass(Duration::from_millis(10)).await;
    assert_eq!(live(), None);
    daemon.pass(read).await;
    assert_eq!(live(), Some(0));
}

#[test]
fn instances_are_greeted_once_for_packets_that_have_missed_them() {
    use lb_ebpf::Tables as _;
    let (memory, world) = (Memory::new(8), World::new(vec![], vec![]));
    let mut worker = worker(&memory, &world, &Clock::manual(Timestamp(1)));
    assert!(!worker.misses_neighbours);
    memory.kernel().count(Counter::DropNoNeighbour);
    // Whoever asks for figures may be the first to see it, and the second sees nothing new.
    worker.read();
    worker.read();
    assert!(worker.misses_neighbours);
    worker.greet_missed();
    worker.read();
    assert!(!worker.misses_neighbours);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_paths_is_told_and_forgotten_in_time() {
    use lb_common::{PathMtu, from_v4};
    use lb_ebpf::Tables as _;
    let daemon = Daemon::start();
    let kernel = daemon.memory.kernel();
    daemon.pass(Duration::from_millis(10)).await;
    assert!(kernel.path_mtus().is_empty(), "there is no tunnel");
    let mut web = service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1)]);
    web.forwarding = Forwarding::Ipip;
    let vips = || vec![vip(VIP, Protocol::Tcp, "web")];
    daemon.world.configure(vec![web.clone()], vips());
    daemon.pass(Duration::from_millis(10)).await;
    let (now, minute) = (daemon.memory.now(), 60_000_000_000);
    let path = |mtu, until| PathMtu { until, mtu, pad: 0 };
    assert!(kernel.note_path_mtu(&from_v4([10, 0, 0, 1]), &path(1400, now + minute)));
    assert!(kernel.note_path_mtu(&from_v4([10, 0, 0, 2]), &path(1300, now)));
    // Of no instance.
    assert!(!kernel.note_path_mtu(&from_v4([10, 0, 0, 9]), &path(1300, now + minute)));
    daemon.pass(WALK + READ).await;
    let told = || daemon.handle.report().path_mtus.clone();
    let known = told();
    assert_eq!(known.len(), 1);
    assert_eq!(
        (known[0].address.to_string(), known[0].mtu),
        ("10.0.0.1".to_owned(), 1400)
    );
    assert!(known[0].left <= Duration::from_secs(60));
    // Whoever takes nothing new has connections, and another configuration forgets nothing.
    daemon.world.admin("web", A, AdminState::Draining);
    web.instances[1].weight = 2;
    daemon.world.configure(vec![web.clone()], vips());
    daemon.pass(WALK + READ).await;
    assert_eq!(told().len(), 1);
    kernel.set_now(now + minute);
    daemon.pass(WALK + READ).await;
    assert!(told().is_empty());
    web.forwarding = Forwarding::Nat;
    daemon.world.configure(vec![web], vips());
    daemon.pass(Duration::from_millis(10)).await;
    assert_eq!(kernel.path_mtus().len(), 2, "flows go on in tunnels");
    daemon.world.configure(Vec::new(), Vec::new());
    daemon.pass(Duration::from_millis(10)).await;
    assert!(kernel.path_mtus().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_leaves_everything_in_the_kernel() {
    let daemon = Daemon::start();
    daemon.pass(Duration::from_millis(10)).await;
    daemon.end.send(()).unwrap();
    daemon.task.await.unwrap();
    assert_eq!(daemon.memory.vips().len(), 1);
    assert_eq!(daemon.memory.instances().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_packet_path_unserved_vips_are_named() {
    let world = World::new(
        vec![service("web", Algorithm::RoundRobin, &[(A, 1)])],
        vec![vip(VIP, Protocol::Tcp, "web")],
    );
    let reporter = Reporter::new(Report {
        reason: "no rights".to_owned(),
        ..Report::default()
    });
    let handle = reporter.handle();
    tokio::spawn(unserved::mourn(
        Arc::clone(&world.0),
        reporter,
        std::future::pending(),
    ));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let report = handle.report();
    assert_eq!(report.mode, None);
    assert_eq!(
        report.warnings,
        ["VIP tcp/192.0.2.1:80 is not served: no rights"]
    );
    world.configure(vec![], vec![]);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(handle.report().warnings.is_empty());
}
