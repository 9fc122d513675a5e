//! `/events`: what happens, as it happens, as server-sent events.
//!
//! A stream is a follower of the registry's [`Feed`](crate::registry::Feed): it asks for what comes
//! after the last event that it has written, and waits when there is nothing. What a slow reader
//! does not take stays in the feed until it is pushed out there; the reader is then told how much it
//! has missed. So nobody who reads slowly, or not at all, holds up more than [`CHUNK`] events and a
//! task, and [`MOST_STREAMS`] bounds how many do.

mod document;
mod packet_path;
mod stream;

use std::{collections::HashSet, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use tokio::sync::Semaphore;

pub use self::packet_path::watch_packet_path;
use self::stream::{Followed, Wanted};
pub(super) use self::stream::{Stream, append, stopping};
use super::{
    document::{Unavailable, tag},
    error::ApiError,
    query::{Parameters, unexpected},
    state::ApiState,
    types::Event,
};

/// Streams at one time, well below the connections that the API's listeners take.
const MOST_STREAMS: usize = 64;

/// Events that are written at once.
const CHUNK: usize = 64;

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The places that streams take.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_STREAMS)))
    }
}

/// What happens, as it happens
///
/// Server-sent events: each has its number as `id`, its type as `event` and an `Event` as `data`.
/// What a slow reader has missed is told by `event: lost`. The stream ends with the daemon.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/events",
    tag = tag::STATS,
    operation_id = "followEvents",
    params(
        ("service" = Option<Vec<String>>, Query, description = "Only events of this service; may \
            be repeated", example = json!(["main-backend"])),
        ("type" = Option<Vec<String>>, Query, description = "Only events of this type; may be \
            repeated", example = json!(["health_changed"])),
        ("after" = Option<u64>, Query, description = "Begin after the event with this number"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The same, as browsers say it"),
    ),
    responses(
        (status = OK, body = Event, content_type = "text/event-stream", description = "Events"),
        Unavailable
    )
)]
pub(super) async fn events(
    State(state): State<ApiState>,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    let wanted = Wanted {
        services: parameters.all("service").into_iter().collect(),
        types: types(&parameters.all("type"))?,
    };
    let after = match parameters.one("after")? {
        Some(after) => Some(number("after", &after)?),
        None => last_seen(&headers)?,
    };
    parameters.end("service, type and after")?;
    if state.stopping() {
        return Err(ApiError::Stopping);
    }
    let place = Arc::clone(&state.streams().0).try_acquire_owned();
    let place = place.map_err(|_| ApiError::TooManyStreams { most: MOST_STREAMS })?;
    let after = after.unwrap_or_else(|| state.registry().feed().newest());
    let followed = Followed::new(&state, wanted, after);
    Ok(respond(stream::start(followed, place)))
}

/// The answer that a stream is the body of.
pub(super) fn respond(body: Stream) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut response = (headers, Body::new(body)).into_response();
    // nginx passes events on as they come only when it is told to.
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert(unbuffered, no);
    response
}

fn types(asked: &[String]) -> Result<HashSet<&'static str>, ApiError> {
    let known = |asked: &String| {
        let found = document::TYPES.into_iter().find(|known| known == asked);
        found.ok_or_else(|| {
            let expected = format!("one of {}", document::TYPES.join(", "));
            unexpected("type", &expected, asked)
        })
    };
    asked.iter().map(known).collect()
}

/// Where a client goes on that was cut off.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    match headers.get(&LAST_EVENT_ID) {
        None => Ok(None),
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            number("Last-Event-ID", &text).map(Some)
        }
    }
}

fn number(name: &str, text: &str) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| unexpected(name, "the number of an event", text))
}
