//! Systems beside lb as they are: well, slow, lying, gone, and back again. The peers are real
//! sockets that speak, or do not speak, HTTP byte by byte.

mod breaker;
mod exchange;
mod metrics;
mod peer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};

use self::peer::Peer;
use super::*;
use crate::{
    model::{
        Algorithm, BreakerBackendSpec, Endpoint, HttpUrl, Instance, InstanceSpec, IntegrationSpec,
        MetricsBackendSpec, Outcome, ServiceName, ServiceSpec,
    },
    registry::{Change, Desired, Service},
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// From one question or collection to the next.
const INTERVAL: Duration = Duration::from_millis(20);

/// Integrations at work over a registry with the service `web`.
struct World {
    registry: Arc<Registry>,
    clock: Clock,
    integrations: Arc<Integrations>,
    desired: Desired,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl World {
    fn new(integration: IntegrationSpec) -> Self {
        let registry = Arc::new(Registry::new(1, []));
        let name = ServiceName::new("web").unwrap();
        let instance = |text| InstanceSpec::new(Endpoint::parse(text).unwrap(), 1);
        let desired = Desired {
            services: vec![ServiceSpec {
                instances: vec![instance("127.0.0.1:1"), instance("127.0.0.1:2")],
                ..ServiceSpec::new(name)
            }],
            integration,
            ..Desired::default()
        };
        registry
            .apply(Change::Configure(Box::new(desired.clone())))
            .unwrap();
        let (clock, integrations) = (Clock::real(), Arc::<Integrations>::default());
        let (stop, stopped) = watch::channel(false);
        let source: Source = Arc::new(metrics::source);
        let running = tokio::spawn(run(
            Arc::clone(&registry),
            clock.clone(),
            source,
            Spans::none(),
            Arc::clone(&integrations),
            stopped,
        ));
        Self {
            registry,
            clock,
            integrations,
            desired,
            stop,
            running,
        }
    }

    fn reload(&mut self, change: impl FnOnce(&mut Desired)) {
        change(&mut self.desired);
        let change = Change::Configure(Box::new(self.desired.clone()));
        self.registry.apply(change).unwrap();
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.registry.snapshot().services[0])
    }

    fn instance(&self, position: usize) -> Arc<Instance> {
        Arc::clone(&self.service().members[position].instance)
    }

    fn is_refused(&self) -> bool {
        self.service().guard.refused(self.clock.now()).is_some()
    }

    /// Requests that an instance has served.
    fn serve(&self, instance: &Arc<Instance>, outcome: Outcome, count: u32) {
        for _ in 0..count {
            instance
                .begin(Algorithm::RoundRobin, 0, &self.clock)
                .judge(outcome);
        }
    }

    /// Ends everything as the daemon does, and waits until that is done.
    async fn end(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Waits until `holds`.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn url(peer: &Peer) -> HttpUrl {
    HttpUrl::parse(&format!("http://{}", peer.address)).unwrap()
}

/// A circuit-breaker backend.
fn asks(peer: &Peer) -> BreakerBackendSpec {
    BreakerBackendSpec {
        url: url(peer),
        check_interval: INTERVAL,
        timeout: Duration::from_millis(200),
        status_path: "/cb/{service}".to_owned(),
        events_path: None,
        queue: 100,
    }
}

/// A metrics backend.
fn pushes(peer: &Peer) -> MetricsBackendSpec {
    MetricsBackendSpec {
        url: url(peer),
        interval: INTERVAL,
        timeout: Duration::from_millis(200),
        path: "/monitoring/metrics".to_owned(),
        include: vec!["gateway_*".to_owned()],
        queue: 3,
    }
}
