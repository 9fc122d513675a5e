//! The seven algorithms, and what consistent hashing hashes.

use std::{fmt, str::FromStr};

/// How a service chooses among its instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each in turn, weights ignored.
    RoundRobin,
    /// Each in turn, as often as its weight says.
    #[default]
    WeightedRoundRobin,
    /// The one with the fewest requests or connections in flight for its weight.
    LeastConnections,
    /// The one that is expected to answer first.
    LeastResponseTime,
    /// In proportion to weight and health score.
    HealthAware,
    /// The same key to the same instance.
    ConsistentHash,
    /// By load and latency as measured, with learned weights.
    Adaptive,
}

impl Algorithm {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::LeastResponseTime,
        Self::HealthAware,
        Self::ConsistentHash,
        Self::Adaptive,
    ];

    /// The name in configuration, API and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
            Self::HealthAware => "health_aware",
            Self::ConsistentHash => "consistent_hash",
            Self::Adaptive => "adaptive",
        }
    }

    /// Whether it chooses by load or latency instead of by weights alone.
    #[must_use]
    pub const fn compares_loads(self) -> bool {
        match self {
            Self::LeastConnections | Self::LeastResponseTime | Self::Adaptive => true,
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::HealthAware
            | Self::ConsistentHash => false,
        }
    }

    /// Whether what lb measures decides beside the configured weights: a quota has to be kept apart
    /// from it.
    #[must_use]
    pub const fn goes_by_measures(self) -> bool {
        self.compares_loads() || matches!(self, Self::HealthAware)
    }

    /// One sentence for people.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::RoundRobin => "each instance in turn",
            Self::WeightedRoundRobin => "each instance in turn, as often as its weight says",
            Self::LeastConnections => "the instance with the least in flight for its weight",
            Self::LeastResponseTime => "the instance that is expected to answer first",
            Self::HealthAware => "in proportion to weight and measured health score",
            Self::ConsistentHash => "the same key to the same instance",
            Self::Adaptive => "by load and latency as measured, with learned weights",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found {found:?}", Algorithm::ALL.map(Algorithm::as_str).join(", "))]
pub struct UnknownAlgorithm {
    found: String,
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or_else(|| UnknownAlgorithm {
                found: text.to_owned(),
            })
    }
}

/// What consistent hashing hashes of an HTTP request. Packets have none of what HTTP keys name:
/// they hash their flow, or their source address alone when the key is [`HashKey::Source`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// The client's connection: its address and port, and of packets the rest of their flow
    /// (destination, port and protocol). Requests of one connection stay together.
    Flow,
    /// The value of a header; requests without it hash the client's address.
    Header(String),
    /// The value of a cookie; requests without it hash the client's address.
    Cookie(String),
    /// The session, as the sources of the service's affinity find it, whether sessions have
    /// affinity or not; requests without one hash the client's address.
    Session,
    /// The path, without the query.
    Path,
    /// The value of a query parameter; requests without it hash the client's address.
    Query(String),
}

impl fmt::Display for HashKey {
    /// What it is, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Flow => f.write_str("flow"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
            Self::Path => f.write_str("path"),
            Self::Session => f.write_str("session"),
            Self::Query(name) => write!(f, "query {name}"),
        }
    }
}

impl HashKey {
    /// Whether packets have it, too.
    #[must_use]
    pub const fn is_of_packets(&self) -> bool {
        matches!(self, Self::Source | Self::Flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_and_the_error_lists_them() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        let error = "fastest".parse::<Algorithm>().unwrap_err().to_string();
        assert!(
            error.contains("\"fastest\"") && error.contains("least_response_time"),
            "{error}"
        );
    }
}
