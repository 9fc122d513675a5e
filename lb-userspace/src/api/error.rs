//! Everything that the API refuses, with status and type beside the reason.
//!
//! An error leaves as `application/problem+json` (RFC 9457) and carries `success` and `error`
//! besides, so that a client of the guide's plain form finds what it looks for.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer;
use crate::{config, model::Role, registry::RegistryError, runtime::ChangeError};

/// One thing that is wrong in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Where: a JSON pointer (RFC 6901) into a request body, the name of a query parameter, or the
    /// path of a setting.
    pub pointer: String,
    /// File and line, variable or flag that it comes from; absent for a request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What belongs there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Fault {
    /// A fault of the configuration in the form of the API.
    #[must_use]
    pub fn of(fault: &config::Fault) -> Self {
        Self {
            pointer: fault.path.pointer(),
            origin: Some(fault.origin.to_string()),
            expected: fault.expected.clone(),
            found: fault.found.clone().unwrap_or_else(|| "nothing".to_owned()),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        let (pointer, expected, found) = (&self.pointer, &self.expected, &self.found);
        write!(f, "{pointer}: expected {expected}, found {found}")
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No endpoint has this path.
    #[error("expected the path of an endpoint, found {path:?}")]
    NoPath {
        /// The path.
        path: String,
    },
    /// No such service.
    #[error(
        "expected the name of a service, found {found:?}; services are: {}",
        list(known)
    )]
    NoService {
        /// What was given.
        found: String,
        /// The services that exist.
        known: Vec<String>,
    },
    /// No such instance.
    #[error(
        "expected an instance of service {service}, found {found:?}; its instances are: {}",
        list(known)
    )]
    NoInstance {
        /// The service.
        service: String,
        /// What was given.
        found: String,
        /// The instances that the service has.
        known: Vec<String>,
    },
    /// No such session.
    #[error(
        "expected a session that is remembered, by its id or by the 32 digits of the list, found \
         {session}; sessions of lb's own cookie and of consistent_hash are not remembered"
    )]
    NoSession {
        /// The session that was named.
        session: String,
    },
    /// The endpoint exists, but not for this method.
    #[error("expected another method than {method} here; the Allow header lists them")]
    Method {
        /// The method.
        method: String,
    },
    /// The body is of a type that is not read.
    #[error("expected a body with Content-Type application/json, found {found}")]
    MediaType {
        /// What the header says.
        found: String,
    },
    /// The body is not what the endpoint takes.
    #[error("expected {expected}")]
    Body {
        /// What was expected of the body as a whole, and what was found.
        expected: String,
        /// What is wrong, and where.
        faults: Vec<Fault>,
    },
    /// The query is not what the endpoint takes.
    #[error("expected {expected}{}, found {found:?}", named(&.0.pointer), expected = .0.expected, found = .0.found)]
    Query(Fault),
    /// The body is too long.
    #[error("expected a body of at most {limit} bytes, found a longer one")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not come in time.
    #[error("expected the whole body within {seconds} s, waited in vain")]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
    /// The peer has not shown who it is.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The peer has shown a token that nobody has.
    #[error("expected one of the configured bearer tokens, found another")]
    WrongToken,
    /// The caller lacks the role.
    #[error("expected a caller with the role {needed} for this, found {caller} with {role}")]
    Role {
        /// The role that the request needs.
        needed: Role,
        /// Who asks.
        caller: String,
        /// The role that it has.
        role: Role,
    },
    /// Too many requests, or too many wrong tokens.
    #[error("expected fewer {what} from there, found more than api.rate_limit allows; again in {:.1} s", wait.as_secs_f64())]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Until there may be another.
        wait: Duration,
        /// What header fields say of it.
        fields: [(&'static str, String); 2],
    },
    /// The peer may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The configuration was not reloaded.
    #[error("the configuration was not reloaded, nothing has changed: {message}")]
    Reload {
        /// Why.
        message: String,
        /// What is wrong in the configuration.
        faults: Vec<Fault>,
    },
    /// Too many follow the events.
    #[error("expected at most {most} streams of events at one time, found that many already")]
    TooManyStreams {
        /// The limit.
        most: usize,
    },
    /// The daemon is shutting down.
    #[error("expected an lb that runs, found one that is shutting down")]
    Stopping,
    /// There are no metrics.
    #[error("expected metrics to be on, but metrics.enabled (LB_METRICS_ENABLED) is false")]
    MetricsOff,
    /// The configuration was not changed.
    #[error("the configuration was not changed: {message}")]
    Configuration {
        /// Why.
        message: String,
        /// What is wrong in what it would have been.
        faults: Vec<Fault>,
    },
    /// No such route.
    #[error(
        "expected host and path of a route, behind its destination where it has one, found {found:?}; routes are: {}",
        list(known)
    )]
    NoRoute {
        /// What was given.
        found: String,
        /// The routes that exist.
        known: Vec<String>,
    },
    /// No such VIP.
    #[error(
        "expected a VIP as protocol/address:port, found {found:?}; VIPs are: {}",
        list(known)
    )]
    NoVip {
        /// What was given.
        found: String,
        /// The VIPs that exist.
        known: Vec<String>,
    },
    /// The configuration has no such rule.
    #[error("expected the prefix of a rule of the source ACL, found {0:?}; GET /acl lists them")]
    NoRule(String),
    /// No such revision.
    #[error("{0}")]
    NoRevision(String),
    /// What is to be changed is not what the request says it is.
    #[error("expected {expected}, found {found}; read it again before you change it")]
    Precondition {
        /// What the request expects.
        expected: String,
        /// The tag of what is there.
        found: String,
    },
    /// The request has to say what it is a change of.
    #[error(
        "expected If-Match with the tag of what is to be changed (api.require_if_match), found \
         none; GET answers with the tag as ETag"
    )]
    PreconditionRequired,
    /// The change cannot be kept.
    #[error("nothing has changed, because the change cannot be kept: {0}")]
    NotKept(String),
    /// The registry refused a change for another reason.
    #[error("{0}")]
    Conflict(String),
}

/// A refusal, as a problem document of RFC 9457.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "success": false,
    "error": "expected one of round_robin, …, adaptive as the algorithm, found \"fastest\"",
    "type": "urn:lb:problem:bad-body",
    "title": "Bad body",
    "status": 400,
    "detail": "expected one of round_robin, …, adaptive as the algorithm, found \"fastest\"",
    "instance": "urn:lb:request:4b1f0c9d5e6a7788",
    "request_id": "4b1f0c9d5e6a7788",
    "timestamp": "2026-01-15T10:30:00.123Z",
    "errors": [
        {"pointer": "/algorithm", "expected": "one of round_robin, …", "found": "fastest"}
    ]
}))]
pub(crate) struct Problem {
    /// Always false.
    pub(crate) success: bool,
    /// The same as `detail`.
    pub(crate) error: String,
    /// What kind of refusal it is: `urn:lb:problem:` and a name.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind in words.
    pub(crate) title: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// What was expected, and what was found.
    pub(crate) detail: String,
    /// This very refusal: `urn:lb:request:` and the request's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) instance: String,
    /// The request's id, as in the header `X-Request-Id` and in lb's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) request_id: String,
    /// When it was refused: RFC 3339, in UTC.
    pub(crate) timestamp: String,
    /// What exists, where something was named that does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) known: Vec<String>,
    /// Everything that is wrong in the query, the body or the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<Fault>,
}

impl Problem {
    /// Notes which request was refused.
    pub(crate) fn of_request(&mut self, request: &str) {
        request.clone_into(&mut self.request_id);
        self.instance = format!("urn:lb:request:{request}");
    }
}

impl ApiError {
    /// Status, last part of the type, and title.
    const fn class(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoPath { .. } => (StatusCode::NOT_FOUND, "no-such-path", "No such path"),
            Self::NoService { .. } => (StatusCode::NOT_FOUND, "no-such-service", "No such service"),
            Self::NoInstance { .. } => (
                StatusCode::NOT_FOUND,
                "no-such-instance",
                "No such instance",
            ),
            Self::NoSession { .. } => (StatusCode::NOT_FOUND, "no-such-session", "No such session"),
            Self::NoRule(_) => (StatusCode::NOT_FOUND, "no-such-rule", "No such rule"),
            Self::Method { .. } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::MediaType { .. } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
            ),
            Self::Body { .. } => (StatusCode::BAD_REQUEST, "bad-body", "Bad body"),
            Self::Query(_) => (StatusCode::BAD_REQUEST, "bad-query", "Bad query"),
            Self::TooLarge { .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "Body too large",
            ),
            Self::TooSlow { .. } => (
                StatusCode::REQUEST_TIMEOUT,
                "body-too-slow",
                "Body too slow",
            ),
            Self::Unauthorized(_) | Self::WrongToken => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized")
            }
            Self::TooMany { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
            ),
            Self::Role { .. } => (StatusCode::FORBIDDEN, "role-missing", "Role missing"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Forbidden"),
            Self::TooManyStreams { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-streams",
                "Too many streams",
            ),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping", "Stopping"),
            Self::MetricsOff => (StatusCode::NOT_FOUND, "metrics-off", "Metrics are off"),
            Self::Reload { .. } | Self::Configuration { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "bad-configuration",
                "Bad configuration",
            ),
            Self::NoRoute { .. } => (StatusCode::NOT_FOUND, "no-such-route", "No such route"),
            Self::NoVip { .. } => (StatusCode::NOT_FOUND, "no-such-vip", "No such VIP"),
            Self::NoRevision(_) => (
                StatusCode::NOT_FOUND,
                "no-such-revision",
                "No such revision",
            ),
            Self::Precondition { .. } => (
                StatusCode::PRECONDITION_FAILED,
                "precondition-failed",
                "Precondition failed",
            ),
            Self::PreconditionRequired => (
                StatusCode::PRECONDITION_REQUIRED,
                "precondition-required",
                "Precondition required",
            ),
            Self::NotKept(_) => (StatusCode::INSUFFICIENT_STORAGE, "not-kept", "Not kept"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Conflict"),
        }
    }

    /// The status that the error leaves with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.class().0
    }

    fn extra_header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized(_) => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"lb\""),
            )),
            Self::WrongToken => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"lb\", error=\"invalid_token\""),
            )),
            // The rest of an unread body is of no use to anybody.
            Self::TooLarge { .. } | Self::TooSlow { .. } => {
                Some((header::CONNECTION, HeaderValue::from_static("close")))
            }
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, title) = self.class();
        let detail = self.to_string();
        let header = self.extra_header();
        let mut fields = Vec::new();
        if let Self::TooMany {
            wait, fields: said, ..
        } = &self
        {
            let seconds = wait.as_micros().div_ceil(1_000_000).max(1);
            fields.push(("retry-after", seconds.to_string()));
            fields.extend(said.iter().cloned());
        }
        let (known, errors) = match self {
            Self::NoService { known, .. }
            | Self::NoInstance { known, .. }
            | Self::NoRoute { known, .. }
            | Self::NoVip { known, .. } => (known, Vec::new()),
            Self::NoPath { .. } => (super::PREFIXES.map(str::to_owned).to_vec(), Vec::new()),
            Self::Query(fault) => (Vec::new(), vec![fault]),
            Self::Body { faults, .. }
            | Self::Reload { faults, .. }
            | Self::Configuration { faults, .. } => (Vec::new(), faults),
            _ => (Vec::new(), Vec::new()),
        };
        let problem = Problem {
            success: false,
            error: detail.clone(),
            kind: format!("urn:lb:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            instance: String::new(),
            request_id: String::new(),
            timestamp: answer::timestamp(),
            known,
            errors,
        };
        let mut response = answer::json(status, "application/problem+json", &problem);
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        super::access::tell(response.headers_mut(), &fields);
        // For `conventions.rs`, which knows the request.
        response.extensions_mut().insert(problem);
        response
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Faults { faults, .. } => Self::Configuration {
                message: faults.headline(),
                faults: faults.list().iter().map(Fault::of).collect(),
            },
            ChangeError::Registry(error) => error.into(),
            ChangeError::State(error) => Self::NotKept(error.to_string()),
            ChangeError::Refused(message) => Self::Configuration {
                message,
                faults: Vec::new(),
            },
            error @ ChangeError::NoRevision { .. } => Self::NoRevision(error.to_string()),
            error @ ChangeError::StateFile => {
                let message = error.to_string();
                let fault = Fault {
                    pointer: "/state".to_owned(),
                    origin: None,
                    expected: "what file, environment or flags say".to_owned(),
                    found: "something else".to_owned(),
                };
                let faults = vec![fault];
                Self::Configuration { message, faults }
            }
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let split = |known: &str| {
            known
                .split(", ")
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        match error {
            RegistryError::NoService { found, known } => Self::NoService {
                found,
                known: split(&known),
            },
            RegistryError::NoInstance {
                service,
                found,
                known,
            } => Self::NoInstance {
                service: service.to_string(),
                found,
                known: split(&known),
            },
            other => Self::Conflict(other.to_string()),
        }
    }
}

fn named(parameter: &str) -> String {
    if parameter.is_empty() {
        String::new()
    } else {
        format!(" as {parameter}")
    }
}

fn list(known: &[String]) -> String {
    if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    }
}
