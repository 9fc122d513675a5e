//! `/services`, `/routes`, `/vips`: the configuration in force.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Admission, Breaker, InstanceCounts};

/// `GET /services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// By name.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub service: String,
    /// Algorithm in force.
    pub algorithm: String,
    /// How the kernel forwards packets of its VIPs: `nat`, `dnat`, `l2dsr`, `ipip` or `gue`.
    pub forwarding: String,
    /// Its instances.
    pub instances: InstanceCounts,
    /// Active checks; absent when they are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// The circuit breaker of the service as a whole; absent when it is off and nobody holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Limits of an HTTP exchange.
    pub timeouts: Timeouts,
    /// What may be in flight, and what is.
    pub admission: Admission,
    /// The routes that lead to it: destination and host where they have any, and path.
    pub routes: Vec<String>,
    /// The VIPs that lead to it.
    pub vips: Vec<String>,
}

/// Active checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthCheck {
    /// What is sent and expected: `tcp`, or `http GET /health → 200-399`.
    pub probe: String,
    /// Between two checks.
    pub interval_ms: u64,
    /// How long one may take.
    pub timeout_ms: u64,
    /// Consecutive passes that make an instance healthy.
    pub rise: u32,
    /// Consecutive failures that make it unhealthy.
    pub fall: u32,
}

/// Limits of an HTTP exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeouts {
    /// To establish a connection.
    pub connect_ms: u64,
    /// To the head of the answer, all tries together.
    pub request_ms: u64,
    /// Longest silence within the answer's body.
    pub idle_ms: u64,
}

/// `GET /routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Routes {
    /// As configured.
    pub routes: Vec<Route>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// What clients have to have connected to: addresses and ports as `10.0.0.0/24:443`. Absent when
    /// that does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// `*`, a host, or `*.` and a domain.
    pub host: String,
    /// A path, or a prefix with `/*`.
    pub path: String,
    /// Where to.
    pub service: String,
}

/// `GET /vips`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vips {
    /// As configured.
    pub vips: Vec<Vip>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vip {
    /// All of it in one: `tcp/10.0.0.1:80`.
    pub vip: String,
    /// Address that clients connect to.
    pub address: String,
    /// Port that clients connect to, if it is one.
    pub port: Option<u16>,
    /// Ports that clients connect to: `80`, `8000-8999` or `any`.
    pub ports: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where to.
    pub service: String,
    /// How: `nat`, `dnat`, `l2dsr`, `ipip` or `gue`.
    pub forwarding: String,
}
