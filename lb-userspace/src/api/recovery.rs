//! `/recovery`: which instances are on their way back, and ending that at once.

use axum::extract::State;

use super::{
    answer::Answer,
    body::Nothing,
    document::tag,
    error::ApiError,
    instances, measure,
    path::OfInstance,
    state::ApiState,
    types::{Envelope, Instance, Recoveries, RecoveringInstance},
};
use crate::{
    model::Timestamp,
    registry::{Change, Service},
};

/// The instances that do not have their whole weight yet
///
/// State, share, relapses, time to the next step, and the rules.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/recovery",
    tag = tag::RECOVERY,
    operation_id = "listRecoveries",
    responses((status = OK, body = Envelope<Recoveries>, description = "The recoveries"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Recoveries> {
    let now = state.now();
    let snapshot = state.snapshot();
    let recoveries = snapshot.services.iter().flat_map(|s| of(s, now)).collect();
    Answer::ok(Recoveries { recoveries })
}

fn of(service: &Service, now: Timestamp) -> impl Iterator<Item = RecoveringInstance> {
    let members = service.members.iter().zip(service.statuses.iter());
    members.filter_map(move |(member, status)| {
        Some(RecoveringInstance {
            service: service.name().to_string(),
            instance: member.instance.endpoint.name().to_owned(),
            admin: status.admin.as_str().to_owned(),
            health: status.health.as_str().to_owned(),
            weight: status.weight,
            effective_weight: measure::weight(member.weight),
            recovery: measure::recovery(status.recovery.as_ref()?, now),
            settings: measure::recovery_settings(service.spec.recovery.as_ref()?),
        })
    })
}

/// Give an instance its whole weight at once
///
/// An ejection and a slow start end, too. Nothing happens to one that has it.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/recovery/{service}/{instance}/force",
    tag = tag::RECOVERY,
    operation_id = "forceRecovery",
    params(OfInstance),
    responses((status = OK, body = Envelope<Instance>, description = "The instance"))
)]
pub(super) async fn force(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    _: Nothing,
) -> Result<Answer<Instance>, ApiError> {
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, &service)?;
    state.registry().apply(Change::ForceRecovery {
        service: service.name().clone(),
        instance: instance.clone(),
    })?;
    instances::show(&state, service.name().as_str(), &instance).map(Answer::ok)
}
