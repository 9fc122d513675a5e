//! `/debug` and `/reset`: what the daemon knows of itself, and how to make it forget.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Datapath, Gateway};

/// `GET /api/v1/admin/loadbalancer/debug`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Debug {
    /// Version of lb.
    pub version: String,
    /// Time since the daemon started.
    pub uptime_seconds: f64,
    /// Revision of the state.
    pub revision: u64,
    /// Revision at which services, routes, VIPs or listeners were last configured.
    pub configured_revision: u64,
    /// Revision at which what was learned was last forgotten; 0 when it never was.
    pub reset_revision: u64,
    /// Threads that serve HTTP.
    pub workers: usize,
    /// Snapshots that somebody still holds, the current one counted once.
    pub snapshot_holders: usize,
    /// The gateway's listeners; absent while the proxy does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Requests that the access log has lost; absent while the proxy does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log_dropped: Option<u64>,
    /// Lines that the audit log's file has not got since the start, because it could not be written.
    pub audit_log_dropped: u64,
    /// What the algorithm of each service goes by.
    pub services: Vec<Balancing>,
    /// The packet path.
    pub datapath: Datapath,
}

/// What a service's algorithm goes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Balancing {
    /// Name of the service.
    pub service: String,
    /// Algorithm in force.
    pub algorithm: String,
    /// The algorithm's own state in the form that its programmers gave it; not an interface.
    pub balancer: String,
    /// Its members, in the order of the configuration.
    pub members: Vec<BalancedMember>,
}

/// What an algorithm sees of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BalancedMember {
    /// Name of the instance.
    pub instance: String,
    /// Its number in both data planes.
    pub id: String,
    /// Fingerprint of service and endpoint, hexadecimal, by which the kernel's entries know it.
    pub identity: String,
    /// Effective weight in units of the algorithm; 0 takes nothing new.
    pub weight: u32,
    /// The same without the factor from measurements.
    pub base_weight: u32,
    /// Factor from measurements, 0 to 1.
    pub factor: f32,
    /// What its own reports make of the weight, 0 to 1.
    pub reported_factor: f32,
    /// Health score, 0 to 1.
    pub score: f32,
    /// Recent success rate, 0 to 1.
    pub success_rate: f32,
    /// HTTP requests in flight.
    pub in_flight: u32,
    /// Connections open in the kernel.
    pub live_connections: u64,
    /// Moving average of the latency, decayed to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ewma_latency_ms: Option<f64>,
    /// Time since the last request began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_seconds_ago: Option<f64>,
    /// Health checks passed and failed.
    pub checks_passed: u64,
    /// Health checks that failed.
    pub checks_failed: u64,
}

/// `POST /api/v1/admin/loadbalancer/reset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reset {
    /// The revision that is now current.
    pub revision: u64,
    /// What was set at run time and is no more, a phrase each.
    pub changes: Vec<String>,
    /// Instances whose measurements were forgotten.
    pub instances: usize,
}
