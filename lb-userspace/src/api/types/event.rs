//! `/events`: what has happened.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What follows `data:` in the stream of `GET /events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number, which is the `id` in the stream too.
    pub sequence: u64,
    /// When it happened.
    pub timestamp: String,
    /// What kind of event it is, as in the stream's `event`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The revision that has the change; absent for what changes no state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The service that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The instance that it is about, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What has happened in a few words, for people.
    pub message: String,
    /// Particulars, by the kind of event.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub data: Map<String, Value>,
}

/// What a stream says instead of events that it cannot give any more: `event: lost`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lost {
    /// How many events are missing here, of any type and service; absent when nobody knows,
    /// because lb was restarted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}
