//! The form of every answer that is not an error.

use std::time::SystemTime;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::types::Envelope;

/// A success: `{"success": true, "timestamp": …, "data": …}`.
#[derive(Debug)]
pub(super) struct Answer<T> {
    status: StatusCode,
    data: T,
}

impl<T> Answer<T> {
    pub(super) const fn ok(data: T) -> Self {
        Self {
            status: StatusCode::OK,
            data,
        }
    }

    /// The same with another status, for the one resource whose data is worth reading when it is
    /// bad news: the gateway's health.
    pub(super) const fn with_status(status: StatusCode, data: T) -> Self {
        Self { status, data }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let envelope = Envelope {
            success: self.status.is_success(),
            timestamp: timestamp(),
            data: self.data,
        };
        json(self.status, "application/json", &envelope)
    }
}

/// Now, as RFC 3339 in UTC.
pub(super) fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A document and the end of its line.
pub(super) fn to_json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut body = serde_json::to_vec(value)?;
    body.push(b'\n');
    Ok(body)
}

/// A JSON answer that nobody may keep: it is about this moment.
pub(super) fn json(
    status: StatusCode,
    media_type: &'static str,
    value: &impl Serialize,
) -> Response {
    let (status, body) = match to_json(value) {
        Ok(body) => (status, Body::from(body)),
        Err(error) => {
            tracing::error!(%error, "an answer of the API cannot be written as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, Body::empty())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
