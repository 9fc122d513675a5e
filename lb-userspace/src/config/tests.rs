//! Files, variables and flags in; configurations or faults out.

use std::{net::IpAddr, path::Path, sync::Arc};

use super::*;
use crate::model::{Endpoint, EndpointError};

mod callers;
mod docs;
mod environment;
mod examples;
mod faults;
mod layers;
mod messages;
mod notices;
mod random;
mod schema;

/// Resolves `localhost` and nothing else, so that no test asks a name server.
fn resolve(text: &str) -> Result<Endpoint, EndpointError> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = bare.trim_end_matches('/');
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" || host.is_empty() || host.parse::<IpAddr>().is_ok() {
        return Endpoint::parse(text);
    }
    Err(EndpointError::Resolve {
        host: host.to_owned(),
        why: "no such host".to_owned(),
    })
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn load_all(text: &str, env: &[(&str, &str)], flags: &Overrides) -> Result<Config, Faults> {
    let parsed = file::parse(text, Path::new("lb.toml"));
    let base = Base::new(parsed, &variables(env), flags);
    let resolve: resolve::Resolve = Arc::new(resolve);
    let result = base.interpret_with(&Layer::default(), &resolve);
    if env.is_empty() && *flags == Overrides::default() {
        // Whatever a test is about, the schema has to agree as far as it can know.
        schema::agrees(text, &result);
    }
    result
}

fn load_text(text: &str) -> Result<Config, Faults> {
    load_all(text, &[], &Overrides::default())
}

fn load_env(env: &[(&str, &str)]) -> Result<Config, Faults> {
    load_all("", env, &Overrides::default())
}

/// The value of a setting with its source, as `lb check` lists it.
fn setting(config: &Config, path: &str) -> String {
    let found = config.settings.iter().find(|s| s.path.to_string() == path);
    let found = found.unwrap_or_else(|| panic!("no setting {path}"));
    format!("{} # {}", found.value, found.origin)
}

/// The faults, one a line.
fn faults(result: Result<Config, Faults>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(faults) => faults.list().iter().map(ToString::to_string).collect(),
    }
}
