//! The packet path in the kernel: attached, filled, pinned, adopted, moved, taken off.
//!
//! Runs as root in network namespaces of its own, with the XDP program that `cargo xtask build`
//! has made; without either it says so and passes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why it is skipped"
)]

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use lb_common::{Counter, CounterKind};
use lb_userspace::{
    l4::{self, AttachMode, Handle, L4Error, Report},
    model::{
        AdminState, Algorithm, Clock, DatapathMode, DatapathSpec, Endpoint, Forwarding, HashKey,
        InstanceSpec, Protocol, ServiceName, ServiceSpec, TimeoutSpec, VipSpec,
    },
    registry::{Change, Desired, Registry},
};
use tokio::sync::oneshot;

const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// A network namespace that this thread is in, with one end of a veth; the other end is in a
/// namespace of its own, from which packets can be sent. Everything goes with the namespaces, and
/// the pins when this is dropped.
struct Place {
    pins: PathBuf,
    peer: String,
}

impl Place {
    /// `None`, with a word why, when this machine cannot have one.
    fn make(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        if matches!(l4::open(&DatapathSpec::default(), true), Ok(opened)
            if opened.reason().is_some_and(|why| why.contains("without its XDP program")))
        {
            eprintln!("skipped: no XDP program; run `cargo xtask build`");
            return None;
        }
        // SAFETY: only the namespace of this thread changes; it shares no file descriptors that
        // belong to one.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        let id = std::process::id();
        let peer = format!("lbdp-{name}-{id}");
        ip(&format!("netns add {peer}"));
        ip("link set lo up");
        ip("link add lb0 type veth peer name peer0");
        ip(&format!("link set peer0 netns {peer}"));
        ip(&format!("addr add {BALANCER}/24 dev lb0"));
        ip("link set lb0 up");
        ip(&format!("-n {peer} addr add 10.77.0.2/24 dev peer0"));
        ip(&format!("-n {peer} link set peer0 up"));
        let pins = PathBuf::from(format!("/sys/fs/bpf/lb-test-{name}-{id}"));
        Some(Self { pins, peer })
    }

    fn spec(&self) -> DatapathSpec {
        DatapathSpec {
            mode: DatapathMode::Native,
            interfaces: vec!["lb0".to_owned()],
            max_connections: 4096,
            max_tables: 8,
            pin_path: self.pins.clone(),
            ..DatapathSpec::default()
        }
    }

    /// Sends datagrams from the peer to a port of the balancer itself, to which nobody listens.
    fn send(&self, count: usize) {
        let script = format!("for i in $(seq {count}); do echo x > /dev/udp/{BALANCER}/9; done");
        run(Command::new("ip").args(["netns", "exec", &self.peer, "bash", "-c", &script]));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = l4::detach(&self.pins);
        let _ = Command::new("ip")
            .args(["netns", "del", &self.peer])
            .status();
    }
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split_whitespace()));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// A daemon's packet path, until it is dropped.
struct Daemon {
    registry: Arc<Registry>,
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    fn start(spec: &DatapathSpec, weights: &[u16]) -> Self {
        // One thread: a worker thread would be in another network namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let opened = l4::open(spec, true).unwrap();
        assert_eq!(opened.reason(), None);
        let registry = Arc::new(Registry::new(1, opened.known.iter().copied()));
        registry.apply(configuration(weights)).unwrap();
        let (end, ended) = oneshot::channel();
        let shutdown = async {
            let _ = ended.await;
        };
        let handle = runtime
            .block_on(async { l4::run(opened, Arc::clone(&registry), Clock::real(), shutdown) });
        Self {
            registry,
            handle,
            end: Some(end),
            runtime: Some(runtime),
        }
    }

    /// The report once it says what is expected.
    fn until(&self, what: &str, expected: impl Fn(&Report) -> bool) -> Arc<Report> {
        self.runtime.as_ref().unwrap().block_on(async {
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let report = self.handle.fresh(Clock::real().now()).await;
                if expected(&report) {
                    return report;
                }
            }
            panic!("waited in vain for {what}: {:#?}", self.handle.report());
        })
    }

    fn settled(&self) -> Arc<Report> {
        let revision = self.registry.snapshot().revision;
        self.until("the snapshot", |report| {
            report.reconcile.revision == revision
        })
    }

    fn index(&self, position: usize) -> u16 {
        self.registry.snapshot().services[0].members[position]
            .instance
            .id
            .index
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.runtime.take());
    }
}

fn configuration(weights: &[u16]) -> Change {
    let name = ServiceName::new("web").unwrap();
    let instances = weights.iter().zip(1..).map(|(weight, host)| InstanceSpec {
        endpoint: Endpoint::parse(&format!("10.77.0.{}:8080", host + 10)).unwrap(),
        weight: *weight,
    });
    Change::Configure(Box::new(Desired {
        services: vec![ServiceSpec {
            name: name.clone(),
            algorithm: Algorithm::WeightedRoundRobin,
            hash_key: HashKey::default(),
            forwarding: Forwarding::Nat,
            health_check: None,
            timeouts: TimeoutSpec::default(),
            instances: instances.collect(),
        }],
        vips: vec![VipSpec {
            address: VIP.into(),
            port: 80,
            protocol: Protocol::Tcp,
            service: name,
        }],
        ..Desired::default()
    }))
}

fn pins(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn xdp_program() -> String {
    let output = Command::new("ip")
        .args(["-d", "link", "show", "lb0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.split("prog/xdp id ").nth(1);
    id.and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("none")
        .to_owned()
}

#[test]
fn outlives_the_daemon_is_adopted_and_comes_off() {
    let Some(place) = Place::make("life") else {
        return;
    };
    let spec = place.spec();
    let daemon = Daemon::start(&spec, &[1, 3]);
    let report = daemon.settled();
    assert_eq!(report.mode, Some(AttachMode::Native));
    assert_eq!(report.interfaces[0].interface, "lb0");
    assert_eq!(
        (report.vips.len(), report.tables_used, report.tables_max),
        (1, 1, 8)
    );
    assert_eq!(report.connections.max, 4096);
    assert_eq!(report.reconcile.error, None);
    let before = report.counters.get(Counter::Received);
    place.send(50);
    let report = daemon.until("packets", |r| {
        r.counters.get(Counter::Received) >= before + 50
    });
    let counters = report.counters;
    assert!(counters.total(CounterKind::Passed) >= 50, "{counters:?}");
    assert!(counters.adds_up(), "{counters:?}");
    let indices = [daemon.index(0), daemon.index(1)];
    let first_program = xdp_program();
    drop(daemon);

    // Without a daemon: still attached, still counting.
    assert_eq!(xdp_program(), first_program);
    place.send(20);
    let status = l4::status(&spec.pin_path).unwrap();
    assert_eq!(status.interfaces[0].mode, AttachMode::Native);
    let maps = status.maps.unwrap();
    assert_eq!((maps.vips, maps.instances), (1, 2));
    assert!(maps.counters.get(Counter::Received) >= before + 70);

    // The next daemon keeps ids and figures, writes nothing but its program, and that in one step.
    let daemon = Daemon::start(&spec, &[1, 3]);
    let report = daemon.settled();
    assert_eq!([daemon.index(0), daemon.index(1)], indices);
    assert_eq!(report.reconcile.writes, 0);
    assert!(report.counters.get(Counter::Received) >= before + 70);
    assert_ne!(xdp_program(), first_program);
    assert_eq!(pins(&spec.pin_path), ["links", "maps-1-1"]);

    // Changes get there fast.
    let name = ServiceName::new("web").unwrap();
    let change = Change::Admin {
        service: name,
        instance: "10.77.0.11:8080".to_owned(),
        state: AdminState::Draining,
    };
    daemon.registry.apply(change).unwrap();
    let report = daemon.settled();
    assert!(
        report.reconcile.took < Duration::from_millis(100),
        "{:?}",
        report.reconcile
    );
    assert_eq!(report.vips[0].generation, 1);

    // Whoever takes it off while the daemon runs is believed.
    let detached = l4::detach(&spec.pin_path).unwrap();
    assert_eq!(detached.len(), 1);
    assert_eq!(xdp_program(), "none");
    let report = daemon.until("the loss", |report| report.mode.is_none());
    assert!(report.reason.contains("taken off lb0"), "{}", report.reason);
    drop(daemon);
    assert!(!spec.pin_path.exists());
    assert!(l4::detach(&spec.pin_path).unwrap().is_empty());
}

#[test]
fn other_sizes_move_to_other_maps_with_their_state() {
    let Some(place) = Place::make("sizes") else {
        return;
    };
    let spec = place.spec();
    let daemon = Daemon::start(&spec, &[1, 1]);
    daemon.settled();
    let index = daemon.index(1);
    place.send(30);
    let received = |r: &Report| r.counters.get(Counter::Received);
    let before = received(&daemon.until("packets", |r| received(r) >= 30));
    drop(daemon);
    let larger = DatapathSpec {
        max_connections: 8192,
        max_tables: 16,
        ..spec.clone()
    };
    let daemon = Daemon::start(&larger, &[1, 1]);
    let report = daemon.settled();
    assert_eq!((report.connections.max, report.tables_max), (8192, 16));
    assert_eq!(daemon.index(1), index);
    assert!(received(&report) >= before);
    assert_eq!(pins(&spec.pin_path), ["links", "maps-1-2"]);
    let program = xdp_program();
    place.send(5);
    daemon.until("packets in the new maps", |r| received(r) >= before + 5);
    drop(daemon);
    assert_eq!(xdp_program(), program);
}

#[test]
fn interfaces_and_modes_follow_the_configuration() {
    let Some(place) = Place::make("modes") else {
        return;
    };
    ip("link add other0 type veth peer name other1");
    let mut spec = place.spec();
    spec.interfaces.push("other0".to_owned());
    let daemon = Daemon::start(&spec, &[1]);
    assert_eq!(daemon.settled().interfaces.len(), 2);
    drop(daemon);
    spec.interfaces.pop();
    spec.mode = DatapathMode::Generic;
    let daemon = Daemon::start(&spec, &[1]);
    let report = daemon.settled();
    assert_eq!(report.mode, Some(AttachMode::Generic));
    assert_eq!(report.interfaces.len(), 1);
    drop(daemon);
    assert_eq!(pins(&spec.pin_path.join("links")).len(), 1);
    // Off takes everything off.
    spec.mode = DatapathMode::Off;
    assert!(l4::open(&spec, false).unwrap().reason().is_some());
    assert_eq!(xdp_program(), "none");
    assert!(matches!(l4::open(&spec, true), Err(L4Error::Off)));
}

#[test]
fn what_is_missing_is_said() {
    let Some(place) = Place::make("missing") else {
        return;
    };
    let mut spec = place.spec();
    spec.interfaces = vec!["nothing0".to_owned()];
    let error = l4::open(&spec, true).unwrap_err().to_string();
    assert!(error.contains("\"nothing0\""), "{error}");
    spec.mode = DatapathMode::Auto;
    let opened = l4::open(&spec, true).unwrap();
    assert!(opened.reason().unwrap().contains("\"nothing0\""));
    // Somebody else's program on the interface.
    let first = Daemon::start(&place.spec(), &[1]);
    first.settled();
    let spec = DatapathSpec {
        pin_path: place.pins.with_extension("").join("elsewhere"),
        ..place.spec()
    };
    let error = l4::open(&spec, true).unwrap_err().to_string();
    assert!(error.contains("lb0") && error.contains("native"), "{error}");
    let _ = l4::detach(&spec.pin_path);
    assert!(UdpSocket::bind((BALANCER, 0)).is_ok());
}
