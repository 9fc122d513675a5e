//! Metrics of what clients see of each service: traffic, errors, time.

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
    model::{Class, measure::LATENCY_BOUNDS_US},
    registry::Registry,
};

/// Reads a registry at each scrape.
#[derive(Debug)]
pub(super) struct ServedCollector {
    registry: Arc<Registry>,
    descriptions: Vec<Desc>,
}

impl ServedCollector {
    pub(super) fn new(registry: Arc<Registry>) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::SERVED,
            &names::SERVED_DURATION,
            &names::SERVED_CUT,
            &names::SERVED_RECEIVED,
            &names::SERVED_SENT,
        ])?;
        Ok(Self {
            registry,
            descriptions,
        })
    }
}

impl Collector for ServedCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut requests = Samples::new(&names::SERVED);
        let mut durations = Samples::new(&names::SERVED_DURATION);
        let mut cut = Samples::new(&names::SERVED_CUT);
        let mut received = Samples::new(&names::SERVED_RECEIVED);
        let mut sent = Samples::new(&names::SERVED_SENT);
        for service in &self.registry.snapshot().services {
            let (name, counts) = (service.name().as_str(), service.served.read());
            for (class, count) in Class::ALL.iter().zip(counts.classes) {
                requests.add(&[name, class.label()], count as f64);
            }
            let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
            let sum = counts.duration_us as f64 / 1e6;
            durations.add_histogram(&[name], bounds, &counts.durations, sum);
            cut.add(&[name], counts.cut as f64);
            received.add(&[name], counts.received as f64);
            sent.add(&[name], counts.sent as f64);
        }
        let all = [requests, durations, cut, received, sent];
        all.map(Samples::finish).into()
    }
}
