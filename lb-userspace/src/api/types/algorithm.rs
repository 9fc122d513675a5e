//! `/algorithms`: how each service chooses.

use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

use super::{Learned, Report};
use crate::model::Algorithm;

/// `GET /algorithms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Algorithms {
    /// What there is.
    pub algorithms: Vec<AlgorithmInfo>,
    /// What each service uses.
    pub services: Vec<ServiceAlgorithm>,
}

/// An algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlgorithmInfo {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub description: String,
}

/// What a service uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceAlgorithm {
    /// The service.
    pub service: String,
    /// Name of the algorithm in force.
    pub algorithm: String,
}

/// `GET` and `PUT /algorithms/{service}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// What each instance weighs by it, in the order of the configuration.
    pub weights: Vec<InstanceWeight>,
    /// In the answer to `PUT`: the algorithm before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The names that `PUT` takes.
    pub available: Vec<String>,
}

/// `GET /algorithms/{service}/keys`: what would become of the keys of consistent hashing if some
/// instances took no traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Keys {
    /// The service.
    pub service: String,
    /// Name of the algorithm in force; under another one than `consistent_hash` it is what would be.
    pub algorithm: String,
    /// The instances that would be missing.
    pub without: Vec<String>,
    /// Share of the keys that would go to another instance, 0 to 1.
    pub moved: f64,
    /// Share of those that have to, because their instance would be missing.
    pub needed: f64,
}

/// What an instance weighs, and what is made of its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceWeight {
    /// Name as configured.
    pub instance: String,
    /// Weight as configured.
    pub weight: u16,
    /// Weight in both data planes, in the units of `weight`.
    pub effective_weight: f64,
    /// What the algorithm's measurements make of the weight, 0 to 1.
    pub factor: f32,
    /// What `factor` follows, where the algorithm learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
    /// What the instance has last said of its own load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// The body of `PUT /algorithms/{service}`. An algorithm that is set this way survives reloads
/// that do not change the configured one, and restarts where a state file is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"algorithm": "least_response_time"}))]
pub struct SetAlgorithm {
    /// Name of an algorithm.
    #[schema(schema_with = names)]
    pub algorithm: String,
}

fn names() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("Name of an algorithm."))
        .enum_values(Some(Algorithm::ALL.map(Algorithm::as_str)))
        .build()
}
