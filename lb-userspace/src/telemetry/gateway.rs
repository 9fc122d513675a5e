//! Metrics of the gateway's listeners.

use std::sync::{Arc, OnceLock};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
};
use crate::{
    l7::{Closed, GatewayStats},
    model::Reason,
};

/// Where the proxy's own counters are found once the proxy runs: it starts after the API, which it
/// serves.
pub(crate) type Gateway = Arc<OnceLock<Arc<GatewayStats>>>;

/// Reads the proxy's own counters at each scrape.
#[derive(Debug)]
pub(super) struct GatewayCollector {
    gateway: Gateway,
    descriptions: Vec<Desc>,
}

impl GatewayCollector {
    pub(super) fn new(gateway: Gateway) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::GATEWAY_ACCEPTED,
            &names::GATEWAY_STEERED,
            &names::GATEWAY_OPEN,
            &names::GATEWAY_BUSY,
            &names::GATEWAY_ANSWERS,
            &names::GATEWAY_CLOSED,
            &names::ACCESS_LOG_DROPPED,
        ])?;
        Ok(Self {
            gateway,
            descriptions,
        })
    }
}

impl Collector for GatewayCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(stats) = self.gateway.get() else {
            return Vec::new();
        };
        let mut accepted = Samples::new(&names::GATEWAY_ACCEPTED);
        accepted.add(&[], stats.accepted() as f64);
        let mut steered = Samples::new(&names::GATEWAY_STEERED);
        let counts = stats.steered();
        steered.add(&["handed_over"], counts.handed as f64);
        steered.add(&["no_socket"], counts.orphaned as f64);
        let mut open = Samples::new(&names::GATEWAY_OPEN);
        open.add(&[], stats.open() as f64);
        let mut busy = Samples::new(&names::GATEWAY_BUSY);
        for (worker, time) in stats.busy().iter().enumerate() {
            busy.add(&[&worker.to_string()], time.as_secs_f64());
        }
        let mut answers = Samples::new(&names::GATEWAY_ANSWERS);
        for reason in Reason::ALL {
            let count = stats.answers.answers(*reason);
            answers.add(&[reason.label()], count as f64);
        }
        let mut closed = Samples::new(&names::GATEWAY_CLOSED);
        for why in Closed::ALL {
            closed.add(&[why.label()], stats.closings(*why) as f64);
        }
        let mut unlogged = Samples::new(&names::ACCESS_LOG_DROPPED);
        unlogged.add(&[], stats.unlogged() as f64);
        [accepted, steered, open, busy, answers, closed, unlogged]
            .map(Samples::finish)
            .to_vec()
    }
}
