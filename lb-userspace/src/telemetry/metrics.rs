//! The Prometheus exposition.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use prometheus::{IntCounterVec, Opts, TextEncoder, proto::MetricFamily};

use super::{
    admission::AdmissionCollector,
    audit::AuditCollector,
    cap,
    discovery::DiscoveryCollector,
    gateway::{Gateway, GatewayCollector},
    integration::{Beside, IntegrationCollector},
    names, openmetrics,
    packets::PacketCollector,
    process::ProcessCollector,
    pushed,
    samples::Samples,
    served::ServedCollector,
    traffic::TrafficCollector,
};
use crate::{
    discovery,
    integration::Sample,
    l4,
    model::{Clock, MetricsSpec},
    registry::Registry,
};

/// In which of its text formats the exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a client that sends this `Accept` gets.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if openmetrics::is_wanted(accept) {
            Self::OpenMetrics
        } else {
            Self::Plain
        }
    }

    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => openmetrics::CONTENT_TYPE,
        }
    }
}

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
    beside: Beside,
    series: Arc<Series>,
}

/// What bounds the number of series.
#[derive(Debug)]
struct Series {
    most: AtomicUsize,
    /// One scrape at a time; there are few.
    shown: Mutex<cap::Shown>,
}

impl Metrics {
    /// Metrics of what `registry` holds, of the packet path, of the sources of instances, and of
    /// what the audit log has lost. The uptime counts from now.
    ///
    /// # Errors
    /// When two metrics clash, which a test rules out.
    pub fn new(
        registry: Arc<Registry>,
        clock: Clock,
        packet_path: l4::Handle,
        sources: discovery::Handle,
        unaudited: Arc<AtomicU64>,
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
        collectors.register(Box::new(ServedCollector::new(Arc::clone(&registry))?))?;
        collectors.register(Box::new(AdmissionCollector::new(Arc::clone(&registry))?))?;
        collectors.register(Box::new(TrafficCollector::new(registry, clock.clone())?))?;
        let gateway = Gateway::default();
        collectors.register(Box::new(GatewayCollector::new(Gateway::clone(&gateway))?))?;
        collectors.register(Box::new(DiscoveryCollector::new(sources, clock.clone())?))?;
        let beside = Beside::default();
        collectors.register(Box::new(IntegrationCollector::new(Beside::clone(&beside))?))?;
        collectors.register(Box::new(PacketCollector::new(packet_path)?))?;
        collectors.register(Box::new(ProcessCollector::new(clock)?))?;
        collectors.register(Box::new(AuditCollector::new(unaudited)?))?;
        collectors.register(Box::new(reloads.clone()))?;
        Ok(Self {
            registry: collectors,
            reloads,
            gateway,
            series: Arc::new(Series {
                most: AtomicUsize::new(MetricsSpec::default().max_series),
                shown: Mutex::default(),
            }),
            beside,
        })
    }

    /// The place for the proxy's own counters.
    pub(crate) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The place for the reports of the integrations.
    pub(crate) const fn beside(&self) -> &Beside {
        &self.beside
    }

    /// The values of the families whose names `include` lets pass.
    #[must_use]
    pub fn samples(&self, include: &dyn Fn(&str) -> bool) -> Vec<Sample> {
        let families = self.families();
        let included = families.iter().filter(|family| include(family.name()));
        included.flat_map(pushed::samples).collect()
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Sets how many series there may be; see [`super::cap`].
    pub fn limit(&self, spec: &MetricsSpec) {
        self.series.most.store(spec.max_series, Relaxed);
    }

    /// Everything as text.
    ///
    /// # Errors
    /// When a value cannot be written, which no value that lb has can.
    pub fn render(&self, format: Format) -> Result<String, MetricsError> {
        let families = self.families();
        match format {
            Format::Plain => Ok(TextEncoder::new().encode_to_string(&families)?),
            Format::OpenMetrics => Ok(openmetrics::encode(&families)),
        }
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        let most = self.series.most.load(Relaxed);
        let mut shown = self
            .series
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Room for the figures about this itself.
        let folded = cap::cap(&mut families, most.saturating_sub(4), &mut shown);
        drop(shown);
        let mut limit = Samples::new(&names::SERIES_MAX);
        limit.add(&[], most as f64);
        let mut hidden = Samples::new(&names::SERIES_FOLDED);
        hidden.add(&["instance"], folded.instances as f64);
        hidden.add(&["service"], folded.services as f64);
        let mut series = Samples::new(&names::SERIES);
        series.add(&[], (cap::count(&families) + 4) as f64);
        families.extend([limit, hidden, series].map(Samples::finish));
        families
    }
}
