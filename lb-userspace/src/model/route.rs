//! Routes as they were asked for.

use super::{Priority, RateLimitSpec, ServiceName};

/// Which `Host` a route serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host that no other route names.
    #[default]
    Any,
    /// This host, lower case, without port.
    Exact(String),
    /// Every host below this one: `Suffix("example.org")` is written `*.example.org`.
    Suffix(String),
}

/// Which paths a route serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPattern {
    /// This path alone.
    Exact(String),
    /// This path and everything below it: `Prefix("/api/v1/auth")` serves `/api/v1/auth` and
    /// `/api/v1/auth/login`, not `/api/v1/authors`. It is written `/api/v1/auth/*`.
    Prefix(String),
}

/// Sends the requests that match to a service. Of several that match, the exact host wins over
/// the suffix over any, then the exact path over the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// Where to.
    pub service: ServiceName,
    /// How urgent its requests are.
    pub priority: Priority,
    /// Limits of the rate of requests.
    pub rate_limits: Vec<RateLimitSpec>,
}

impl RouteSpec {
    /// A route of every host, of which nothing else is asked for.
    #[must_use]
    pub const fn new(path: PathPattern, service: ServiceName) -> Self {
        Self {
            host: HostPattern::Any,
            path,
            service,
            priority: Priority::DEFAULT,
            rate_limits: Vec::new(),
        }
    }
}
