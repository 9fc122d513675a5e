//! Metrics of systems beside lb: how lb fares with them.

use std::{
    sync::{Arc, OnceLock},
    time::UNIX_EPOCH,
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
};
use crate::{integration::Integrations, model::BreakerState};

/// Where the reports of the integrations are found once they run.
pub(crate) type Beside = Arc<OnceLock<Arc<Integrations>>>;

/// Reads the reports at each scrape.
#[derive(Debug)]
pub(super) struct IntegrationCollector {
    beside: Beside,
    descriptions: Vec<Desc>,
}

impl IntegrationCollector {
    pub(super) fn new(beside: Beside) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::INTEGRATION_EXCHANGES,
            &names::INTEGRATION_DELIVERED,
            &names::INTEGRATION_DROPPED,
            &names::INTEGRATION_WAITING,
            &names::INTEGRATION_SUCCESS,
            &names::BACKEND_BREAKER,
        ])?;
        Ok(Self {
            beside,
            descriptions,
        })
    }
}

impl Collector for IntegrationCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(integrations) = self.beside.get() else {
            return Vec::new();
        };
        let mut exchanges = Samples::new(&names::INTEGRATION_EXCHANGES);
        let mut delivered = Samples::new(&names::INTEGRATION_DELIVERED);
        let mut dropped = Samples::new(&names::INTEGRATION_DROPPED);
        let mut waiting = Samples::new(&names::INTEGRATION_WAITING);
        let mut success = Samples::new(&names::INTEGRATION_SUCCESS);
        for report in integrations.all() {
            let (name, last) = (report.name, report.last());
            exchanges.add(&[name, "succeeded"], report.succeeded() as f64);
            exchanges.add(&[name, "failed"], report.failed() as f64);
            delivered.add(&[name], report.delivered() as f64);
            dropped.add(&[name], report.dropped() as f64);
            waiting.add(&[name], report.waiting() as f64);
            let since = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).ok();
            if let Some(time) = last.success.and_then(since) {
                success.add(&[name], time.as_secs_f64());
            }
        }
        let mut words = Samples::new(&names::BACKEND_BREAKER);
        for (service, word) in integrations.breaker.words() {
            for state in BreakerState::ALL {
                let is = f64::from(u8::from(word.state == Some(state)));
                words.add(&[service.as_str(), state.as_str()], is);
            }
        }
        [exchanges, delivered, dropped, waiting, success, words]
            .map(Samples::finish)
            .to_vec()
    }
}
