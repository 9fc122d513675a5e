//! The configuration: file, environment and flags in, plain values out.
//!
//! Each source becomes a tree whose values know where they were found ([`Origin`]). The trees are
//! laid over each other, file < environment < flags < what was set at run time ([`Layer`]), and the
//! result is interpreted in one pass that goes on after a fault, so that one run reports every
//! fault: which setting, where it was found, what was expected, an example, what was found. A
//! setting that nobody knows is a fault too, because a misspelt one would otherwise silently not
//! hold.
//!
//! Nothing here changes state: what comes out is a [`Desired`] for the registry and a
//! [`DaemonSpec`] for the process, or faults and nothing at all.

mod accounts;
mod acl;
mod admission;
mod affinity;
mod api;
mod api_listen;
mod api_tls;
mod breaker;
mod checks;
mod concurrency;
mod daemon;
mod discovery;
pub mod document;
mod environment;
mod fail_open;
mod fault;
mod file;
mod flags;
mod forms;
mod hashing;
mod health;
mod hedge;
mod instances_file;
mod integration;
mod layer;
mod load_reports;
mod origin;
mod outlier;
mod path;
mod queue;
mod rate_limit;
mod reader;
mod recovery;
mod resolve;
mod restart;
mod retry;
mod schema;
mod score;
mod services;
mod slow_start;
mod stack;
mod state;
mod summary;
mod timeouts;
pub mod tls;
mod tracing;
mod traffic;
mod tree;
mod values;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    model::{DaemonSpec, ListenerSpec},
    registry::Desired,
};

pub use accounts::user_name;
pub use acl::{prefix, prefix_lists, prefix_lists_again};
pub use checks::API_PATHS;
pub use document::{Document, Pointer};
pub use fault::{Fault, Faults};
pub use flags::Overrides;
pub use instances_file::instances_in;
pub use layer::{Layer, Stamp};
pub use origin::Origin;
pub use path::KeyPath;
pub use restart::needs_restart;
pub use schema::schema;
pub use stack::{Base, Known};
pub use summary::{Effective, Summary};
pub use values::log_filter;

/// How long host names may take to resolve, all of them together.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);

/// Where the configuration is looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The flags.
    pub flags: Overrides,
}

/// A configuration without faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the registry is asked for.
    pub desired: Desired,
    /// What holds for the life of the process.
    pub daemon: DaemonSpec,
    /// What the surroundings are called, such as `production`; for the log alone.
    pub environment: Option<String>,
    /// Every setting in force with its source, in the order of reading.
    pub settings: Vec<Setting>,
    /// What is no fault but worth knowing.
    pub notices: Vec<Notice>,
    /// All that somebody has set, as one document.
    pub document: Document,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which.
    pub path: KeyPath,
    /// Its value as it would be written in the file; secrets are not shown.
    pub value: String,
    /// Where it was found.
    pub origin: Origin,
}

/// Something that is no fault but worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Where it was found.
    pub origin: Origin,
    /// What it is.
    pub text: String,
}

impl Notice {
    fn new(origin: Origin, text: impl Into<String>) -> Self {
        Self {
            origin,
            text: text.into(),
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

impl Sources {
    /// The sources of this process: its environment, and the file that `flags` names, else
    /// `LB_CONFIG`, else none.
    #[must_use]
    pub fn of_process(flags: Overrides) -> Self {
        let env = std::env::vars_os()
            .map(|(name, value)| {
                let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
                (text(name), text(value))
            })
            .collect();
        Self::new(flags, env)
    }

    /// The same with a given environment.
    #[must_use]
    pub fn new(flags: Overrides, env: BTreeMap<String, String>) -> Self {
        let named = env
            .get(environment::CONFIG_VARIABLE)
            .filter(|name| !name.trim().is_empty());
        Self {
            file: flags.config.clone().or_else(|| named.map(PathBuf::from)),
            env,
            flags,
        }
    }
}

/// Loads the configuration as file, environment and flags say it. Blocks on the file and on the
/// resolver, on the latter for at most [`RESOLVE_DEADLINE`].
///
/// # Errors
/// Every fault that was found, at once.
pub fn load(sources: &Sources) -> Result<Config, Faults> {
    Base::read(sources).interpret(&Layer::default(), &Known::default())
}

/// What a file may say.
fn describe() -> schema::Shape {
    let mut reader = reader::Reader::describing();
    let resolve: resolve::Resolve = std::sync::Arc::new(crate::model::Endpoint::parse);
    interpret_with(&mut reader, &tree::EMPTY, Vec::new(), &resolve);
    reader.shape.unwrap_or_default()
}

/// Interprets the tree. The configuration is good only when there are no faults.
fn interpret(
    root: &tree::Table,
    notices: Vec<Notice>,
    resolve: &resolve::Resolve,
) -> (Config, Vec<Fault>) {
    let mut reader = reader::Reader::default();
    let config = interpret_with(&mut reader, root, notices, resolve);
    (config, reader.faults)
}

fn interpret_with(
    reader: &mut reader::Reader,
    root: &tree::Table,
    mut notices: Vec<Notice>,
    resolve: &resolve::Resolve,
) -> Config {
    let resolved = resolve::Resolved::new(root, RESOLVE_DEADLINE, resolve);
    let (mut config, whole) = reader.root(root, |t| {
        let none = origin::Sourced::unset(None);
        let environment = t.optional("environment", &values::ENVIRONMENT, &none, "none");
        let mut gateway = daemon::read_gateway(t);
        gateway.spec.sessions = affinity::read_sessions(t);
        let api = api::read(t);
        let log = daemon::read_log(t);
        let access_log = daemon::read_access_log(t);
        let audit_log = api::read_audit_log(t);
        let (metrics, serve_metrics) = daemon::read_metrics(t);
        let datapath = daemon::read_datapath(t);
        let watch = daemon::read_reload(t);
        let mut integration = integration::read(t, serve_metrics);
        (gateway.spec.tracing, integration.traces) = tracing::read(t);
        let state_file = state::read(t);
        let defaults = t.table("defaults", |t| {
            services::ServiceSettings::unset().read_defaults(t)
        });
        let traffic = traffic::read(t);
        let udp_only = checks::udp_only(&traffic.routes, &traffic.vips);
        let services = services::read(t, &defaults, &resolved, |name| udp_only.contains(name));
        let config = Config {
            desired: Desired {
                services: services
                    .iter()
                    .map(|service| service.spec.clone())
                    .collect(),
                routes: traffic
                    .routes
                    .iter()
                    .map(|route| route.spec.clone())
                    .collect(),
                vips: traffic.vips.iter().map(|vip| vip.spec.clone()).collect(),
                listeners: gateway
                    .listeners
                    .iter()
                    .map(|listener| ListenerSpec {
                        address: listener.value,
                    })
                    .collect(),
                gateway: gateway.spec.clone(),
                integration,
                acl: datapath.acl.clone(),
            },
            daemon: DaemonSpec {
                workers: gateway.workers,
                api: api.spec.clone(),
                log,
                access_log,
                audit_log,
                metrics,
                datapath: datapath.spec.clone(),
                watch,
                state_file,
            },
            environment: environment.value,
            settings: Vec::new(),
            notices: Vec::new(),
            document: Document::default(),
        };
        (config, (services, traffic, gateway, api, datapath))
    });
    let (services, traffic, gateway, api, datapath) = whole;
    let names = match root.get("services").map(|node| &node.value) {
        Some(tree::Value::Table(services)) => services.keys().cloned().collect(),
        _ => std::collections::BTreeSet::new(),
    };
    let whole = checks::Whole {
        services: &services,
        routes: &traffic.routes,
        vips: &traffic.vips,
        references: &traffic.references,
        gateway: &gateway,
        api: &api,
        datapath: &datapath,
        names: &names,
    };
    whole.check(reader, &mut notices);
    config.document = Document::of(root, &reader.values);
    config.settings = std::mem::take(&mut reader.settings);
    config.notices = notices;
    config
}

#[cfg(test)]
mod tests;
