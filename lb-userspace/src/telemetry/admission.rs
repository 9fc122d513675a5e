//! Metrics of what may enter: limits and how much of them is used.

use std::sync::Arc;

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
};
use crate::{
    model::{UNLIMITED, measure::LATENCY_BOUNDS_US},
    registry::{Registry, Service},
    resilience::RateLimiter,
};

/// Reads a registry at each scrape.
#[derive(Debug)]
pub(super) struct AdmissionCollector {
    registry: Arc<Registry>,
    descriptions: Vec<Desc>,
}

impl AdmissionCollector {
    pub(super) fn new(registry: Arc<Registry>) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::CONNECTIONS,
            &names::CONNECTIONS_IDLE,
            &names::CONNECTIONS_MAX,
            &names::SERVICE_CONNECTIONS_MAX,
            &names::CONCURRENCY_LIMIT,
            &names::QUEUE_WAITING,
            &names::QUEUE_WAIT,
            &names::RATE_LIMITED,
            &names::RATE_LIMIT_CROWDED,
        ])?;
        Ok(Self {
            registry,
            descriptions,
        })
    }
}

impl Collector for AdmissionCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.registry.snapshot();
        let mut connections = ConnectionSamples::new();
        let mut waiting = Samples::new(&names::QUEUE_WAITING);
        let mut waits = Samples::new(&names::QUEUE_WAIT);
        let mut limits = Samples::new(&names::CONCURRENCY_LIMIT);
        for service in &snapshot.services {
            connections.add_service(service);
            if let Some(spec) = &service.spec.concurrency {
                let limit = service.admission.concurrency().limit(spec);
                limits.add(&[service.name().as_str()], f64::from(limit));
            }
            if service.spec.queue.is_none() {
                continue;
            }
            let (name, queue) = (service.name().as_str(), service.admission.queue());
            waiting.add(&[name], f64::from(queue.waiting()));
            let (counts, sum_us) = queue.waits().read();
            let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
            waits.add_histogram(&[name], bounds, &counts, sum_us as f64 / 1e6);
        }
        let mut limited = Samples::new(&names::RATE_LIMITED);
        let mut crowded = Samples::new(&names::RATE_LIMIT_CROWDED);
        for limiter in snapshot.rate_limits.all() {
            let limit = text(limiter);
            let labels = [limiter.scope.as_str(), &limiter.name, &limit];
            limited.add(&labels, limiter.refused() as f64);
            crowded.add(&labels, limiter.crowded() as f64);
        }
        let rest = [limits, waiting, waits, limited, crowded];
        let all = connections.all.into_iter().chain(rest);
        all.map(Samples::finish).collect()
    }
}

/// The families of the proxy's connections to instances.
struct ConnectionSamples {
    all: [Samples; 4],
}

impl ConnectionSamples {
    const fn new() -> Self {
        Self {
            all: [
                Samples::new(&names::CONNECTIONS),
                Samples::new(&names::CONNECTIONS_IDLE),
                Samples::new(&names::CONNECTIONS_MAX),
                Samples::new(&names::SERVICE_CONNECTIONS_MAX),
            ],
        }
    }

    fn add_service(&mut self, service: &Service) {
        let [open, idle, most, of_service] = &mut self.all;
        let name = service.name().as_str();
        for member in service.members.iter() {
            let labels = [name, member.instance.endpoint.name()];
            let connections = &member.instance.connections;
            open.add(&labels, f64::from(connections.open()));
            idle.add(&labels, f64::from(connections.idle()));
            let limit = member.most_connections.instance;
            if limit != UNLIMITED {
                most.add(&labels, f64::from(limit));
            }
        }
        if let Some(limit) = service.spec.limits.connections {
            of_service.add(&[name], f64::from(limit.get()));
        }
    }
}

/// A limit among those of its scope: `client 100/1m`.
fn text(limiter: &RateLimiter) -> String {
    let spec = &limiter.spec;
    let per = humantime::format_duration(spec.per);
    format!("{} {}/{}", spec.key, spec.requests, per)
}
