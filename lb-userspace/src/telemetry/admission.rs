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
use crate::{registry::Registry, resilience::RateLimiter};

/// Reads a registry at each scrape.
#[derive(Debug)]
pub(super) struct AdmissionCollector {
    registry: Arc<Registry>,
    descriptions: Vec<Desc>,
}

impl AdmissionCollector {
    pub(super) fn new(registry: Arc<Registry>) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[&names::RATE_LIMITED, &names::RATE_LIMIT_CROWDED])?;
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
        let mut limited = Samples::new(&names::RATE_LIMITED);
        let mut crowded = Samples::new(&names::RATE_LIMIT_CROWDED);
        for limiter in snapshot.rate_limits.all() {
            let limit = text(limiter);
            let labels = [limiter.scope.as_str(), &limiter.name, &limit];
            limited.add(&labels, limiter.refused() as f64);
            crowded.add(&labels, limiter.crowded() as f64);
        }
        vec![limited.finish(), crowded.finish()]
    }
}

/// A limit among those of its scope: `client 100/1m`.
fn text(limiter: &RateLimiter) -> String {
    let spec = &limiter.spec;
    let per = humantime::format_duration(spec.per);
    format!("{} {}/{}", spec.key, spec.requests, per)
}
