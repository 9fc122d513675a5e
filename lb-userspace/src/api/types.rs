//! The documents that the API speaks, as written and as read: the command line reads them back
//! with the same types.
//!
//! Rates and shares are fractions from 0 to 1. A name that ends in `_ms` is in milliseconds, in
//! `_seconds` in seconds; times of day are RFC 3339 in UTC. What was not measured is absent, never
//! zero.

mod acl;
mod admission;
mod algorithm;
mod breaker;
mod config;
mod datapath;
mod debug;
mod discovery;
mod event;
mod explain;
mod flow;
mod flow_event;
mod health;
mod instance;
mod integration;
mod log;
mod performance;
mod recovery;
mod service;
mod session;
mod stats;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use acl::{Acl, AclList, AclMatch, AclRule, SetAclRule};
pub use admission::{Admission, Concurrency, Limits, Queue, RateLimit, ServiceLimits};
pub use algorithm::{
    AlgorithmInfo, Algorithms, InstanceWeight, Keys, ServiceAlgorithm, ServiceAlgorithmDetail,
    SetAlgorithm,
};
pub use breaker::{
    Advice, Breaker, BreakerRules, BreakerTransitions, BreakerWindow, Breakers, InstanceBreaker,
    ServiceBreakers,
};
pub use config::{
    Change, Config, ConfigDocument, ConfigPatch, Difference, InstanceDocument, NewInstance,
    NewRoute, NewService, NewVip, Part, Revision, RevisionDiff, RevisionSummary, Revisions,
    RouteDocument, Runtime, ServiceDocument, SetAtRunTime, Setting, VipDocument,
};
pub use datapath::{
    ConnectionTable, CounterValue, Datapath, DropCount, Interface, NarrowPath, Packets, Reconcile,
    Usage, VipTraffic,
};
pub use debug::{BalancedMember, Balancing, Debug, Reset};
pub use discovery::{Discovery, FoundInstance, Leaving, Refused, Source};
pub use event::{Event, Lost};
pub use explain::{AskedRequest, Candidate, ExplainedSession, Explanation, Key, Refusal};
pub use flow::{AskedPacket, FlowCandidate, FlowConnection, FlowExplanation, FlowSlot, SentPacket};
pub use flow_event::{Ended, FlowEvent};
pub use health::{
    GatewayHealth, InstanceCounts, LastReload, Liveness, Readiness, ServiceHealth, ServicesHealth,
    Status,
};
pub use instance::{
    Connections, Drain, Ejected, Instance, Instances, Kernel, Learned, Report, SlowStart,
    StartDrain,
};
pub use integration::{BackendWord, Integration, Integrations};
pub use log::{Log, SetLog};
pub use performance::{Figures, InstancePerformance, Performance, ServicePerformance};
pub use recovery::{Recoveries, RecoveringInstance, Recovery, RecoverySettings};
pub use service::{HealthCheck, Route, Routes, Service, Services, Timeouts, Vip, Vips};
pub use session::{Forgotten, ServiceSessions, Session, SessionPin, SessionStore, Sessions};
pub use stats::{AnswerCount, Count, Gateway, Requests, ServiceStats, Share, Stats, Window};

/// What every successful answer is wrapped in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// Whether the request did what it says.
    pub success: bool,
    /// When the answer was made.
    pub timestamp: String,
    /// The answer.
    pub data: T,
}

/// What a reload did: `POST /api/v1/admin/loadbalancer/reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reload {
    /// The revision that is now current.
    pub revision: u64,
    /// The revision of the configuration that is now in force.
    pub config_revision: u64,
    /// What changed, a phrase each; empty when the configuration asks for what already is.
    pub changes: Vec<String>,
    /// Settings whose new values wait for a restart of the daemon.
    pub needs_restart: Vec<String>,
}
