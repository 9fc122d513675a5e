//! `/instances`: look at instances, drain them, take them out and bring them back.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};

use super::{
    answer::Answer,
    body::{Maybe, Nothing},
    configuration::{self, Place},
    document::{NotKept, tag},
    drains,
    error::ApiError,
    measure,
    path::{OfInstance, OfService},
    state::ApiState,
    types::{Envelope, Instance, Instances, StartDrain},
};
use crate::{
    model::{AdminState, Timestamp},
    registry::{Change, Service, Snapshot},
    runtime::{Deadline, Order},
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
/// What is configured, decided, measured and counted for it. `ETag` is the tag of what is
/// configured: what is measured is never the same twice.
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
) -> Result<Response, ApiError> {
    state.fresh_report().await;
    let shown = show(&state, &service, &instance)?;
    let mut response = Answer::ok(shown).into_response();
    let place = Place::instance(&state.snapshot(), &service, &instance);
    let tag = place.tag(&state.keeper().view().config.document);
    configuration::tag(&mut response, tag.as_deref());
    Ok(response)
}

/// Drain an instance
///
/// It keeps its requests, its connections and the sessions that are pinned to it, and gets nothing
/// new. `drained` of the instance turns true when nothing is left, and `drain` says how far it is.
/// With a deadline it is disabled when that is over. A body is not needed.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/drain",
    tag = tag::INSTANCES,
    operation_id = "drainInstance",
    params(OfInstance),
    request_body = Option<StartDrain>,
    responses(
        (status = OK, body = Envelope<Instance>, description = "The instance"),
        NotKept
    )
)]
pub(super) async fn drain(
    State(state): State<ApiState>,
    of: OfInstance,
    Maybe(start): Maybe<StartDrain>,
) -> Result<Answer<Instance>, ApiError> {
    let deadline = start.map(drains::deadline).transpose()?.flatten();
    let one = order(&state, &of, AdminState::Draining, deadline).await?;
    Ok(Answer::ok(one))
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
    responses(
        (status = OK, body = Envelope<Instance>, description = "The instance"),
        NotKept
    )
)]
pub(super) async fn disable(
    State(state): State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    let one = order(&state, &of, AdminState::Disabled, None).await?;
    Ok(Answer::ok(one))
}

/// Give an instance traffic again
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}/enable",
    tag = tag::INSTANCES,
    operation_id = "enableInstance",
    params(OfInstance),
    responses(
        (status = OK, body = Envelope<Instance>, description = "The instance"),
        NotKept
    )
)]
pub(super) async fn enable(
    State(state): State<ApiState>,
    of: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    let one = order(&state, &of, AdminState::Enabled, None).await?;
    Ok(Answer::ok(one))
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
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    let snapshot = state.snapshot();
    let name = find_service(&snapshot, &service)?.name().clone();
    let change = Change::Uneject {
        service: name,
        instance: instance.clone(),
    };
    let applied = state.registry().apply(change)?;
    state.report_holding(applied.revision).await;
    show(&state, &service, &instance).map(Answer::ok)
}

pub(super) fn show(state: &ApiState, service: &str, instance: &str) -> Result<Instance, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, service)?;
    let position = find(service, instance)?;
    let (member, status) = (&service.members[position], &service.statuses[position]);
    let shown = measure::instance(member, status, state.now());
    Ok(Instance {
        drain: drains::progress(state, member, status),
        ..shown
    })
}

/// Answers when the kernel has the change, too: only then nothing new begins, and only what is
/// counted after that moment can say whether a drain is over.
pub(super) async fn order(
    state: &ApiState,
    OfInstance { service, instance }: &OfInstance,
    admin: AdminState,
    deadline: Option<Deadline>,
) -> Result<Instance, ApiError> {
    let snapshot = state.snapshot();
    let order = Order::Admin {
        service: find_service(&snapshot, service)?.name().clone(),
        instance: instance.clone(),
        state: admin,
        deadline,
    };
    let applied = state.ordering(order).await?;
    state.report_holding(applied.revision).await;
    show(state, service, instance)
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
