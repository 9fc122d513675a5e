//! `/limits`: what may enter, and what waits.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /limits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Of each service, by name.
    pub services: Vec<ServiceLimits>,
    /// The gateway's, those of services, those of routes.
    pub rate_limits: Vec<RateLimit>,
}

/// What may be in flight of a service's requests, and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceLimits {
    /// Its name.
    pub service: String,
    /// The rest.
    #[serde(flatten)]
    pub admission: Admission,
}

/// What may be in flight of a service's requests, and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Admission {
    /// The most requests at once to all instances together; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// The most requests at once to each instance without a limit of its own; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_max_requests: Option<u32>,
    /// Requests in flight to all instances together.
    pub in_flight: u64,
    /// The most connections to all instances together, for the proxy and for the kernel each; absent
    /// without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The most connections to each instance without a limit of its own; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_max_connections: Option<u32>,
    /// The most connections of VIPs that may begin in a second; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<u32>,
    /// The most that may begin at once after a rest; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections_burst: Option<u32>,
    /// The same as `new_connections` of each source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_new_connections: Option<u32>,
    /// The same as `new_connections_burst` of each source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_new_connections_burst: Option<u32>,
    /// SYNs in a second above which TCP VIPs answer them by SYN cookies; 0: always; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_cookies_above: Option<u32>,
    /// The proxy's connections to all instances together.
    #[serde(default)]
    pub connections: u64,
    /// The kernel's.
    #[serde(default)]
    pub kernel_connections: u64,
    /// The limit that follows what the service can do; absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Where requests wait when a limit is reached; absent where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

/// A limit that follows what a service can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Concurrency {
    /// Requests that may be in flight now.
    pub limit: u32,
    /// The limit never falls below this.
    pub min: u32,
    /// It never rises above this.
    pub max: u32,
    /// The latency without queueing; absent before anything was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ms: Option<f64>,
}

/// A queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Requests that wait.
    pub waiting: u32,
    /// The most that may.
    pub size: u32,
    /// The longest wait.
    pub timeout_ms: u64,
    /// The wait that is acceptable for longer than `interval_ms`.
    pub target_ms: u64,
    /// How long everybody has to wait for more than the target until the queue stands.
    pub interval_ms: u64,
    /// Requests that waited and got a place.
    pub served: u64,
    /// How long those waited in the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_wait_ms: Option<f64>,
}

/// A limit of the rate of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RateLimit {
    /// `gateway`, `service` or `route`.
    pub scope: String,
    /// Which service or route; absent for the gateway.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which requests share a budget: `all`, `client` or `header:NAME`.
    pub key: String,
    /// Requests in each `per_ms`.
    pub requests: u32,
    /// The time.
    pub per_ms: u64,
    /// Requests that may come at once after a silence.
    pub burst: u32,
    /// Requests refused.
    pub refused: u64,
    /// Requests whose key found no room for a budget of its own.
    pub crowded: u64,
}
