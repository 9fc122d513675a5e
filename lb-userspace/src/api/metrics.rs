//! `/metrics`: the Prometheus exposition. See [`crate::telemetry`].

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{
    document::{MetricsOff, tag},
    error::ApiError,
    state::ApiState,
};
use crate::telemetry::metrics::Format;

/// Metrics, for Prometheus
///
/// In the text format, or as OpenMetrics for who accepts that.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = tag::STATS,
    operation_id = "getMetrics",
    responses(
        (status = OK, description = "The metrics", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text")
        )),
        MetricsOff
    )
)]
pub(super) async fn metrics(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    if !state.snapshot().integration.serve_metrics {
        return ApiError::MetricsOff.into_response();
    }
    let accept: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted(&accept.join(","));
    // What the kernel counts is copied here once a second; a scrape wants it as it is.
    state.fresh_report().await;
    match state.metrics().render(format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
