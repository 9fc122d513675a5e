//! `/api/v1/admin/loadbalancer`: the daemon itself.

use axum::extract::State;

use super::{answer::Answer, body::Nothing, error::ApiError, state::ApiState, types::Reload};

/// `POST …/reload`.
pub(super) async fn reload(
    State(state): State<ApiState>,
    _: Nothing,
) -> Result<Answer<Reload>, ApiError> {
    match state.reload().await {
        Ok(done) => Ok(Answer::ok(Reload {
            revision: done.revision,
            changes: done.changes,
            needs_restart: done.needs_restart,
        })),
        Err(failure) => Err(ApiError::Reload {
            message: failure.message,
            faults: failure.faults,
        }),
    }
}
