//! Services as they were asked for.

use std::{sync::Arc, time::Duration};

use super::{
    AffinitySpec, Algorithm, BreakersSpec, ConcurrencySpec, DiscoverySpec, Endpoint, FailOpenSpec,
    Forwarding, HashKey, HedgeSpec, LimitSpec, OutlierSpec, QueueSpec, RateLimitSpec, ReportTimes,
    RetrySpec, ScoreSpec, ServiceName, SlowStartSpec, UdpFlows, WithoutInstances,
};

/// The bound of consistent hashing when nobody says anything, in percent: with a quarter more than
/// its share for each instance, keys stay where they are unless some of them are hot.
pub const DEFAULT_HASH_BOUND: u16 = 125;

/// One member of a service as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Share of the traffic relative to the others, 0 to 65535; 0 gets none.
    pub weight: u16,
    /// The most requests at once, 0 for no limit; as the service says when `None`.
    pub max_requests: Option<u32>,
    /// The most connections, 0 for no limit; as the service says when `None`.
    pub max_connections: Option<u32>,
    /// The source that has found it; `None` when it is configured.
    pub found_by: Option<Arc<str>>,
    /// Whether its source does not name it any more: it finishes what it has, with weight 0.
    pub leaving: bool,
}

impl InstanceSpec {
    /// An instance of which nothing is asked for but its weight.
    #[must_use]
    pub const fn new(endpoint: Endpoint, weight: u16) -> Self {
        Self {
            endpoint,
            weight,
            max_requests: None,
            max_connections: None,
            found_by: None,
            leaving: false,
        }
    }
}

/// A service as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique name.
    pub name: ServiceName,
    /// How an instance is chosen.
    pub algorithm: Algorithm,
    /// What [`Algorithm::ConsistentHash`] hashes.
    pub hash_key: HashKey,
    /// The most that an instance may have in flight under [`Algorithm::ConsistentHash`] before its
    /// keys go elsewhere, in percent of its share of the service's requests in flight, 101 to 1000;
    /// `None` when there is no such bound.
    pub hash_bound: Option<u16>,
    /// How the kernel forwards packets of the service's VIPs.
    pub forwarding: Forwarding,
    /// What the kernel does with packets that no instance can take.
    pub without_instances: WithoutInstances,
    /// What becomes of flows of UDP whose instance fails its checks.
    pub udp_flows: UdpFlows,
    /// Idle time after which the connections of its VIPs are forgotten; `None` for the packet path's.
    pub idle_timeout: Option<Duration>,
    /// The service that serves instead while no instance of this one takes new traffic.
    pub fallback: Option<ServiceName>,
    /// Active checks; `None` when they are off, and then every instance counts as healthy.
    pub health_check: Option<HealthCheckSpec>,
    /// How instances that come back get their share; `None` when they get all of it at once.
    pub recovery: Option<RecoverySpec>,
    /// Circuit breakers.
    pub breakers: BreakersSpec,
    /// What instances say of their own load; `None` when nobody listens.
    pub load_reports: Option<LoadReportSpec>,
    /// When instances that stand out for the worse are ejected; `None` when they never are.
    pub outlier: Option<OutlierSpec>,
    /// When traffic goes to instances that should not have any; `None` when it never does.
    pub fail_open: Option<FailOpenSpec>,
    /// What health scores are made of.
    pub score: ScoreSpec,
    /// How instances that join at run time get their share; `None` when they get all of it at once.
    pub slow_start: Option<SlowStartSpec>,
    /// Whether and how sessions stay with their instances.
    pub affinity: AffinitySpec,
    /// Limits of an HTTP exchange.
    pub timeouts: TimeoutSpec,
    /// When a request is sent once more.
    pub retry: RetrySpec,
    /// When a slow request is sent to a second instance; `None` is never.
    pub hedge: Option<HedgeSpec>,
    /// The most requests at once.
    pub limits: LimitSpec,
    /// A limit of requests at once that follows what the service can do; `None` when it is off.
    pub concurrency: Option<ConcurrencySpec>,
    /// Where requests wait when a limit is reached; `None` when they do not.
    pub queue: Option<QueueSpec>,
    /// Limits of the rate of requests.
    pub rate_limits: Vec<RateLimitSpec>,
    /// Where more instances are found.
    pub discovery: DiscoverySpec,
    /// Members, unique by endpoint: as configured, and in the registry those that were found, too.
    pub instances: Vec<InstanceSpec>,
}

impl ServiceSpec {
    /// A service without instances and without anything that has to be asked for: no checks, no
    /// recovery, defaults everywhere else.
    #[must_use]
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            algorithm: Algorithm::default(),
            hash_key: HashKey::default(),
            hash_bound: Some(DEFAULT_HASH_BOUND),
            forwarding: Forwarding::default(),
            without_instances: WithoutInstances::default(),
            udp_flows: UdpFlows::default(),
            idle_timeout: None,
            fallback: None,
            health_check: None,
            recovery: None,
            breakers: BreakersSpec::default(),
            load_reports: None,
            outlier: None,
            fail_open: None,
            score: ScoreSpec::default(),
            slow_start: None,
            affinity: AffinitySpec::default(),
            timeouts: TimeoutSpec::default(),
            retry: RetrySpec::default(),
            hedge: None,
            limits: LimitSpec::default(),
            concurrency: None,
            queue: None,
            rate_limits: Vec::new(),
            discovery: DiscoverySpec::default(),
            instances: Vec::new(),
        }
    }
}

impl ServiceSpec {
    /// The bound of consistent hashing that holds: none where sessions have affinity, which is what
    /// it would break.
    #[must_use]
    pub fn bound(&self) -> Option<u16> {
        self.hash_bound.filter(|_| !self.affinity.enabled)
    }
}

/// What a health check sends and expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection that is accepted.
    Tcp,
    /// `GET path` answered by a status in the inclusive range.
    Http {
        /// Path and query, beginning with a slash.
        path: String,
        /// Lowest and highest status that passes.
        status: (u16, u16),
        /// `Host` header; the endpoint's authority when `None`.
        host: Option<String>,
    },
}

/// Active health checks of a service's instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckSpec {
    /// What is sent.
    pub probe: Probe,
    /// From the start of one check to the start of the next; each is moved by up to ±10 %.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Consecutive passes that make an instance healthy, at least 1.
    pub rise: u32,
    /// Consecutive failures that make it unhealthy, at least 1.
    pub fall: u32,
    /// Port to check when it is not the endpoint's.
    pub port: Option<u16>,
}

/// Gradual recovery: how an instance that comes back gets its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverySpec {
    /// Success rate that an interval must reach to be a step, in percent, 1 to 100.
    pub threshold: u8,
    /// Share of its weight that an instance begins with, in percent, 1 to 100.
    pub start: u8,
    /// How much a step adds, in percent of the weight, 1 to 100.
    pub step: u8,
    /// Time from one step to the next, also the wait after the first relapse.
    pub interval: Duration,
    /// The longest wait after a relapse.
    pub max_wait: Duration,
}

impl Default for RecoverySpec {
    /// The integration guide's: from 10 % by 10 % every 30 s with a success rate of 80 %. A wait is
    /// at most 5 min.
    fn default() -> Self {
        Self {
            threshold: 80,
            start: 10,
            step: 10,
            interval: Duration::from_secs(30),
            max_wait: Duration::from_secs(300),
        }
    }
}

/// How instances tell their load, and what is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReportSpec {
    /// Name of the field of an answer that has the report, in lower case.
    pub header: String,
    /// The same for the binary form: the name with `-bin`, as fields of bytes are named in gRPC.
    pub binary_header: String,
    /// Whether clients do not get to see it.
    pub strip: bool,
    /// When reports count.
    pub times: ReportTimes,
    /// What a service that fails everything costs beside one that is fully used, in percent.
    pub error_penalty: u16,
    /// Whether [`Algorithm::WeightedRoundRobin`] goes by it, too.
    pub weighted_round_robin: bool,
}

impl LoadReportSpec {
    /// The defaults with reports in the field `header`, in lower case.
    #[must_use]
    pub fn in_field(header: String) -> Self {
        Self {
            binary_header: format!("{header}-bin"),
            header,
            strip: true,
            times: ReportTimes {
                blackout: Duration::from_secs(10),
                expiry: Duration::from_secs(180),
            },
            error_penalty: 100,
            weighted_round_robin: false,
        }
    }

    /// Whether `algorithm` goes by reports.
    #[must_use]
    pub fn feeds(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Adaptive => true,
            Algorithm::WeightedRoundRobin => self.weighted_round_robin,
            _ => false,
        }
    }
}

impl Default for LoadReportSpec {
    /// The header of ORCA, and the figures of gRFC A58.
    fn default() -> Self {
        Self::in_field("endpoint-load-metrics".to_owned())
    }
}

/// Limits of time of an HTTP exchange. Those of client connections are in
/// [`super::GatewaySpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSpec {
    /// To establish a connection.
    pub connect: Duration,
    /// From the request's arrival to the head of the answer, all tries together. It starts anew
    /// with each part of the request's body, so a long upload that makes progress is not cut.
    pub request: Duration,
    /// Longest silence of a client that has more of a request's body to send.
    pub upload: Duration,
    /// From the moment that an instance has the whole request to the head of its answer.
    pub response: Duration,
    /// Of one try on one instance, connecting included, to the head of the answer.
    pub attempt: Option<Duration>,
    /// Longest silence between two parts of the answer's body.
    pub idle: Duration,
    /// From the request's arrival to the end of the answer.
    pub total: Option<Duration>,
    /// Longest silence of a tunnel.
    pub tunnel: Duration,
}

impl Default for TimeoutSpec {
    /// 5 s to connect (Envoy's default); 30 s for the answer (the guide's) and of silence; an hour
    /// for tunnels, in which silence is no sign of trouble. A try has no limit of its own: where
    /// answers are slow by nature, it would repeat work that is under way.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            upload: Duration::from_secs(30),
            response: Duration::from_secs(30),
            attempt: None,
            idle: Duration::from_secs(30),
            total: None,
            tunnel: Duration::from_secs(3600),
        }
    }
}

impl Default for HealthCheckSpec {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            port: None,
        }
    }
}
