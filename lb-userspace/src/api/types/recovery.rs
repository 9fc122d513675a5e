//! `/recovery`: instances on their way back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /recovery`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recoveries {
    /// Instances that do not have their whole weight yet, by service, then as configured.
    pub recoveries: Vec<RecoveringInstance>,
}

/// An instance that recovers, and by which rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RecoveringInstance {
    /// The service.
    pub service: String,
    /// Name as configured.
    pub instance: String,
    /// `enabled`, `draining` or `disabled`.
    pub admin: String,
    /// `unknown`, `healthy` or `unhealthy`.
    pub health: String,
    /// Weight as configured.
    pub weight: u16,
    /// Weight in both data planes, in the units of `weight`.
    pub effective_weight: f64,
    /// How far it is.
    pub recovery: Recovery,
    /// What the service's configuration says.
    pub settings: RecoverySettings,
}

/// How far an instance is on its way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// `waiting` (for the next attempt, or for its health) or `climbing`.
    pub state: String,
    /// Share of its weight that it has, 0 to 1.
    pub share: f64,
    /// Relapses in a row.
    pub relapses: u32,
    /// Until the next step or attempt, at the earliest; 0 when it only waits for its health.
    pub due_in_seconds: f64,
}

/// How instances of a service recover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RecoverySettings {
    /// Success rate that an interval must reach, 0 to 1.
    pub threshold: f64,
    /// Share to begin with, 0 to 1.
    pub start: f64,
    /// What a step adds, 0 to 1.
    pub step: f64,
    /// Time from step to step.
    pub interval_seconds: f64,
    /// The longest wait after relapses.
    pub max_wait_seconds: f64,
}
