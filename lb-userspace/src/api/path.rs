//! Names in URLs.
//!
//! An instance is named by its URL, so the path of an instance holds another URL:
//! `…/instances/main-backend/http://localhost:8081/drain`. Clients and proxies on the way may
//! percent-encode it, fold `//` into `/`, or add a slash. [`mod@super::endpoints`] therefore reads such
//! a path from both ends, and what is left in between is the name, which
//! [`crate::model::Endpoint::matches`] compares in all its forms. No instance is called like a verb:
//! a name has a port. Ids of sessions are chosen by others, and may have slashes, too.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use utoipa::IntoParams;

use super::error::ApiError;

/// The name that [`mod@super::endpoints`] has found in a path, decoded.
#[derive(Clone, Debug)]
pub(super) struct Name(pub(super) String);

/// The service that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfService {
    /// Name of a service
    #[param(example = "main-backend")]
    pub(super) service: String,
}

/// The instance that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfInstance {
    /// Name of a service
    #[param(example = "main-backend")]
    pub(super) service: String,
    /// Name of one of its instances: its URL as configured, its address, or host and port
    #[param(example = "http://localhost:8081")]
    pub(super) instance: String,
}

/// The session that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfSession {
    /// The session's id as clients send it, or its 32 digits in the list
    #[param(example = "ba7816bf8f01cfea414140de5dae2223")]
    pub(super) session: String,
}

/// The route that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfRoute {
    /// Host and path of the route, `*` for any host; behind its destination and a space where it has one
    #[param(example = "*/shop/*")]
    pub(super) route: String,
}

/// The VIP that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfVip {
    /// Protocol, address and port of the VIP
    #[param(example = "tcp/10.0.0.100:443")]
    pub(super) vip: String,
}

/// The prefix that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfPrefix {
    /// An address or a range of addresses
    #[param(example = "192.0.2.0/24")]
    pub(super) prefix: String,
}

/// The revision that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfRevision {
    /// Number of a revision of the configuration
    #[param(example = 1)]
    pub(super) revision: u64,
}

impl<S: Send + Sync> FromRequestParts<S> for OfRoute {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let route = name(parts)?;
        Ok(Self { route })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfVip {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let vip = name(parts)?;
        Ok(Self { vip })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfPrefix {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let prefix = name(parts)?;
        Ok(Self { prefix })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfRevision {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = parameter(parts, state, "revision").await?;
        let revision = text.parse().map_err(|_| no_path(parts))?;
        Ok(Self { revision })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfService {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let service = service(parts, state).await?;
        Ok(Self { service })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfInstance {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let service = service(parts, state).await?;
        let instance = name(parts)?;
        Ok(Self { service, instance })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let session = name(parts)?;
        Ok(Self { session })
    }
}

async fn service<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    parameter(parts, state, "service").await
}

async fn parameter<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, ApiError> {
    // A path that is no text in UTF-8 names nothing.
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok();
    let value = parameters.and_then(|parameters| {
        let value = parameters.iter().find(|(found, _)| *found == name);
        value.map(|(_, value)| value.to_owned())
    });
    value.ok_or_else(|| no_path(parts))
}

fn name(parts: &Parts) -> Result<String, ApiError> {
    let name = parts.extensions.get::<Name>();
    name.map_or_else(|| Err(no_path(parts)), |Name(name)| Ok(name.clone()))
}

fn no_path(parts: &Parts) -> ApiError {
    ApiError::NoPath {
        path: parts.uri.path().to_owned(),
    }
}
