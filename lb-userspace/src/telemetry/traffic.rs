//! Metrics of services and instances, from the snapshot and the counters of its instances.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    names,
    samples::{Samples, describe},
    sessions,
};
use crate::{
    model::{
        Acl, AclAction, AdminState, Algorithm, BreakerState, Clock, Detector, Gate, Health,
        HedgeEnd, Member, Reason, RetryCause, RetryRefusal, RetryStats, Timestamp,
        measure::LATENCY_BOUNDS_US,
    },
    registry::{FailOpen, InstanceStatus, Registry, Service},
    resilience::{UNIT, WHOLE},
};

/// Reads a registry at each scrape.
#[derive(Debug)]
pub(super) struct TrafficCollector {
    registry: Arc<Registry>,
    clock: Clock,
    descriptions: Vec<Desc>,
}

impl TrafficCollector {
    pub(super) fn new(registry: Arc<Registry>, clock: Clock) -> Result<Self, prometheus::Error> {
        let descriptions = describe(&[
            &names::REQUESTS,
            &names::RESPONSE_TIME,
            &names::ACTIVE_CONNECTIONS,
            &names::TOTAL_REQUESTS,
            &names::SUCCESS_RATE,
            &names::AVERAGE_RESPONSE_TIME,
            &names::HEALTH_SCORE,
            &names::ANSWERS,
            &names::RETRIES,
            &names::HEDGES,
            &names::RETRIES_REFUSED,
            &names::SESSION_REQUESTS,
            &names::SESSION_BREAKS,
            &names::SESSION_REFUSALS,
            &names::SESSIONS,
            &names::SESSION_CAPACITY,
            &names::SESSION_BYTES,
            &names::SESSION_ENDS,
            &names::WEIGHT,
            &names::EFFECTIVE_WEIGHT,
            &names::RECOVERY_SHARE,
            &names::BREAKER,
            &names::BREAKER_TRANSITIONS,
            &names::SERVICE_BREAKER,
            &names::SERVICE_BREAKER_TRANSITIONS,
            &names::EJECTED,
            &names::EJECTIONS,
            &names::SLOW_START_SHARE,
            &names::FAIL_OPEN,
            &names::DIVERTED,
            &names::HEALTH,
            &names::ADMIN,
            &names::PROBE_LATENCY,
            &names::CHECKS,
            &names::L4_INSTANCE_PACKETS,
            &names::L4_INSTANCE_BYTES,
            &names::L4_INSTANCE_CONNECTIONS,
            &names::L4_INSTANCE_DROPPED,
            &names::L4_INSTANCE_LIVE,
            &names::REVISION,
            &names::L4_ACL_RULES,
            &names::L4_ACL_LIST_FAULTY,
        ])?;
        Ok(Self {
            registry,
            clock,
            descriptions,
        })
    }
}

impl Collector for TrafficCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (snapshot, now) = (self.registry.snapshot(), self.clock.now());
        let mut instances = InstanceSamples::new();
        let mut breakers = BreakerSamples::new();
        let mut kernel = KernelSamples::new();
        let mut answers = Samples::new(&names::ANSWERS);
        let mut retries = RetrySamples::new();
        let mut fail_open = Samples::new(&names::FAIL_OPEN);
        let mut diverted = Samples::new(&names::DIVERTED);
        for service in &snapshot.services {
            let name = service.name().as_str();
            for reason in Reason::ALL {
                let count = service.stats.answers(*reason);
                answers.add(&[name, reason.label()], count as f64);
            }
            retries.add(name, &service.stats.retries);
            breakers.add_service(service, now);
            for why in FailOpen::ALL {
                let is = f64::from(u8::from(service.fail_open == Some(why)));
                fail_open.add(&[name, why.as_str()], is);
            }
            instances.add_service(service, now);
            let is = snapshot.instead_of(name).is_some();
            diverted.add(&[name], f64::from(u8::from(is)));
        }
        for service in snapshot.behind_vips() {
            kernel.add_service(service);
        }
        let sessions = sessions::samples(&snapshot, self.registry.sessions());
        let mut revision = Samples::new(&names::REVISION);
        revision.add(&[], snapshot.revision as f64);
        let mut families = instances.finish();
        families.extend(breakers.finish());
        families.extend(kernel.finish());
        families.extend(retries.finish());
        families.extend([answers, fail_open, diverted, revision].map(Samples::finish));
        families.extend(sessions);
        families.extend(acl(&snapshot.acl));
        families
    }
}

/// The families about the source ACL.
fn acl(acl: &Acl) -> [MetricFamily; 2] {
    let mut rules = Samples::new(&names::L4_ACL_RULES);
    for action in AclAction::ALL {
        rules.add(&[action.as_str()], acl.count(action) as f64);
    }
    let mut faulty = Samples::new(&names::L4_ACL_LIST_FAULTY);
    for list in &acl.lists {
        let file = list.file.display().to_string();
        faulty.add(&[&file], f64::from(u8::from(!list.faults.is_empty())));
    }
    [rules, faulty].map(Samples::finish)
}

/// The families about retries.
struct RetrySamples {
    made: Samples,
    refused: Samples,
    hedges: Samples,
}

impl RetrySamples {
    const fn new() -> Self {
        Self {
            made: Samples::new(&names::RETRIES),
            refused: Samples::new(&names::RETRIES_REFUSED),
            hedges: Samples::new(&names::HEDGES),
        }
    }

    fn add(&mut self, service: &str, stats: &RetryStats) {
        for cause in RetryCause::ALL {
            let count = stats.count(*cause) as f64;
            self.made.add(&[service, cause.label()], count);
        }
        for refusal in RetryRefusal::ALL {
            let count = stats.refusals(*refusal) as f64;
            self.refused.add(&[service, refusal.label()], count);
        }
        for end in HedgeEnd::ALL {
            let count = stats.hedges(*end) as f64;
            self.hedges.add(&[service, end.label()], count);
        }
    }

    fn finish(self) -> [MetricFamily; 3] {
        [self.made, self.refused, self.hedges].map(Samples::finish)
    }
}

/// The families that have a series for each instance.
struct InstanceSamples {
    requests: Samples,
    response_time: Samples,
    active: Samples,
    total: Samples,
    success_rate: Samples,
    average: Samples,
    score: Samples,
    weight: Samples,
    effective_weight: Samples,
    recovery_share: Samples,
    ejected: Samples,
    ejections: Samples,
    slow_start_share: Samples,
    health: Samples,
    admin: Samples,
    probe_latency: Samples,
    checks: Samples,
}

impl InstanceSamples {
    const fn new() -> Self {
        Self {
            requests: Samples::new(&names::REQUESTS),
            response_time: Samples::new(&names::RESPONSE_TIME),
            active: Samples::new(&names::ACTIVE_CONNECTIONS),
            total: Samples::new(&names::TOTAL_REQUESTS),
            success_rate: Samples::new(&names::SUCCESS_RATE),
            average: Samples::new(&names::AVERAGE_RESPONSE_TIME),
            score: Samples::new(&names::HEALTH_SCORE),
            weight: Samples::new(&names::WEIGHT),
            effective_weight: Samples::new(&names::EFFECTIVE_WEIGHT),
            recovery_share: Samples::new(&names::RECOVERY_SHARE),
            ejected: Samples::new(&names::EJECTED),
            ejections: Samples::new(&names::EJECTIONS),
            slow_start_share: Samples::new(&names::SLOW_START_SHARE),
            health: Samples::new(&names::HEALTH),
            admin: Samples::new(&names::ADMIN),
            probe_latency: Samples::new(&names::PROBE_LATENCY),
            checks: Samples::new(&names::CHECKS),
        }
    }

    fn add_service(&mut self, service: &Service, now: Timestamp) {
        for (member, status) in service.members.iter().zip(service.statuses.iter()) {
            let name = member.instance.endpoint.name();
            let labels = [service.name().as_str(), name];
            self.add_algorithms(member, labels);
            self.add_measured(member, labels, now);
            self.add_states(member, status, labels);
        }
    }

    /// Only algorithms that have served a request have series: seven for each instance would be
    /// six too many for most.
    fn add_algorithms(&mut self, member: &Member, [service, instance]: [&str; 2]) {
        for algorithm in Algorithm::ALL {
            let Some(totals) = member.instance.totals(algorithm) else {
                continue;
            };
            let name = algorithm.as_str();
            for (success, count) in [("true", totals.successes), ("false", totals.failures)] {
                let labels = [service, name, instance, success];
                self.requests.add(&labels, count as f64);
            }
            self.response_time.add_histogram(
                &[service, name, instance],
                LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6),
                &totals.latency,
                totals.latency_sum_us as f64 / 1e6,
            );
        }
    }

    fn add_measured(&mut self, member: &Member, labels: [&str; 2], now: Timestamp) {
        let instance = &member.instance;
        let live = instance.kernel.live.load(Relaxed);
        let active = u64::from(instance.in_flight()) + live;
        self.active.add(&labels, active as f64);
        let totals = instance.totals_of_all();
        let total = totals.successes + totals.failures;
        self.total.add(&labels, total as f64);
        let minute = instance.window(now, 0, 60);
        if let (Some(rate), Some(mean)) = (minute.success_rate(), minute.mean_latency()) {
            self.success_rate.add(&labels, rate);
            self.average.add(&labels, mean);
        }
        self.score.add(&labels, score(instance.measured.score()));
        if let Some(latency) = instance.probe_latency.at_last_sample() {
            self.probe_latency.add(&labels, latency.as_secs_f64());
        }
        let [service, name] = labels;
        for (result, count) in [
            ("passed", &instance.checks.passed),
            ("failed", &instance.checks.failed),
        ] {
            let count = count.load(Relaxed) as f64;
            self.checks.add(&[service, name, result], count);
        }
    }

    fn add_states(&mut self, member: &Member, status: &InstanceStatus, labels: [&str; 2]) {
        let [service, instance] = labels;
        self.weight.add(&labels, f64::from(status.weight));
        let effective = f64::from(member.weight) / f64::from(UNIT);
        self.effective_weight.add(&labels, effective);
        let share = status.recovery.map_or(WHOLE, |progress| progress.share);
        let share = f64::from(share) / f64::from(WHOLE);
        self.recovery_share.add(&labels, share);
        let ejected = f64::from(u8::from(status.ejected.is_some()));
        self.ejected.add(&labels, ejected);
        for detector in Detector::ALL {
            let count = member.instance.ejections(detector) as f64;
            let labels = [service, instance, detector.as_str()];
            self.ejections.add(&labels, count);
        }
        let ramp = status.ramp.map_or(WHOLE, |ramp| ramp.share);
        let ramp = f64::from(ramp) / f64::from(WHOLE);
        self.slow_start_share.add(&labels, ramp);
        for state in [Health::Unknown, Health::Healthy, Health::Unhealthy] {
            let is = f64::from(u8::from(state == status.health));
            self.health.add(&[service, instance, state.as_str()], is);
        }
        for state in [
            AdminState::Enabled,
            AdminState::Draining,
            AdminState::Disabled,
        ] {
            let is = f64::from(u8::from(state == status.admin));
            self.admin.add(&[service, instance, state.as_str()], is);
        }
    }

    fn finish(self) -> Vec<MetricFamily> {
        [
            self.requests,
            self.response_time,
            self.active,
            self.total,
            self.success_rate,
            self.average,
            self.score,
            self.weight,
            self.effective_weight,
            self.recovery_share,
            self.ejected,
            self.ejections,
            self.slow_start_share,
            self.health,
            self.admin,
            self.probe_latency,
            self.checks,
        ]
        .into_iter()
        .map(Samples::finish)
        .collect()
    }
}

/// The families of circuit breakers.
struct BreakerSamples {
    state: Samples,
    transitions: Samples,
    spared: Samples,
    service_state: Samples,
    service_transitions: Samples,
}

impl BreakerSamples {
    const fn new() -> Self {
        Self {
            state: Samples::new(&names::BREAKER),
            transitions: Samples::new(&names::BREAKER_TRANSITIONS),
            spared: Samples::new(&names::BREAKER_SPARED),
            service_state: Samples::new(&names::SERVICE_BREAKER),
            service_transitions: Samples::new(&names::SERVICE_BREAKER_TRANSITIONS),
        }
    }

    fn add_service(&mut self, service: &Service, now: Timestamp) {
        let name = service.name().as_str();
        let whole = &service.guard.gate;
        for member in service.members.iter() {
            let instance = &member.instance;
            let labels = [name, instance.endpoint.name()];
            self.spared.add(&labels, instance.spared() as f64);
        }
        for state in BreakerState::ALL {
            let labels = [name, state.as_str()];
            self.service_state.add(&labels, is(whole, state, now));
            let count = whole.transitions(state) as f64;
            self.service_transitions.add(&labels, count);
            for member in service.members.iter() {
                let instance = &member.instance;
                let labels = [name, instance.endpoint.name(), state.as_str()];
                self.state.add(&labels, is(&instance.gate, state, now));
                let count = instance.gate.transitions(state) as f64;
                self.transitions.add(&labels, count);
            }
        }
    }

    fn finish(self) -> Vec<MetricFamily> {
        let samples = [
            self.state,
            self.transitions,
            self.spared,
            self.service_state,
            self.service_transitions,
        ];
        samples.into_iter().map(Samples::finish).collect()
    }
}

fn is(gate: &Gate, state: BreakerState, now: Timestamp) -> f64 {
    f64::from(u8::from(gate.state().kind(now) == state))
}

/// The families of what the kernel counts for an instance: those of services with a VIP only.
struct KernelSamples {
    packets: Samples,
    bytes: Samples,
    connections: Samples,
    dropped: Samples,
    live: Samples,
}

impl KernelSamples {
    const fn new() -> Self {
        Self {
            packets: Samples::new(&names::L4_INSTANCE_PACKETS),
            bytes: Samples::new(&names::L4_INSTANCE_BYTES),
            connections: Samples::new(&names::L4_INSTANCE_CONNECTIONS),
            dropped: Samples::new(&names::L4_INSTANCE_DROPPED),
            live: Samples::new(&names::L4_INSTANCE_LIVE),
        }
    }

    fn add_service(&mut self, service: &Service) {
        let name = service.name().as_str();
        for member in service.members.iter() {
            let (instance, kernel) = (member.instance.endpoint.name(), &member.instance.kernel);
            let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
            self.packets
                .add(&[name, instance, "in"], count(&kernel.packets_in));
            self.packets
                .add(&[name, instance, "out"], count(&kernel.packets_out));
            self.bytes
                .add(&[name, instance, "in"], count(&kernel.bytes_in));
            self.bytes
                .add(&[name, instance, "out"], count(&kernel.bytes_out));
            self.connections
                .add(&[name, instance], count(&kernel.connections));
            self.dropped.add(&[name, instance], count(&kernel.dropped));
            self.live.add(&[name, instance], count(&kernel.live));
        }
    }

    fn finish(self) -> [MetricFamily; 5] {
        let samples = [
            self.packets,
            self.bytes,
            self.connections,
            self.dropped,
            self.live,
        ];
        samples.map(Samples::finish)
    }
}

/// A score as the text shows it: 0.95, not 0.949999988079071.
fn score(score: f32) -> f64 {
    (f64::from(score) * 1e6).round() / 1e6
}
