//! `/stats`: what has been asked, answered and counted.

use axum::extract::State;

use super::{
    answer::Answer,
    document::tag,
    error::ApiError,
    instances::find_service,
    measure::{self, Sum, share},
    path::OfService,
    state::ApiState,
    types::{
        AnswerCount, Count, Envelope, Gateway, InstanceCounts, Kernel, ServiceStats, Share, Stats,
    },
};
use crate::{
    l7::GatewayStats,
    model::{HedgeEnd, Reason, RetryCause, RetryRefusal, Timestamp, reason as counters},
    registry::{Service, Snapshot},
};

/// Requests, latencies, packets and retries
///
/// Of everything, and of each service.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/stats",
    tag = tag::STATS,
    operation_id = "getStats",
    responses((status = OK, body = Envelope<Stats>, description = "The figures"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Stats> {
    state.fresh_report().await;
    let (snapshot, now) = (state.snapshot(), state.now());
    let mut sum = Sum::default();
    let mut instances = InstanceCounts::default();
    let mut kernel = Kernel::default();
    let mut retries = 0;
    let mut services = Vec::with_capacity(snapshot.services.len());
    for service in &snapshot.services {
        let (stats, of_service) = stats(&snapshot, service, now);
        sum += &of_service;
        instances += stats.instances;
        kernel += stats.kernel;
        retries += stats.retries;
        services.push(stats);
    }
    Answer::ok(Stats {
        revision: snapshot.revision,
        uptime_seconds: measure::round(state.uptime().as_secs_f64()),
        instances,
        requests: sum.requests(now),
        kernel,
        retries,
        gateway: state.gateway().map(|stats| gateway(stats)),
        services,
    })
}

/// What the gateway's listeners count.
pub(super) fn gateway(stats: &GatewayStats) -> Gateway {
    Gateway {
        accepted: stats.accepted(),
        open: stats.open(),
        answers: answers(&stats.answers),
    }
}

/// Figures of a service
///
/// Its requests, its answers by reason, and how the traffic is shared.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/stats/{service}",
    tag = tag::STATS,
    operation_id = "getServiceStats",
    params(OfService),
    responses((status = OK, body = Envelope<ServiceStats>, description = "The figures"))
)]
pub(super) async fn one(
    State(state): State<ApiState>,
    OfService { service }: OfService,
) -> Result<Answer<ServiceStats>, ApiError> {
    state.fresh_report().await;
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    Ok(Answer::ok(stats(&snapshot, service, state.now()).0))
}

fn stats(snapshot: &Snapshot, service: &Service, now: Timestamp) -> (ServiceStats, Sum) {
    let sums: Vec<Sum> = service
        .members
        .iter()
        .map(|member| Sum::of(&member.instance, now))
        .collect();
    let mut sum = Sum::default();
    sums.iter().for_each(|of_instance| sum += of_instance);
    let mut kernel = Kernel::default();
    for member in service.members.iter() {
        kernel += measure::kernel(&member.instance.kernel);
    }
    let retries = &service.stats.retries;
    let stats = ServiceStats {
        service: service.name().to_string(),
        algorithm: service.spec.algorithm.to_string(),
        instances: measure::counts(service),
        fail_open: measure::fail_open(service),
        served_by: snapshot
            .instead_of(service.name().as_str())
            .map(|service| service.name().to_string()),
        requests: sum.requests(now),
        kernel,
        retries: retries.total(),
        retry_causes: counts(RetryCause::ALL, |cause| {
            (cause.label(), retries.count(cause))
        }),
        hedges: counts(HedgeEnd::ALL, |end| (end.label(), retries.hedges(end))),
        retry_refusals: counts(RetryRefusal::ALL, |refusal| {
            (refusal.label(), retries.refusals(refusal))
        }),
        answers: answers(&service.stats),
        shares: shares(service, &sums, &sum, &kernel),
    };
    (stats, sum)
}

/// What has occurred of `all`.
fn counts<T: Copy>(all: &[T], count: impl Fn(T) -> (&'static str, u64)) -> Vec<Count> {
    let counts = all.iter().map(|reason| count(*reason));
    counts
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| Count {
            reason: reason.to_owned(),
            count,
        })
        .collect()
}

fn answers(stats: &counters::ServiceStats) -> Vec<AnswerCount> {
    Reason::ALL
        .iter()
        .map(|reason| AnswerCount {
            reason: reason.label().to_owned(),
            status: reason.status(),
            count: stats.answers(*reason),
        })
        .filter(|answers| answers.count > 0)
        .collect()
}

fn shares(service: &Service, sums: &[Sum], sum: &Sum, kernel: &Kernel) -> Vec<Share> {
    let weights = service.members.iter().map(|m| u64::from(m.weight)).sum();
    service
        .members
        .iter()
        .zip(sums)
        .map(|(member, of_instance)| {
            let connections = measure::kernel(&member.instance.kernel).connections;
            Share {
                instance: member.instance.endpoint.name().to_owned(),
                weight: share(u64::from(member.weight), weights),
                requests: of_instance.total(),
                request_share: share(of_instance.total(), sum.total()),
                request_share_60s: share(of_instance.last_minute(), sum.last_minute()),
                connections,
                connection_share: share(connections, kernel.connections),
            }
        })
        .collect()
}
