//! `/performance`: how fast and how well requests were answered in a window of time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /performance?window=…&service=…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Performance {
    /// The window that was asked for.
    pub window: String,
    /// The time that the figures are about. Up to a minute the window less the rest of the running
    /// second; above it the window and what precedes it in its first minute; and never more than
    /// the daemon's life.
    pub covered_seconds: f64,
    /// All services that were asked for, together.
    pub total: Figures,
    /// Each service, by name.
    pub services: Vec<ServicePerformance>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServicePerformance {
    /// Its name.
    pub service: String,
    /// Algorithm in force.
    pub algorithm: String,
    /// Its instances together.
    #[serde(flatten)]
    pub figures: Figures,
    /// Each instance, in the order of the configuration.
    pub instances: Vec<InstancePerformance>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstancePerformance {
    /// Its name.
    pub instance: String,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// HTTP requests that instances were asked, and the time to the heads of their answers; a failure
/// counts with the time that it took to fail. Rates are per second of `covered_seconds`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Figures {
    /// Answered or failed.
    pub requests: u64,
    /// Failed.
    pub failures: u64,
    /// Requests per second.
    pub request_rate: f64,
    /// Requests that succeeded, per second.
    pub throughput: f64,
    /// Failures of the requests; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Mean latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// Latency that half of the requests did not exceed; this and the next two within an eighth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// Latency that 95 % did not exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// Latency that 99 % did not exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// The longest latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
}
