//! Metrics of the sources of instances.

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
};
use crate::{
    discovery::{Handle, SourceState},
    model::Clock,
};

/// Reads how sources do at each scrape.
#[derive(Debug)]
pub(super) struct DiscoveryCollector {
    sources: Handle,
    clock: Clock,
    descriptions: Vec<Desc>,
}

impl DiscoveryCollector {
    pub(super) fn new(sources: Handle, clock: Clock) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::DISCOVERY_STATE,
            &names::DISCOVERY_INSTANCES,
            &names::DISCOVERY_LOOKS,
            &names::DISCOVERY_AGE,
        ])?;
        Ok(Self {
            sources,
            clock,
            descriptions,
        })
    }
}

impl Collector for DiscoveryCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.clock.now();
        let mut states = Samples::new(&names::DISCOVERY_STATE);
        let mut instances = Samples::new(&names::DISCOVERY_INSTANCES);
        let mut looks = Samples::new(&names::DISCOVERY_LOOKS);
        let mut ages = Samples::new(&names::DISCOVERY_AGE);
        for (service, source, report) in self.sources.sources() {
            let target = source.target();
            let labels = [service.as_str(), source.kind(), &target];
            for state in SourceState::ALL {
                let is = f64::from(u8::from(report.state == state));
                states.add(&[labels[0], labels[1], labels[2], state.as_str()], is);
            }
            let count = report.instances.map_or(0, |set| set.len());
            instances.add(&labels, count as f64);
            for (result, count) in [("succeeded", report.successes), ("failed", report.failures)] {
                looks.add(&[labels[0], labels[1], labels[2], result], count as f64);
            }
            if let Some(good) = report.good {
                ages.add(&labels, (now - good).as_secs_f64());
            }
        }
        [states, instances, looks, ages]
            .map(Samples::finish)
            .to_vec()
    }
}
