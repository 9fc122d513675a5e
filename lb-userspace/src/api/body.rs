//! Request bodies: JSON, of bounded length, and nothing in them that is not understood.
//!
//! A member that would be ignored is refused: whoever wrote `"algoritm"` meant something.

mod unique;

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::unique::Unique;
use super::error::{ApiError, Fault};

/// Most bytes of a body.
pub(super) const LIMIT: usize = 64 * 1024;

/// Longest wait for a body.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body that is exactly a `T`.
#[derive(Debug)]
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Strict<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = says_json(request.headers());
        let body = read(request, LIMIT).await?;
        json?;
        parse(&body).map(Self)
    }
}

/// An object without members.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

/// Nothing, for endpoints that take no body. An empty object is nothing too.
#[derive(Debug)]
pub(super) struct Nothing;

impl<S: Sync> FromRequest<S> for Nothing {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read(request, LIMIT).await?;
        if !body.trim_ascii().is_empty() {
            parse::<Empty>(&body)?;
        }
        Ok(Self)
    }
}

/// A body that is `T`, or nothing. An empty object is nothing here as well, whatever its type.
#[derive(Debug)]
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Maybe<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = says_json(request.headers());
        let body = read(request, LIMIT).await?;
        if body.trim_ascii().is_empty() || parse::<Empty>(&body).is_ok() {
            return Ok(Self(None));
        }
        json?;
        parse(&body).map(Self)
    }
}

/// A body that is a JSON object of any form, of at most `MOST` bytes.
#[derive(Debug)]
pub(super) struct Object<const MOST: usize>(pub(super) Map<String, Value>);

impl<const MOST: usize, S: Sync> FromRequest<S> for Object<MOST> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = says_json(request.headers());
        let body = read(request, MOST).await?;
        json?;
        match parse::<Unique>(&body)? {
            Unique(Value::Object(object)) => Ok(Self(object)),
            Unique(other) => Err(ApiError::Body {
                expected: "a JSON object, found something else".to_owned(),
                faults: vec![Fault {
                    origin: None,
                    pointer: String::new(),
                    expected: "an object".to_owned(),
                    found: kind(&other).to_owned(),
                }],
            }),
        }
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

async fn read(request: Request, most: usize) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), most).collect();
    match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge { limit: most }),
        Ok(Err(error)) => Err(ApiError::Body {
            expected: format!("a complete body, found that it broke off: {error}"),
            faults: Vec::new(),
        }),
        Err(_) => Err(ApiError::TooSlow {
            seconds: PATIENCE.as_secs(),
        }),
    }
}

/// `application/json` or a type built on it, with any parameters.
fn says_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        let found = "none".to_owned();
        return Err(ApiError::MediaType { found });
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        Ok(())
    } else {
        let found = format!("{text:?}");
        Err(ApiError::MediaType { found })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        refuse(pointer, error.inner())
    })?;
    json.end().map_err(|error| refuse(String::new(), &error))?;
    Ok(value)
}

/// The path of a fault as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { variant } => Some(format!("/{variant}")),
            Segment::Unknown => None,
        })
        .collect()
}

fn refuse(pointer: String, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    // serde says "<fault>, expected <what>" wherever it knows what belongs there.
    let (found, expected) = match text.split_once(", expected ") {
        Some((found, expected)) => {
            let expected = expected.split(" at line ").next().unwrap_or(expected);
            (found.to_owned(), expected.to_owned())
        }
        None if error.is_data() => (text.clone(), "nothing else".to_owned()),
        None => (text.clone(), "JSON".to_owned()),
    };
    ApiError::Body {
        expected: format!("a body that fits, found: {text}"),
        faults: vec![Fault {
            origin: None,
            pointer,
            expected,
            found,
        }],
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    fn fault(body: &str) -> Fault {
        match parse::<Outer>(body.as_bytes()) {
            Err(ApiError::Body { faults, .. }) => faults[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_say_where_what_was_expected_and_what_was_found() {
        let wrong = fault(r#"{"inner": [{"name": "a"}, {"name": 5}]}"#);
        assert_eq!(wrong.pointer, "/inner/1/name");
        assert_eq!(wrong.expected, "a string");
        assert!(wrong.found.contains("integer `5`"), "{wrong:?}");
        let unknown = fault(r#"{"inner": [{"nmae": "a"}]}"#);
        assert_eq!(unknown.pointer, "/inner/0/nmae");
        assert!(unknown.expected.contains("`name`"), "{unknown:?}");
        for (body, pointer) in [
            ("", ""),
            ("{", ""),
            ("[]", ""),
            ("{}", ""),
            (r#"{"inner": []} x"#, ""),
            (r#"{"inner": [], "inner": []}"#, ""),
        ] {
            assert_eq!(fault(body).pointer, pointer, "{body}");
        }
        assert_eq!(
            parse::<Outer>(br#"{"inner": []}"#),
            Ok(Outer { inner: vec![] })
        );
    }

    #[test]
    fn json_goes_by_more_than_one_name() {
        for (value, fits) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(says_json(&headers).is_ok(), fits, "{value}");
        }
        assert!(says_json(&HeaderMap::new()).is_err());
    }
}
