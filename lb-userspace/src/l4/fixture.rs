//! Snapshots for the tests of this folder, made by the registry as in the daemon.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::plan::{Host, Plan, plan};
use crate::{
    model::{
        AdminState, Algorithm, DatapathSpec, Endpoint, Health, HealthCheckSpec, InstanceId,
        InstanceSpec, Ports, Protocol, ServiceName, ServiceSpec, VipSpec,
    },
    registry::{Change, Desired, KnownId, Registry, Snapshot},
};

pub(crate) const A: &str = "10.0.0.1:80";
pub(crate) const B: &str = "10.0.0.2:80";
pub(crate) const C: &str = "10.0.0.3:80";

pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn service(name: &str, algorithm: Algorithm, members: &[(&str, u16)]) -> ServiceSpec {
    ServiceSpec {
        algorithm,
        health_check: Some(HealthCheckSpec::default()),
        instances: members
            .iter()
            .map(|(endpoint, weight)| {
                InstanceSpec::new(Endpoint::parse(endpoint).unwrap(), *weight)
            })
            .collect(),
        ..ServiceSpec::new(self::name(name))
    }
}

pub(crate) fn vip(address: &str, protocol: Protocol, service: &str) -> VipSpec {
    let address: std::net::SocketAddr = address.parse().unwrap();
    VipSpec {
        address: address.ip(),
        ports: Ports::One(address.port()),
        protocol,
        service: name(service),
    }
}

pub(crate) fn host() -> Host {
    Host {
        spec: DatapathSpec {
            interfaces: vec!["eth0".to_owned()],
            ..DatapathSpec::default()
        },
        addresses: ["10.0.9.1", "fe80::1", "fd00::9"]
            .map(|text| text.parse::<IpAddr>().unwrap())
            .to_vec(),
        not_forwarding: Vec::new(),
        vlans: Some(BTreeMap::new()),
        untold: None,
    }
}

/// A registry with words for what tests do to it.
#[derive(Debug)]
pub(crate) struct World(pub(crate) Arc<Registry>);

impl World {
    pub(crate) fn new(services: Vec<ServiceSpec>, vips: Vec<VipSpec>) -> Self {
        Self::knowing([], services, vips)
    }

    pub(crate) fn knowing(
        known: impl IntoIterator<Item = KnownId>,
        services: Vec<ServiceSpec>,
        vips: Vec<VipSpec>,
    ) -> Self {
        let world = Self(Arc::new(Registry::new(1, known)));
        world.configure(services, vips);
        world
    }

    pub(crate) fn configure(&self, services: Vec<ServiceSpec>, vips: Vec<VipSpec>) {
        let desired = Desired {
            services,
            vips,
            ..Desired::default()
        };
        self.apply(Change::Configure(Box::new(desired)));
    }

    pub(crate) fn apply(&self, change: Change) {
        self.0.apply(change).unwrap();
    }

    pub(crate) fn admin(&self, service: &str, instance: &str, state: AdminState) {
        self.apply(Change::Admin {
            service: name(service),
            instance: instance.to_owned(),
            state,
        });
    }

    pub(crate) fn algorithm(&self, service: &str, algorithm: Algorithm) {
        let service = name(service);
        self.apply(Change::Algorithm { service, algorithm });
    }

    pub(crate) fn health(&self, service: &str, instance: &str, health: Health) {
        let id = self.id(service, instance);
        let detail = "test".into();
        self.apply(Change::Health { id, health, detail });
    }

    pub(crate) fn id(&self, service: &str, instance: &str) -> InstanceId {
        let snapshot = self.snapshot();
        let service = snapshot.service(service).unwrap();
        service.members[service.find(instance).unwrap()].instance.id
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.snapshot(), &host())
    }
}
