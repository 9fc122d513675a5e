//! The Prometheus exposition.

use std::sync::Arc;

use prometheus::{IntCounterVec, Opts, TextEncoder};

use super::{
    admission::AdmissionCollector,
    gateway::{Gateway, GatewayCollector},
    names,
    packets::PacketCollector,
    process::ProcessCollector,
    traffic::TrafficCollector,
};
use crate::{l4, model::Clock, registry::Registry};

/// The `Content-Type` of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics could not be set up or written.
#[derive(Debug, thiserror::Error)]
#[error("expected metrics that the library takes: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All collectors. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: prometheus::Registry,
    reloads: IntCounterVec,
    gateway: Gateway,
}

impl Metrics {
    /// Metrics of what `registry` holds and of the packet path. The uptime counts from now.
    ///
    /// # Errors
    /// When two metrics clash, which a test rules out.
    pub fn new(
        registry: Arc<Registry>,
        clock: Clock,
        packet_path: l4::Handle,
    ) -> Result<Self, MetricsError> {
        let reloads = IntCounterVec::new(
            Opts::new(names::RELOADS.name, names::RELOADS.help),
            names::RELOADS.labels,
        )?;
        // A counter that is absent until something goes wrong cannot be alerted on.
        for result in ["applied", "refused"] {
            reloads.with_label_values(&[result]);
        }
        let collectors = prometheus::Registry::new();
        collectors.register(Box::new(AdmissionCollector::new(Arc::clone(&registry))?))?;
        collectors.register(Box::new(TrafficCollector::new(registry, clock.clone())?))?;
        let gateway = Gateway::default();
        collectors.register(Box::new(GatewayCollector::new(Gateway::clone(&gateway))?))?;
        collectors.register(Box::new(PacketCollector::new(packet_path)?))?;
        collectors.register(Box::new(ProcessCollector::new(clock)?))?;
        collectors.register(Box::new(reloads.clone()))?;
        Ok(Self {
            registry: collectors,
            reloads,
            gateway,
        })
    }

    /// The place for the proxy's own counters.
    pub(crate) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Everything as text, in the format of [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// When a value cannot be written, which no value that lb has can.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}
