//! Systems beside lb that it works with: who is told what lb measures, and who is asked.

use std::time::Duration;

use super::{HttpUrl, TraceBackendSpec};

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegrationSpec {
    /// Whether metrics are given out at all: served to scrapers, and pushed where there is a
    /// backend for them.
    pub serve_metrics: bool,
    /// Who knows of circuit breakers elsewhere; `None` when nobody is asked.
    pub breaker: Option<BreakerBackendSpec>,
    /// Who gets metrics; `None` when nobody does.
    pub metrics: Option<MetricsBackendSpec>,
    /// Who gets traces; `None` when nobody does.
    pub traces: Option<TraceBackendSpec>,
}

impl Default for IntegrationSpec {
    fn default() -> Self {
        Self {
            serve_metrics: true,
            breaker: None,
            metrics: None,
            traces: None,
        }
    }
}

/// The circuit-breaker backend: what it says of services is followed, and what their instances did
/// is reported to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerBackendSpec {
    /// Where it is.
    pub url: HttpUrl,
    /// From one question to the next.
    pub check_interval: Duration,
    /// The most that an exchange may take.
    pub timeout: Duration,
    /// Path of a service's state; `{service}` stands for its name.
    pub status_path: String,
    /// Path that a service's events go to; `None` when they are not reported.
    pub events_path: Option<String>,
    /// Most events of a service that wait to be reported, at least 1.
    pub queue: usize,
}

impl BreakerBackendSpec {
    /// Polls that may be missed before what was said last is believed no more.
    pub const MISSES: u32 = 3;

    /// How long an answer holds: as long as that many polls, and the last of them, take.
    #[must_use]
    pub fn holds(&self) -> Duration {
        self.check_interval * Self::MISSES + self.timeout
    }
}

/// The metrics backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsBackendSpec {
    /// Where it is.
    pub url: HttpUrl,
    /// From one collection to the next.
    pub interval: Duration,
    /// The most that an exchange may take.
    pub timeout: Duration,
    /// Path that metrics go to.
    pub path: String,
    /// Which metrics: names, or the beginnings of names with `*` behind them.
    pub include: Vec<String>,
    /// Most batches that wait to be sent, at least 1.
    pub queue: usize,
}

impl MetricsBackendSpec {
    /// Whether the metric of that name is one that is sent.
    #[must_use]
    pub fn includes(&self, name: &str) -> bool {
        self.include
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
    }
}
