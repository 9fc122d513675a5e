//! `/api/v1/admin/loadbalancer`: the daemon itself.

use axum::extract::State;

use super::{
    access::Caller,
    answer::Answer,
    body::Nothing,
    document::{BadConfiguration, tag},
    error::ApiError,
    state::ApiState,
    types::{Envelope, Reload},
};

/// Read the configuration again
///
/// File, environment and flags are read as the start did, and applied whole or not at all.
#[utoipa::path(
    post,
    path = "/api/v1/admin/loadbalancer/reload",
    tag = tag::ADMINISTRATION,
    operation_id = "reload",
    responses(
        (status = OK, body = Envelope<Reload>, description = "What changed, and what waits for a restart"),
        BadConfiguration
    )
)]
pub(super) async fn reload(
    State(state): State<ApiState>,
    caller: Caller,
    _: Nothing,
) -> Result<Answer<Reload>, ApiError> {
    match state.reload(&caller.to_string()).await {
        Ok(done) => Ok(Answer::ok(Reload {
            revision: done.revision,
            config_revision: done.configuration,
            changes: done.changes,
            needs_restart: done.needs_restart,
        })),
        Err(failure) => Err(ApiError::Reload {
            message: failure.message,
            faults: failure.faults,
        }),
    }
}
