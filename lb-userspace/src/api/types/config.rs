//! `/config`: the settings in force.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Revision of the state.
    pub revision: u64,
    /// Every setting, in the order of the configuration.
    pub settings: Vec<Setting>,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Which, such as `services.web.timeouts.connect`.
    pub path: String,
    /// Its value as it would be written in the file; `(secret)` for secrets.
    pub value: String,
    /// Where it was found: `default`, a place in the file, an environment variable, a flag, or
    /// `run time`.
    pub origin: String,
    /// What the configuration says instead, where something else was set at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// What a reload has found since; it waits for a restart of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}
