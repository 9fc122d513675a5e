//! `/stats`: figures of requests and packets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{InstanceCounts, Kernel};

/// `GET /stats`: figures over everything, and those of each service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Revision of the state; grows with each change.
    pub revision: u64,
    /// Time since the daemon started.
    pub uptime_seconds: f64,
    /// Instances of all services.
    pub instances: InstanceCounts,
    /// Requests to all services.
    pub requests: Requests,
    /// Packets to all services.
    pub kernel: Kernel,
    /// Requests that were sent once more.
    pub retries: u64,
    /// The gateway's listeners; absent while the proxy does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Each service, by name.
    pub services: Vec<ServiceStats>,
}

/// The gateway's listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gateway {
    /// Client connections accepted since the daemon's start.
    pub accepted: u64,
    /// Client connections open now, tunnels not included.
    pub open: u64,
    /// Answers that lb made to requests that reached no service, by reason; reasons that never
    /// occurred are absent.
    pub answers: Vec<AnswerCount>,
}

/// `GET /stats/{service}`: figures of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStats {
    /// Name of the service.
    pub service: String,
    /// Algorithm in force.
    pub algorithm: String,
    /// Its instances.
    pub instances: InstanceCounts,
    /// Why traffic goes to instances that should not have any: `only_recovering`, `none_left` or
    /// `too_few`. Absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<String>,
    /// The service that serves its traffic now, because no instance of its own takes any. Absent
    /// while its own do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<String>,
    /// HTTP requests that instances were asked.
    pub requests: Requests,
    /// Packets and connections that the kernel balanced.
    pub kernel: Kernel,
    /// Requests that were sent once more.
    pub retries: u64,
    /// Those, by what the try before failed with; what never occurred is absent.
    #[serde(default)]
    pub retry_causes: Vec<Count>,
    /// Requests that failed and were not sent once more, by why not; what never occurred is absent.
    #[serde(default)]
    pub retry_refusals: Vec<Count>,
    /// Requests that were slow enough for a second instance, by what came of it; what never
    /// occurred is absent.
    #[serde(default)]
    pub hedges: Vec<Count>,
    /// Answers that lb itself made, by reason; reasons that never occurred are absent.
    pub answers: Vec<AnswerCount>,
    /// How the requests and connections are spread, in the order of the configuration.
    pub shares: Vec<Share>,
}

/// HTTP requests that instances were asked, since the daemon first knew them.
///
/// A request that was tried on two instances counts once for each. Success is an answer below 500
/// that the instance itself sent; a timeout, a reset and a refused connection are failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Requests {
    /// Answered or failed.
    pub total: u64,
    /// Answered below 500.
    pub successes: u64,
    /// The rest.
    pub failures: u64,
    /// Successes of the total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// Under way now.
    pub in_flight: u64,
    /// Mean time from the request's start to the head of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_latency_ms: Option<f64>,
    /// Moving average of an instance's latency that follows a rise at once and a fall slowly
    /// (peak EWMA, time constant 10 s), decayed to now. Instances only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ewma_latency_ms: Option<f64>,
    /// The last 10 s.
    pub last_10s: Window,
    /// The last 60 s.
    pub last_60s: Window,
}

/// Requests of the last seconds, the running one included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Window {
    /// Answered or failed.
    pub requests: u64,
    /// Failed.
    pub failures: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Successes of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// Mean time to the head of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_latency_ms: Option<f64>,
}

/// How often something happened for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// The reason, as in metrics.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// Answers that lb made for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnswerCount {
    /// The reason, as in logs and metrics.
    pub reason: String,
    /// HTTP status of the answers.
    pub status: u16,
    /// How many.
    pub count: u64,
}

/// What an instance gets of its service's traffic, beside what its weight says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// Name of the instance.
    pub instance: String,
    /// Its effective weight of the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// HTTP requests since the daemon knows it.
    pub requests: u64,
    /// Those, of the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_share: Option<f64>,
    /// The same over the last 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_share_60s: Option<f64>,
    /// Connections that the kernel gave it.
    pub connections: u64,
    /// Those, of the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_share: Option<f64>,
}
