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
//! Deliberately absent: HTTP/2 (a handful of clients need no multiplexing), cross-origin
//! sharing (a browser page is never a client of another machine's lb), and paging of anything but
//! sessions (an lb holds 4095 instances at most).

mod access;
mod acl;
mod admin;
mod admission;
mod algorithms;
mod answer;
mod body;
mod breakers;
mod configuration;
mod conventions;
pub(crate) mod datapath;
mod debug;
mod discovery;
mod document;
mod drains;
mod endpoints;
mod error;
mod events;
mod explain;
mod flow;
mod flows;
mod health;
mod instances;
mod integrations;
mod listener;
mod log;
mod measure;
mod metrics;
mod page;
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

use std::convert::Infallible;

use axum::{Router, body::Body, extract::Request, middleware, response::Response, routing::get};
use tower::util::BoxCloneSyncService;
use utoipa_axum::routes;

pub use crate::config::API_PATHS as PREFIXES;
pub use access::{Access, Audit, Prepared};
use configuration::{create, parts, revisions, whole};
pub use drains::run as end_drains;
use endpoints::Endpoints;
pub(crate) use error::Problem;
pub use error::{ApiError, Fault};
pub use events::watch_packet_path;
pub use listener::{ListenError, Listener, SocketFile};
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
/// The body of a request that hyper received is wrapped by [`Body::new`]; the peer's address goes
/// into the extensions as [`axum::extract::ConnectInfo`].
#[must_use]
pub fn service(state: ApiState) -> Service {
    BoxCloneSyncService::new(router(state))
}

/// Notes from whom `request` came. The address is the socket's: what a header such as
/// `X-Forwarded-For` says is the sender's own claim.
#[cfg(test)]
pub(crate) fn with_peer<B>(mut request: Request<B>, peer: std::net::SocketAddr) -> Request<B> {
    let peer = axum::extract::ConnectInfo(peer);
    request.extensions_mut().insert(peer);
    request
}

/// All endpoints behind the rule of access.
pub fn router(state: ApiState) -> Router {
    endpoints()
        .also_at("/api/v1/openapi.json", get(document::openapi))
        .also_at("/api/v1/docs", get(page::html))
        .also_at("/api/v1/loadbalancer/docs/page.js", get(page::script))
        .also_at("/api/v1/loadbalancer/docs/page.css", get(page::style))
        .router()
        .layer(middleware::from_fn_with_state(state.clone(), access::guard))
        .layer(middleware::from_fn(conventions::keep))
        .with_state(state)
}

/// Every endpoint. Whoever adds one adds it here; `endpoints.rs` says what else belongs to it.
fn endpoints() -> Endpoints {
    Endpoints::default()
        .add(routes!(health::gateway))
        .add(routes!(health::liveness))
        .add(routes!(health::readiness))
        .add(routes!(metrics::metrics))
        .add(routes!(document::openapi))
        .add(routes!(page::html))
        .add(routes!(health::services))
        .add(routes!(stats::all))
        .add(routes!(stats::one))
        .add(routes!(performance::performance))
        .add(routes!(explain::explain))
        .add(routes!(flow::flow))
        .add(routes!(events::events))
        .add(routes!(flows::flows))
        .add(routes!(instances::all))
        .add(routes!(instances::of_service, create::instance))
        .add(routes!(
            instances::one,
            parts::put_instance,
            parts::patch_instance,
            drains::delete_instance
        ))
        .add(routes!(instances::drain))
        .add(routes!(instances::disable))
        .add(routes!(instances::enable))
        .add(routes!(instances::uneject))
        .add(routes!(algorithms::all))
        .add(routes!(algorithms::one, algorithms::set))
        .add(routes!(algorithms::keys))
        .add(routes!(algorithms::reset))
        .add(routes!(breakers::all))
        .add(routes!(breakers::one))
        .add(routes!(breakers::open_service))
        .add(routes!(breakers::close_service))
        .add(routes!(breakers::reset_service))
        .add(routes!(breakers::advise))
        .add(routes!(breakers::open_instance))
        .add(routes!(breakers::close_instance))
        .add(routes!(breakers::reset_instance))
        .add(routes!(recovery::all))
        .add(routes!(recovery::force))
        .add(routes!(sessions::list, sessions::clear))
        .add(routes!(sessions::one, sessions::forget))
        .add(routes!(services::services, create::service))
        .add(routes!(
            parts::service,
            parts::put_service,
            parts::patch_service,
            parts::delete_service
        ))
        .add(routes!(services::routes, create::route))
        .add(routes!(
            parts::route,
            parts::put_route,
            parts::patch_route,
            parts::delete_route
        ))
        .add(routes!(services::vips, create::vip))
        .add(routes!(
            parts::vip,
            parts::put_vip,
            parts::patch_vip,
            parts::delete_vip
        ))
        .add(routes!(admission::limits))
        .add(routes!(discovery::all))
        .add(routes!(discovery::refresh))
        .add(routes!(integrations::integrations))
        .add(routes!(whole::show, whole::put, whole::patch))
        .add(routes!(whole::runtime, whole::unset))
        .add(routes!(revisions::all))
        .add(routes!(revisions::one))
        .add(routes!(revisions::diff))
        .add(routes!(revisions::roll_back))
        .add(routes!(datapath::datapath))
        .add(routes!(acl::acl))
        .add(routes!(acl::matching))
        .add(routes!(acl::put_rule, acl::delete_rule))
        .add(routes!(debug::debug))
        .add(routes!(log::show, log::set, log::reset))
        .add(routes!(debug::reset))
        .add(routes!(admin::reload))
}

#[cfg(test)]
pub(crate) mod tests;
