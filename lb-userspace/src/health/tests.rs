//! Checks against sockets that behave in all the ways there are, and scores from traffic.

use std::sync::Arc;

use crate::{
    model::{Algorithm, Endpoint, HealthCheckSpec, InstanceSpec, ServiceName, ServiceSpec},
    registry::{Change, Desired, InstanceStatus, Registry},
};

mod breakers;
mod checks;
mod comebacks;
mod ejections;
mod scores;

fn service(
    name: &str,
    algorithm: Algorithm,
    health_check: Option<HealthCheckSpec>,
    endpoints: &[String],
) -> ServiceSpec {
    ServiceSpec {
        algorithm,
        health_check,
        instances: endpoints
            .iter()
            .map(|endpoint| InstanceSpec::new(Endpoint::parse(endpoint).unwrap(), 10))
            .collect(),
        ..ServiceSpec::new(ServiceName::new(name).unwrap())
    }
}

fn configure(registry: &Registry, services: Vec<ServiceSpec>) {
    registry
        .apply(Change::Configure(Box::new(Desired {
            services,
            ..Desired::default()
        })))
        .unwrap();
}

fn registry(services: Vec<ServiceSpec>) -> Arc<Registry> {
    let registry = Arc::new(Registry::new(1, []));
    configure(&registry, services);
    registry
}

fn status(registry: &Registry, instance: usize) -> InstanceStatus {
    registry.snapshot().services[0].statuses[instance].clone()
}
