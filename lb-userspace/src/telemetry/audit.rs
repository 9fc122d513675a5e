//! What the audit log has lost.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
};

/// Reads the audit log's own counter at each scrape.
#[derive(Debug)]
pub(super) struct AuditCollector {
    lost: Arc<AtomicU64>,
    descriptions: Vec<Desc>,
}

impl AuditCollector {
    pub(super) fn new(lost: Arc<AtomicU64>) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[&names::AUDIT_LOG_DROPPED])?;
        Ok(Self { lost, descriptions })
    }
}

impl Collector for AuditCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut lost = Samples::new(&names::AUDIT_LOG_DROPPED);
        lost.add(&[], self.lost.load(Relaxed) as f64);
        vec![lost.finish()]
    }
}
