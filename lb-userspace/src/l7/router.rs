//! From host and path to the positions of a route and its service.
//!
//! Compiled once for each configuration, then asked once a request by every worker, without
//! allocating. Of the routes that match both host and path, the exact host wins over the longest
//! suffix over any host, and within a host the exact path over the longest prefix. A host whose
//! routes do not serve the path leaves the request to the less specific ones.
//!
//! Paths are compared as they were sent: percent-encodings are not decoded and case matters. What
//! an instance could resolve to another path than the one that was routed is refused before, see
//! [`super::head`].

use crate::{
    model::{HostPattern, PathPattern},
    registry::Snapshot,
};

/// Longest host name that DNS allows in text form; a longer one can match no route but any.
const LONGEST_HOST: usize = 253;

/// The routes of a snapshot, compiled.
#[derive(Debug, Default)]
pub(super) struct Router {
    exact: Vec<(Box<[u8]>, Paths)>,
    suffixes: Vec<(Box<[u8]>, Paths)>,
    any: Paths,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    /// In order of the path.
    exact: Vec<(Box<[u8]>, Target)>,
    /// In order of the prefix.
    prefixes: Vec<Prefix>,
}

/// Where a request goes: positions in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// The service.
    pub(super) service: usize,
    /// The route that leads there.
    pub(super) route: usize,
}

#[derive(Debug)]
struct Prefix {
    /// Without its last slash, so the root is empty.
    path: Box<[u8]>,
    target: Target,
    /// The longest other prefix that this one begins with, byte by byte.
    parent: Option<usize>,
}

impl Router {
    /// Compiles the routes of `snapshot`. Positions are those of its services.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let mut router = Self::default();
        for (position, route) in snapshot.routes.iter().enumerate() {
            // The registry has refused routes to services that are not defined.
            let Some(service) = snapshot.position(route.service.as_str()) else {
                continue;
            };
            let target = Target {
                service,
                route: position,
            };
            let paths = match &route.host {
                HostPattern::Any => &mut router.any,
                HostPattern::Exact(host) => entry(&mut router.exact, host),
                HostPattern::Suffix(host) => entry(&mut router.suffixes, host),
            };
            match &route.path {
                PathPattern::Exact(path) => paths.exact.push((path.as_bytes().into(), target)),
                PathPattern::Prefix(path) => paths.prefixes.push(Prefix {
                    path: path.trim_end_matches('/').as_bytes().into(),
                    target,
                    parent: None,
                }),
            }
        }
        router.exact.sort_by(|a, b| a.0.cmp(&b.0));
        router.suffixes.sort_by(|a, b| a.0.cmp(&b.0));
        let hosts = router.exact.iter_mut().chain(&mut router.suffixes);
        hosts.for_each(|(_, paths)| paths.sort());
        router.any.sort();
        router
    }

    /// Where a request for `host` (no port, any case; empty when there is none) and `path` (no
    /// query) goes.
    pub(super) fn route(&self, host: &str, path: &str) -> Option<Target> {
        // The asterisk of `OPTIONS *` asks about everything, which is what the root stands for.
        let path = if path == "*" { b"/" } else { path.as_bytes() };
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return self.any.find(path);
        }
        let mut lower = [0; LONGEST_HOST];
        let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
        let host = match lower.get_mut(..host.len()) {
            Some(lower) => {
                lower.copy_from_slice(host);
                lower.make_ascii_lowercase();
                &*lower
            }
            None => &[],
        };
        self.named(host, path).or_else(|| self.any.find(path))
    }

    fn named(&self, host: &[u8], path: &[u8]) -> Option<Target> {
        let find = |hosts: &[(Box<[u8]>, Paths)], host: &[u8]| {
            let at = hosts.binary_search_by(|entry| (*entry.0).cmp(host)).ok()?;
            hosts[at].1.find(path)
        };
        find(&self.exact, host).or_else(|| {
            if self.suffixes.is_empty() {
                return None;
            }
            let dots = host.iter().enumerate().filter(|(_, byte)| **byte == b'.');
            dots.map(|(at, _)| &host[at + 1..])
                .find_map(|suffix| find(&self.suffixes, suffix))
        })
    }
}

impl Paths {
    fn sort(&mut self) {
        self.exact.sort();
        self.prefixes.sort_by(|a, b| a.path.cmp(&b.path));
        for at in 1..self.prefixes.len() {
            // What sorts between a path and its beginning begins with it too, so the parent is
            // the entry before or one of that one's ancestors.
            let (before, rest) = self.prefixes.split_at_mut(at);
            let mut candidate = Some(at - 1);
            while let Some(parent) = candidate
                && !rest[0].path.starts_with(&before[parent].path)
            {
                candidate = before[parent].parent;
            }
            rest[0].parent = candidate;
        }
    }

    fn find(&self, path: &[u8]) -> Option<Target> {
        if let Ok(at) = self
            .exact
            .binary_search_by(|(exact, _)| (**exact).cmp(path))
        {
            return Some(self.exact[at].1);
        }
        // Every prefix that `path` begins with is the last one that sorts before it or one of
        // that one's ancestors, longest first.
        let mut at = self
            .prefixes
            .partition_point(|prefix| *prefix.path <= *path)
            .checked_sub(1);
        while let Some(prefix) = at.map(|at| &self.prefixes[at]) {
            if covers(&prefix.path, path) {
                return Some(prefix.target);
            }
            at = prefix.parent;
        }
        None
    }
}

/// Whether `path` is `prefix` or below it.
fn covers(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}

fn entry<'a>(hosts: &'a mut Vec<(Box<[u8]>, Paths)>, host: &str) -> &'a mut Paths {
    let host = host.as_bytes();
    let at = hosts.iter().position(|(known, _)| **known == *host);
    let at = at.unwrap_or_else(|| {
        hosts.push((host.into(), Paths::default()));
        hosts.len() - 1
    });
    &mut hosts[at].1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{RouteSpec, ServiceName, ServiceSpec},
        registry::{Change, Desired, Registry},
    };

    fn host(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
            None if text.is_empty() => HostPattern::Any,
            None => HostPattern::Exact(text.to_owned()),
        }
    }

    fn path(text: &str) -> PathPattern {
        match text.strip_suffix("/*") {
            Some("") => PathPattern::Prefix("/".to_owned()),
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(text.to_owned()),
        }
    }

    /// A snapshot with one service a route, named `s0`, `s1` … in the order of `routes`.
    fn snapshot(routes: &[(&str, &str)]) -> Arc<Snapshot> {
        let name = |at: usize| ServiceName::new(&format!("s{at}")).unwrap();
        let registry = Registry::new(1, []);
        let routes = routes.iter().enumerate().map(|(at, route)| RouteSpec {
            host: host(route.0),
            ..RouteSpec::new(path(route.1), name(at))
        });
        let routes: Vec<_> = routes.collect();
        let services = (0..routes.len()).map(|at| ServiceSpec::new(name(at)));
        let desired = Desired {
            services: services.collect(),
            routes,
            ..Desired::default()
        };
        registry
            .apply(Change::Configure(Box::new(desired)))
            .unwrap();
        registry.snapshot()
    }

    /// The position in `routes` that the router chooses.
    fn chosen(routes: &[(&str, &str)], host: &str, path: &str) -> Option<usize> {
        let snapshot = snapshot(routes);
        let target = Router::new(&snapshot).route(host, path)?;
        let service = snapshot.services[target.service].name();
        assert_eq!(snapshot.routes[target.route].service, *service);
        service.as_str()[1..].parse().ok()
    }

    #[test]
    fn the_guides_routes() {
        let routes = [
            ("", "/api/v1/auth/*"),
            ("", "/api/v1/write/*"),
            ("", "/api/v1/*"),
            ("", "/health"),
        ];
        for (path, expected) in [
            ("/api/v1/auth", Some(0)),
            ("/api/v1/auth/", Some(0)),
            ("/api/v1/auth/login", Some(0)),
            ("/api/v1/authors", Some(2)),
            ("/api/v1/auth-x/login", Some(2)),
            ("/api/v1/write/1", Some(1)),
            ("/api/v1", Some(2)),
            ("/api/v10", None),
            ("/health", Some(3)),
            ("/health/", None),
            ("/API/v1/auth", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(chosen(&routes, "any.example", path), expected, "{path}");
        }
    }

    #[test]
    fn hosts_from_the_most_to_the_least_specific() {
        let routes = [
            ("", "/*"),
            ("example.org", "/*"),
            ("*.example.org", "/*"),
            ("*.b.example.org", "/*"),
            ("a.example.org", "/only"),
        ];
        for (host, path, expected) in [
            ("example.org", "/", 1),
            ("EXAMPLE.org", "/", 1),
            ("example.org.", "/", 1),
            ("x.example.org", "/", 2),
            ("x.y.example.org", "/", 2),
            ("x.b.example.org", "/", 3),
            ("b.example.org", "/", 2),
            ("a.example.org", "/only", 4),
            ("a.example.org", "/other", 2),
            ("notexample.org", "/", 0),
            ("org", "/", 0),
            ("", "/", 0),
            ("other", "*", 0),
            (&"x.".repeat(200), "/", 0),
        ] {
            assert_eq!(chosen(&routes, host, path), Some(expected), "{host}{path}");
        }
    }

    /// What the documentation says, word by word.
    fn naive(routes: &[(&str, &str)], host: &str, path: &str) -> Option<usize> {
        let rank = |route: &(&str, &str)| {
            let by_host = match self::host(route.0) {
                HostPattern::Any => 0,
                HostPattern::Exact(exact) => (exact == host).then_some(1000)?,
                HostPattern::Suffix(suffix) => host
                    .ends_with(&format!(".{suffix}"))
                    .then_some(suffix.len())?,
            };
            let by_path = match self::path(route.1) {
                PathPattern::Exact(exact) => (exact == path).then_some(1000)?,
                PathPattern::Prefix(root) if root == "/" => 0,
                PathPattern::Prefix(prefix) => (path == prefix
                    || path.starts_with(&format!("{prefix}/")))
                .then_some(prefix.len())?,
            };
            Some((by_host, by_path))
        };
        let ranked = routes.iter().enumerate();
        ranked
            .filter_map(|(at, route)| Some((rank(route)?, at)))
            .max()
            .map(|(_, at)| at)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn agrees_with_the_naive_matcher(
            routes in prop::collection::btree_set(
                ("(|a|b\\.a|\\*\\.a|\\*\\.b\\.a|c-a)", "(/[ab-]{0,2}){1,3}(/\\*)?|/\\*"), 0..12,
            ),
            host in "(a|b\\.a|c\\.b\\.a|c-a|x\\.c-a|)",
            path in "(/[ab-]{0,2}){1,4}",
        ) {
            // Two patterns that differ in a slash at the end are the same prefix.
            let mut seen = std::collections::HashSet::new();
            let routes: Vec<(&str, &str)> = routes
                .iter()
                .map(|(host, path)| (host.as_str(), path.as_str()))
                .filter(|(host, path)| !path.ends_with("//*") && seen.insert((*host, *path)))
                .collect();
            prop_assert_eq!(chosen(&routes, &host, &path), naive(&routes, &host, &path));
        }
    }
}
