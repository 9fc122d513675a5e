//! What the documentation says of routes, and that it is kept.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Ports, RouteSpec, ServiceName, ServiceSpec},
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

/// Destination, host and path of a route.
type Route<'a> = (&'a str, &'a str, &'a str);

/// `10.0.0.0/8 80-90`; nothing for no destination.
fn destination(text: &str) -> Option<GatewayVip> {
    let (prefix, ports) = text.split_once(' ')?;
    let ports = match ports.split_once('-') {
        _ if ports == "any" => Ports::Any,
        Some((first, last)) => Ports::Range(first.parse().unwrap(), last.parse().unwrap()),
        None => Ports::One(ports.parse().unwrap()),
    };
    let prefix = prefix.parse().unwrap();
    Some(GatewayVip { prefix, ports })
}

/// A snapshot with one service a route, named `s0`, `s1` … in the order of `routes`.
fn snapshot(routes: &[Route<'_>]) -> Arc<Snapshot> {
    let name = |at: usize| ServiceName::new(&format!("s{at}")).unwrap();
    let registry = Registry::new(1, []);
    let routes = routes.iter().enumerate().map(|(at, route)| RouteSpec {
        destination: destination(route.0),
        host: host(route.1),
        ..RouteSpec::new(path(route.2), name(at))
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

/// The position in `routes` that the router chooses, by a connection to `to`.
fn arrived(routes: &[Route<'_>], to: &str, host: &str, path: &str) -> Option<usize> {
    let snapshot = snapshot(routes);
    let to = (!to.is_empty()).then(|| to.parse().unwrap());
    let target = Router::new(&snapshot).route(to, host, path)?;
    let service = snapshot.services[target.service].name();
    assert_eq!(snapshot.routes[target.route].service, *service);
    service.as_str()[1..].parse().ok()
}

/// The position in `routes`, of host and path, that the router chooses wherever a request comes in.
fn chosen(routes: &[(&str, &str)], host: &str, path: &str) -> Option<usize> {
    let routes: Vec<_> = routes
        .iter()
        .map(|(host, path)| ("", *host, *path))
        .collect();
    arrived(&routes, "192.0.2.1:80", host, path)
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

#[test]
fn destinations_come_before_hosts_and_leave_the_rest_to_others() {
    let routes = [
        ("", "", "/*"),
        ("", "a.example", "/exact"),
        ("10.0.0.0/24 any", "", "/*"),
        ("10.0.0.0/24 8000-8999", "", "/exact"),
        ("10.0.0.0/24 8000", "b.example", "/*"),
        ("10.0.0.7 any", "", "/seven/*"),
        ("2001:db8::/64 80", "", "/*"),
    ];
    for (to, host, path, expected) in [
        ("10.0.1.1:80", "c.example", "/exact", 0),
        ("", "a.example", "/exact", 1),
        ("10.0.1.1:80", "a.example", "/exact", 1),
        ("10.0.0.1:80", "a.example", "/exact", 2),
        ("[::ffff:10.0.0.1]:80", "a.example", "/exact", 2),
        ("10.0.0.1:8999", "a.example", "/exact", 3),
        ("10.0.0.1:8999", "a.example", "/other", 2),
        ("10.0.0.1:8000", "B.example", "/exact", 4),
        ("10.0.0.1:8000", "a.example", "/exact", 3),
        ("10.0.0.7:8000", "b.example", "/seven/8", 5),
        ("10.0.0.7:8000", "b.example", "/exact", 4),
        ("10.0.0.7:80", "b.example", "/exact", 2),
        ("[2001:db8::9]:80", "a.example", "/exact", 6),
        ("[2001:db8::9]:81", "a.example", "/exact", 1),
    ] {
        let found = arrived(&routes, to, host, path);
        assert_eq!(found, Some(expected), "{to} {host}{path}");
    }
    assert_eq!(arrived(&routes[2..], "10.0.1.1:80", "", "/"), None);
    assert_eq!(arrived(&routes[2..], "", "", "/"), None);
}

/// What the documentation says, word by word.
fn naive(routes: &[Route<'_>], to: &str, host: &str, path: &str) -> Option<usize> {
    let to: Option<SocketAddr> = to.parse().ok();
    let rank = |route: &Route<'_>| {
        let by_destination = match destination(route.0) {
            None => (0, 0, 0),
            Some(GatewayVip { prefix, ports }) => {
                to.filter(|to| prefix.contains(to.ip()) && ports.hold(to.port()))?;
                let (first, last) = ports.ends();
                (
                    1 + i32::from(prefix.length()),
                    i32::from(first) - i32::from(last),
                    -i32::from(first),
                )
            }
        };
        let by_host = match self::host(route.1) {
            HostPattern::Any => 0,
            HostPattern::Exact(exact) => (exact == host).then_some(1000)?,
            HostPattern::Suffix(suffix) => host
                .ends_with(&format!(".{suffix}"))
                .then_some(suffix.len())?,
        };
        let by_path = match self::path(route.2) {
            PathPattern::Exact(exact) => (exact == path).then_some(1000)?,
            PathPattern::Prefix(root) if root == "/" => 0,
            PathPattern::Prefix(prefix) => (path == prefix
                || path.starts_with(&format!("{prefix}/")))
            .then_some(prefix.len())?,
        };
        Some((by_destination, by_host, by_path))
    };
    let ranked = routes.iter().enumerate();
    ranked
        .filter_map(|(at, route)| Some((rank(route)?, at)))
        .max()
        .map(|(_, at)| at)
}

/// Most routes have none, or none would ever be chosen by host and path alone.
const DESTINATIONS: [&str; 16] = [
    "",
    "",
    "",
    "",
    "0.0.0.0/0 any",
    "0.0.0.0/0 80",
    "10.0.0.0/8 any",
    "10.0.0.0/8 80-90",
    "10.0.0.0/8 85-95",
    "10.0.0.0/8 80-81",
    "10.0.0.0/8 80",
    "10.0.0.7 any",
    "10.0.0.7 80",
    "::/0 80",
    "2001:db8::/32 80-90",
    "2001:db8::7 any",
];

const ARRIVALS: [&str; 8] = [
    "",
    "10.0.0.7:80",
    "10.0.0.7:88",
    "[::ffff:10.0.0.8]:80",
    "10.0.0.8:81",
    "11.0.0.1:80",
    "[2001:db8::7]:80",
    "[2001:db8::8]:88",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn agrees_with_the_naive_matcher(
        routes in prop::collection::btree_set(
            (
                prop::sample::select(&DESTINATIONS[..]),
                "(|a|b\\.a|\\*\\.a|\\*\\.b\\.a|c-a)",
                "(/[ab-]{0,2}){1,3}(/\\*)?|/\\*",
            ),
            0..16,
        ),
        to in prop::sample::select(&ARRIVALS[..]),
        host in "(a|b\\.a|c\\.b\\.a|c-a|x\\.c-a|)",
        path in "(/[ab-]{0,2}){1,4}",
    ) {
        // Two patterns that differ in a slash at the end are the same prefix.
        let mut seen = std::collections::HashSet::new();
        let routes: Vec<Route<'_>> = routes
            .iter()
            .map(|(destination, host, path)| (*destination, host.as_str(), path.as_str()))
            .filter(|route| !route.2.ends_with("//*") && seen.insert(*route))
            .collect();
        prop_assert_eq!(
            arrived(&routes, to, &host, &path),
            naive(&routes, to, &host, &path)
        );
    }
}
