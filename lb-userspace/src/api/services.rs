//! `/services`, `/routes`, `/vips`: the configuration in force, as a reader would write it.

use std::time::Duration;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use super::{
    admission,
    answer::Answer,
    breakers, configuration,
    document::tag,
    measure,
    state::ApiState,
    types::{self, Envelope, Routes, Services, Vips},
};
use crate::{
    model::{HealthCheckSpec, Ports, Probe, RouteSpec, Timestamp, VipSpec},
    registry::{Service, Snapshot},
};

/// The services
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/services",
    tag = tag::CONFIGURATION,
    operation_id = "listServices",
    responses((status = OK, body = Envelope<Services>, description = "The services in force"))
)]
pub(super) async fn services(State(state): State<ApiState>) -> Answer<Services> {
    let snapshot = state.snapshot();
    let now = state.now();
    let services = snapshot.services.iter();
    let services = services.map(|one| service(one, &snapshot, now));
    Answer::ok(Services {
        services: services.collect(),
    })
}

/// The routes: which requests go to which service
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/routes",
    tag = tag::CONFIGURATION,
    operation_id = "listRoutes",
    responses(
        (status = OK, body = Envelope<Routes>, description = "The routes in force"),
        (status = NOT_MODIFIED, description = "They have the tag of If-None-Match still")
    )
)]
pub(super) async fn routes(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let routes = Routes {
        routes: state.snapshot().routes.iter().map(route).collect(),
    };
    tagged(&headers, routes)
}

/// The VIPs: which connections the kernel balances over which service
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/vips",
    tag = tag::CONFIGURATION,
    operation_id = "listVips",
    responses(
        (status = OK, body = Envelope<Vips>, description = "The VIPs in force"),
        (status = NOT_MODIFIED, description = "They have the tag of If-None-Match still")
    )
)]
pub(super) async fn vips(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let snapshot = state.snapshot();
    let vips = Vips {
        vips: snapshot.vips.iter().map(|v| vip(v, &snapshot)).collect(),
    };
    tagged(&headers, vips)
}

/// An answer that is all configuration, with its tag.
fn tagged<T: serde::Serialize>(headers: &HeaderMap, data: T) -> Response {
    // A document of the API can always be written.
    let tag = configuration::etag(&serde_json::to_value(&data).unwrap_or(Value::Null));
    if let Some(unchanged) = configuration::unless_same(headers, &tag) {
        return unchanged;
    }
    let mut response = Answer::ok(data).into_response();
    configuration::tag(&mut response, Some(&tag));
    response
}

fn service(service: &Service, snapshot: &Snapshot, now: Timestamp) -> types::Service {
    let name = service.name();
    let timeouts = &service.spec.timeouts;
    let gate = &service.guard.gate;
    let guarded = service.spec.breakers.service.is_some() || gate.state().is_held();
    types::Service {
        service: name.to_string(),
        algorithm: service.spec.algorithm.to_string(),
        forwarding: service.spec.forwarding.as_str().to_owned(),
        instances: measure::counts(service),
        health_check: service.spec.health_check.as_ref().map(health_check),
        breaker: guarded.then(|| breakers::state(gate, now)),
        timeouts: types::Timeouts {
            connect_ms: ms(timeouts.connect),
            request_ms: ms(timeouts.request),
            idle_ms: ms(timeouts.idle),
        },
        admission: admission::of(service),
        routes: snapshot
            .routes
            .iter()
            .filter(|route| route.service == *name)
            .map(RouteSpec::text)
            .collect(),
        vips: snapshot
            .vips
            .iter()
            .filter(|vip| vip.service == *name)
            .map(ToString::to_string)
            .collect(),
    }
}

fn health_check(check: &HealthCheckSpec) -> types::HealthCheck {
    let port = check
        .port
        .map_or_else(String::new, |p| format!(" on port {p}"));
    types::HealthCheck {
        probe: match &check.probe {
            Probe::Tcp => format!("tcp{port}"),
            Probe::Http {
                path,
                status: (low, high),
                ..
            } => format!("http GET {path}{port} → {low}-{high}"),
        },
        interval_ms: ms(check.interval),
        timeout_ms: ms(check.timeout),
        rise: check.rise,
        fall: check.fall,
    }
}

pub(super) fn route(spec: &RouteSpec) -> types::Route {
    types::Route {
        destination: spec.destination.map(|destination| destination.to_string()),
        host: spec.host.to_string(),
        path: spec.path.to_string(),
        service: spec.service.to_string(),
    }
}

fn vip(spec: &VipSpec, snapshot: &Snapshot) -> types::Vip {
    let forwarding = snapshot
        .service(spec.service.as_str())
        .map_or_else(String::new, |s| s.spec.forwarding.as_str().to_owned());
    types::Vip {
        vip: spec.to_string(),
        address: spec.address.to_string(),
        port: match spec.ports {
            Ports::One(port) => Some(port),
            Ports::Range(..) | Ports::Any => None,
        },
        ports: spec.ports.to_string(),
        protocol: spec.protocol.as_str().to_owned(),
        service: spec.service.to_string(),
        forwarding,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
