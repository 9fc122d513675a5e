//! `/recovery`: which instances are on their way back, and ending that at once.

use axum::{
    extract::{FromRequest as _, Path, Request, State, rejection::PathRejection},
    http::Method,
};

use super::{
    answer::Answer,
    body::Nothing,
    error::ApiError,
    instances, measure, path,
    state::ApiState,
    types::{Instance, Recoveries, RecoveringInstance},
};
use crate::{
    model::Timestamp,
    registry::{Change, Service},
};

/// `GET /recovery`.
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

/// `POST /recovery/{service}/{instance}/force`; a name may have slashes, see [`super::path`].
pub(super) async fn below(
    State(state): State<ApiState>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Answer<Instance>, ApiError> {
    let path = request.uri().path().to_owned();
    let no_path = || ApiError::NoPath { path };
    let Ok(Path(rest)) = rest else {
        return Err(no_path());
    };
    let Some((service, instance)) = path::forced(&rest) else {
        return Err(no_path());
    };
    if request.method() != Method::POST {
        return Err(ApiError::Method {
            method: request.method().to_string(),
            allow: Some("POST"),
        });
    }
    Nothing::from_request(request, &()).await?;
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, service)?;
    state.registry().apply(Change::ForceRecovery {
        service: service.name().clone(),
        instance: instance.to_owned(),
    })?;
    instances::show(&state, service.name().as_str(), instance).map(Answer::ok)
}
