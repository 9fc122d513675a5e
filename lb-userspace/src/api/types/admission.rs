//! What may enter a service, and what waits.

use serde::{Deserialize, Serialize};

/// What may be in flight of a service's requests, and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// The most requests at once to all instances together; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// The most requests at once to each instance without a limit of its own; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_max_requests: Option<u32>,
    /// Requests in flight to all instances together.
    pub in_flight: u64,
}
