//! From destination, host and path to the positions of a route and its service.
//!
//! Compiled once for each configuration, then asked once a request by every worker, without
//! allocating. Of the routes that match all three, the most specific destination wins over any
//! ([`destinations`]), within a destination the exact host over the longest suffix over any host, and
//! within a host the exact path over the longest prefix. A destination, or a host, whose routes do not
//! serve the request leaves it to the less specific ones. Where no route has a destination nothing is
//! looked up by it.
//!
//! Paths are compared as they were sent: percent-encodings are not decoded and case matters. What
//! an instance could resolve to another path than the one that was routed is refused before, see
//! [`super::head`].

mod destinations;

use std::{collections::HashMap, net::SocketAddr};

use destinations::Destinations;

use crate::{
    model::{GatewayVip, HostPattern, PathPattern, RouteSpec},
    registry::Snapshot,
};

/// Longest host name that DNS allows in text form; a longer one can match no route but any.
const LONGEST_HOST: usize = 253;

/// The routes of a snapshot, compiled.
#[derive(Debug, Default)]
pub(super) struct Router {
    /// Routes that have a destination.
    destinations: Destinations<Hosts>,
    /// Routes that have none.
    anywhere: Hosts,
    /// Whether any route asks for a host.
    hosts: bool,
}

/// The routes of one destination.
#[derive(Debug, Default)]
struct Hosts {
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
        let mut destinations: HashMap<GatewayVip, Hosts> = HashMap::new();
        let mut anywhere = Hosts::default();
        for (position, route) in snapshot.routes.iter().enumerate() {
            // The registry has refused routes to services that are not defined.
            let Some(service) = snapshot.position(route.service.as_str()) else {
                continue;
            };
            let target = Target {
                service,
                route: position,
            };
            match route.destination {
                Some(destination) => destinations.entry(destination).or_default(),
                None => &mut anywhere,
            }
            .add(route, target);
        }
        let mut destinations = Destinations::new(destinations);
        destinations.values_mut().for_each(Hosts::sort);
        anywhere.sort();
        let mut routes = snapshot.routes.iter();
        Self {
            destinations,
            anywhere,
            hosts: routes.any(|route| route.host != HostPattern::Any),
        }
    }

    /// Where a request for `host` (no port, any case; empty when there is none) and `path` (no
    /// query) goes that has come by a connection to `destination`; where that is not known, routes
    /// that have one do not match.
    pub(super) fn route(
        &self,
        destination: Option<SocketAddr>,
        host: &str,
        path: &str,
    ) -> Option<Target> {
        // The asterisk of `OPTIONS *` asks about everything, which is what the root stands for.
        let path = if path == "*" { b"/" } else { path.as_bytes() };
        let mut lower;
        let host: &[u8] = if self.hosts {
            lower = [0; LONGEST_HOST];
            lowered(host, &mut lower)
        } else {
            &[]
        };
        let of = destination.filter(|_| !self.destinations.is_empty());
        of.and_then(|of| self.destinations.find(of, |hosts| hosts.find(host, path)))
            .or_else(|| self.anywhere.find(host, path))
    }
}

/// `host` as routes have it, written to `lower`; empty when it is too long to be one.
fn lowered<'a>(host: &str, lower: &'a mut [u8; LONGEST_HOST]) -> &'a [u8] {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    match lower.get_mut(..host.len()) {
        Some(lower) => {
            lower.copy_from_slice(host);
            lower.make_ascii_lowercase();
            lower
        }
        None => &[],
    }
}

impl Hosts {
    fn add(&mut self, route: &RouteSpec, target: Target) {
        let paths = match &route.host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => entry(&mut self.exact, host),
            HostPattern::Suffix(host) => entry(&mut self.suffixes, host),
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

    fn sort(&mut self) {
        self.exact.sort_by(|a, b| a.0.cmp(&b.0));
        self.suffixes.sort_by(|a, b| a.0.cmp(&b.0));
        let hosts = self.exact.iter_mut().chain(&mut self.suffixes);
        hosts.for_each(|(_, paths)| paths.sort());
        self.any.sort();
    }

    fn find(&self, host: &[u8], path: &[u8]) -> Option<Target> {
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
mod tests;
