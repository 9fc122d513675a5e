//! `/instances`: what is configured, decided, measured and counted for an instance.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Breaker, Recovery, Requests};

/// `GET /instances` and `GET /instances/{service}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// Ordered by service, then as configured.
    pub instances: Vec<Instance>,
}

/// `GET /instances/{service}/{instance}`, and what `drain`, `enable` and `disable` answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// The service.
    pub service: String,
    /// Name as configured: the one to use in URLs.
    pub instance: String,
    /// Number in both data planes: index and generation.
    pub id: String,
    /// The address that the name stands for.
    pub address: String,
    /// `enabled`, `draining` or `disabled`. Ordered at run time; survives a restart of the daemon
    /// where a state file is configured.
    pub admin: String,
    /// `unknown` (counts as healthy), `healthy` or `unhealthy`.
    pub health: String,
    /// Why.
    pub health_detail: String,
    /// Only while it is on its way back after it was unhealthy or ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Its circuit breaker, which takes it away from HTTP requests for a moment, whatever its weight.
    pub breaker: Breaker,
    /// Only while it is ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<Ejected>,
    /// Only while it starts slowly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Whether it takes new traffic.
    pub available: bool,
    /// Weight as configured.
    pub weight: u16,
    /// Weight in both data planes, in the units of `weight`: 0 takes no new traffic.
    pub effective_weight: f64,
    /// What the algorithm's measurements make of the weight, 0 to 1.
    pub factor: f32,
    /// What `factor` follows, where the algorithm learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
    /// What the instance has last said of its own load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// Health score, 0 to 1; 1 before anything was measured.
    pub score: f32,
    /// Percent of its weight that it wants to have, as it last told a health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_percent: Option<u8>,
    /// Only while it is draining or disabled: whether no request and no connection is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<bool>,
    /// Only of an instance that is asked for by its name while it is draining: how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// The most requests at once that hold now, less than configured while it recovers; absent
    /// without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// The most connections, for the proxy and for the kernel each; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The proxy's connections to it.
    #[serde(default)]
    pub connections: Connections,
    /// HTTP requests.
    pub requests: Requests,
    /// Moving average of the time that health checks take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_latency_ms: Option<f64>,
    /// Packets and connections.
    pub kernel: Kernel,
}

/// TCP connections of the proxy to an instance, all workers. Those of health checks do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Those that are open, tunnels among them.
    pub open: u32,
    /// Those of them that are kept for the next request.
    pub idle: u32,
}

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// HTTP requests in flight.
    pub requests: u64,
    /// Connections in the kernel.
    pub connections: u64,
    /// Sessions that are pinned here and remembered. A session may come back as long as it lives, so
    /// no drain waits for these.
    pub sessions: u64,
    /// Only while the kernel forwards connections to it that it does not remember: nobody can see
    /// their ends, so the drain is over when it is this long that they began. A deadline ends it
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_seconds: Option<f64>,
    /// When it is over whatever is left; absent without a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// The same in seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// What becomes of the instance then: `disable` or `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

/// The body of `POST …/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"deadline": "30s"}))]
pub struct StartDrain {
    /// How long the drain may take, such as `30s`; what is left then goes to other instances, and
    /// the instance is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// What was learned of an instance's weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Learned {
    /// The factor that was learned, 0 to 1; `factor` follows it in steps of 1/16.
    pub factor: f32,
    /// Seconds since there was something to learn from; after 60 the factor returns to 1.
    pub evidence_seconds_ago: f64,
}

/// An instance's report of its own load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// What is made of the weight by it, 0 to 1; 1 while the algorithm does not go by reports.
    pub factor: f32,
    /// How much of what it can do the instance is doing; 1 is all.
    pub utilization: f32,
    /// Requests a second that it serves, for whomever; 0 when it does not say.
    pub requests_per_second: f32,
    /// Failed requests a second; 0 when it does not say.
    pub errors_per_second: f32,
    /// Seconds since it was said.
    pub seconds_ago: f64,
}

/// Why and how long an instance is taken out for what it did with requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ejected {
    /// What found it: `consecutive_failures`, `success_rate` or `latency`.
    pub by: String,
    /// What that was.
    pub reason: String,
    /// When it was taken out.
    pub since: String,
    /// When it comes back.
    pub until: String,
    /// The same in seconds from now.
    pub ends_in_seconds: f64,
    /// Ejections that are not forgiven, this one included: it takes so many times the shortest.
    pub times: u32,
}

/// How far the slow start of an instance is that has joined at run time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlowStart {
    /// Share of its weight that it has, 0 to 1.
    pub share: f64,
    /// Until it has all of it; absent while something keeps it from traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_seconds: Option<f64>,
}

/// What the kernel has counted, as last read from its maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    /// Connections begun.
    pub connections: u64,
    /// Connections open now.
    pub live_connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, Ethernet headers included.
    pub bytes_in: u64,
    /// Packets from instances, where they come back through lb.
    pub packets_out: u64,
    /// Bytes from instances, where they come back through lb.
    pub bytes_out: u64,
    /// Packets of its connections, in either direction, that were not forwarded: no route, no
    /// neighbour, too large, time to live over. What is refused before an instance is chosen is in the
    /// VIP's figure alone. A relay sees no packets.
    #[serde(default)]
    pub dropped: u64,
}

impl std::ops::AddAssign for Kernel {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.live_connections += other.live_connections;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.dropped += other.dropped;
    }
}
