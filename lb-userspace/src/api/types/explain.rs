//! `/explain`: what would become of a request, and why.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Recovery, Route};

/// `GET /explain?url=…`: nothing is sent anywhere, and no turn is taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The request as lb would see it.
    pub request: AskedRequest,
    /// How many routes were left out, because they have a destination and nothing was said of the one
    /// of the request; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes_left_out: Option<usize>,
    /// The route that matches best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The service that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its algorithm in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// Why it gives traffic to instances that should not have any: `only_recovering`, `none_left` or
    /// `too_few`. Absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<String>,
    /// Its session; only where sessions matter and it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<ExplainedSession>,
    /// What is hashed; only where the algorithm hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The instance that would be asked, or most likely would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// The answer that lb would make itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Every instance of the service, in the order of the configuration.
    pub candidates: Vec<Candidate>,
}

/// A request that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskedRequest {
    /// Method.
    pub method: String,
    /// `Host`.
    pub host: String,
    /// Path without query.
    pub path: String,
    /// The client, as trusted proxies tell it.
    pub client: String,
    /// Address and port that the client has connected to; absent when nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// The session of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedSession {
    /// 32 hexadecimal digits, as in `GET /sessions`.
    pub session: String,
    /// How it finds its instance: by lb's own `cookie`, from `memory`, by its `hash`; `new` when it
    /// is pinned to none.
    pub way: String,
    /// The instance that it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why it has to leave the instance that it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// What the service hashes, as configured. Where a request has no such thing, its client's
    /// address is hashed.
    pub source: String,
    /// The hash, 16 hexadecimal digits.
    pub hash: String,
}

/// An answer of lb's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The reason's name, as in `Proxy-Status` and the metrics.
    pub reason: String,
}

/// What speaks for and against an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Its name.
    pub instance: String,
    /// Chance of being asked, 0 to 1, from trial picks with everything as it is now.
    pub chance: f64,
    /// Why it gets no new request; absent when it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<String>,
    /// More about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether its circuit breaker has cause to open and does not; absent when not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
    /// Weight in force, in the units of the configuration.
    pub effective_weight: f64,
    /// Only while it is on its way back: its share is a quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Requests in flight.
    pub in_flight: u32,
    /// Moving average of the latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Recent success rate, 0 to 1.
    pub success_rate: f32,
    /// Health score, 0 to 1.
    pub score: f32,
}
