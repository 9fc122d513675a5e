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
use crate::{model::measure::LATENCY_BOUNDS_US, registry::Registry, resilience::RateLimiter};

/// Reads a registry at each scrape.
#[derive(Debug)]
pub(super) struct AdmissionCollector {
    registry: Arc<Registry>,
    descriptions: Vec<Desc>,
}

impl AdmissionCollector {
    pub(super) fn new(registry: Arc<Registry>) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
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
        let mut waiting = Samples::new(&names::QUEUE_WAITING);
        let mut waits = Samples::new(&names::QUEUE_WAIT);
        let mut limits = Samples::new(&names::CONCURRENCY_LIMIT);
        for service in &snapshot.services {
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
        [limits, waiting, waits, limited, crowded]
            .map(Samples::finish)
            .to_vec()
    }
}

/// A limit among those of its scope: `client 100/1m`.
fn text(limiter: &RateLimiter) -> String {
    let spec = &limiter.spec;
    let per = humantime::format_duration(spec.per);
    format!("{} {}/{}", spec.key, spec.requests, per)
}
