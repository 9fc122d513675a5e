//! `/discovery`: the sources of instances, and how each does.

use axum::extract::State;

use super::{
    answer::Answer,
    body::Nothing,
    document::tag,
    measure::round,
    state::ApiState,
    types::{Discovery, Envelope, FoundInstance, Leaving, Refused, Source},
};
use crate::{
    discovery::SourceReport,
    model::{InstanceSpec, ServiceName, SourceSpec, Timestamp},
};

/// Where instances are found
///
/// Every source beside the configuration: how it does, what it has found, what is wrong; and the
/// instances that leave.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/discovery",
    tag = tag::CONFIGURATION,
    operation_id = "getDiscovery",
    responses((status = OK, body = Envelope<Discovery>, description = "The sources"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Discovery> {
    Answer::ok(shown(&state))
}

/// Ask all sources of instances now
///
/// The answer tells how they do before that; what they say shows a moment later.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/discovery/refresh",
    tag = tag::CONFIGURATION,
    operation_id = "refreshDiscovery",
    responses((status = OK, body = Envelope<Discovery>, description = "The sources"))
)]
pub(super) async fn refresh(State(state): State<ApiState>, _: Nothing) -> Answer<Discovery> {
    state.discovery().refresh();
    Answer::ok(shown(&state))
}

/// What is wrong with the sources, a sentence each.
pub(super) fn problems(state: &ApiState) -> Vec<String> {
    let now = state.now();
    let mut problems = Vec::new();
    for (service, source, report) in state.discovery().sources() {
        if let (true, Some(problem)) = (report.state.is_trouble(), &report.problem) {
            let kept = report.instances.map_or(0, |set| set.len());
            let since = report.good.map_or_else(
                || "it has never answered".to_owned(),
                |good| {
                    let ago = (now - good).as_secs();
                    format!("{kept} instances that it named {ago} s ago stay")
                },
            );
            problems.push(format!("service {service}: {source}: {problem}; {since}"));
        }
    }
    for (service, why) in state.discovery().refusals() {
        let text = format!("service {service}: what was found cannot be taken over: {why}");
        problems.push(text);
    }
    problems
}

fn shown(state: &ApiState) -> Discovery {
    let now = state.now();
    let sources = state.discovery().sources().into_iter();
    let snapshot = state.snapshot();
    let leaving = snapshot.services.iter().flat_map(|service| {
        let specs = service.spec.instances.iter().zip(service.members.iter());
        specs
            .filter(|(spec, _)| spec.leaving)
            .map(|(spec, member)| Leaving {
                service: service.name().to_string(),
                instance: spec.endpoint.name().to_owned(),
                in_flight: member.instance.in_flight(),
            })
    });
    let refused = state.discovery().refusals().into_iter();
    Discovery {
        sources: sources
            .map(|(service, source, report)| one(&service, &source, &report, now))
            .collect(),
        leaving: leaving.collect(),
        refused: refused
            .map(|(service, why)| Refused {
                service: service.to_string(),
                why,
            })
            .collect(),
    }
}

fn one(
    service: &ServiceName,
    source: &SourceSpec,
    report: &SourceReport,
    now: Timestamp,
) -> Source {
    let ago = |then: Timestamp| round((now - then).as_secs_f64());
    let instances = report.instances.iter().flat_map(|set| set.iter());
    Source {
        service: service.to_string(),
        kind: source.kind().to_owned(),
        source: source.target(),
        state: report.state.as_str().to_owned(),
        problem: report.problem.clone(),
        instances: instances.map(found).collect(),
        good_seconds_ago: report.good.map(ago),
        asked_seconds_ago: report.asked.map(ago),
        next_in_seconds: report.next.map(|next| round((next - now).as_secs_f64())),
        took_ms: report.took.map(|took| round(took.as_secs_f64() * 1e3)),
        successes: report.successes,
        failures: report.failures,
        failures_in_row: report.failures_in_row,
    }
}

fn found(spec: &InstanceSpec) -> FoundInstance {
    FoundInstance {
        instance: spec.endpoint.name().to_owned(),
        weight: spec.weight,
        max_requests: spec.max_requests,
        max_connections: spec.max_connections,
    }
}
