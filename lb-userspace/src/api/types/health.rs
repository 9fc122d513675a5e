//! `/health`: of the gateway for everybody, of the services for operators.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How well something does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All of it works.
    Healthy,
    /// Some of it does not.
    Degraded,
    /// None of it works.
    Unhealthy,
    /// The daemon is shutting down.
    Stopping,
}

impl Status {
    /// The name in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
        }
    }
}

/// `GET /health`: counts and no names, because anybody may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GatewayHealth {
    /// `healthy`, `degraded` or `stopping`; the last one with status 503.
    pub status: Status,
    /// What is not as it should be, a sentence each.
    pub problems: Vec<String>,
    /// Time since the daemon started.
    pub uptime_seconds: f64,
    /// Services.
    pub services: usize,
    /// Services with an instance that is fit to take traffic.
    pub serving: usize,
}

/// `GET /livez`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    /// Time since the daemon started.
    pub uptime_seconds: f64,
}

/// `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether traffic may be sent here.
    pub ready: bool,
    /// Why not, a sentence each; empty when it may.
    pub reasons: Vec<String>,
}

/// `GET /api/v1/loadbalancer/health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServicesHealth {
    /// `healthy` when every service is, `unhealthy` when none serves, else `degraded`.
    pub status: Status,
    /// What is not as it should be, a sentence each.
    pub problems: Vec<String>,
    /// Time since the daemon started.
    pub uptime_seconds: f64,
    /// Version of lb.
    pub version: String,
    /// Revision of the state; grows with each change.
    pub revision: u64,
    /// How the last reload went; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<LastReload>,
    /// Each service, by name.
    pub services: Vec<ServiceHealth>,
}

/// Health of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceHealth {
    /// The service.
    pub service: String,
    /// `healthy` when every enabled instance takes traffic, `unhealthy` when none is fit to, else
    /// `degraded`.
    pub status: Status,
    /// Its instances.
    pub instances: InstanceCounts,
    /// Mean health score of the instances that take traffic, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Instances that the checks found unhealthy, and why.
    pub unhealthy: Vec<String>,
    /// Instances that are ejected, and why.
    pub ejected: Vec<String>,
    /// Why traffic goes to instances that should not have any: `only_recovering`, `none_left` or
    /// `too_few`. Absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<String>,
    /// The service that serves its traffic now, because no instance of its own takes any. Absent
    /// while its own do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<String>,
}

/// Instances by state. One that is draining and unhealthy counts under both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceCounts {
    /// All.
    pub total: usize,
    /// Those that take new traffic.
    pub available: usize,
    /// Those that the checks found unhealthy.
    pub unhealthy: usize,
    /// Those that are ejected.
    pub ejected: usize,
    /// Those that keep what they have and get nothing new.
    pub draining: usize,
    /// Those that get nothing.
    pub disabled: usize,
}

impl std::ops::AddAssign for InstanceCounts {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.available += other.available;
        self.unhealthy += other.unhealthy;
        self.ejected += other.ejected;
        self.draining += other.draining;
        self.disabled += other.disabled;
    }
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastReload {
    /// When it ended.
    pub timestamp: String,
    /// Whether it was applied. A reload that was not has changed nothing.
    pub success: bool,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
