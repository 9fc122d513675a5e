//! `/debug`: what the daemon decides by, unadorned. `/reset`: make it forget.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::extract::State;

use super::{
    answer::Answer,
    body::Nothing,
    datapath,
    document::{Conflict, NotKept, tag},
    error::ApiError,
    measure::round,
    state::ApiState,
    stats,
    types::{BalancedMember, Balancing, Debug, Envelope, Reset},
};
use crate::{
    model::{Member, Timestamp},
    registry::{Event, InstanceStatus, Service},
    runtime::Keeper,
};

/// What lb decides by
///
/// Revisions, workers, the state of each algorithm and what it sees of its instances, and the
/// packet path. For people: the form of `balancer` may change.
#[utoipa::path(
    get,
    path = "/api/v1/admin/loadbalancer/debug",
    tag = tag::ADMINISTRATION,
    operation_id = "getDebug",
    responses((status = OK, body = Envelope<Debug>, description = "What lb decides by"))
)]
pub(super) async fn debug(State(state): State<ApiState>) -> Answer<Debug> {
    let report = state.fresh_report().await;
    let (snapshot, now) = (state.snapshot(), state.now());
    Answer::ok(Debug {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: round(state.uptime().as_secs_f64()),
        revision: snapshot.revision,
        configured_revision: snapshot.configured,
        reset_revision: snapshot.reset,
        workers: state.registry().workers(),
        // Without this function's own.
        snapshot_holders: Arc::strong_count(&snapshot).saturating_sub(1),
        gateway: state.gateway().map(|stats| stats::gateway(stats)),
        access_log_dropped: state.gateway().map(|stats| stats.unlogged()),
        audit_log_dropped: state.access().unaudited(),
        services: snapshot
            .services
            .iter()
            .map(|s| balancing(s, now))
            .collect(),
        datapath: datapath::document(&report),
    })
}

fn balancing(service: &Service, now: Timestamp) -> Balancing {
    let members = service.members.iter().zip(service.statuses.iter());
    Balancing {
        service: service.name().to_string(),
        algorithm: service.spec.algorithm.to_string(),
        balancer: shortened(format!("{:?}", service.balancer)),
        members: members.map(|(m, status)| member(m, status, now)).collect(),
    }
}

/// A Maglev table has 65,537 entries, of which nobody reads more than the first.
fn shortened(mut text: String) -> String {
    const MOST: usize = 2000;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}

fn member(member: &Member, status: &InstanceStatus, now: Timestamp) -> BalancedMember {
    let instance = &member.instance;
    let latency = instance.latency.get(now);
    BalancedMember {
        instance: instance.endpoint.name().to_owned(),
        id: instance.id.to_string(),
        identity: format!("{:016x}", instance.identity),
        weight: member.weight,
        base_weight: member.base,
        factor: status.factors.measured,
        reported_factor: status.factors.reported,
        score: instance.measured.score(),
        success_rate: instance.measured.success(),
        in_flight: instance.in_flight(),
        live_connections: instance.kernel.live.load(Relaxed),
        ewma_latency_ms: latency.map(|latency| round(latency.as_secs_f64() * 1e3)),
        asked_seconds_ago: instance.asked().map(|at| round((now - at).as_secs_f64())),
        checks_passed: instance.checks.passed.load(Relaxed),
        checks_failed: instance.checks.failed.load(Relaxed),
    }
}

/// Undo what was set at run time, and forget what was measured
///
/// Every instance is enabled, every service has its configured algorithm, and counters begin at
/// zero. Connections, recoveries and what the checks found stay.
#[utoipa::path(
    post,
    path = "/api/v1/admin/loadbalancer/reset",
    tag = tag::ADMINISTRATION,
    operation_id = "reset",
    responses(
        (status = OK, body = Envelope<Reset>, description = "What that undid"),
        Conflict,
        NotKept
    )
)]
pub(super) async fn reset(
    State(state): State<ApiState>,
    _: Nothing,
) -> Result<Answer<Reset>, ApiError> {
    let reset = |keeper: &Keeper| keeper.reset().map_err(ApiError::from);
    let applied = state.blocking(reset).await?;
    let snapshot = state.snapshot();
    let mut instances = 0;
    for service in &snapshot.services {
        service.stats.reset();
        service.admission.queue().waits().reset();
        service.guard.reset();
        service.affinity.reset();
        service.served.reset();
        for member in service.members.iter() {
            member.instance.reset();
            instances += 1;
        }
    }
    snapshot.rate_limits.all().for_each(|limit| limit.reset());
    state.registry().breakers().notify_one();
    if let Some(gateway) = state.gateway() {
        gateway.answers.reset();
    }
    let events = applied.events.iter();
    let events = events.filter(|event| **event != Event::Reset);
    let mut changes: Vec<String> = events.map(ToString::to_string).collect();
    if state.log().reset() {
        let level = state.log().in_force().level;
        changes.push(format!("log level is {level} again"));
    }
    Ok(Answer::ok(Reset {
        revision: applied.revision,
        changes,
        instances,
    }))
}
