//! What all answers have in common, whoever made them.
//!
//! - Each request has an id. A client that sends `X-Request-Id` chooses it, so that it can find its
//!   request again; else it is made up. It stands in the answer's `X-Request-Id`, in the problem
//!   document, and in the log of changes.
//! - Nobody may keep an answer unless it says otherwise (`Cache-Control: no-store`), or take it for
//!   something else than it says it is (`X-Content-Type-Options: nosniff`).
//!
//! `Accept` is looked at by `/metrics` alone. Every other resource has one form, and RFC 9110
//! (12.4.1) leaves it to the server whether a client that asks for another one gets 406 or the form
//! that there is: a tool that says `Accept: text/html` is better served with JSON than with nothing.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};

use super::{answer, error::Problem};

/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client.
const LONGEST: usize = 128;

/// The name of a request, in the extensions of every request.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// What the client says, when it is one word that can stand in a log and a URN as it is; else a
    /// new one.
    fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if fits(id.as_bytes()) => Self(id.clone()),
            _ => Self::new(),
        }
    }

    fn new() -> Self {
        let text = format!("{:016x}", fastrand::u64(..));
        // Sixteen digits are a value of a header.
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0")))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn fits(id: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(is_word)
}

/// The outermost layer of the API.
pub(super) async fn keep(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.of_request(id.as_str());
        if let Ok(body) = answer::to_json(&problem) {
            // The length was that of the document without the id.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from(body);
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_are_taken_when_they_are_words() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REQUEST_ID, value.parse().unwrap());
            }
            RequestId::of(&headers).as_str().to_owned()
        };
        let uuid = "0b4f6f0e-2a4c-4b0e-9f0e-1d2c3b4a5f6e";
        assert_eq!(of(&[uuid]), uuid);
        assert_eq!(of(&[&"x".repeat(128)]), "x".repeat(128));
        for odd in [
            &[][..],
            &[""],
            &["a b"],
            &["a", "b"],
            &["a\"b"],
            &["ü"],
            &[&"x".repeat(129)],
        ] {
            let id = of(odd);
            assert_eq!(id.len(), 16, "{odd:?}");
            assert_ne!(id, of(odd), "{odd:?}");
        }
    }
}
