//! Traces as they were asked for: whose are gone on with, which are recorded, who gets them.

use std::time::Duration;

use super::HttpUrl;

/// Whose trace headers are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TraceTrust {
    /// Everybody's.
    #[default]
    All,
    /// Those of trusted proxies; what others say is removed.
    Proxies,
    /// Nobody's: every trace begins here.
    None,
}

impl TraceTrust {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::All, Self::Proxies, Self::None];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Proxies => "proxies",
            Self::None => "none",
        }
    }
}

/// What the gateway does with trace headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingSpec {
    /// Whether lb takes part in traces: goes on with those that come in and begins others. Else
    /// their headers go through untouched.
    pub enabled: bool,
    /// Whose headers are believed.
    pub trust: TraceTrust,
    /// The header that gives instances the trace id of the access log; `None` gives none.
    pub id_header: Option<String>,
    /// Of a million traces that begin here, how many are sampled.
    pub sample: u32,
    /// Whether sampled requests are recorded, for somebody who gets them.
    pub record: bool,
}

impl Default for TracingSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            trust: TraceTrust::default(),
            id_header: Some("x-trace-id".to_owned()),
            sample: 1_000_000,
            record: false,
        }
    }
}

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceBackendSpec {
    /// Where it is.
    pub url: HttpUrl,
    /// Path that traces go to.
    pub path: String,
    /// What lb calls itself there.
    pub service_name: String,
    /// The longest that a span waits for others to make a batch.
    pub interval: Duration,
    /// The most that an exchange may take.
    pub timeout: Duration,
    /// Most batches that wait to be sent, at least 1.
    pub queue: usize,
}
