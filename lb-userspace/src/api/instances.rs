//! `/instances`: look at instances, drain them, take them out and bring them back.

use axum::extract::State;

use super::{
    answer::Answer,
    body::Nothing,
    document::tag,
    error::ApiError,
    measure,
    path::{OfInstance, OfService},
    state::ApiState,
    types::{Envelope, Instance, Instances},
};
use crate::{
    model::{AdminState, ServiceName, Timestamp},
    registry::{Change, Service, Snapshot},
};

/// All instances
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/instances",
    tag = tag::INSTANCES,
    operation_id = "listInstances",
    responses((status = OK, body = Envelope<Instances>, description = "Every instance"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Instances> {
    state.fresh_report().await;
    let now = state.now();
    let snapshot = state.snapshot();
    let instances = snapshot.services.iter().flat_map(|s| of(s, now)).collect();
    Answer::ok(Instances { instances })
}

/// The instances of a service
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/instances/{service}",
    tag = tag::INSTANCES,
    operation_id = "listInstancesOfService",
    params(OfService),
    responses((status = OK, body = Envelope<Instances>, description = "Its instances"))
)]
pub(super) async fn of_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
) -> Result<Answer<Instances>, ApiError> {
    state.fresh_report().await;
    let snapshot = state.snapshot();
    let instances = of(find_service(&snapshot, &service)?, state.now()).collect();
    Ok(Answer::ok(Instances { instances }))
}

/// An instance
///
/// What is configured, decided, measured and counted for it.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}",
    tag = tag::INSTANCES,
    operation_id = "getInstance",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn one(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
) -> Result<Answer<Instance>, ApiError> {
    state.fresh_report().await;
    show(&state, &service, &instance).map(Answer::ok)
}

/// Drain an instance
///
/// It keeps its requests, its connections and the sessions that are pinned to it, and gets nothing
/// new. `drained` of the instance turns true when nothing is left.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/drain",
    tag = tag::INSTANCES,
    operation_id = "drainInstance",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn drain(
    state: State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    set(state, of, admin(AdminState::Draining)).await
}

/// Take an instance out at once
///
/// It gets nothing; its connections in the kernel go to others.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/disable",
    tag = tag::INSTANCES,
    operation_id = "disableInstance",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn disable(
    state: State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    set(state, of, admin(AdminState::Disabled)).await
}

/// Give an instance traffic again
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/enable",
    tag = tag::INSTANCES,
    operation_id = "enableInstance",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn enable(
    state: State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    set(state, of, admin(AdminState::Enabled)).await
}

/// End an ejection before its time
///
/// The instance comes back through its recovery. Nothing happens to one that is not ejected.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/uneject",
    tag = tag::INSTANCES,
    operation_id = "unejectInstance",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn uneject(
    state: State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    set(state, of, |service, instance| Change::Uneject {
        service,
        instance,
    })
    .await
}

fn admin(state: AdminState) -> impl FnOnce(ServiceName, String) -> Change {
    move |service, instance| Change::Admin {
        service,
        instance,
        state,
    }
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
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    change: impl FnOnce(ServiceName, String) -> Change,
) -> Result<Answer<Instance>, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?.name().clone();
    let applied = state
        .registry()
        .apply(change(service.clone(), instance.clone()))?;
    state.report_holding(applied.revision).await;
    show(&state, service.as_str(), &instance).map(Answer::ok)
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
