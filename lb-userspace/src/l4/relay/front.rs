//! VIPs as the relay serves them: which sockets they need, and what is counted for them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    balance::{self, Balancer},
    model::{Algorithm, Ports, RelayRefusal, VipSpec},
    registry::{Service, Snapshot},
};

/// What is counted for a VIP. Bytes come in once a second and at the end of each connection, so no
/// worker writes here for every piece that it passes on.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) live: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    refused: [AtomicU64; RelayRefusal::ALL.len()],
}

impl Counts {
    /// Counts a client that was turned away.
    pub(crate) fn refuse(&self, why: RelayRefusal) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    /// Clients that were turned away, by [`RelayRefusal::ALL`].
    pub(crate) fn refusals(&self) -> [u64; RelayRefusal::ALL.len()] {
        std::array::from_fn(|why| self.refused[why].load(Relaxed))
    }
}

/// A VIP that is relayed.
#[derive(Debug)]
pub(crate) struct Front {
    /// As configured.
    pub(crate) spec: VipSpec,
    /// What was counted; kept when the VIP leads to another service.
    pub(crate) counts: Arc<Counts>,
    /// The service that serves it: the one that it leads to, or its fallback in its place.
    pub(crate) service: Arc<Service>,
    /// The other one of the two, whose connections go on.
    other: Option<Arc<Service>>,
    /// What chooses among its members.
    pub(crate) balancer: Arc<dyn Balancer>,
}

/// The service that would serve in the place of this one.
fn fallback<'a>(snapshot: &'a Snapshot, service: &Service) -> Option<&'a Arc<Service>> {
    snapshot.service(service.spec.fallback.as_ref()?.as_str())
}

/// The service that serves a VIP, and the one that would in its place, or whose place it has taken; `None` when
/// the VIP cannot be relayed.
fn services<'a>(
    snapshot: &'a Snapshot,
    spec: &VipSpec,
) -> Option<(&'a Arc<Service>, Option<&'a Arc<Service>>)> {
    if spec.relay_obstacle().is_some() {
        return None;
    }
    // The registry refuses VIPs that lead nowhere.
    let service = snapshot.service(spec.service.as_str())?;
    Some(match snapshot.instead_of(spec.service.as_str()) {
        Some(instead) => (instead, Some(service)),
        None => (service, fallback(snapshot, service)),
    })
}

/// The VIP that connections to an address and port are for, and the service that serves it.
pub(super) fn serving(snapshot: &Snapshot, at: SocketAddr) -> Option<(&VipSpec, &Arc<Service>)> {
    let holds = |spec: &&VipSpec| spec.address == at.ip() && spec.ports.hold(at.port());
    let all = snapshot.vips.iter().filter(holds);
    let all = all.filter_map(|spec| Some((spec, services(snapshot, spec)?.0)));
    // One port comes before a range that holds it.
    all.min_by_key(|(spec, _)| !matches!(spec.ports, Ports::One(_)))
}

/// The service's own balancer, but for the bound of consistent hashing: the kernel has none, and with
/// one a client would lose its instance for want of other clients.
fn balancer(service: &Service, workers: usize) -> Arc<dyn Balancer> {
    unbounded(service, workers).unwrap_or_else(|| Arc::clone(&service.balancer))
}

/// One like it that serves nobody. For one thread.
pub(super) fn rehearsal(service: &Service) -> Arc<dyn Balancer> {
    unbounded(service, 1).unwrap_or_else(|| service.rehearsal())
}

fn unbounded(service: &Service, workers: usize) -> Option<Arc<dyn Balancer>> {
    let algorithm = service.spec.algorithm;
    let is_bounded = algorithm == Algorithm::ConsistentHash && service.spec.bound().is_some();
    is_bounded.then(|| balance::build_bounded(algorithm, &service.members, workers, None))
}

impl Front {
    /// The services whose instances have its connections.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        [Some(&self.service), self.other.as_ref()]
            .into_iter()
            .flatten()
    }

    /// Where its connections to `endpoint` go that clients have made to `port`: a VIP of several
    /// ports keeps them, as in the kernel.
    pub(crate) const fn target(&self, endpoint: SocketAddr, port: u16) -> SocketAddr {
        match self.spec.ports {
            Ports::One(_) => endpoint,
            Ports::Range(..) | Ports::Any => SocketAddr::new(endpoint.ip(), port),
        }
    }
}

/// All VIPs that are relayed, and whose each address and port is.
#[derive(Debug, Default)]
pub(crate) struct Fronts {
    all: Vec<Arc<Front>>,
    by_address: BTreeMap<SocketAddr, usize>,
}

impl Fronts {
    /// Those of `snapshot` for so many workers, with what `self` has counted for the same address and
    /// ports.
    pub(crate) fn follow(&self, snapshot: &Snapshot, workers: usize) -> Self {
        let mut next = Self::default();
        for spec in snapshot.vips.iter() {
            if let Some(services) = services(snapshot, spec) {
                next.all.push(self.front(spec, services, workers));
            }
        }
        // One port comes before a range that holds it.
        next.all
            .sort_by_key(|front| matches!(front.spec.ports, Ports::One(_)));
        for (position, front) in next.all.iter().enumerate() {
            let (first, last) = front.spec.ports.ends();
            let addresses = (first..=last).map(|port| SocketAddr::new(front.spec.address, port));
            next.by_address
                .extend(addresses.map(|address| (address, position)));
        }
        next
    }

    fn front(
        &self,
        spec: &VipSpec,
        (service, other): (&Arc<Service>, Option<&Arc<Service>>),
        workers: usize,
    ) -> Arc<Front> {
        let key = |spec: &VipSpec| -> (IpAddr, Ports) { (spec.address, spec.ports) };
        let known = self.all.iter().find(|front| key(&front.spec) == key(spec));
        if let Some(front) = known
            && front.spec == *spec
            && Arc::ptr_eq(&front.service, service)
            && front.other.as_ref().map(Arc::as_ptr) == other.map(Arc::as_ptr)
        {
            return Arc::clone(front);
        }
        Arc::new(Front {
            spec: spec.clone(),
            counts: known.map_or_else(Arc::default, |front| Arc::clone(&front.counts)),
            service: Arc::clone(service),
            other: other.cloned(),
            balancer: balancer(service, workers),
        })
    }

    /// The VIP of an address and port.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Arc<Front>> {
        self.by_address.get(&address).map(|at| &self.all[*at])
    }

    /// What has to be listened at.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.by_address.keys().copied()
    }

    /// The VIPs.
    pub(crate) fn all(&self) -> &[Arc<Front>] {
        &self.all
    }

    /// Whether connections of `front` may go on: its VIP has been there ever since, leading to the
    /// same service.
    pub(crate) fn keeps(&self, front: &Front) -> bool {
        self.all.iter().any(|other| {
            Arc::ptr_eq(&other.counts, &front.counts) && other.spec.service == front.spec.service
        })
    }
}
