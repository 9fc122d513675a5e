//! `/instances`: look at instances, drain them, take them out and bring them back.

use axum::{
    extract::{FromRequest as _, Path, Request, State, rejection::PathRejection},
    http::Method,
    response::{IntoResponse as _, Response},
};

use super::{
    answer::Answer,
    body::Nothing,
    error::ApiError,
    measure,
    path::{self, InstancePath, Verb},
    state::ApiState,
    types::{Instance, Instances},
};
use crate::{
    model::Timestamp,
    registry::{Service, Snapshot},
};

/// `GET /instances`.
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Instances> {
    state.fresh_report().await;
    let now = state.now();
    let snapshot = state.snapshot();
    let instances = snapshot.services.iter().flat_map(|s| of(s, now)).collect();
    Answer::ok(Instances { instances })
}

/// Everything below `/instances/`; see [`super::path`] for why this is one handler.
pub(super) async fn below(
    State(state): State<ApiState>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(rest) = rest.map_err(|_| ApiError::NoPath {
        path: request.uri().path().to_owned(),
    })?;
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let method = |allow| ApiError::Method {
        method: request.method().to_string(),
        allow: Some(allow),
    };
    match path::parse(&rest) {
        InstancePath {
            service,
            instance,
            verb: None,
        } => {
            if !reading {
                return Err(method("GET,HEAD"));
            }
            state.fresh_report().await;
            match instance {
                None => list(&state, service).map(|list| Answer::ok(list).into_response()),
                Some(instance) => {
                    show(&state, service, instance).map(|one| Answer::ok(one).into_response())
                }
            }
        }
        InstancePath {
            service,
            instance,
            verb: Some(verb),
        } => {
            if request.method() != Method::POST {
                return Err(method("POST"));
            }
            Nothing::from_request(request, &()).await?;
            let instance = instance.unwrap_or_default();
            let one = set(&state, service, instance, verb).await?;
            Ok(Answer::ok(one).into_response())
        }
    }
}

fn list(state: &ApiState, service: &str) -> Result<Instances, ApiError> {
    let snapshot = state.snapshot();
    let instances = of(find_service(&snapshot, service)?, state.now()).collect();
    Ok(Instances { instances })
}

pub(super) fn show(state: &ApiState, service: &str, instance: &str) -> Result<Instance, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, service)?;
    let position = find(service, instance)?;
    let (member, status) = (&service.members[position], &service.statuses[position]);
    Ok(measure::instance(member, status, state.now()))
}

/// Answers when the kernel has the change, too: only then nothing new begins, and only what is
/// counted after that moment can say whether a drain is over.
async fn set(
    state: &ApiState,
    service: &str,
    name: &str,
    verb: Verb,
) -> Result<Instance, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, service)?;
    let change = verb.change(service.name().clone(), name.to_owned());
    let applied = state.registry().apply(change)?;
    state.report_holding(applied.revision).await;
    show(state, service.name().as_str(), name)
}

fn of(service: &Service, now: Timestamp) -> impl Iterator<Item = Instance> {
    let members = service.members.iter().zip(service.statuses.iter());
    members.map(move |(member, status)| measure::instance(member, status, now))
}

/// The position of the instance that a path names.
pub(super) fn find(service: &Service, name: &str) -> Result<usize, ApiError> {
    service.find(name).ok_or_else(|| ApiError::NoInstance {
        service: service.name().to_string(),
        found: name.to_owned(),
        known: service
            .members
            .iter()
            .map(|member| member.instance.endpoint.name().to_owned())
            .collect(),
    })
}

/// The service that a path names.
pub(super) fn find_service<'a>(
    snapshot: &'a Snapshot,
    name: &str,
) -> Result<&'a Service, ApiError> {
    match snapshot.service(name) {
        Some(service) => Ok(service),
        None => Err(ApiError::NoService {
            found: name.to_owned(),
            known: snapshot
                .services
                .iter()
                .map(|service| service.name().to_string())
                .collect(),
        }),
    }
}
