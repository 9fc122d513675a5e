//! Routes as they were asked for.

use std::fmt;

use super::{GatewayVip, Priority, RateLimitSpec, ServiceName};

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

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(domain) => write!(f, "*.{domain}"),
        }
    }
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

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{}/*", prefix.trim_end_matches('/')),
        }
    }
}

/// Sends the requests that match to a service. Of several that match, the most specific destination
/// wins, then the exact host over the suffix over any, then the exact path over the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// What clients have connected to; `None` when that does not matter.
    pub destination: Option<GatewayVip>,
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
    /// A route of every destination and host, of which nothing else is asked for.
    #[must_use]
    pub const fn new(path: PathPattern, service: ServiceName) -> Self {
        Self {
            destination: None,
            host: HostPattern::Any,
            path,
            service,
            priority: Priority::DEFAULT,
            rate_limits: Vec::new(),
        }
    }

    /// It as it is written, which no other one is: destination and host where it has any, and path.
    #[must_use]
    pub fn text(&self) -> String {
        let destination = self
            .destination
            .map(|destination| format!("{destination} "));
        let host = Some(&self.host).filter(|host| **host != HostPattern::Any);
        let host = host.map(ToString::to_string);
        destination.unwrap_or_default() + &host.unwrap_or_default() + &self.path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ports;

    #[test]
    fn a_route_is_written_as_what_it_matches() {
        let service = ServiceName::new("web").unwrap();
        let mut route = RouteSpec::new(PathPattern::Prefix("/".to_owned()), service);
        assert_eq!(route.text(), "/*");
        route.host = HostPattern::Suffix("example.org".to_owned());
        route.path = PathPattern::Exact("/a".to_owned());
        assert_eq!(route.text(), "*.example.org/a");
        route.destination = Some(GatewayVip {
            prefix: "10.0.0.0/24".parse().unwrap(),
            ports: Ports::One(443),
        });
        assert_eq!(route.text(), "10.0.0.0/24:443 *.example.org/a");
        route.host = HostPattern::Any;
        assert_eq!(route.text(), "10.0.0.0/24:443 /a");
    }
}
