//! Which role a request needs.
//!
//! The table, [`RESOURCES`] and [`DAEMON`], has every request that changes something. Looking needs
//! [`Role::Read`] everywhere. A change that the table does not have needs the highest role, so that
//! forgetting one here opens nothing; a test forgets none.

use axum::http::Method;

use crate::model::Role::{self, Configure, Operate};

/// A method, a path, and the role that they need together. In a path `*` stands for one segment
/// and `**` for one or more: names of instances have slashes in them.
type Row = (&'static str, &'static str, Role);

const API: &str = "/api/v1/loadbalancer";
const ADMIN: &str = "/api/v1/admin/loadbalancer";

/// Below [`API`].
const RESOURCES: &[Row] = &[
    ("POST", "instances/*/**/drain", Operate),
    ("POST", "instances/*/**/enable", Operate),
    ("POST", "instances/*/**/disable", Operate),
    ("POST", "instances/*/**/uneject", Operate),
    ("PUT", "algorithms/*", Operate),
    ("POST", "algorithms/*/reset", Operate),
    ("POST", "breakers/**/open", Operate),
    ("POST", "breakers/**/close", Operate),
    ("POST", "breakers/**/reset", Operate),
    ("POST", "breakers/*/advise", Operate),
    ("POST", "recovery/*/**/force", Operate),
    ("POST", "discovery/refresh", Operate),
    ("DELETE", "sessions", Operate),
    ("DELETE", "sessions/**", Operate),
    ("POST", "services", Configure),
    ("PUT", "services/*", Configure),
    ("PATCH", "services/*", Configure),
    ("DELETE", "services/*", Configure),
    ("POST", "instances/*", Configure),
    ("PUT", "instances/*/**", Configure),
    ("PATCH", "instances/*/**", Configure),
    ("DELETE", "instances/*/**", Configure),
    ("POST", "routes", Configure),
    ("PUT", "routes/**", Configure),
    ("PATCH", "routes/**", Configure),
    ("DELETE", "routes/**", Configure),
    ("POST", "vips", Configure),
    ("PUT", "vips/**", Configure),
    ("PATCH", "vips/**", Configure),
    ("DELETE", "vips/**", Configure),
    ("PUT", "acl/rules/**", Configure),
    ("DELETE", "acl/rules/**", Configure),
    ("PUT", "config", Configure),
    ("PATCH", "config", Configure),
    ("DELETE", "config/runtime", Configure),
    ("POST", "config/revisions/*/rollback", Configure),
];

/// Below [`ADMIN`].
const DAEMON: &[Row] = &[
    ("POST", "reload", Configure),
    ("POST", "reset", Operate),
    ("PUT", "log", Operate),
    ("DELETE", "log", Operate),
];

/// Paths that anybody may read: they name nothing.
const OPEN: [&str; 3] = ["/health", "/livez", "/readyz"];

/// Whether a method only looks.
pub(super) const fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a path is for everybody who only looks.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.contains(&path.strip_suffix('/').unwrap_or(path))
}

/// The role that a request needs.
pub(super) fn needed(method: &Method, path: &str) -> Role {
    listed(method, path).unwrap_or(Configure)
}

/// The role that the table gives a request.
pub(super) fn listed(method: &Method, path: &str) -> Option<Role> {
    if reads(method) {
        return Some(Role::Read);
    }
    [(API, RESOURCES), (ADMIN, DAEMON)]
        .into_iter()
        .find_map(|(base, rows)| {
            let rest = path.strip_prefix(base)?.strip_prefix('/')?;
            let rest: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
            let row = rows.iter().find(|(row, pattern, _)| {
                *row == method.as_str() && fits(&pattern.split('/').collect::<Vec<_>>(), &rest)
            });
            row.map(|(_, _, role)| *role)
        })
}

/// Whether the segments of a path fit those of a pattern.
fn fits(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (1..=path.len()).any(|taken| fits(rest, &path[taken..])),
        Some((first, rest)) => path
            .split_first()
            .is_some_and(|(segment, path)| (*first == "*" || first == segment) && fits(rest, path)),
    }
}
