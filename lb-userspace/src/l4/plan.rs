//! What should be in the maps, as a pure function of a snapshot.
//!
//! The plan knows nothing of what is in the maps now, nor of table indices and VIP ids: those are
//! places, and finding places is the reconciler's work. That makes "the maps equal the plan" a
//! property that can be checked after any history.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    Address, FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, HASH_FLOW,
    HASH_SOURCE, INSTANCE_ACTIVE, INSTANCE_DOWN, INSTANCE_DRAINING, INSTANCE_FAILED, InstanceEntry,
    MAX_SUBINTERFACES, MAX_VIPS, PROTOCOL_TCP, PROTOCOL_UDP, PortRange, SELECT_HASH,
    SELECT_LEAST_CONNECTIONS, SELECT_TURN, Settings, Subinterface, VIP_COOKIES, VIP_KEEPS_PORT,
    VIP_LIMITED, VIP_REFUSES, VIP_STAYS, VipKey, forward_of, from_v4,
};

use super::recipe::{Order, Recipe, Share};
use crate::{
    model::{
        AdminState, Algorithm, DatapathSpec, Forwarding, HashKey, Health, Ports, Protocol,
        UdpFlows, VipSpec, WithoutInstances,
    },
    registry::{InstanceStatus, Service, Snapshot, fingerprint},
};

/// What a plan depends on beside the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Host {
    /// The settings of the packet path.
    pub(crate) spec: DatapathSpec,
    /// Addresses of the first interface, in the order of the system.
    pub(crate) addresses: Vec<IpAddr>,
    /// Interfaces that do not forward packets of a family (true: IPv4).
    pub(crate) not_forwarding: Vec<(String, bool)>,
    /// Interfaces that are VLANs of others, by their index; `None`: that is not known so far.
    pub(crate) vlans: Option<BTreeMap<u32, Subinterface>>,
    /// Why the kernel does not tell of those any more.
    pub(crate) untold: Option<String>,
}

/// What should be in the maps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Settings of the program.
    pub(crate) settings: Settings,
    /// Instances by index. Only those that a VIP leads to.
    pub(crate) instances: BTreeMap<u16, InstanceEntry>,
    /// Addresses of those that are behind tunnels, whether they take new connections or not.
    pub(crate) tunnelled: BTreeSet<Address>,
    /// VIPs.
    pub(crate) vips: BTreeMap<VipKey, VipPlan>,
    /// [`Host::vlans`].
    pub(crate) vlans: Option<BTreeMap<u32, Subinterface>>,
    /// What the operator should know: each says what will not work and why.
    pub(crate) warnings: Vec<String>,
}

/// How a VIP should be served.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VipPlan {
    /// As configured.
    pub(crate) spec: VipSpec,
    /// How packets are forwarded.
    pub(crate) forwarding: Forwarding,
    /// Address family of the instances that get its packets (true: IPv4); `None` without any.
    pub(crate) outer: Option<bool>,
    /// One of `SELECT_*`.
    pub(crate) select: u8,
    /// One of `HASH_*`.
    pub(crate) hash_of: u8,
    /// Whether flows need not be remembered as long as their slots are settled.
    pub(crate) settles: bool,
    /// Whether packets that no instance can take are refused, not dropped.
    pub(crate) refuses: bool,
    /// Whether it matters how fast new connections begin.
    pub(crate) limited: bool,
    /// Whether SYNs may be answered by cookies.
    pub(crate) cookies: bool,
    /// Whether flows stay with instances whose checks fail.
    pub(crate) stays: bool,
    /// How long a client's instance is remembered, and the fingerprint of the service, where clients
    /// stay with their instance.
    pub(crate) affinity: Option<(Duration, u64)>,
    /// Idle time after which its connections are forgotten, when that is not the packet path's.
    pub(crate) idle: Option<Duration>,
    /// Its table. VIPs of the same service share it.
    pub(crate) recipe: Arc<Recipe>,
}

/// One of `FORWARD_*`.
const fn forward(forwarding: Forwarding) -> u8 {
    match forwarding {
        Forwarding::Nat => FORWARD_NAT,
        Forwarding::Dnat => FORWARD_DNAT,
        Forwarding::L2Dsr => FORWARD_L2DSR,
        Forwarding::Ipip => FORWARD_IPIP,
        Forwarding::Gue => FORWARD_GUE,
    }
}

/// What one of `FORWARD_*` means, with whatever else an entry says there.
pub(crate) fn forwarding_of(number: u8) -> Option<Forwarding> {
    let mut all = Forwarding::ALL.into_iter();
    all.find(|known| forward(*known) == forward_of(number))
}

impl VipPlan {
    /// One of `FORWARD_*`.
    pub(crate) const fn forward(&self) -> u8 {
        forward(self.forwarding)
    }

    /// Bits `VIP_*`.
    pub(crate) const fn flags(&self) -> u8 {
        let keeps = match self.spec.ports {
            Ports::One(_) => 0,
            Ports::Range(..) | Ports::Any => VIP_KEEPS_PORT,
        };
        let refuses = if self.refuses { VIP_REFUSES } else { 0 };
        let limited = if self.limited { VIP_LIMITED } else { 0 };
        let cookies = if self.cookies {
            VIP_COOKIES | VIP_LIMITED
        } else {
            0
        };
        keeps | refuses | limited | cookies | if self.stays { VIP_STAYS } else { 0 }
    }

    /// Whether its packets leave from an address of lb's own, of this family.
    fn needs_source(&self, v4: bool) -> bool {
        match self.forwarding {
            Forwarding::Nat => self.spec.address.is_ipv4() == v4,
            Forwarding::Dnat | Forwarding::L2Dsr => false,
            Forwarding::Ipip | Forwarding::Gue => self.outer == Some(v4),
        }
    }
}

/// An address in the form of the maps.
pub(crate) const fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => from_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address out of the form of the maps.
pub(crate) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// What packets of `spec` are looked up by.
pub(crate) const fn vip_key(spec: &VipSpec) -> VipKey {
    let protocol = match spec.protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    let (address, (first, last)) = (address(spec.address), spec.ports.ends());
    match spec.ports {
        Ports::One(port) => VipKey::new(address, port.to_be_bytes(), protocol),
        Ports::Range(..) | Ports::Any => {
            VipKey::of_ports(address, PortRange::new(protocol, first, last))
        }
    }
}

/// Works out what should be in the maps.
pub(crate) fn plan(snapshot: &Snapshot, host: &Host) -> Plan {
    let mut warnings = Vec::new();
    let mut instances = BTreeMap::new();
    let mut tunnelled = BTreeSet::new();
    let mut vips = BTreeMap::new();
    for spec in snapshot.vips.iter() {
        let Some(service) = snapshot.service(spec.service.as_str()) else {
            // The registry refuses such a snapshot.
            continue;
        };
        if vips.len() >= MAX_VIPS as usize {
            warnings.push(format!(
                "expected at most {MAX_VIPS} VIPs, {spec} is one more and is not served"
            ));
            continue;
        }
        add_instances(service, &mut instances, &mut tunnelled);
        let named = service.spec.fallback.as_ref();
        let fallback = named.and_then(|name| snapshot.service(name.as_str()));
        let mut vip = match fallback.filter(|fallback| stands_in(fallback, service, spec)) {
            Some(fallback) => vip_plan(fallback, service, spec),
            None => vip_plan(service, service, spec),
        };
        // Whoever was served by it goes on when nobody new is.
        if let Some(fallback) = fallback {
            add_instances(fallback, &mut instances, &mut tunnelled);
            vip.idle = longer_idle(service, fallback, spec.protocol, &host.spec);
        }
        warn(spec, service, &vip, &mut warnings);
        warn_of_strangers(spec, service, &snapshot.vips, &mut warnings);
        vips.insert(vip_key(spec), vip);
    }
    let settings = settings(snapshot, host);
    warn_of_missing_sources(&vips, &settings, host, &mut warnings);
    warn_of_missing_forwarding(&vips, host, &mut warnings);
    warn_of_vlans(host, &mut warnings);
    Plan {
        settings,
        instances,
        tunnelled,
        vips,
        vlans: host.vlans.clone(),
        warnings,
    }
}

fn warn_of_vlans(host: &Host, warnings: &mut Vec<String>) {
    if let Some(why) = &host.untold {
        warnings.push(format!(
            "the kernel does not tell which interfaces are VLANs ({why}): what was known of them holds"
        ));
    }
    let found = host.vlans.as_ref().map_or(0, BTreeMap::len);
    if found > MAX_SUBINTERFACES as usize {
        warnings.push(format!(
            "expected at most {MAX_SUBINTERFACES} interfaces that are VLANs, found {found}: what routes send \
             to those with the highest indices is lost"
        ));
    }
}

/// How a service serves a VIP, whose `own` service says what clients see of it.
fn vip_plan(service: &Service, own: &Service, spec: &VipSpec) -> VipPlan {
    let affinity = affinity(service);
    VipPlan {
        spec: spec.clone(),
        forwarding: service.spec.forwarding,
        outer: outer(service, spec),
        select: select_now(service),
        hash_of: hash_of(service),
        settles: settles(service, spec),
        refuses: own.spec.without_instances == WithoutInstances::Refuse,
        limited: own.spec.limits.arrivals.is_limited() || affinity.is_some(),
        cookies: own.spec.limits.arrivals.cookies_above.is_some()
            && service.spec.forwarding.translates()
            && spec.protocol == Protocol::Tcp,
        stays: spec.protocol == Protocol::Udp && service.spec.udp_flows == UdpFlows::Stay,
        affinity,
        idle: service.spec.idle_timeout,
        recipe: Arc::new(recipe(service, spec)),
    }
}

/// Whether a service's fallback serves a VIP in its place, because it has nobody for it.
fn stands_in(fallback: &Service, service: &Service, vip: &VipSpec) -> bool {
    let can_serve = |service| !recipe(service, vip).is_empty();
    !can_serve(service) && can_serve(fallback)
}

/// A VIP has connections of its service and of the fallback at the same time, and one idle time: neither may
/// lose any before its own is over.
fn longer_idle(
    service: &Service,
    fallback: &Service,
    protocol: Protocol,
    spec: &DatapathSpec,
) -> Option<Duration> {
    let (own, other) = (service.spec.idle_timeout, fallback.spec.idle_timeout);
    if own == other {
        return own;
    }
    let usual = match protocol {
        Protocol::Tcp => spec.tcp_idle_timeout,
        Protocol::Udp => spec.udp_idle_timeout,
    };
    Some(own.unwrap_or(usual).max(other.unwrap_or(usual)))
}

fn add_instances(
    service: &Service,
    into: &mut BTreeMap<u16, InstanceEntry>,
    tunnelled: &mut BTreeSet<Address>,
) {
    let is_tunnelled = matches!(service.spec.forwarding, Forwarding::Ipip | Forwarding::Gue);
    let weights = service.packet_weights();
    let members = service.members.iter().zip(service.statuses.iter());
    for ((member, status), weight) in members.zip(weights) {
        let endpoint = &member.instance.endpoint;
        let id = member.instance.id;
        let entry = InstanceEntry {
            address: address(endpoint.address().ip()),
            identity: member.instance.identity,
            port: endpoint.address().port().to_be_bytes(),
            generation: id.generation,
            weight: status.weight,
            state: state(status, weight),
            pad: 0,
        };
        if is_tunnelled {
            tunnelled.insert(entry.address);
        }
        into.insert(id.index, entry);
    }
}

/// What an instance may do with connections. A weight of 0 without an operator's or a check's word,
/// of an ejected instance for one, means what draining means: nothing new, and nobody is cut off. An
/// unhealthy one with a weight serves because the service fails open.
pub(crate) fn state(status: &InstanceStatus, weight: u32) -> u8 {
    if weight > 0 {
        INSTANCE_ACTIVE
    } else if status.admin == AdminState::Disabled {
        INSTANCE_DOWN
    } else if status.health == Health::Unhealthy {
        INSTANCE_FAILED
    } else {
        INSTANCE_DRAINING
    }
}

/// Whether an instance keeps no connection of TCP.
pub(crate) fn is_down(status: &InstanceStatus, weight: u32) -> bool {
    matches!(state(status, weight), INSTANCE_DOWN | INSTANCE_FAILED)
}

/// How the program picks a slot. Algorithms that act on measurements do so through the effective
/// weights, so in the kernel they are hashing over a table that follows them.
const fn select(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => SELECT_TURN,
        Algorithm::LeastConnections => SELECT_LEAST_CONNECTIONS,
        Algorithm::LeastResponseTime
        | Algorithm::HealthAware
        | Algorithm::ConsistentHash
        | Algorithm::Adaptive => SELECT_HASH,
    }
}

/// How the program picks a slot at present. Comparing loads would give an instance that recovers
/// more than its share, because nobody is as idle; turns over the same table give it exactly that.
fn select_now(service: &Service) -> u8 {
    let recovering = service.members.iter().any(|m| m.recovering && m.weight > 0);
    match select(service.spec.algorithm) {
        SELECT_LEAST_CONNECTIONS if recovering => SELECT_TURN,
        select => select,
    }
}

/// What is hashed. Packets have no header, cookie or path, so every key but the source leaves the
/// flow, unless clients are to stay; the same goes for algorithms that hash only to spread.
fn hash_of(service: &Service) -> u8 {
    let by_source = service.spec.hash_key == HashKey::Source
        || service.spec.affinity.of_connections().is_some();
    if service.spec.algorithm == Algorithm::ConsistentHash && by_source {
        HASH_SOURCE
    } else {
        HASH_FLOW
    }
}

/// How long, and under which fingerprint of the service, the instances of clients are remembered. What
/// hashes keeps them together by their addresses.
fn affinity(service: &Service) -> Option<(Duration, u64)> {
    let ttl = service.spec.affinity.of_connections()?;
    let remembers = service.spec.algorithm != Algorithm::ConsistentHash;
    remembers.then(|| (ttl, fingerprint(service.name())))
}

/// Whether the instance of a flow follows from its hash for as long as a slot has the same instance.
/// It does where packets keep their addresses and tables change only when instances do. What counts
/// live connections has to remember them, as has UDP, where nothing says that a flow begins.
fn settles(service: &Service, vip: &VipSpec) -> bool {
    let mut members = service.members.iter();
    service.spec.algorithm == Algorithm::ConsistentHash
        && vip.protocol == Protocol::Tcp
        && !service.spec.forwarding.translates()
        && service.spec.limits.connections.is_none()
        && !members.any(|member| member.most_connections.is_limited())
}

/// The table of a VIP: the service's members that can take its packets, by effective weight.
fn recipe(service: &Service, vip: &VipSpec) -> Recipe {
    let order = if select(service.spec.algorithm) == SELECT_TURN {
        Order::Smooth
    } else {
        Order::Maglev
    };
    let members = service.members.iter().zip(service.packet_weights());
    let shares = members
        .filter(|(member, _)| can_take(service, member.instance.endpoint.address(), vip))
        .map(|(member, weight)| Share {
            identity: member.instance.identity,
            generation: member.instance.id.generation,
            index: member.instance.id.index,
            weight,
        });
    Recipe::new(order, shares)
}

/// The address family of the instances that take a VIP's packets; they are all of one.
fn outer(service: &Service, vip: &VipSpec) -> Option<bool> {
    let mut endpoints = service
        .members
        .iter()
        .map(|m| m.instance.endpoint.address());
    let endpoint = endpoints.find(|endpoint| can_take(service, *endpoint, vip))?;
    Some(endpoint.is_ipv4())
}

/// `nat` and `dnat` do not translate between address families. The others leave packets as they are, and the
/// instance's own address only says where they go, so there a service that has none of the VIP's
/// family may take the others. It may not take both: a host with an address of each
/// family is two instances of the service, and would have two shares.
fn can_take(service: &Service, endpoint: SocketAddr, vip: &VipSpec) -> bool {
    let is_same = |endpoint: SocketAddr| endpoint.is_ipv4() == vip.address.is_ipv4();
    let mut members = service.members.iter();
    is_same(endpoint)
        || !service.spec.forwarding.translates()
            && !members.any(|member| is_same(member.instance.endpoint.address()))
}

fn warn(spec: &VipSpec, service: &Service, vip: &VipPlan, warnings: &mut Vec<String>) {
    let name = service.name();
    if vip.recipe.is_empty() {
        warnings.push(format!(
            "VIP {spec}: no instance of service {name} can take new connections; its packets are \
             {}",
            if vip.refuses { "refused" } else { "dropped" }
        ));
    }
    let forwarding = service.spec.forwarding;
    if !forwarding.translates() {
        for member in service.members.iter() {
            let endpoint = member.instance.endpoint.address();
            if !spec.ports.hold(endpoint.port()) {
                warnings.push(format!(
                    "VIP {spec}: {} keeps the port, but instance {endpoint} of service {name} \
                     listens on another one",
                    forwarding.as_str()
                ));
            }
        }
    }
}

/// Instances of both families behind VIPs of both are in order; an instance that no VIP of its
/// service can use is not. Said once a service, with its first VIP.
fn warn_of_strangers(
    spec: &VipSpec,
    service: &Service,
    all: &[VipSpec],
    warnings: &mut Vec<String>,
) {
    let name = service.name();
    let vips = || all.iter().filter(|vip| vip.service == spec.service);
    if vips().next() != Some(spec) {
        return;
    }
    let endpoints = service
        .members
        .iter()
        .map(|member| member.instance.endpoint.address());
    let strangers = endpoints
        .filter(|endpoint| !vips().any(|vip| can_take(service, *endpoint, vip)))
        .count();
    if strangers > 0 {
        warnings.push(format!(
            "VIP {spec}: {strangers} of {} instances of service {name} are of the other address \
             family and get no packets of any VIP",
            service.members.len()
        ));
    }
}

fn settings(snapshot: &Snapshot, host: &Host) -> Settings {
    let spec = &host.spec;
    let source =
        |v4: bool| nat_source(spec, &host.addresses, snapshot, v4).map_or([0; 16], address);
    Settings {
        nat_source_v4: source(true),
        nat_source_v6: source(false),
        nat_port_first: spec.nat_ports.0,
        nat_port_last: spec.nat_ports.1,
        next_hop_ttl_ms: u32::try_from(spec.next_hop_ttl.as_millis()).unwrap_or(u32::MAX),
        icmp_rate: spec.icmp_rate,
        gue_port: spec.gue_port.to_be_bytes(),
        echo_rate: spec.echo_rate,
        has_ranges: u8::from(
            snapshot
                .vips
                .iter()
                .any(|vip| !matches!(vip.ports, Ports::One(_))),
        ),
        pad: [0; 3],
    }
}

/// The source address of translated packets: the configured one, else the first address of the
/// first interface that is no VIP. A VIP would not do, because replies to it would be looked up as
/// requests; a link-local address would not either, because it means nothing without its link.
fn nat_source(
    spec: &DatapathSpec,
    addresses: &[IpAddr],
    snapshot: &Snapshot,
    v4: bool,
) -> Option<IpAddr> {
    let configured = spec.nat_sources.iter().find(|ip| ip.is_ipv4() == v4);
    let usable = |ip: &&IpAddr| {
        ip.is_ipv4() == v4
            && !ip.is_loopback()
            && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
            && !matches!(ip, IpAddr::V4(v4) if v4.is_link_local())
            && !snapshot.vips.iter().any(|vip| vip.address == **ip)
    };
    configured
        .or_else(|| addresses.iter().find(usable))
        .copied()
}

fn warn_of_missing_sources(
    vips: &BTreeMap<VipKey, VipPlan>,
    settings: &Settings,
    host: &Host,
    warnings: &mut Vec<String>,
) {
    for (v4, source, family) in [
        (true, settings.nat_source_v4, "IPv4"),
        (false, settings.nat_source_v6, "IPv6"),
    ] {
        if source != [0; 16] {
            continue;
        }
        if let Some(vip) = vips.values().find(|vip| vip.needs_source(v4)) {
            let interface = host.spec.interfaces.first().map_or("", String::as_str);
            warnings.push(format!(
                "VIP {}: {} needs an {family} address of lb's own that is no VIP, and interface \
                 {interface:?} has none; its packets are dropped until it gets one or nat_sources \
                 names one",
                vip.spec,
                vip.forwarding.as_str()
            ));
        }
    }
}

fn warn_of_missing_forwarding(
    vips: &BTreeMap<VipKey, VipPlan>,
    host: &Host,
    warnings: &mut Vec<String>,
) {
    for (interface, v4) in &host.not_forwarding {
        if vips.values().any(|vip| vip.spec.address.is_ipv4() == *v4) {
            let family = if *v4 { "ipv4" } else { "ipv6" };
            // sysctl takes a dot in a name for a level.
            let key = interface.replace('.', "/");
            warnings.push(format!(
                "{interface} does not forward packets, and without that the kernel finds no way \
                 for them: VIPs behind it drop everything until `sysctl -w \
                 net.{family}.conf.{key}.forwarding=1`"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
