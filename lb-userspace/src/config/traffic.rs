//! Routes and VIPs: what leads to services.

use super::{
    forms::Choice,
    origin::Sourced,
    queue, rate_limit,
    reader::Section,
    values::{DESTINATION, HOST, ROUTE_PATH, SERVICE, VIP_ADDRESS, VIP_PORTS},
};
use crate::model::{HostPattern, Protocol, RouteSpec, ServiceName, VipSpec};

const PROTOCOL: Choice<Protocol> = Choice {
    choices: &[Protocol::Tcp, Protocol::Udp],
    name: Protocol::as_str,
};

/// A route or a VIP, with its own place and that of the service that it names.
#[derive(Debug)]
pub(super) struct Leads<T> {
    pub(super) spec: T,
    pub(super) place: Sourced<()>,
    pub(super) service: Sourced<ServiceName>,
}

/// Routes and VIPs.
#[derive(Debug)]
pub(super) struct ReadTraffic {
    pub(super) routes: Vec<Leads<RouteSpec>>,
    pub(super) vips: Vec<Leads<VipSpec>>,
    /// The services that they name, those of routes and VIPs with faults included.
    pub(super) references: Vec<Sourced<ServiceName>>,
}

pub(super) fn read(root: &mut Section<'_, '_>) -> ReadTraffic {
    let mut references = Vec::new();
    ReadTraffic {
        routes: read_routes(root, &mut references),
        vips: read_vips(root, &mut references),
        references,
    }
}

/// Reads `[[routes]]`.
fn read_routes(
    root: &mut Section<'_, '_>,
    references: &mut Vec<Sourced<ServiceName>>,
) -> Vec<Leads<RouteSpec>> {
    root.tables("routes", None, |t| {
        let destination = t.optional("destination", &DESTINATION, &Sourced::unset(None), "any");
        let host = t.value("host", &HOST, &Sourced::unset(HostPattern::Any));
        let path = t.required("path", &ROUTE_PATH);
        let priority = queue::read_priority(t);
        let rate_limits = rate_limit::read(t);
        let service = t.required("service", &SERVICE)?;
        references.push(service.clone());
        if t.has("destination") && destination.value.is_none() {
            // Without the one that it is for, it would seem to be in the way of others.
            return None;
        }
        Some(Leads {
            spec: RouteSpec {
                destination: destination.value,
                host: host.value,
                priority,
                rate_limits,
                ..RouteSpec::new(path?.value, service.value.clone())
            },
            place: t.itself(),
            service,
        })
    })
}

/// Reads `[[vips]]`.
fn read_vips(
    root: &mut Section<'_, '_>,
    references: &mut Vec<Sourced<ServiceName>>,
) -> Vec<Leads<VipSpec>> {
    root.tables("vips", None, |t| {
        let address = t.required("address", &VIP_ADDRESS);
        let port = t.required("port", &VIP_PORTS);
        let protocol = t.value("protocol", &PROTOCOL, &Sourced::unset(Protocol::Tcp));
        let service = t.required("service", &SERVICE)?;
        references.push(service.clone());
        Some(Leads {
            spec: VipSpec {
                address: address?.value,
                ports: port?.value,
                protocol: protocol.value,
                service: service.value.clone(),
            },
            place: t.itself(),
            service,
        })
    })
}
