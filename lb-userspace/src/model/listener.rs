//! Listeners and the limits of the connections that they accept.

use std::{net::SocketAddr, time::Duration};

use super::{GatewayVip, IpPrefix, RateLimitSpec, SessionSpec, TracingSpec};

/// A socket that HTTP clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerSpec {
    /// Address and port; port 0 is refused by the configuration.
    pub address: SocketAddr,
}

/// What holds for every client connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySpec {
    /// What it serves beside its listeners.
    pub vips: Vec<GatewayVip>,
    /// To receive the whole head of a request: from its first byte, or from the beginning of the
    /// connection.
    pub header_timeout: Duration,
    /// To the first byte of the next request.
    pub keepalive_timeout: Duration,
    /// Age from which on a connection is closed after an answer.
    pub max_connection_age: Option<Duration>,
    /// Requests after which it is.
    pub max_connection_requests: Option<u64>,
    /// Most header fields of a request, above which it is answered with 431.
    pub max_headers: usize,
    /// Most bytes of a request's head, 8192 at least.
    pub max_head_bytes: usize,
    /// Idle connections kept to each instance by each worker.
    pub pool_idle_per_instance: usize,
    /// How long an idle connection to an instance is kept.
    pub pool_idle_timeout: Duration,
    /// How long a shutdown waits for requests in flight.
    pub drain_timeout: Duration,
    /// Peers whose `X-Forwarded-*` fields are believed. From any other peer those fields are
    /// replaced, or a client could choose the address that instances take it for.
    pub trusted_proxies: Vec<IpPrefix>,
    /// Limits of the rate of all requests.
    pub rate_limits: Vec<RateLimitSpec>,
    /// What sessions of all services have in common.
    pub sessions: SessionSpec,
    /// What becomes of trace headers.
    pub tracing: TracingSpec,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            vips: Vec::new(),
            header_timeout: Duration::from_secs(30),
            // nginx's, and longer than most clients keep a connection: who closes first should be
            // the client, whose next request could else be under way.
            keepalive_timeout: Duration::from_secs(75),
            max_connection_age: Some(Duration::from_secs(3600)),
            max_connection_requests: None,
            max_headers: 100,
            max_head_bytes: 64 * 1024,
            pool_idle_per_instance: 256,
            pool_idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            rate_limits: Vec::new(),
            sessions: SessionSpec::default(),
            tracing: TracingSpec::default(),
        }
    }
}
