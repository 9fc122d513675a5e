//! The packet path in the kernel, driven by the daemon's library in the test's own process.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use lb_common::Counters;
use lb_userspace::{
    l4::{self, Handle, Report},
    model::{
        AdminState, Clock, DatapathMode, DatapathSpec, Endpoint, InstanceSpec, Ports, Protocol,
        ServiceName, ServiceSpec, VipSpec,
    },
    registry::{Change, Desired, Registry},
};
use tokio::sync::oneshot;

use crate::client::tcp;
use crate::instance::{self, Instance};
use crate::topology::{INTERFACE, Topology};

/// The VIP of TCP and UDP services alike.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The address that clients connect to.
#[must_use]
pub const fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(VIP), port)
}

/// A network with running instances, and a place to pin to.
#[derive(Debug)]
pub struct Place {
    /// The namespaces.
    pub topology: Topology,
    _instances: Vec<Instance>,
    /// Where to pin.
    pub pins: PathBuf,
}

impl Place {
    /// Makes it.
    ///
    /// # Errors
    /// When the kernel refuses, or an instance does not start.
    pub fn make() -> Result<Self> {
        let topology = Topology::new(2)?;
        let balancer = &topology.balancer.namespace;
        balancer.sysctl("ipv4/conf/all/forwarding", "1")?;
        topology.route_to_balancer(VIP.into())?;
        let instances = topology.instances.iter();
        let instances = instances
            .map(|host| Instance::start(host, &[]))
            .collect::<Result<_>>()?;
        let pins = PathBuf::from(format!("/sys/fs/bpf/lb-test-{}", balancer.name()));
        Ok(Self {
            topology,
            _instances: instances,
            pins,
        })
    }

    /// Does `work` in the balancer's namespace.
    ///
    /// # Errors
    /// What `work` finds wrong.
    pub fn balancer(&self, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        self.topology.balancer.namespace.enter(work)?
    }

    /// How the packet path is to be.
    #[must_use]
    pub fn spec(&self) -> DatapathSpec {
        DatapathSpec {
            mode: DatapathMode::Native,
            interfaces: vec![INTERFACE.to_owned()],
            max_connections: 4096,
            max_tables: 8,
            pin_path: self.pins.clone(),
            ..DatapathSpec::default()
        }
    }

    /// Opens TCP connections through the VIP; how many went to the first instance.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn connect(&self, count: u32) -> Result<u64> {
        let client = &self.topology.client.namespace;
        let tally = tcp::connections(client, vip(instance::TCP), count)?;
        ensure!(tally.failures().is_empty(), "connections failed: {tally}");
        ensure!(
            tally.total() == u64::from(count),
            "connections are missing: {tally}"
        );
        Ok(tally.of("i1"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = l4::detach(&self.pins);
    }
}

/// A daemon's packet path; when it is dropped the daemon is gone and the rest stays.
#[derive(Debug)]
pub struct Daemon {
    /// What it is told.
    pub registry: Arc<Registry>,
    handle: Handle,
    /// What it runs on.
    pub runtime: tokio::runtime::Runtime,
    clock: Clock,
    _end: oneshot::Sender<()>,
}

impl Daemon {
    /// A daemon with both services, whose instances have these weights.
    ///
    /// # Errors
    /// When there is no packet path.
    pub fn start(spec: &DatapathSpec, weights: [u16; 2]) -> Result<Self> {
        Self::start_by(Clock::real(), spec, weights)
    }

    /// The same by a clock of the test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_by(clock: Clock, spec: &DatapathSpec, weights: [u16; 2]) -> Result<Self> {
        Self::start_as(clock, spec, desired(weights)?)
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(clock: Clock, spec: &DatapathSpec, desired: Desired) -> Result<Self> {
        // One thread: a worker thread would be in another network namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let opened = l4::open(spec, true)?;
        ensure!(
            opened.reason().is_none(),
            "no packet path: {:?}",
            opened.reason()
        );
        let registry = Arc::new(Registry::new(1, opened.known.iter().copied()));
        registry.apply(Change::Configure(Box::new(desired)))?;
        let (end, ended) = oneshot::channel();
        let shutdown = async {
            let _ = ended.await;
        };
        let run = async { l4::run(opened, Arc::clone(&registry), clock.clone(), 1, shutdown) };
        let handle = runtime.block_on(run)?.handle;
        Ok(Self {
            registry,
            handle,
            runtime,
            clock,
            _end: end,
        })
    }

    /// The report once it says what is expected.
    ///
    /// # Errors
    /// When it does not say so within seconds.
    pub fn until(&self, what: &str, expected: impl Fn(&Report) -> bool) -> Result<Arc<Report>> {
        self.runtime.block_on(async {
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let report = self.handle.fresh(self.clock.now()).await;
                if expected(&report) {
                    return Ok(report);
                }
            }
            anyhow::bail!("waited in vain for {what}: {:#?}", self.handle.report());
        })
    }

    /// The report once the kernel holds the current snapshot.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn settled(&self) -> Result<Arc<Report>> {
        let revision = self.registry.snapshot().revision;
        self.until("the snapshot", |report| {
            report.reconcile.revision == revision
        })
    }

    /// Sets the state of the first instance of the TCP service.
    ///
    /// # Errors
    /// When there is none.
    pub fn admin(&self, state: AdminState) -> Result<()> {
        self.registry.apply(Change::Admin {
            service: ServiceName::new("web-tcp")?,
            instance: format!("10.77.0.11:{}", instance::TCP),
            state,
        })?;
        Ok(())
    }

    /// The indices of all instances.
    #[must_use]
    pub fn indices(&self) -> Vec<u16> {
        let snapshot = self.registry.snapshot();
        let members = snapshot.services.iter().flat_map(|s| s.members.iter());
        members.map(|member| member.instance.id.index).collect()
    }
}

impl Drop for Daemon {
    /// As of [`crate::daemon::Daemon`].
    ///
    /// # Panics
    /// When packets are not accounted for.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let counters = self.runtime.block_on(async {
            let mut counters = Counters::default();
            for _ in 0..20 {
                counters = self.handle.fresh(self.clock.now()).await.counters;
                if counters.adds_up() {
                    break;
                }
                // The next report is read anew.
                tokio::time::sleep(Duration::from_millis(110)).await;
            }
            counters
        });
        assert!(counters.adds_up(), "packets are missing: {counters:?}");
    }
}

/// The configuration of [`desired`].
///
/// # Errors
/// Never: all of it is valid.
pub fn configuration(weights: [u16; 2]) -> Result<Change> {
    Ok(Change::Configure(Box::new(desired(weights)?)))
}

/// A service for TCP and one for UDP, each over both instances with these weights.
///
/// # Errors
/// Never: all of it is valid.
pub fn desired(weights: [u16; 2]) -> Result<Desired> {
    let mut desired = Desired::default();
    for (name, port, protocol) in [
        ("web-tcp", instance::TCP, Protocol::Tcp),
        ("web-udp", instance::UDP, Protocol::Udp),
    ] {
        let name = ServiceName::new(name)?;
        let mut instances = Vec::new();
        for (weight, host) in weights.into_iter().zip(11..) {
            instances.push(InstanceSpec::new(
                Endpoint::parse(&format!("10.77.0.{host}:{port}"))?,
                weight,
            ));
        }
        desired.services.push(ServiceSpec {
            instances,
            ..ServiceSpec::new(name.clone())
        });
        desired.vips.push(VipSpec {
            address: VIP.into(),
            ports: Ports::One(port),
            protocol,
            service: name,
        });
    }
    Ok(desired)
}

/// The names of what is pinned in a folder.
///
/// # Errors
/// When it cannot be read.
pub fn pins(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What a set of maps of this layout is pinned as.
#[must_use]
pub fn ours(number: u32) -> String {
    format!("maps-{}-{number}", lb_common::ABI)
}

/// The sets of maps that are pinned.
///
/// # Errors
/// When the folder cannot be read.
pub fn sets(path: &Path) -> Result<Vec<PathBuf>> {
    let names = pins(path)?.into_iter();
    let sets = names.filter(|name| name.starts_with("maps-"));
    Ok(sets.map(|name| path.join(name)).collect())
}
