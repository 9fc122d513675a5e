//! What is allowed, but hardly meant: remarks on a configuration that is good.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{Notice, Sourced, Whole};
use crate::model::{
    Algorithm, ApiAddress, DatapathMode, Endpoint, GatewayVip, IpPrefix, Ports, RELAYED_ACL,
    loses_acl, lost_forwarding, lost_limits,
};

impl Whole<'_> {
    /// What is allowed, but hardly meant.
    pub(super) fn notice(&self, notices: &mut Vec<Notice>) {
        for service in self.services {
            let spec = &service.spec;
            let mut say = |text: &str| {
                let text = format!("{}: {text}", service.name.path);
                notices.push(Notice::new(service.name.origin.clone(), text));
            };
            let used = self
                .routes
                .iter()
                .any(|route| route.spec.service == spec.name)
                || self.vips.iter().any(|vip| vip.spec.service == spec.name);
            if !used {
                say("no route and no VIP leads here");
            }
            // What it will find is not known yet.
            if spec.discovery.is_on() {
                continue;
            }
            if spec.instances.is_empty() {
                say("has no instance, so it cannot serve anything");
            } else if spec.instances.iter().all(|instance| instance.weight == 0) {
                say("every instance has weight 0, so it cannot serve anything");
            }
        }
        self.unserved(notices);
        for vip in self.vips {
            let service = self
                .services
                .iter()
                .find(|s| s.spec.name == vip.spec.service);
            if let Some(service) = service
                && service.spec.algorithm == Algorithm::ConsistentHash
                && !service.spec.hash_key.is_of_packets()
                && !self
                    .routes
                    .iter()
                    .any(|route| route.spec.service == vip.spec.service)
            {
                let text = format!(
                    "{}: packets have no {}, so connections are hashed by their flow, and no \
                     route leads to the service",
                    vip.place.path, service.spec.hash_key
                );
                notices.push(Notice::new(vip.place.origin.clone(), text));
            }
            let Some(service) = service.filter(|s| !s.spec.forwarding.translates()) else {
                continue;
            };
            let other = |e: &&Sourced<Endpoint>| {
                let address = e.value.address();
                address.is_ipv4() == vip.spec.address.is_ipv4()
                    && !vip.spec.ports.hold(address.port())
            };
            if let Some(endpoint) = service.endpoints.iter().find(other) {
                let text = format!(
                    "{}: {} keeps the port {}, but {} names another",
                    vip.place.path,
                    service.spec.forwarding.as_str(),
                    vip.spec.ports,
                    endpoint.path
                );
                notices.push(Notice::new(vip.place.origin.clone(), text));
            }
        }
        let api = &self.api.spec;
        let beside = api.on_gateway && !self.gateway.listeners.is_empty();
        if api.listen.is_empty() && !beside {
            let text = "api: neither listens nor shares the gateway's listeners, so nothing can \
                        ask or change this lb";
            notices.push(Notice::new(self.api.listen.origin.clone(), text));
        }
        let open = api
            .listen
            .iter()
            .any(|place| matches!(place, ApiAddress::Tcp(address) if !address.ip().is_loopback()));
        if open && api.access.tokens.is_empty() {
            let text = "api: only peers on a loopback address are let in while there is no token";
            notices.push(Notice::new(self.api.listen.origin.clone(), text));
        }
        self.notice_strangers(notices);
        self.notice_relayed(notices);
    }

    /// Routes to which no connection leads.
    fn unserved(&self, notices: &mut Vec<Notice>) {
        let listeners = self.gateway.listeners.iter();
        let listeners = listeners.map(|listener| listened(listener.value));
        let served = listeners.chain(self.gateway.vips.iter().map(|vip| vip.value));
        let served: Vec<GatewayVip> = served.collect();
        for route in self.routes {
            if let Some(destination) = route.spec.destination
                && !served.iter().any(|one| one.overlaps(destination))
            {
                let text = format!(
                    "{}: neither gateway.listen nor gateway.vips has anything of {destination}, so \
                     no request comes by this route",
                    route.place.path.key("destination")
                );
                notices.push(Notice::new(route.place.origin.clone(), text));
            }
        }
    }

    /// Instances of the address family that no VIP of their service has. With VIPs of both families all
    /// are of use, and so are all in a relay.
    fn notice_strangers(&self, notices: &mut Vec<Notice>) {
        if self.datapath.spec.mode == DatapathMode::Relay {
            return;
        }
        for service in self.services {
            let families: BTreeSet<bool> = self
                .vips_of(service)
                .map(|vip| vip.address.is_ipv4())
                .collect();
            let Some(v4) = families.first().filter(|_| families.len() == 1) else {
                continue;
            };
            let endpoints = service.endpoints.iter();
            let strangers: Vec<_> = endpoints
                .filter(|endpoint| endpoint.value.address().is_ipv4() != *v4)
                .collect();
            // With nobody else they get the packets, or it is a fault.
            if let Some(first) = strangers.first()
                && strangers.len() < service.endpoints.len()
            {
                let text = strangers_text(first, strangers.len(), *v4);
                notices.push(Notice::new(first.origin.clone(), text));
            }
        }
    }

    /// What holds in the kernel and not in the relay that was asked for. Where a relay is what is left,
    /// it says so itself.
    fn notice_relayed(&self, notices: &mut Vec<Notice>) {
        if self.datapath.spec.mode != DatapathMode::Relay || self.vips.is_empty() {
            return;
        }
        for service in self.services {
            if self.vips_of(service).next().is_none() {
                continue;
            }
            let forwarding = service.spec.forwarding;
            let forwarded = lost_forwarding(forwarding).map(|lost| format!("instances {lost}"));
            let limits = lost_limits(&service.spec.limits.arrivals, forwarding);
            for lost in forwarded.into_iter().chain(limits) {
                let place = &service.name;
                let text = format!("{}: {RELAYED}{lost}", place.path);
                notices.push(Notice::new(place.origin.clone(), text));
            }
        }
        if loses_acl(&self.datapath.acl) {
            let text = format!("datapath.acl: {RELAYED}{RELAYED_ACL}");
            notices.push(Notice::new(self.datapath.mode.origin.clone(), text));
        }
    }
}

/// What notices of a relay begin with.
const RELAYED: &str = "with datapath.mode = \"relay\" ";

/// Says of instances, `count` and the first of them, that no VIP is of their family, for all are of
/// IPv4 (`v4`) or none is.
fn strangers_text(first: &Sourced<Endpoint>, count: usize, v4: bool) -> String {
    let (own, other) = if v4 {
        ("IPv6", "IPv4")
    } else {
        ("IPv4", "IPv6")
    };
    let others = match count - 1 {
        0 => String::new(),
        others => format!("; nor does any other of {own} ({others})"),
    };
    format!(
        "{}: is of {own} and all VIPs of the service are of {other}, so it gets no packets of any \
         VIP{others}",
        first.path
    )
}

/// What a listener takes connections to.
fn listened(address: SocketAddr) -> GatewayVip {
    let (ip, ports) = (address.ip(), Ports::One(address.port()));
    let prefix = if ip.is_unspecified() {
        IpPrefix::around(ip, 0)
    } else {
        IpPrefix::of(ip)
    };
    GatewayVip { prefix, ports }
}
