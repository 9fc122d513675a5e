//! `/log`: how much is logged, without a restart.

use axum::extract::State;

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    document::tag,
    error::{ApiError, Fault},
    state::ApiState,
    types::{Envelope, Log, SetLog},
};
use crate::config;

/// What is logged
#[utoipa::path(
    get,
    path = "/api/v1/admin/loadbalancer/log",
    tag = tag::ADMINISTRATION,
    operation_id = "getLog",
    responses((status = OK, body = Envelope<Log>, description = "What is logged"))
)]
pub(super) async fn show(State(state): State<ApiState>) -> Answer<Log> {
    Answer::ok(in_force(&state))
}

/// Log more or less
///
/// Until the daemon restarts, it is reset, or `log.level` is changed in the file.
#[utoipa::path(
    put,
    path = "/api/v1/admin/loadbalancer/log",
    tag = tag::ADMINISTRATION,
    operation_id = "setLog",
    request_body = SetLog,
    responses((status = OK, body = Envelope<Log>, description = "What is logged now"))
)]
pub(super) async fn set(
    State(state): State<ApiState>,
    Strict(SetLog { level }): Strict<SetLog>,
) -> Result<Answer<Log>, ApiError> {
    let refused = |expected: &str, note: Option<String>| {
        let note = note.map_or_else(String::new, |note| format!(" ({note})"));
        ApiError::Body {
            expected: format!("{expected} as the level, found {level:?}{note}"),
            faults: vec![Fault {
                pointer: "/level".to_owned(),
                origin: None,
                expected: expected.to_owned(),
                found: level.clone(),
            }],
        }
    };
    let filter = config::log_filter(&level).map_err(|(expected, note)| refused(expected, note))?;
    let set = state.log().set(&filter);
    set.map_err(|error| refused("a filter that the log takes", Some(error.to_string())))?;
    Ok(Answer::ok(in_force(&state)))
}

/// Log as configured again
#[utoipa::path(
    delete,
    path = "/api/v1/admin/loadbalancer/log",
    tag = tag::ADMINISTRATION,
    operation_id = "resetLog",
    responses((status = OK, body = Envelope<Log>, description = "What is logged now"))
)]
pub(super) async fn reset(State(state): State<ApiState>, _: Nothing) -> Answer<Log> {
    state.log().reset();
    Answer::ok(in_force(&state))
}

fn in_force(state: &ApiState) -> Log {
    let filter = state.log().in_force();
    Log {
        level: filter.level,
        configured: filter.configured,
    }
}
