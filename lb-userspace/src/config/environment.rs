//! The environment, laid over the file.
//!
//! Two kinds of variables mean something: those of [`VARIABLES`], which stand for settings, and
//! `NAME_HOSTS` and `NAME_WEIGHT`, which make or change the service `name`. An empty variable counts
//! as unset, because that is how container tools write "unset".
//!
//! An environment is shared with the rest of the system, so what merely looks like ours is no
//! fault: Kubernetes, for one, gives a container a `LB_SERVICE_HOST` for a Service named `lb`, and
//! `ALLOWED_HOSTS` is a common name of something else.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Notice, Origin,
    reader::closest,
    tree::{Node, Table, Value, set, table_at},
};
use crate::model::ServiceName;

/// Variables that stand for settings, and whether commas part the items of a list.
pub(super) const VARIABLES: &[(&str, &[&str], bool)] = &[
    ("ENVIRONMENT", &["environment"], false),
    ("PORT", &["gateway", "listen"], false),
    ("LOG_LEVEL", &["log", "level"], false),
    ("LB_LOG_FORMAT", &["log", "format"], false),
    ("LB_WORKERS", &["gateway", "workers"], false),
    ("LB_API_LISTEN", &["api", "listen"], false),
    ("LB_API_TOKEN", &["api", "token"], false),
    ("LB_API_TOKEN_FILE", &["api", "token_file"], false),
    ("LB_STATE_FILE", &["state", "file"], false),
    ("LB_INTERFACES", &["datapath", "interfaces"], true),
    ("LB_DATAPATH_MODE", &["datapath", "mode"], false),
    ("LB_DEFAULT_ALGORITHM", &["defaults", "algorithm"], false),
    (
        "LB_HEALTH_CHECK_ENABLED",
        &["defaults", "health_check", "enabled"],
        false,
    ),
    (
        "LB_CIRCUIT_BREAKER_ENABLED",
        &["defaults", "breaker", "enabled"],
        false,
    ),
    // Who wants no circuit breakers wants none from elsewhere either.
    (
        "LB_CIRCUIT_BREAKER_ENABLED",
        &["integration", "circuit_breaker", "enabled"],
        false,
    ),
    (
        "LB_SESSION_AFFINITY_ENABLED",
        &["defaults", "affinity", "enabled"],
        false,
    ),
    (
        "LB_SESSION_AFFINITY_TTL",
        &["defaults", "affinity", "ttl"],
        false,
    ),
    ("LB_METRICS_ENABLED", &["metrics", "enabled"], false),
    (
        "CB_BACKEND_URL",
        &["integration", "circuit_breaker", "url"],
        false,
    ),
    (
        "CB_CHECK_INTERVAL",
        &["integration", "circuit_breaker", "check_interval"],
        false,
    ),
    (
        "METRICS_BACKEND_URL",
        &["integration", "metrics", "url"],
        false,
    ),
    (
        "METRICS_COLLECTION_INTERVAL",
        &["integration", "metrics", "interval"],
        false,
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        &["tracing", "otlp_endpoint"],
        false,
    ),
    ("OTEL_SERVICE_NAME", &["tracing", "service_name"], false),
];

/// The variable that names the file.
pub(super) const CONFIG_VARIABLE: &str = "LB_CONFIG";

/// Variables with another meaning than a setting: the file, and where the CLI finds the API.
const OTHERS: [&str; 5] = [
    CONFIG_VARIABLE,
    "LB_API",
    "LB_API_CA",
    "LB_API_CERT",
    "LB_API_KEY",
];

/// The routes that the integration guide gives its services.
const GUIDE_ROUTES: &[(&str, &[&str])] = &[
    ("main-backend", &["/api/v1/auth/*", "/api/v1/users/*"]),
    ("write-service", &["/api/v1/letters/write/*"]),
    ("courier-service", &["/api/v1/courier/*"]),
    ("admin-service", &["/api/v1/admin/*"]),
    ("ocr-service", &["/api/v1/ocr/*"]),
];

/// Lays `variables` over `root`.
pub(super) fn overlay(
    root: &mut Table,
    variables: &BTreeMap<String, String>,
    notices: &mut Vec<Notice>,
) {
    let given = || {
        variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.trim()))
            .filter(|(_, value)| !value.is_empty())
    };
    for (name, value) in given() {
        let mut known = false;
        for (_, path, list) in VARIABLES.iter().filter(|(known, ..)| *known == name) {
            known = true;
            let node = if *list {
                Node::comma_list(value, &origin(name))
            } else {
                Node::text(value, origin(name))
            };
            put(root, path, node);
        }
        if !known && name.starts_with("LB_") && !OTHERS.contains(&name) {
            notices.extend(unknown(name));
        }
    }
    let mut made = BTreeSet::new();
    for (name, value) in given() {
        if let Some(service) = service_of(name, "_HOSTS") {
            hosts(root, &service, name, value, &mut made, notices);
        }
    }
    for (name, value) in given() {
        if let Some(service) = service_of(name, "_WEIGHT") {
            weight(root, &service, &Node::text(value, origin(name)));
        }
    }
    add_routes(root, &made);
}

/// Puts `node` at `path`. A token from here replaces one from a file, however either is given.
pub(super) fn put(root: &mut Table, path: &[&str], node: Node) {
    let other = match path {
        ["api", "token"] => Some("token_file"),
        ["api", "token_file"] => Some("token"),
        _ => None,
    };
    if let (Some(other), Some(api)) = (other, table_at(root, &["api"]))
        && api.get(other).is_some_and(|old| !old.origin.is_untyped())
    {
        api.remove(other);
    }
    set(root, path, node);
}

fn origin(name: &str) -> Origin {
    Origin::Variable(name.into())
}

fn unknown(name: &str) -> Option<Notice> {
    let injected = name.starts_with("LB_SERVICE_") || name.starts_with("LB_PORT");
    if injected {
        return None;
    }
    let mut names: Vec<&str> = VARIABLES.iter().map(|(known, ..)| *known).collect();
    names.extend(OTHERS);
    let text = match closest(name, &names) {
        Some(meant) => format!("is not known and ignored; did you mean {meant}?"),
        None => "is not known and ignored".to_owned(),
    };
    Some(Notice::new(origin(name), text))
}

/// `main-backend` for `MAIN_BACKEND_HOSTS`.
fn service_of(variable: &str, suffix: &str) -> Option<String> {
    let name = variable.strip_suffix(suffix)?;
    let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let name = name
        .bytes()
        .all(upper)
        .then(|| name.to_ascii_lowercase().replace('_', "-"))?;
    ServiceName::new(&name).ok()?;
    Some(name)
}

/// Applies `NAME_HOSTS`: the instances of a service, in the place of those of the file. Notes in
/// `made` the services that the file does not have.
fn hosts(
    root: &mut Table,
    service: &str,
    variable: &str,
    value: &str,
    made: &mut BTreeSet<String>,
    notices: &mut Vec<Notice>,
) {
    let in_file = table_at(root, &["services", service]).is_some();
    let in_guide = GUIDE_ROUTES.iter().any(|(name, _)| *name == service);
    let mut list = Node::comma_list(value, &origin(variable));
    let Value::List(items) = &mut list.value else {
        return;
    };
    let is_url = |item: &Node| item.as_text().is_some_and(|t| t.starts_with("http://"));
    // A variable that names a service we know is ours, whatever its value: then a bad value is a
    // fault. Any other counts only when it can be nothing else.
    if !in_file && !in_guide && (items.is_empty() || !items.iter().all(is_url)) {
        let text = "is no list of http URLs, so it makes no service";
        notices.push(Notice::new(origin(variable), text));
        return;
    }
    for item in items {
        let endpoint = Table::from([("endpoint".to_owned(), item.clone())]);
        item.value = Value::Table(endpoint);
    }
    if !in_file {
        made.insert(service.to_owned());
    }
    set(root, &["services", service, "instances"], list);
}

/// Applies `NAME_WEIGHT`: the weight of every instance of a service that exists.
fn weight(root: &mut Table, service: &str, weight: &Node) {
    let Some(service) = table_at(root, &["services", service]) else {
        return;
    };
    let Some(Value::List(instances)) = service.get_mut("instances").map(|node| &mut node.value)
    else {
        return;
    };
    for instance in instances {
        match &mut instance.value {
            Value::Table(table) => {
                table.insert("weight".to_owned(), weight.clone());
            }
            _ => {
                let endpoint = ("endpoint".to_owned(), instance.clone());
                let weight = ("weight".to_owned(), weight.clone());
                instance.value = Value::Table(Table::from([endpoint, weight]));
            }
        }
    }
}

/// Gives the services that the environment has made their routes, unless the file has routes to
/// them or sends the path elsewhere.
fn add_routes(root: &mut Table, made: &BTreeSet<String>) {
    if made.is_empty() {
        return;
    }
    let routes = root
        .entry("routes".to_owned())
        .or_insert_with(|| Node::new(Value::List(Vec::new()), Origin::Default));
    let Value::List(routes) = &mut routes.value else {
        return;
    };
    let said: Vec<(Option<String>, Option<String>, bool)> = routes
        .iter()
        .filter_map(|route| match &route.value {
            Value::Table(route) => {
                let text = |key: &str| Some(route.get(key)?.as_text()?.to_owned());
                let any_host = text("host").is_none_or(|host| host == "*");
                let is_general = any_host && !route.contains_key("destination");
                Some((text("service"), text("path"), is_general))
            }
            _ => None,
        })
        .collect();
    for service in made {
        if said.iter().any(|(to, ..)| to.as_deref() == Some(service)) {
            continue;
        }
        let own = format!("/{service}/*");
        let paths = GUIDE_ROUTES
            .iter()
            .find(|(name, _)| name == service)
            .map_or_else(|| vec![own.as_str()], |(_, paths)| paths.to_vec());
        for path in paths {
            if said
                .iter()
                .any(|(_, taken, general)| *general && taken.as_deref() == Some(path))
            {
                continue;
            }
            let variable = service.to_ascii_uppercase().replace('-', "_") + "_HOSTS";
            let origin = origin(&variable);
            let route = [("path", path), ("service", service)]
                .map(|(key, text)| (key.to_owned(), Node::text(text, origin.clone())));
            routes.push(Node::new(Value::Table(Table::from(route)), origin));
        }
    }
}
