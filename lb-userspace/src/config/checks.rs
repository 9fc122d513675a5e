//! What no single setting can get wrong: contradictions between settings.

mod notices;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::SocketAddr,
};

use lb_common::{MAX_INSTANCES, MAX_STEER_RANGES, MAX_STEERED, MAX_VIPS};

use super::{
    Notice,
    api::ReadApi,
    daemon::{ReadDatapath, ReadGateway},
    origin::Sourced,
    reader::Reader,
    services::ReadService,
    traffic::Leads,
};
use lb_common::MAX_RANGES;

use crate::model::{
    ApiAddress, DatapathMode, GatewayVip, PathPattern, Ports, Protocol, RouteSpec, ServiceName,
    VipSpec, ports_by_prefix,
};

/// Paths that the management API serves where it shares the gateway's listeners; each stands for
/// itself and everything below it.
pub const API_PATHS: [&str; 6] = [
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/api/v1/loadbalancer",
    "/api/v1/admin/loadbalancer",
];

/// Everything that was read and can contradict something else.
pub(super) struct Whole<'a> {
    pub(super) services: &'a [ReadService],
    pub(super) routes: &'a [Leads<RouteSpec>],
    pub(super) vips: &'a [Leads<VipSpec>],
    /// Every service that a route or a VIP names.
    pub(super) references: &'a [Sourced<ServiceName>],
    pub(super) gateway: &'a ReadGateway,
    pub(super) api: &'a ReadApi,
    pub(super) datapath: &'a ReadDatapath,
    /// Names of all services, those with faults included.
    pub(super) names: &'a BTreeSet<String>,
}

impl Whole<'_> {
    /// Reports every contradiction.
    pub(super) fn check(&self, reader: &mut Reader, notices: &mut Vec<Notice>) {
        self.references(reader);
        self.routes(reader);
        self.vips(reader);
        self.listeners(reader);
        self.gateway_vips(reader);
        self.datapath(reader);
        self.cookies(reader);
        self.limits(reader);
        self.notice(notices);
    }

    /// Routes and VIPs lead to services that are there, as do services that have another one serve in
    /// their place.
    fn references(&self, reader: &mut Reader) {
        for service in self.references {
            self.reference(reader, service, service.value.as_str());
        }
        for service in self.services {
            let Some(fallback) = &service.fallback.value else {
                continue;
            };
            let name = fallback.as_str();
            if *fallback == service.spec.name {
                let expected = "the name of another service".to_owned();
                reader.contradiction(&service.fallback, format!("{name:?}"), expected);
            } else {
                self.reference(reader, &service.fallback, name);
            }
        }
    }

    fn reference<T>(&self, reader: &mut Reader, place: &Sourced<T>, name: &str) {
        if self.names.contains(name) {
            return;
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let expected = match super::reader::closest(name, &names) {
            Some(meant) => format!("the name of a service, perhaps {meant:?}"),
            None if names.is_empty() => "the name of a service, of which there is none".into(),
            None => format!("the name of a service, one of {}", names.join(", ")),
        };
        reader.contradiction(place, format!("{name:?}"), expected);
    }

    fn routes(&self, reader: &mut Reader) {
        let routes = self.routes.iter();
        once(
            reader,
            routes.map(|r| {
                let (host, path) = (r.spec.host.clone(), r.spec.path.clone());
                ((r.spec.destination, host, path), &r.place)
            }),
            "every destination, host and path in one route",
        );
        if !self.api.spec.on_gateway {
            return;
        }
        for route in self.routes {
            let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = &route.spec.path;
            let owner = API_PATHS.iter().find(|api| {
                path.strip_prefix(**api)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            if let Some(owner) = owner {
                let expected = format!(
                    "a path that requests can reach: {owner} and all below is the management \
                     API's unless api.on_gateway is false"
                );
                reader.contradiction(&route.place, format!("{path:?}"), expected);
            }
        }
    }

    fn vips(&self, reader: &mut Reader) {
        for (number, vip) in self.vips.iter().enumerate() {
            let spec = &vip.spec;
            let before = &self.vips[..number];
            if let Some(other) = before.iter().find(|other| spec.collides(&other.spec)) {
                let (found, expected) = if spec.ports == other.spec.ports {
                    (
                        format!("the same in {}", other.place.path),
                        "every address, port and protocol in one VIP",
                    )
                } else {
                    (
                        format!("{spec} beside {} in {}", other.spec, other.place.path),
                        "ranges of ports that have none in common",
                    )
                };
                reader.contradiction(&vip.place, found, expected);
            }
            let is_range = |vip: &&Leads<VipSpec>| {
                vip.spec.address == spec.address && !matches!(vip.spec.ports, Ports::One(_))
            };
            if is_range(&vip) && before.iter().filter(is_range).count() == MAX_RANGES {
                let expected = format!("at most {MAX_RANGES} VIPs of several ports at one address");
                reader.contradiction(&vip.place, spec.to_string(), expected);
            }
            let listener = self.gateway.listeners.iter().find(|listener| {
                spec.protocol == Protocol::Tcp
                    && listener.value.ip() == spec.address
                    && spec.ports.hold(listener.value.port())
            });
            if let Some(listener) = listener {
                let expected = format!(
                    "an address and port that is not listened on, but {} is it",
                    listener.path
                );
                reader.contradiction(&vip.place, spec.to_string(), expected);
            }
            self.family(reader, vip);
        }
    }

    /// A VIP's service has instances that can take its packets, and so has whoever serves in its place.
    fn family(&self, reader: &mut Reader, vip: &Leads<VipSpec>) {
        let named = |name: &ServiceName| self.services.iter().find(|s| s.spec.name == *name);
        let v4 = vip.spec.address.is_ipv4();
        let family = if v4 { "IPv4" } else { "IPv6" };
        let Some(service) = named(&vip.spec.service) else {
            return;
        };
        if self.is_of_no_use(service, v4) {
            let expected =
                format!("a service with instances of the VIP's address family, {family}");
            let found = format!("{:?}", vip.spec.service.as_str());
            reader.contradiction(&vip.service, found, expected);
        }
        // One fault is enough for all VIPs of a service; if there are some that it can serve, it is for those.
        let mut all = self.vips_of(service);
        if all.next() == Some(&vip.spec)
            && all.all(|other| other.address.is_ipv4() == v4)
            && let Some(name) = &service.fallback.value
            && let Some(fallback) = named(name)
            && self.is_of_no_use(fallback, v4)
        {
            let expected = format!(
                "a service with instances of the address family of {}, {family}",
                vip.place.path
            );
            reader.contradiction(&service.fallback, format!("{:?}", name.as_str()), expected);
        }
    }

    /// Whether the instances of a service can take no packets of VIPs of this family. Where packets keep their
    /// addresses, an instance's own only says where they go; and a relay has two connections, of any family
    /// each.
    fn is_of_no_use(&self, service: &ReadService, v4: bool) -> bool {
        let mut endpoints = service.endpoints.iter();
        service.spec.forwarding.translates()
            && self.datapath.spec.mode != DatapathMode::Relay
            && !service.endpoints.is_empty()
            && endpoints.all(|endpoint| endpoint.value.address().is_ipv4() != v4)
    }

    /// No two sockets want the same address. The gateway's IPv6 listeners serve IPv6 alone, so
    /// that `0.0.0.0` and `[::]` go together; the API's `[::]` serves both families.
    fn listeners(&self, reader: &mut Reader) {
        let listeners = &self.gateway.listeners;
        for (position, listener) in listeners.iter().enumerate() {
            let mut earlier = listeners[..position].iter();
            let same_family = |a: SocketAddr, b: SocketAddr| a.is_ipv4() == b.is_ipv4();
            if let Some(taken) = earlier.find(|other| {
                same_family(other.value, listener.value) && overlap(other.value, listener.value)
            }) {
                not_free(reader, listener, listener.value, taken);
            }
        }
        let api = &self.api.listen;
        for place in &api.value {
            if let ApiAddress::Tcp(address) = *place
                && let Some(taken) = listeners.iter().find(|l| overlap(l.value, address))
            {
                not_free(reader, api, address, taken);
            }
        }
    }

    /// What the gateway serves is nobody else's.
    fn gateway_vips(&self, reader: &mut Reader) {
        let vips = &self.gateway.vips;
        once(
            reader,
            vips.iter().map(|vip| (vip.value, vip)),
            "every one once",
        );
        for vip in vips {
            let (prefix, ports) = (vip.value.prefix, vip.value.ports);
            let is_taken = |other: &&Leads<VipSpec>| {
                other.spec.protocol == Protocol::Tcp
                    && prefix.contains(other.spec.address)
                    && ports.overlap(other.spec.ports)
            };
            if let Some(taken) = self.vips.iter().find(is_taken) {
                let expected = format!(
                    "addresses and ports that no VIP has, but {} has {}",
                    taken.place.path, taken.spec
                );
                reader.contradiction(vip, format!("{:?}", vip.value.to_string()), expected);
            }
            for place in &self.api.listen.value {
                if let ApiAddress::Tcp(address) = *place
                    && prefix.contains(address.ip())
                    && ports.hold(address.port())
                {
                    let expected = format!("none that api.listen has, which has {address}");
                    reader.contradiction(vip, format!("{:?}", vip.value.to_string()), expected);
                }
            }
        }
        if let Some(first) = vips.get(MAX_STEERED as usize) {
            let expected = format!("at most {MAX_STEERED} of them");
            reader.contradiction(first, vips.len().to_string(), expected);
        }
        let values: Vec<GatewayVip> = vips.iter().map(|vip| vip.value).collect();
        for (prefix, ranges) in ports_by_prefix(&values) {
            let mut named = vips.iter().rev();
            if ranges.len() > MAX_STEER_RANGES
                && let Some(last) = named.find(|vip| vip.value.prefix == prefix)
            {
                let expected = format!(
                    "at most {MAX_STEER_RANGES} ranges of ports at one address, those of ranges \
                     of addresses around it included"
                );
                reader.contradiction(last, ranges.len().to_string(), expected);
            }
        }
    }

    fn datapath(&self, reader: &mut Reader) {
        let datapath = self.datapath;
        let interfaces = datapath.interfaces.iter();
        once(
            reader,
            interfaces.map(|i| (i.value.clone(), i)),
            "every interface once",
        );
        let sources = datapath.nat_sources.iter();
        once(
            reader,
            sources
                .clone()
                .map(|source| (source.value.is_ipv4(), source)),
            "at most one address of each family",
        );
        for source in sources {
            if let Some(vip) = self.vips.iter().find(|v| v.spec.address == source.value) {
                let expected = format!("an address that is no VIP, but {} has it", vip.place.path);
                reader.contradiction(source, format!("{:?}", source.value.to_string()), expected);
            }
        }
        let Some(first) = self.vips.first() else {
            return;
        };
        if datapath.spec.mode == DatapathMode::Off {
            let expected = format!(
                "another mode, because {} is there to be served",
                first.place.path
            );
            reader.contradiction(&datapath.mode, "\"off\"", expected);
        } else if datapath.spec.mode == DatapathMode::Relay {
            return self.relayed(reader);
        } else if datapath.spec.interfaces.is_empty() {
            let expected = "datapath.interfaces to name the interface that its packets come in by";
            reader.contradiction(&first.place, "none", expected);
        }
        // One table for each service and address family, one empty, and a spare for changes.
        let tables: BTreeSet<_> = self
            .vips
            .iter()
            .map(|vip| (&vip.spec.service, vip.spec.address.is_ipv4()))
            .collect();
        let needed = tables.len() + 2;
        if (datapath.spec.max_tables as usize) < needed {
            let found = datapath.spec.max_tables.to_string();
            let expected = format!("at least {needed} for the services that VIPs lead to");
            reader.contradiction(&datapath.max_tables, found, expected);
        }
    }

    /// SYNs are answered by cookies where the rest of the connection comes through lb in both directions.
    fn cookies(&self, reader: &mut Reader) {
        for service in self.services {
            let Some(cookies) = &service.cookies else {
                continue;
            };
            let forwarding = service.spec.forwarding;
            let vips = || self.vips_of(service);
            let why = if !forwarding.translates() {
                format!(
                    "forwarding = \"nat\" or \"dnat\": with {:?} the answers of instances do not come \
                     back through lb, and SYNs are answered by the instance's own kernel, which makes \
                     cookies when it has to (net.ipv4.tcp_syncookies)",
                    forwarding.as_str()
                )
            } else if vips().next().is_none() {
                "a VIP that leads to the service: connections to the gateway are accepted by this \
                 host's kernel, which makes cookies when it has to (net.ipv4.tcp_syncookies)"
                    .to_owned()
            } else if vips().all(|vip| vip.protocol == Protocol::Udp) {
                "a TCP VIP that leads to the service: UDP has no SYNs".to_owned()
            } else {
                continue;
            };
            reader.contradiction(cookies, cookies.value.to_string(), why);
        }
    }

    /// Nothing but connections at ports that can be listened on is relayed. Tables and interfaces do
    /// not matter.
    fn relayed(&self, reader: &mut Reader) {
        for vip in self.vips {
            if let Some(why) = vip.spec.relay_obstacle() {
                let expected = format!("a VIP that datapath.mode = \"relay\" can serve, but {why}");
                reader.contradiction(&vip.place, vip.spec.to_string(), expected);
            }
        }
    }

    fn limits(&self, reader: &mut Reader) {
        let instances = self.services.iter().flat_map(|service| &service.endpoints);
        if let Some(first) = instances.clone().nth(MAX_INSTANCES as usize - 1) {
            let found = format!("{}", instances.count());
            let expected = format!(
                "at most {} instances in all services together",
                MAX_INSTANCES - 1
            );
            reader.contradiction(first, found, expected);
        }
        if let Some(first) = self.vips.get(MAX_VIPS as usize) {
            let expected = format!("at most {MAX_VIPS} VIPs");
            reader.contradiction(&first.place, self.vips.len().to_string(), expected);
        }
    }

    /// The VIPs that lead to a service.
    fn vips_of(&self, service: &ReadService) -> impl Iterator<Item = &VipSpec> {
        let vips = self.vips.iter().map(|vip| &vip.spec);
        vips.filter(move |vip| vip.service == service.spec.name)
    }
}

/// Whether one socket takes connections to an address of the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

fn not_free<T>(
    reader: &mut Reader,
    wrong: &Sourced<T>,
    address: SocketAddr,
    taken: &Sourced<SocketAddr>,
) {
    let expected = format!(
        "an address that is free, but {} takes {}",
        taken.path, taken.value
    );
    reader.contradiction(wrong, format!("{:?}", address.to_string()), expected);
}

/// Reports each item whose key an earlier one has.
fn once<'a, K: Eq + Hash, T: 'a>(
    reader: &mut Reader,
    items: impl Iterator<Item = (K, &'a Sourced<T>)>,
    expected: &str,
) {
    let mut seen: HashMap<K, &Sourced<T>> = HashMap::new();
    for (key, item) in items {
        if let Some(first) = seen.get(&key) {
            let found = format!("the same in {}", first.path);
            reader.contradiction(item, found, expected);
        } else {
            seen.insert(key, item);
        }
    }
}

/// Names of the services that only UDP VIPs lead to.
pub(super) fn udp_only(routes: &[Leads<RouteSpec>], vips: &[Leads<VipSpec>]) -> BTreeSet<String> {
    let mut tcp: BTreeMap<&str, bool> = BTreeMap::new();
    for route in routes {
        tcp.insert(route.spec.service.as_str(), true);
    }
    for vip in vips {
        *tcp.entry(vip.spec.service.as_str()).or_default() |= vip.spec.protocol == Protocol::Tcp;
    }
    tcp.into_iter()
        .filter(|(_, tcp)| !tcp)
        .map(|(name, _)| name.to_owned())
        .collect()
}
