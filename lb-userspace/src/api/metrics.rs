//! `/metrics`: the Prometheus exposition. See [`crate::telemetry`].

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::state::ApiState;
use crate::telemetry::metrics::CONTENT_TYPE;

/// `GET /metrics`.
pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    // What the kernel counts is copied here once a second; a scrape wants it as it is.
    state.fresh_report().await;
    match state.metrics().render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
