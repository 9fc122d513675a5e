//! A packet path with its control plane, in this process, whose changes are watched on their way.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::loaded_maps;
use lb_userspace::l4::{self, Handle};
use lb_userspace::model::{
    AdminState, Clock, DatapathMode, DatapathSpec, Endpoint, InstanceSpec, Ports, Protocol,
    ServiceName, ServiceSpec, VipSpec,
};
use lb_userspace::registry::{Change as RegistryChange, Desired, Registry};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::topology::{INTERFACE, Topology};

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two changes.
const REST: Duration = Duration::from_millis(1200);

const PORT: u16 = 80;

/// What a change has cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// From the order until the kernel has it, so that packets go by it.
    pub(super) whole: Duration,
    /// Bringing it into the kernel alone.
    pub(super) kernel: Duration,
    /// Values that were written, a system call each.
    pub(super) writes: u64,
}

/// What changes: of an instance of the first service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Drain,
    Enable,
    Weight,
}

/// The control plane and the packet path.
pub(super) struct Live {
    registry: Arc<Registry>,
    handle: Handle,
    runtime: Runtime,
    desired: Desired,
    clock: Clock,
    /// The latest map that was there before.
    pub(super) since: u32,
    _end: oneshot::Sender<()>,
}

impl Live {
    /// Does `work` with one that has defaults and no VIPs, in a network made for it.
    pub(super) fn in_network(work: impl FnOnce(&mut Self) -> Result<()> + Send) -> Result<()> {
        let topology = Topology::new(1)?;
        let balancer = &topology.balancer.namespace;
        let pins = PathBuf::from(format!("/sys/fs/bpf/lb-test-{}", balancer.name()));
        let done = balancer.enter(|| work(&mut Self::start(&pins)?));
        l4::detach(&pins)?;
        done?
    }

    fn start(pins: &std::path::Path) -> Result<Self> {
        // One thread: a worker thread would be in another network namespace.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let spec = DatapathSpec {
            mode: DatapathMode::Native,
            interfaces: vec![INTERFACE.to_owned()],
            pin_path: pins.to_owned(),
            ..DatapathSpec::default()
        };
        let ids = loaded_maps().map(|map| map.map(|map| map.id()));
        let since = ids.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        let opened = l4::open(&spec, true)?;
        ensure!(
            opened.reason().is_none(),
            "no packet path: {:?}",
            opened.reason()
        );
        let registry = Arc::new(Registry::new(1, opened.known.iter().copied()));
        let (end, ended) = oneshot::channel();
        let shutdown = async {
            let _ = ended.await;
        };
        let clock = Clock::real();
        let run = async { l4::run(opened, Arc::clone(&registry), clock.clone(), 1, shutdown) };
        let handle = runtime.block_on(run)?.handle;
        let live = Self {
            registry,
            handle,
            runtime,
            desired: Desired::default(),
            clock,
            since: since.unwrap_or(0),
            _end: end,
        };
        live.apply(RegistryChange::Configure(Box::default()))?;
        Ok(live)
    }

    /// Serves so many VIPs, each with a service of its own with so many instances.
    pub(super) fn serve(&mut self, services: u16, instances: u16) -> Result<()> {
        for service in 0..services {
            let name = ServiceName::new(&format!("service-{service}"))?;
            let endpoint = |number: u16| Endpoint::parse(&at(number));
            let members: Result<Vec<_>, _> = (0..instances)
                .map(|number| endpoint(number).map(|at| InstanceSpec::new(at, 100)))
                .collect();
            self.desired.services.push(ServiceSpec {
                instances: members?,
                ..ServiceSpec::new(name.clone())
            });
            let [high, low] = service.to_be_bytes();
            self.desired.vips.push(VipSpec {
                address: Ipv4Addr::new(10, 99, high, low).into(),
                ports: Ports::One(PORT),
                protocol: Protocol::Tcp,
                service: name,
            });
        }
        let all = RegistryChange::Configure(Box::new(self.desired.clone()));
        self.apply(all).map(drop)
    }

    /// Changes something of the instance with this number: of another one each time, or the kernel would
    /// have the table still from the last time.
    pub(super) fn change(&mut self, change: Change, number: u16) -> Result<Cost> {
        let first = self.desired.services.first_mut().context("no service")?;
        let admin = |state| RegistryChange::Admin {
            service: first.name.clone(),
            instance: at(number),
            state,
        };
        let change = match change {
            Change::Drain => admin(AdminState::Draining),
            Change::Enable => admin(AdminState::Enabled),
            Change::Weight => {
                let instance = first.instances.get_mut(usize::from(number));
                let instance = instance.context("no such instance")?;
                instance.weight = if instance.weight == 100 { 50 } else { 100 };
                RegistryChange::Configure(Box::new(self.desired.clone()))
            }
        };
        self.rest();
        self.apply(change)
    }

    /// Waits until nothing is left to do of the changes before, for which the next one would have to wait:
    /// room for the tables of later changes is made after each.
    fn rest(&self) {
        let rest = async { tokio::time::sleep(REST).await };
        self.runtime.block_on(rest);
    }

    /// Makes a change and waits until the kernel has it.
    fn apply(&self, change: RegistryChange) -> Result<Cost> {
        let before = self.handle.report().reconcile.writes;
        let (begin, ordered) = (Instant::now(), self.clock.now());
        self.registry.apply(change)?;
        let revision = self.registry.snapshot().revision;
        loop {
            let report = self.runtime.block_on(self.handle.holding(revision));
            if report.reconcile.revision >= revision {
                return Ok(Cost {
                    whole: report.reconcile.held - ordered,
                    kernel: report.reconcile.took,
                    writes: report.reconcile.writes - before,
                });
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "expected the kernel to hold revision {revision}, found {:?}",
                report.reconcile
            );
        }
    }
}

/// The endpoint of an instance.
fn at(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("10.98.{high}.{low}:{PORT}")
}
