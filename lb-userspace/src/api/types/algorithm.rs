//! `/algorithms`: how each service chooses.

use serde::{Deserialize, Serialize};

/// `GET /algorithms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Algorithms {
    /// What there is.
    pub algorithms: Vec<AlgorithmInfo>,
    /// What each service uses.
    pub services: Vec<ServiceAlgorithm>,
}

/// An algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlgorithmInfo {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub description: String,
}

/// What a service uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAlgorithm {
    /// The service.
    pub service: String,
    /// Name of the algorithm in force.
    pub algorithm: String,
}

/// `GET` and `PUT /algorithms/{service}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceAlgorithmDetail {
    /// The service.
    pub service: String,
    /// Name of the algorithm in force.
    pub algorithm: String,
    /// One sentence.
    pub description: String,
    /// What consistent hashing hashes, whether or not it is in force.
    pub hash_key: String,
    /// The most that an instance may have in flight under consistent hashing, as a factor of its
    /// share; absent when there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_bound: Option<f64>,
    /// In the answer to `PUT`: the algorithm before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The names that `PUT` takes.
    pub available: Vec<String>,
}

/// The body of `PUT /algorithms/{service}`. An algorithm that is set this way survives reloads
/// that do not change the configured one, and is lost when the daemon restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAlgorithm {
    /// Name of an algorithm.
    pub algorithm: String,
}
