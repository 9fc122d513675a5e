//! `/discovery`: the sources of instances.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /discovery`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Discovery {
    /// Every source, by service.
    pub sources: Vec<Source>,
    /// Instances that no source names any more and that finish what they have.
    pub leaving: Vec<Leaving>,
    /// Services whose instances were found and cannot be taken over.
    pub refused: Vec<Refused>,
}

/// A source of instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The service that it is asked for.
    pub service: String,
    /// `dns`, `srv` or `file`.
    pub kind: String,
    /// What is asked, as configured.
    pub source: String,
    /// `waiting` before the first answer, `good`, `stale` when it fails and what it has said before
    /// holds, `failing` when it has never answered.
    pub state: String,
    /// What went wrong with the last look; absent when nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The instances that it has named last.
    pub instances: Vec<FoundInstance>,
    /// Time since the last look that succeeded; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_seconds_ago: Option<f64>,
    /// Time since the last look began; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_seconds_ago: Option<f64>,
    /// Time to the next look; absent when only a change of the source leads to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_in_seconds: Option<f64>,
    /// How long the last good look took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    /// Looks that have succeeded.
    pub successes: u64,
    /// Looks that have failed.
    pub failures: u64,
    /// Looks in a row that have failed.
    pub failures_in_row: u32,
}

/// An instance that a source names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundInstance {
    /// Its name: the one to use in URLs.
    pub instance: String,
    /// The weight that the source gives it.
    pub weight: u16,
    /// The most requests at once that the source gives it; absent when it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// The most connections that the source gives it; absent when it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// An instance that finishes what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leaving {
    /// The service.
    pub service: String,
    /// The instance.
    pub instance: String,
    /// Its HTTP requests in flight.
    pub in_flight: u32,
}

/// What was found and cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// The service.
    pub service: String,
    /// Why.
    pub why: String,
}
