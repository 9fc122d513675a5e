//! `/integrations`: whether systems beside lb answer, what waits for them and what was lost.

use std::time::SystemTime;

use axum::extract::State;

use super::{
    answer::Answer,
    document::tag,
    state::ApiState,
    types::{BackendWord, Envelope, Integration, Integrations},
};
use crate::{integration::Report, model::BreakerState};

/// Systems beside lb
///
/// Whether they answer, what waits for them, what was given up, and what the circuit-breaker
/// backend has said of each service.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/integrations",
    tag = tag::CONFIGURATION,
    operation_id = "getIntegrations",
    responses((status = OK, body = Envelope<Integrations>, description = "How each fares"))
)]
pub(super) async fn integrations(State(state): State<ApiState>) -> Answer<Integrations> {
    let Some(reports) = state.integrations() else {
        return Answer::ok(Integrations::default());
    };
    let words = reports.breaker.words().into_iter();
    Answer::ok(Integrations {
        integrations: reports.all().into_iter().map(of).collect(),
        breakers: words
            .map(|(service, word)| BackendWord {
                service: service.to_string(),
                state: word.state.map(|state| state.as_str().to_owned()),
                heard: word.heard.map(time),
                missed: word.missed,
            })
            .collect(),
    })
}

fn of(report: &Report) -> Integration {
    let last = report.last();
    let state = match (&last.url, last.failing) {
        (None, _) => "off",
        (_, true) => "failing",
        _ if last.success.is_none() => "waiting",
        _ => "working",
    };
    let (when, error) = last.failure.unzip();
    Integration {
        integration: report.name.to_owned(),
        state: state.to_owned(),
        url: last.url,
        succeeded: report.succeeded(),
        failed: report.failed(),
        delivered: report.delivered(),
        waiting: report.waiting(),
        dropped: report.dropped(),
        last_success: last.success.map(time),
        last_failure: when.map(time),
        error,
    }
}

/// What is wrong, a sentence each: systems that do not answer, and services that are refused.
pub(super) fn problems(state: &ApiState) -> Vec<String> {
    let Some(reports) = state.integrations() else {
        return Vec::new();
    };
    let failing = reports.all().into_iter().filter_map(|report| {
        let last = report.last();
        let (_, error) = last.failure.filter(|_| last.failing)?;
        Some(format!("integration {}: {error}", report.name))
    });
    let words = reports.breaker.words().into_iter();
    let open = words.filter(|(_, word)| word.state == Some(BreakerState::Open));
    let refused = open.map(|(service, _)| {
        format!("service {service}: all requests are refused, its circuit breaker in the backend is open")
    });
    failing.chain(refused).collect()
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
