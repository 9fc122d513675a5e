//! A service for each algorithm over the same instances, so that what holds for all of them is tried at
//! once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::Value;

use crate::client::http;
use crate::client::load::{self, Load, Plan};
use crate::instance;
use crate::scene::{Configuration, Scene, address};
use crate::topology::Family;

/// All of them, as they are configured.
pub const ALGORITHMS: [&str; 7] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "health_aware",
    "consistent_hash",
    "adaptive",
];

/// The names of the services.
pub fn services() -> impl Iterator<Item = String> {
    ALGORITHMS.iter().map(|name| name.replace('_', "-"))
}

/// A service for each algorithm, all of the same three instances. Each begins with its own, or all
/// with the same.
#[must_use]
pub fn configuration(first: Option<&str>, settings: &str) -> Configuration {
    let mut configuration = Configuration::new("[\"0.0.0.0:80\"]");
    for (service, name) in services().zip(ALGORITHMS) {
        let name = first.unwrap_or(name);
        let settings =
            format!("algorithm = \"{name}\"\nhash_key = \"path\"\nhash_bound = 0\n{settings}");
        configuration = configuration
            .service_over(
                &[Family::V4],
                &service,
                instance::HTTP,
                &[10, 10, 10],
                &settings,
            )
            .route(&format!("/{service}"), &service);
    }
    configuration
}

/// Where the instance of a host serves HTTP.
#[must_use]
pub fn http_of(host: u8) -> SocketAddr {
    SocketAddr::new(address(host, Family::V4), instance::HTTP)
}

/// Tells an instance what to be like.
///
/// # Errors
/// When it does not answer.
pub fn set(scene: &Scene, at: SocketAddr, what: &str) -> Result<()> {
    let namespace = &scene.topology.client.namespace;
    let path = format!("/_set/{what}");
    let answer = http::request(namespace, at, Method::GET, &path, "")?;
    ensure!(answer.status.is_success(), "{path}: {answer:?}");
    Ok(())
}

/// Requests to a service until they are told to stop, each for a path of its own.
#[must_use]
pub fn endless(scene: &Scene, service: &str, clients: u32, pause: Duration) -> Load {
    load::start(
        &scene.topology.client.namespace,
        Plan {
            clients,
            pause,
            ..plan(scene, service)
        },
    )
}

/// Requests to a service without an end, each for a path of its own.
#[must_use]
pub fn plan(scene: &Scene, service: &str) -> Plan {
    Plan {
        requests: None,
        ..Plan::requests(scene.gateway(80), &format!("/{service}/{{}}"), 0)
    }
}

/// Requests that the first instance of a service was asked so far, and all of them, by `/stats`.
///
/// # Errors
/// When they are not there.
pub fn asked(stats: &Value, service: &str) -> Result<(f64, f64)> {
    let services = stats["services"].as_array().context("no services")?;
    let one = services.iter().find(|one| one["service"] == service);
    let shares = &one.context("no such service")?["shares"];
    let of = |at: usize| shares[at]["requests"].as_f64().context("no requests");
    Ok((of(0)?, of(0)? + of(1)? + of(2)?))
}
