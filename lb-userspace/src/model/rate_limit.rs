//! Limits of the rate of requests, as they were asked for.

use std::{fmt, time::Duration};

/// How many requests may come in a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitSpec {
    /// Requests in each [`RateLimitSpec::per`], 1 to 1000000.
    pub requests: u32,
    /// The time.
    pub per: Duration,
    /// Requests that may come at once after a silence, at least 1.
    pub burst: u32,
    /// Which requests share a budget.
    pub key: RateKey,
    /// Budgets that are kept at one time; what that means is in `resilience::rate_limit`.
    pub max_keys: u32,
}

/// Which requests share a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// All of them.
    #[default]
    All,
    /// Those of a client: an IPv4 address, or the first 64 bits of an IPv6 address, of which a
    /// subscriber has 2^64.
    Client,
    /// Those with the same value in this header field, in lower case; those without it by client.
    Header(String),
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// What a rate limit is a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateScope {
    /// All requests that the gateway gets but those for lb itself.
    Gateway,
    /// The requests for a service.
    Service,
    /// The requests that a route matches.
    Route,
    /// Requests for lb itself.
    Api,
}

impl RateScope {
    /// The name in answers, API and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Service => "service",
            Self::Route => "route",
            Self::Api => "api",
        }
    }
}
