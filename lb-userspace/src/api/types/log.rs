//! `/log`: what is logged.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"level": "debug"}))]
pub struct SetLog {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, or a filter of such levels by module.
    pub level: String,
}

/// What is logged: the answer of all methods of `/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// What holds.
    pub level: String,
    /// What the configuration says.
    pub configured: String,
}
