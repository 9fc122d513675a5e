//! From live counters to the figures of the documents.

use super::breakers;
use crate::{
    api::types,
    model::{
        AdminState, Health, Instance, KernelTraffic, Member, RecoverySpec, Timestamp, UNLIMITED,
        instance::AlgorithmTotals, window::WindowSum,
    },
    registry::{FailOpen, InstanceStatus, Service},
    resilience::{Ejection, Progress, Ramp, UNIT, WHOLE},
};
use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

/// Sums from which [`types::Requests`] is made, of one instance or of many.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    totals: AlgorithmTotals,
    in_flight: u64,
    last_10s: WindowSum,
    last_60s: WindowSum,
}

impl Sum {
    pub(super) fn of(instance: &Instance, now: Timestamp) -> Self {
        Self {
            totals: instance.totals_of_all(),
            in_flight: u64::from(instance.in_flight()),
            last_10s: instance.window(now, 0, 10),
            last_60s: instance.window(now, 0, 60),
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.totals.successes + self.totals.failures
    }

    pub(super) const fn last_minute(&self) -> u64 {
        self.last_60s.requests
    }

    pub(super) fn requests(&self, now: Timestamp) -> types::Requests {
        let total = self.total();
        types::Requests {
            total,
            successes: self.totals.successes,
            failures: self.totals.failures,
            success_rate: share(self.totals.successes, total),
            in_flight: self.in_flight,
            mean_latency_ms: share(self.totals.latency_sum_us, total).map(|us| round(us / 1e3)),
            ewma_latency_ms: None,
            last_10s: window(&self.last_10s, now, 10),
            last_60s: window(&self.last_60s, now, 60),
        }
    }
}

impl std::ops::AddAssign<&Self> for Sum {
    fn add_assign(&mut self, other: &Self) {
        self.totals.successes += other.totals.successes;
        self.totals.failures += other.totals.failures;
        self.totals.latency_sum_us += other.totals.latency_sum_us;
        self.in_flight += other.in_flight;
        self.last_10s += other.last_10s;
        self.last_60s += other.last_60s;
    }
}

fn window(sum: &WindowSum, now: Timestamp, seconds: u64) -> types::Window {
    types::Window {
        requests: sum.requests,
        failures: sum.failures,
        requests_per_second: round(sum.requests as f64 / covered(now, seconds)),
        success_rate: sum.success_rate(),
        mean_latency_ms: sum.mean_latency().map(|seconds| round(seconds * 1e3)),
    }
}

/// The seconds that a window of `seconds` buckets spans at `now`: its last bucket is still
/// filling, and no bucket is older than the process. At least one, lest the first request of a
/// process looks like a flood.
fn covered(now: Timestamp, seconds: u64) -> f64 {
    let now = now.0 as f64 / 1e6;
    (seconds as f64 - 1.0 + now.fract()).min(now).max(1.0)
}

/// `part / whole`; nothing of nothing is unknown.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// To three decimals: what follows is noise to a reader.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

pub(super) fn kernel(traffic: &KernelTraffic) -> types::Kernel {
    types::Kernel {
        connections: traffic.connections.load(Relaxed),
        live_connections: traffic.live.load(Relaxed),
        packets_in: traffic.packets_in.load(Relaxed),
        bytes_in: traffic.bytes_in.load(Relaxed),
        packets_out: traffic.packets_out.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        dropped: traffic.dropped.load(Relaxed),
    }
}

/// Whether there are, or may be, connections in the kernel.
fn has_connections(traffic: &KernelTraffic) -> bool {
    traffic.live.load(Relaxed) > 0 || traffic.owns.load(Relaxed)
}

/// An effective weight in the units of configured weights.
pub(super) fn weight(effective: u32) -> f64 {
    f64::from(effective) / f64::from(UNIT)
}

/// What was learned of an instance's weight.
pub(super) fn learned(instance: &Instance, now: Timestamp) -> Option<types::Learned> {
    let (lesson, age) = instance.measured.learned.age(now)?;
    Some(types::Learned {
        factor: lesson.factor,
        evidence_seconds_ago: round(age.as_secs_f64()),
    })
}

/// What an instance has said of its own load.
pub(super) fn report(
    instance: &Instance,
    status: &InstanceStatus,
    now: Timestamp,
) -> Option<types::Report> {
    let (report, age) = instance.reports.last(now)?;
    Some(types::Report {
        factor: status.factors.reported,
        utilization: report.utilization,
        requests_per_second: report.rate,
        errors_per_second: report.errors,
        seconds_ago: round(age.as_secs_f64()),
    })
}

/// How far an instance is on its way back.
pub(super) fn recovery(progress: &Progress, now: Timestamp) -> types::Recovery {
    let state = if progress.share > 0 {
        "climbing"
    } else {
        "waiting"
    };
    types::Recovery {
        state: state.to_owned(),
        share: fraction(progress.share),
        relapses: progress.relapses,
        due_in_seconds: round((progress.due - now).as_secs_f64()),
    }
}

/// How instances of a service recover.
pub(super) fn recovery_settings(spec: &RecoverySpec) -> types::RecoverySettings {
    types::RecoverySettings {
        threshold: fraction(spec.threshold),
        start: fraction(spec.start),
        step: fraction(spec.step),
        interval_seconds: spec.interval.as_secs_f64(),
        max_wait_seconds: spec.max_wait.as_secs_f64(),
    }
}

/// Why and until when an instance is ejected.
fn ejected(ejection: &Ejection, now: Timestamp) -> types::Ejected {
    let wall = SystemTime::now();
    types::Ejected {
        by: ejection.by.as_str().to_owned(),
        reason: ejection.detail.to_string(),
        since: rfc3339(wall - (now - ejection.since)),
        until: rfc3339(wall + (ejection.until - now)),
        ends_in_seconds: round((ejection.until - now).as_secs_f64()),
        times: ejection.times,
    }
}

/// How far a slow start is.
fn slow_start(ramp: &Ramp, now: Timestamp) -> types::SlowStart {
    types::SlowStart {
        share: fraction(ramp.share),
        ends_in_seconds: ramp.ends.map(|ends| round((ends - now).as_secs_f64())),
    }
}

/// Why a service fails open.
pub(super) fn fail_open(service: &Service) -> Option<String> {
    service.fail_open.map(FailOpen::as_str).map(str::to_owned)
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

pub(super) fn fraction(percent: u8) -> f64 {
    f64::from(percent) / f64::from(WHOLE)
}

/// A limit, if there is one.
fn limit(most: u32) -> Option<u32> {
    (most != UNLIMITED).then_some(most)
}

/// Everything about one instance.
pub(super) fn instance(
    member: &Member,
    status: &InstanceStatus,
    now: Timestamp,
) -> types::Instance {
    let instance = &member.instance;
    let kernel = kernel(&instance.kernel);
    let ms = |latency: Option<Duration>| latency.map(|l| round(l.as_secs_f64() * 1e3));
    let requests = types::Requests {
        ewma_latency_ms: ms(instance.latency.get(now)),
        ..Sum::of(instance, now).requests(now)
    };
    types::Instance {
        service: instance.service.to_string(),
        instance: instance.endpoint.name().to_owned(),
        id: instance.id.to_string(),
        address: instance.endpoint.address().to_string(),
        admin: status.admin.as_str().to_owned(),
        health: status.health.as_str().to_owned(),
        health_detail: status.detail.to_string(),
        recovery: status.recovery.as_ref().map(|p| recovery(p, now)),
        breaker: breakers::state(&instance.gate, now),
        ejected: status.ejected.as_ref().map(|e| ejected(e, now)),
        slow_start: status.ramp.as_ref().map(|r| slow_start(r, now)),
        available: member.weight > 0,
        weight: status.weight,
        effective_weight: weight(member.weight),
        factor: status.factors.measured,
        learned: learned(instance, now),
        report: report(instance, status, now),
        wanted_percent: instance.reports.wanted(now, Duration::MAX),
        score: instance.measured.score(),
        drained: (status.admin != AdminState::Enabled)
            .then_some(requests.in_flight == 0 && !has_connections(&instance.kernel)),
        drain: None,
        max_requests: limit(member.most),
        max_connections: limit(member.most_connections.instance),
        connections: types::Connections {
            open: instance.connections.open(),
            idle: instance.connections.idle(),
        },
        requests,
        probe_latency_ms: ms(instance.probe_latency.at_last_sample()),
        kernel,
    }
}

/// How many instances of a service are in which state.
pub(super) fn counts(service: &Service) -> types::InstanceCounts {
    let statuses = || service.statuses.iter();
    let admin = |state| statuses().filter(|status| status.admin == state).count();
    types::InstanceCounts {
        total: service.members.len(),
        available: service.members.iter().filter(|m| m.weight > 0).count(),
        unhealthy: statuses()
            .filter(|status| status.health == Health::Unhealthy)
            .count(),
        ejected: statuses().filter(|status| status.ejected.is_some()).count(),
        draining: admin(AdminState::Draining),
        disabled: admin(AdminState::Disabled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_what_has_passed() {
        for (us, seconds, covered_seconds) in [
            (0, 10, 1.0),
            (500_000, 10, 1.0),
            (4_250_000, 10, 4.25),
            (100_000_000, 10, 9.0),
            (100_500_000, 10, 9.5),
            (100_500_000, 60, 59.5),
        ] {
            let got = covered(Timestamp(us), seconds);
            assert!(
                (got - covered_seconds).abs() < 1e-9,
                "{us} {seconds}: {got}"
            );
        }
    }

    #[test]
    fn nothing_of_nothing_is_unknown() {
        assert_eq!(share(0, 0), None);
        assert_eq!(share(1, 4), Some(0.25));
    }
}
