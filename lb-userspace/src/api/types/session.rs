//! `/sessions`: what is remembered of sessions, and how well affinity does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /sessions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// Sessions that are remembered, in an order that means nothing.
    pub sessions: Vec<Session>,
    /// What to ask for as `after` to see more; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The memory of sessions.
    pub store: SessionStore,
    /// The services with affinity.
    pub services: Vec<ServiceSessions>,
}

/// A session: `GET /sessions/{session}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// 32 hexadecimal digits: the first 128 bits of SHA-256 over the session's id.
    pub session: String,
    /// The instances that it is pinned to, one for each service that it uses.
    pub pins: Vec<SessionPin>,
}

/// Where a session of a service goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionPin {
    /// The service; absent when it is no longer configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name as configured; absent when the service does not have it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Time since it was pinned there.
    pub age_seconds: f64,
    /// Time until it is forgotten, unless a request comes.
    pub expires_in_seconds: f64,
}

/// The memory of sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionStore {
    /// Entries, one for each session and service.
    pub entries: u64,
    /// Most entries.
    pub capacity: u64,
    /// What they take.
    pub memory_bytes: u64,
    /// Entries whose time was over, since the start.
    pub expired: u64,
    /// Entries that gave way to new ones because the memory was full, since the start.
    pub evicted: u64,
}

/// How the affinity of a service does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSessions {
    /// The service.
    pub service: String,
    /// How long a session is remembered after its last request.
    pub ttl_seconds: f64,
    /// Requests by what became of their affinity: `hit`, `miss`, `broken`, `hashed`, `none`.
    pub requests: BTreeMap<String, u64>,
    /// Hits among requests whose session was pinned, 0 to 1; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_rate: Option<f64>,
    /// Sessions that left their instance, by reason.
    pub breaks: BTreeMap<String, u64>,
    /// What claimed a session and was not believed: `token`, `cookie`.
    pub refused: BTreeMap<String, u64>,
}

/// `DELETE /sessions` and `DELETE /sessions/{session}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    /// Entries that were forgotten.
    pub entries: u64,
}
