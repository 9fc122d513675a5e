//! The management API: what lb knows, and the few things that an operator may tell it.
//!
//! Everything that is answered is read from the current snapshot and the live counters at the
//! moment of the request; the API keeps no copy of anything, so it cannot be out of date. Every
//! change goes through [`crate::registry::Registry::apply`] or the reload, the same way that a
//! configuration file takes.
//!
//! The API is served on a listener of its own ([`serve()`]) and on the gateway's listeners, where
//! the proxy hands over requests for the paths that [`owns`] names. Both ways meet the same
//! [`router`] and the same rule of access (see `access.rs`), which looks at the address of the
//! peer: whoever hands over a request puts it into the extensions as
//! `axum::extract::ConnectInfo<SocketAddr>`, and a request without one counts as a stranger's.
//!
//! Deliberately absent: TLS (the listener is for loopback or a trusted network), cross-origin
//! sharing (a browser page is never a client of another machine's lb), and paging of anything but
//! sessions (an lb holds 4095 instances at most).

mod access;
mod admin;
mod admission;
mod algorithms;
mod answer;
mod body;
mod breakers;
mod config;
pub(crate) mod datapath;
mod debug;
mod error;
mod events;
mod explain;
mod health;
mod instances;
mod log;
mod measure;
mod metrics;
mod path;
mod performance;
mod query;
mod recovery;
mod server;
mod services;
mod sessions;
mod state;
mod stats;
pub mod types;

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    middleware,
    response::Response,
    routing::{MethodRouter, any, get, post},
};
use tower::util::BoxCloneSyncService;

pub use crate::config::API_PATHS as PREFIXES;
pub use access::Access;
pub(crate) use error::Problem;
pub use error::{ApiError, Fault};
pub use events::watch_packet_path;
pub use server::{ServeError, serve};
pub use state::{ApiState, Reload, ReloadFailure, Reloaded};

/// Whether `path`, as it stands in the request, belongs to the API: one of [`PREFIXES`] or below
/// one. `/healthy` does not.
#[must_use]
pub fn owns(path: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The API as a service that can be cloned into every worker.
pub type Service = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The API as a service: what the proxy hands requests for [`PREFIXES`] to.
///
/// The body of a request that hyper received is wrapped by [`Body::new`]; [`with_peer`] adds the
/// peer's address.
#[must_use]
pub fn service(state: ApiState) -> Service {
    BoxCloneSyncService::new(router(state))
}

/// Notes from whom `request` came. The address is the socket's: what a header such as
/// `X-Forwarded-For` says is the sender's own claim.
#[must_use]
pub fn with_peer<B>(mut request: Request<B>, peer: SocketAddr) -> Request<B> {
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

/// All endpoints behind the rule of access.
pub fn router(state: ApiState) -> Router {
    endpoints()
        .routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(state.clone(), access::guard))
        .with_state(state)
}

/// All endpoints, for everybody.
fn endpoints() -> Endpoints {
    Endpoints::default()
        .at("/health", get(health::gateway))
        .at("/metrics", get(metrics::metrics))
        .at("/api/v1/loadbalancer/health", get(health::services))
        .at("/api/v1/loadbalancer/stats", get(stats::all))
        .at("/api/v1/loadbalancer/stats/{service}", get(stats::one))
        .at(
            "/api/v1/loadbalancer/performance",
            get(performance::performance),
        )
        .at("/api/v1/loadbalancer/instances", get(instances::all))
        .below("/api/v1/loadbalancer/instances", any(instances::below))
        .at("/api/v1/loadbalancer/breakers", get(breakers::all))
        .below("/api/v1/loadbalancer/breakers", any(breakers::below))
        .at("/api/v1/loadbalancer/recovery", get(recovery::all))
        .below("/api/v1/loadbalancer/recovery", any(recovery::below))
        .at(
            "/api/v1/loadbalancer/sessions",
            get(sessions::list).delete(sessions::clear),
        )
        .below("/api/v1/loadbalancer/sessions", any(sessions::below))
        .at("/api/v1/loadbalancer/algorithms", get(algorithms::all))
        .at(
            "/api/v1/loadbalancer/algorithms/{service}",
            get(algorithms::one).put(algorithms::set),
        )
        .at(
            "/api/v1/loadbalancer/algorithms/{service}/keys",
            get(algorithms::keys),
        )
        .at(
            "/api/v1/loadbalancer/algorithms/{service}/reset",
            post(algorithms::reset),
        )
        .at("/api/v1/loadbalancer/services", get(services::services))
        .at("/api/v1/loadbalancer/routes", get(services::routes))
        .at("/api/v1/loadbalancer/vips", get(services::vips))
        .at("/api/v1/loadbalancer/explain", get(explain::explain))
        .at("/api/v1/loadbalancer/events", get(events::events))
        .at("/api/v1/loadbalancer/limits", get(admission::limits))
        .at("/api/v1/loadbalancer/config", get(config::config))
        .at("/api/v1/loadbalancer/datapath", get(datapath::datapath))
        .at("/api/v1/admin/loadbalancer/debug", get(debug::debug))
        .at(
            "/api/v1/admin/loadbalancer/log",
            get(log::show).put(log::set).delete(log::reset),
        )
        .at("/api/v1/admin/loadbalancer/reset", post(debug::reset))
        .at("/api/v1/admin/loadbalancer/reload", post(admin::reload))
}

/// Adds endpoints. A trailing slash makes no difference to any of them.
#[derive(Default)]
struct Endpoints {
    routes: Router<ApiState>,
    /// Their paths, as they were given.
    paths: Vec<String>,
}

impl Endpoints {
    fn at(mut self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.routes = self
            .routes
            .route(path, methods.clone())
            .route(&format!("{path}/"), methods);
        self.paths.push(path.to_owned());
        self
    }

    /// Everything below `path`, slashes included.
    fn below(mut self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        let path = format!("{path}/{{*rest}}");
        self.routes = self.routes.route(&path, methods);
        self.paths.push(path);
        self
    }
}

async fn no_such_path(State(_): State<ApiState>, request: Request) -> ApiError {
    ApiError::NoPath {
        path: request.uri().path().to_owned(),
    }
}

/// The router adds `Allow`.
async fn no_such_method(request: Request) -> ApiError {
    ApiError::Method {
        method: request.method().to_string(),
        allow: None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
