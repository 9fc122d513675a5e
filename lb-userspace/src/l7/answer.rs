//! Answers that lb makes itself: the one place where a [`Reason`] becomes a message.
//!
//! Whatever goes wrong is seen alike by everybody: the status for the client, `Proxy-Status`
//! (RFC 9209) for whoever debugs the client, the reason's label in the body, and one more in the
//! counter of that reason. The message names no addresses: it leaves the house.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::{body::Answer, pulse::Pulse};
use crate::model::{Reason, ServiceStats};

static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// When a client may ask again after a 503, in seconds: as soon as something can have changed.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Counts `reason` in `stats` and makes the answer to it.
pub(super) fn local(reason: Reason, stats: &ServiceStats) -> Response<Answer> {
    stats.answered(reason);
    let text = Bytes::from_static(reason.label().as_bytes());
    let mut response = Response::new(Answer::Text(Some(text)));
    let status = StatusCode::from_u16(reason.status());
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    fields(response.headers_mut(), reason);
    response
}

/// Says in `response` when to ask again: in whole seconds, at least one.
pub(super) fn again_in(response: &mut Response<Answer>, wait: Duration) {
    let seconds = wait.as_micros().div_ceil(1_000_000).max(1);
    if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
}

fn fields(headers: &mut HeaderMap, reason: Reason) {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, text);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let (error, label) = (reason.proxy_status(), reason.label());
    let status = HeaderValue::try_from(format!("lb; error={error}; details=\"{label}\""));
    if let Ok(status) = status {
        headers.insert(&PROXY_STATUS, status);
    }
    if reason.status() == 503 {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if closes(reason) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What a client is told whose request's head did not come in time: hyper has no part in that.
pub(super) fn header_timeout() -> String {
    let reason = Reason::HeaderTimeout;
    let (error, label) = (reason.proxy_status(), reason.label());
    let length = label.len();
    format!(
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Proxy-Status: lb; error={error}; details=\"{label}\"\r\n\r\n{label}"
    )
}

/// Says that the connection ends with this answer, if it does.
pub(super) fn ends_connection(headers: &mut HeaderMap, pulse: &Pulse) {
    if pulse.is_last() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether the connection to the client is of no further use: what follows on it may not be where
/// lb takes it to be.
const fn closes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadRequest | Reason::Unsupported | Reason::ClientTimeout | Reason::ShuttingDown
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_seen_alike_everywhere() {
        let stats = ServiceStats::default();
        for reason in Reason::ALL {
            let response = local(*reason, &stats);
            assert_eq!(response.status(), reason.status());
            let status = response.headers()[&PROXY_STATUS].to_str().unwrap();
            let expected = format!(
                "lb; error={}; details=\"{}\"",
                reason.proxy_status(),
                reason.label()
            );
            assert_eq!(status, expected);
            let again = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(again, response.status() == 503, "{reason:?}");
            assert_eq!(stats.answers(*reason), 1);
        }
    }

    #[test]
    fn statuses_tell_what_went_wrong() {
        for (reason, status) in [
            (Reason::NoInstance, 503),
            (Reason::ConnectFailed, 502),
            (Reason::ConnectTimeout, 504),
            (Reason::ConnectionLost, 502),
            (Reason::RequestTimeout, 504),
            (Reason::ClientTimeout, 408),
            (Reason::Unsupported, 501),
        ] {
            assert_eq!(reason.status(), status);
        }
    }
}
