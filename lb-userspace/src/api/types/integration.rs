//! `/integrations`: systems beside lb.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /integrations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Integrations {
    /// Each kind of exchange with each system, those that are off included.
    pub integrations: Vec<Integration>,
    /// What the circuit-breaker backend has said of each service; empty while none is asked.
    pub breakers: Vec<BackendWord>,
}

/// How exchanges of one kind with one system fare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Integration {
    /// `circuit_breaker` (questions for states), `circuit_breaker_events` (reports of outcomes),
    /// `metrics`, `traces`.
    pub integration: String,
    /// `off`, `waiting` (nothing was exchanged so far), `working` or `failing`.
    pub state: String,
    /// Where the system is; absent while the integration is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Exchanges that did what they should.
    pub succeeded: u64,
    /// Exchanges that did not.
    pub failed: u64,
    /// What the system has taken: outcomes of requests, samples, spans.
    pub delivered: u64,
    /// What waits for it.
    pub waiting: u64,
    /// What was given up.
    pub dropped: u64,
    /// When an exchange last did what it should; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// When one last did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Why that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the circuit-breaker backend has said of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendWord {
    /// The service.
    pub service: String,
    /// `closed`, `open` or `half_open`; absent when nothing was said that still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When it was last said; absent before the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<String>,
    /// Polls since then that came to nothing.
    pub missed: u32,
}
