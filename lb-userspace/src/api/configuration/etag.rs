//! Tags of the configuration and its parts, and conditions that name them (RFC 9110, 8.8 and 13).
//!
//! A tag is a hash of the content in its canonical form, with keys in order and without secrets. It
//! says nothing of what is measured or ordered beside the configuration.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::api::{error::ApiError, state::ApiState};

/// Bytes of the hash in a tag: two contents of one tag will not come by.
const BYTES: usize = 16;

/// The strong tag of a value, quotes included.
pub(in crate::api) fn etag(value: &Value) -> String {
    // Writing a value to memory cannot fail.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let hash = digest(&SHA256, &text);
    let digits = hash.as_ref().iter().take(BYTES);
    let digits: String = digits.map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// What a change expects to find.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Condition {
    /// One of these.
    matches: Option<Vec<String>>,
    /// None of these.
    differs: Option<Vec<String>>,
    /// Whether it has to say so.
    required: bool,
}

impl Condition {
    pub(super) fn of(state: &ApiState, headers: &HeaderMap) -> Self {
        let config = &state.keeper().view().config;
        Self {
            matches: tags(headers, &header::IF_MATCH),
            differs: tags(headers, &header::IF_NONE_MATCH),
            required: config.daemon.api.require_if_match,
        }
    }

    /// Whether the change may be made to what has `tag`; `None` for nothing.
    pub(in crate::api) fn check(&self, tag: Option<&str>) -> Result<(), ApiError> {
        let names = |tags: &[String]| match tag {
            Some(tag) => tags.iter().any(|named| named == "*" || named == tag),
            None => false,
        };
        let found = tag.unwrap_or("nothing").to_owned();
        if let Some(tags) = &self.matches
            && !names(tags)
        {
            return Err(ApiError::Precondition {
                expected: format!("what has the tag {}", tags.join(" or ")),
                found,
            });
        }
        if let Some(tags) = &self.differs
            && names(tags)
        {
            let expected = "nothing that If-None-Match names".to_owned();
            return Err(ApiError::Precondition { expected, found });
        }
        let unsaid = self.matches.is_none() && self.differs.is_none();
        if self.required && unsaid && tag.is_some() {
            return Err(ApiError::PreconditionRequired);
        }
        Ok(())
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let mut tags = None;
    for value in headers.get_all(name) {
        // What is no text names no tag of ours.
        let text = value.to_str().unwrap_or_default();
        let parts = text.split(',').map(|part| part.trim().to_owned());
        tags.get_or_insert_with(Vec::new).extend(parts);
    }
    tags
}

/// "Not modified" for whoever has what has `tag`.
pub(in crate::api) fn unless_same(headers: &HeaderMap, held: &str) -> Option<Response> {
    let named = tags(headers, &header::IF_NONE_MATCH)?;
    // Reading compares weakly.
    let same = |named: &String| named == "*" || named.strip_prefix("W/").unwrap_or(named) == held;
    named.iter().any(same).then(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        tag(&mut response, Some(held));
        response
    })
}

/// Names the tag of what an answer shows or has changed.
pub(in crate::api) fn tag(response: &mut Response, tag: Option<&str>) {
    if let Some(Ok(value)) = tag.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// Names where the thing is that was made.
pub(super) fn locate(response: &mut Response, url: &str) {
    if let Ok(value) = HeaderValue::try_from(url) {
        response.headers_mut().insert(header::LOCATION, value);
    }
}
