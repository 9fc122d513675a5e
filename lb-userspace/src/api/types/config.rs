//! `/config`: the settings in force, and what changes of the configuration did.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `GET /config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Revision of the state.
    pub revision: u64,
    /// Revision of the configuration.
    pub config_revision: u64,
    /// Whether what is set at run time survives a restart.
    pub persisted: bool,
    /// All that somebody has set, in the form of the file, `(secret)` in the place of secrets. `PUT`
    /// takes it back.
    pub document: Value,
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
    /// `run time`, with the revision that set it where it is part of the configuration.
    pub origin: String,
    /// What the configuration says instead, where an operator has ordered something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// What a reload or a change has found since; it waits for a restart of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// What a change of the configuration did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Revision of the state.
    pub revision: u64,
    /// Revision of the configuration that is in force now, or would be.
    pub config_revision: u64,
    /// Whether this was only tried.
    pub dry_run: bool,
    /// Whether it survives a restart of the daemon.
    pub persisted: bool,
    /// What changed, a phrase each; empty when the state is as it was.
    pub changes: Vec<String>,
    /// Where the configuration differs from before; empty when it does not.
    pub diff: Vec<Difference>,
    /// Settings whose new values wait for a restart of the daemon.
    pub needs_restart: Vec<String>,
    /// What is no fault, but worth knowing.
    pub notices: Vec<String>,
}

/// One place in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Where: a JSON pointer (RFC 6901) in which members of `instances`, `routes` and `vips` go by
    /// their names.
    pub pointer: String,
    /// What was there; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// A part of the configuration: a service, a route, a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// Its name, as in its URL.
    pub name: String,
    /// Revision of the configuration.
    pub config_revision: u64,
    /// What somebody has set of it, in the form of the file.
    pub config: Value,
}

/// `GET /config/revisions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revisions {
    /// The one in force.
    pub config_revision: u64,
    /// From the newest to the oldest that is kept.
    pub revisions: Vec<RevisionSummary>,
}

/// A revision of the configuration in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionSummary {
    /// Its number.
    pub config_revision: u64,
    /// When it came into force.
    pub timestamp: String,
    /// Who has made it.
    pub who: String,
    /// By what: `start`, `reload`, or the request.
    pub cause: String,
    /// What changed, in a few words.
    pub summary: String,
}

/// `GET /config/revisions/{revision}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// In a few words.
    #[serde(flatten)]
    pub summary: RevisionSummary,
    /// What changed, a phrase each.
    pub changes: Vec<String>,
    /// Where it differs from the revision before.
    pub diff: Vec<Difference>,
    /// The configuration that it was, in the form of the file, without secrets.
    pub document: Value,
}

/// `GET /config/revisions/{revision}/diff`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RevisionDiff {
    /// From this revision.
    pub from: u64,
    /// To this one.
    pub to: u64,
    /// Where they differ.
    pub diff: Vec<Difference>,
}

/// `GET /config/runtime`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Runtime {
    /// Every place of the configuration that was set at run time.
    pub set: Vec<SetAtRunTime>,
}

/// A place of the configuration that was set at run time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SetAtRunTime {
    /// Where: as in a difference.
    pub pointer: String,
    /// What it was set to; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The revision of the configuration that set it.
    pub config_revision: u64,
    /// When.
    pub timestamp: String,
    /// Who has set it.
    pub who: String,
}

/// A whole configuration, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"services": {"web": {"instances": ["http://127.0.0.1:8081"]}}}))]
pub struct ConfigDocument(pub Value);

/// Changes of a configuration (RFC 7396): what is named changes, null removes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"defaults": {"timeouts": {"connect": "1s"}}}))]
pub struct ConfigPatch(pub Value);

/// A new service: its name, and what is configured of it in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"name": "shop", "instances": ["http://127.0.0.1:8091"]}))]
pub struct NewService(pub Value);

/// What is configured of a service, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"algorithm": "adaptive", "instances": ["http://127.0.0.1:8091"]}))]
pub struct ServiceDocument(pub Value);

/// A new instance, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"endpoint": "http://127.0.0.1:8099", "weight": 5}))]
pub struct NewInstance(pub Value);

/// What is configured of an instance, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"weight": 5}))]
pub struct InstanceDocument(pub Value);

/// A new route, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"path": "/shop/*", "service": "main-backend"}))]
pub struct NewRoute(pub Value);

/// What is configured of a route, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"service": "main-backend"}))]
pub struct RouteDocument(pub Value);

/// A new VIP, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"address": "192.0.2.7", "port": 80, "service": "main-backend"}))]
pub struct NewVip(pub Value);

/// What is configured of a VIP, in the form of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = BTreeMap<String, Value>, example = json!({"service": "ocr-service"}))]
pub struct VipDocument(pub Value);
