//! Services and their instances, and `[defaults]` for what services have in common.

use std::{collections::BTreeMap, time::Duration};

use super::{
    admission::{self, LimitSettings},
    affinity::AffinitySettings,
    breaker::BreakerSettings,
    concurrency::ConcurrencySettings,
    discovery::DiscoverySettings,
    fail_open::FailOpenSettings,
    forms::{Choice, Form as _, Number, Period},
    hashing::HashSettings,
    health::HealthSettings,
    hedge::HedgeSettings,
    load_reports::LoadReportSettings,
    origin::Sourced,
    outlier::OutlierSettings,
    queue::QueueSettings,
    rate_limit,
    reader::Section,
    recovery::RecoverySettings,
    resolve::Resolved,
    retry::RetrySettings,
    score::ScoreSettings,
    slow_start::SlowStartSettings,
    timeouts::TimeoutSettings,
    values::SERVICE,
};
use crate::model::{
    Algorithm, Endpoint, Forwarding, InstanceSpec, ServiceName, ServiceSpec, UdpFlows,
    WithoutInstances,
};

const ALGORITHM: Choice<Algorithm> = Choice {
    choices: &Algorithm::ALL,
    name: Algorithm::as_str,
};

const FORWARDING: Choice<Forwarding> = Choice {
    choices: &Forwarding::ALL,
    name: Forwarding::as_str,
};

const WITHOUT_INSTANCES: Choice<WithoutInstances> = Choice {
    choices: &[WithoutInstances::Drop, WithoutInstances::Refuse],
    name: WithoutInstances::as_str,
};

const UDP_FLOWS: Choice<UdpFlows> = Choice {
    choices: &[UdpFlows::Move, UdpFlows::Stay],
    name: UdpFlows::as_str,
};

const IDLE: Period = Period {
    min: Duration::from_secs(1),
    max: Duration::from_secs(7 * 24 * 3600),
    example: "30s",
};

const WEIGHT: Number<u16> = Number {
    min: 0,
    max: u16::MAX,
    example: 10,
};

/// Weight of an instance that has none configured.
const DEFAULT_WEIGHT: u16 = 1;

/// Settings that a service has, or takes from `[defaults]`.
#[derive(Clone, Debug)]
pub(super) struct ServiceSettings {
    algorithm: Sourced<Algorithm>,
    hash: HashSettings,
    forwarding: Sourced<Forwarding>,
    without_instances: Sourced<WithoutInstances>,
    udp_flows: Sourced<UdpFlows>,
    idle_timeout: Sourced<Option<Duration>>,
    health_check: HealthSettings,
    recovery: RecoverySettings,
    breaker: BreakerSettings,
    limits: LimitSettings,
    load_reports: LoadReportSettings,
    outlier: OutlierSettings,
    fail_open: FailOpenSettings,
    score: ScoreSettings,
    slow_start: SlowStartSettings,
    affinity: AffinitySettings,
    queue: QueueSettings,
    concurrency: ConcurrencySettings,
    timeouts: TimeoutSettings,
    retry: RetrySettings,
    hedge: HedgeSettings,
    discovery: DiscoverySettings,
}

/// A service, and where its parts were found.
#[derive(Debug)]
pub(super) struct ReadService {
    pub(super) spec: ServiceSpec,
    pub(super) name: Sourced<String>,
    pub(super) fallback: Sourced<Option<ServiceName>>,
    /// Where it says itself that SYNs are answered by cookies.
    pub(super) cookies: Option<Sourced<u32>>,
    /// The places of the endpoints, in the order of the instances.
    pub(super) endpoints: Vec<Sourced<Endpoint>>,
}

impl ServiceSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            algorithm: Sourced::unset(Algorithm::default()),
            hash: HashSettings::unset(),
            forwarding: Sourced::unset(Forwarding::default()),
            without_instances: Sourced::unset(WithoutInstances::default()),
            udp_flows: Sourced::unset(UdpFlows::default()),
            idle_timeout: Sourced::unset(None),
            health_check: HealthSettings::unset(),
            recovery: RecoverySettings::unset(),
            breaker: BreakerSettings::unset(),
            limits: LimitSettings::unset(),
            load_reports: LoadReportSettings::unset(),
            outlier: OutlierSettings::unset(),
            fail_open: FailOpenSettings::unset(),
            score: ScoreSettings::unset(),
            slow_start: SlowStartSettings::unset(),
            affinity: AffinitySettings::unset(),
            queue: QueueSettings::unset(),
            concurrency: ConcurrencySettings::unset(),
            timeouts: TimeoutSettings::unset(),
            retry: RetrySettings::unset(),
            hedge: HedgeSettings::unset(),
            discovery: DiscoverySettings::unset(),
        }
    }

    /// Reads `[defaults]`; `self` holds for what it does not say.
    pub(super) fn read_defaults(&self, t: &mut Section<'_, '_>) -> Self {
        self.read(t, false, false)
    }

    /// Reads a table; `self` holds for what it does not say.
    fn read(&self, t: &mut Section<'_, '_>, udp_only: bool, of_service: bool) -> Self {
        let algorithm = t.value("algorithm", &ALGORITHM, &self.algorithm);
        let hash = self.hash.read(t);
        let forwarding = t.value("forwarding", &FORWARDING, &self.forwarding);
        let without_instances = t.value(
            "without_instances",
            &WITHOUT_INSTANCES,
            &self.without_instances,
        );
        let udp_flows = t.value("udp_flows", &UDP_FLOWS, &self.udp_flows);
        let absent = "the packet path's";
        let idle_timeout = t.optional("idle_timeout", &IDLE, &self.idle_timeout, absent);
        let health_check = t.table("health_check", |t| self.health_check.read(t, udp_only));
        let recovery = t.table("recovery", |t| self.recovery.read(t));
        let breaker = t.table("breaker", |t| self.breaker.read(t));
        let limits = t.table("limits", |t| self.limits.read(t));
        let load_reports = t.table("load_reports", |t| self.load_reports.read(t));
        let outlier = t.table("outlier", |t| self.outlier.read(t));
        let fail_open = t.table("fail_open", |t| self.fail_open.read(t));
        let score = t.table("score", |t| self.score.read(t));
        let slow_start = t.table("slow_start", |t| self.slow_start.read(t));
        let affinity = t.table("affinity", |t| self.affinity.read(t));
        let queue = t.table("queue", |t| self.queue.read(t));
        let concurrency = t.table("concurrency", |t| self.concurrency.read(t));
        let timeouts = t.table("timeouts", |t| self.timeouts.read(t));
        let retry = t.table("retry", |t| self.retry.read(t));
        let hedge = t.table("hedge", |t| self.hedge.read(t));
        let discovery = t.table("discovery", |t| self.discovery.read(t, of_service));
        Self {
            algorithm,
            hash,
            forwarding,
            without_instances,
            udp_flows,
            idle_timeout,
            health_check,
            recovery,
            breaker,
            limits,
            load_reports,
            outlier,
            fail_open,
            score,
            slow_start,
            affinity,
            queue,
            concurrency,
            timeouts,
            retry,
            hedge,
            discovery,
        }
    }
}

/// Reads `[services.*]`. `udp_only` says of a service by name whether only UDP VIPs use it.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    defaults: &ServiceSettings,
    resolved: &Resolved,
    udp_only: impl Fn(&str) -> bool,
) -> Vec<ReadService> {
    root.named("services", |t, name| {
        let parsed = ServiceName::new(&name.value).ok();
        if parsed.is_none() {
            let found = format!("{:?}", name.value);
            t.reader().contradiction(name, found, SERVICE.expected());
        }
        let udp_only = udp_only(&name.value);
        let settings = defaults.read(t, udp_only, true);
        let fallback = t.optional("fallback", &SERVICE, &Sourced::unset(None), "none");
        let rate_limits = rate_limit::read(t);
        let found = settings.discovery.has_sources();
        let endpoints = read_instances(t, resolved, DEFAULT_WEIGHT, found);
        Some(ReadService {
            spec: ServiceSpec {
                name: parsed?,
                algorithm: settings.algorithm.value,
                hash_key: settings.hash.key.value,
                hash_bound: settings.hash.bound.value,
                forwarding: settings.forwarding.value,
                without_instances: settings.without_instances.value,
                udp_flows: settings.udp_flows.value,
                idle_timeout: settings.idle_timeout.value,
                fallback: fallback.value.clone(),
                health_check: settings.health_check.build(),
                recovery: settings.recovery.build(),
                breakers: settings.breaker.build(),
                load_reports: settings.load_reports.build(),
                outlier: settings.outlier.build(),
                fail_open: settings.fail_open.build(),
                score: settings.score.build(),
                slow_start: settings.slow_start.build(),
                affinity: settings.affinity.build(),
                timeouts: settings.timeouts.build(),
                retry: settings.retry.build(),
                hedge: settings.hedge.build(),
                limits: settings.limits.build(),
                queue: settings.queue.build(),
                concurrency: settings.concurrency.build(),
                rate_limits,
                discovery: settings.discovery.build(),
                instances: endpoints.iter().map(ReadInstance::spec).collect(),
            },
            name: name.clone(),
            fallback,
            cookies: settings.limits.own_cookies(),
            endpoints: endpoints
                .into_iter()
                .map(|instance| instance.endpoint)
                .collect(),
        })
    })
}

/// An instance, and where its endpoint was found.
pub(super) struct ReadInstance {
    endpoint: Sourced<Endpoint>,
    weight: u16,
    limits: admission::OwnLimits,
}

impl ReadInstance {
    pub(super) fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            max_requests: self.limits.requests,
            max_connections: self.limits.connections,
            ..InstanceSpec::new(self.endpoint.value.clone(), self.weight)
        }
    }
}

/// Reads `instances`. `weight` is that of instances without one; with `found` the key may be
/// missing, because instances come from elsewhere.
pub(super) fn read_instances(
    t: &mut Section<'_, '_>,
    resolved: &Resolved,
    weight: u16,
    found: bool,
) -> Vec<ReadInstance> {
    t.one_of(&["instances", "discovery"]);
    if !found && !t.has("instances") {
        let path = t.path().key("instances");
        let example =
            r#"["http://10.0.0.2:8080", { endpoint = "http://10.0.0.3:8080", weight = 5 }]"#;
        t.missing(path, "a list of instances".to_owned(), example.to_owned());
    }
    let instances = t.tables("instances", Some("endpoint"), |t| {
        let endpoint = t.required("endpoint", resolved);
        let weight = t.value("weight", &WEIGHT, &Sourced::unset(weight));
        let limits = admission::read_own(t);
        Some(ReadInstance {
            endpoint: endpoint?,
            weight: weight.value,
            limits,
        })
    });
    let mut seen: BTreeMap<_, Sourced<Endpoint>> = BTreeMap::new();
    for ReadInstance { endpoint, .. } in &instances {
        if let Some(first) = seen.get(&endpoint.value.address()) {
            t.reader().contradiction(
                endpoint,
                resolved.show(&endpoint.value),
                format!(
                    "every address once in a service, but {} is the address of {} too",
                    endpoint.value.address(),
                    first.path
                ),
            );
        } else {
            seen.insert(endpoint.value.address(), endpoint.clone());
        }
    }
    instances
}
