//! `/breakers`: circuit breakers of instances and services.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /breakers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Breakers {
    /// By name.
    pub services: Vec<ServiceBreakers>,
}

/// The breakers of a service: `GET /breakers/{service}`, and what every order answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceBreakers {
    /// The service.
    pub service: String,
    /// The breaker of the service as a whole.
    pub breaker: Breaker,
    /// Its rules; absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<BreakerRules>,
    /// For how long an advice that the service does not work still holds; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advised_for_seconds: Option<f64>,
    /// For how long the word of the circuit-breaker backend still holds that all requests are
    /// refused; absent when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_for_seconds: Option<f64>,
    /// The rules of instances' breakers; absent when they are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_rules: Option<BreakerRules>,
    /// What becomes of requests when the breakers of all instances that could serve are open:
    /// `refuse` or `pass`.
    pub all_open: String,
    /// Share of the instances that may be out at once, 0 to 1.
    pub max_out: f64,
    /// How many instances that is.
    pub most_out: usize,
    /// How many are: ejected, or with a breaker that is not closed.
    pub out: usize,
    /// As configured.
    pub instances: Vec<InstanceBreaker>,
}

/// The breaker of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceBreaker {
    /// Name as configured.
    pub instance: String,
    /// Its breaker.
    pub breaker: Breaker,
    /// Whether it has cause to open and does not, because the instance serves as much as others do
    /// or too many fail.
    pub spared: bool,
    /// In how many seconds that was so.
    pub spared_seconds: u64,
}

/// The state of a breaker at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// `closed`, `open` or `half_open`.
    pub state: String,
    /// Whether an operator holds it there.
    pub held: bool,
    /// Failures since the last success, while it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u16>,
    /// Requests of its window, while it is closed and has rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<BreakerWindow>,
    /// Until the first probe may pass, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_in_seconds: Option<f64>,
    /// Probes that succeeded so far, while it is half-open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes_passed: Option<u8>,
    /// How often in a row it has opened, while it is not closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_in_a_row: Option<u8>,
    /// How often it came into each state.
    pub transitions: BreakerTransitions,
}

/// What a breaker goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerWindow {
    /// Requests that count.
    pub requests: u64,
    /// Failures among them.
    pub failures: u64,
}

/// How often a breaker came into each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerTransitions {
    /// Opened.
    pub open: u64,
    /// Let a first probe pass.
    pub half_open: u64,
    /// Closed.
    pub closed: u64,
}

/// The rules of a breaker, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BreakerRules {
    /// Failures in a row that open it; 0 when no run does.
    pub consecutive_failures: u16,
    /// Share of failures in the window that opens it, 0 to 1.
    pub failure_ratio: f64,
    /// The window.
    pub window_seconds: u64,
    /// Requests in the window below which the share says nothing.
    pub min_requests: u32,
    /// How long it stays open the first time.
    pub open_seconds: f64,
    /// The longest that it stays open.
    pub max_open_seconds: f64,
    /// Probes at one time.
    pub probes: u8,
    /// Probes that must succeed to close it.
    pub successes: u8,
}

/// `POST /breakers/{service}/advise`: what somebody else knows of a service.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"works": false, "seconds": 30}))]
pub struct Advice {
    /// Whether the service works.
    pub works: bool,
    /// How long that is to be believed when it does not, 1 to 3600; 30 when nothing is said.
    #[serde(default = "half_a_minute")]
    pub seconds: u32,
}

const fn half_a_minute() -> u32 {
    30
}
