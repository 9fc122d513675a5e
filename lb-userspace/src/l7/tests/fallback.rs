//! Services that serve in the place of others.

use super::*;
use crate::model::{AdminState, FailOpenSpec, Health, HealthCheckSpec};

fn with_fallback(own: &Stub, sorry: &Stub) -> Desired {
    let mut desired = everything_to(&[own.address]);
    desired.services[0].fallback = Some(ServiceName::new("sorry").unwrap());
    desired.services.push(service("sorry", &[sorry.address]));
    desired
}

impl Gateway {
    fn order(&self, service: &str, instance: &Stub, state: AdminState) {
        let change = Change::Admin {
            service: ServiceName::new(service).unwrap(),
            instance: instance.address.to_string(),
            state,
        };
        self.registry.apply(change).unwrap();
    }
}

#[test]
fn a_fallback_serves_for_as_long_as_nobody_else_does() {
    let (own, sorry) = (Stub::saying("own"), Stub::saying("sorry"));
    let gateway = Gateway::of(with_fallback(&own, &sorry));
    let mut client = gateway.connect();
    assert_eq!(client.get("/").text(), "own");
    for state in [AdminState::Draining, AdminState::Disabled] {
        gateway.order("web", &own, state);
        eventually("the fallback serves", || client.get("/").text() == "sorry");
        gateway.order("web", &own, AdminState::Enabled);
        eventually("the service serves", || client.get("/").text() == "own");
    }
    // Nobody serves for the fallback, and it does so for nobody while it cannot.
    gateway.order("web", &own, AdminState::Disabled);
    gateway.order("sorry", &sorry, AdminState::Disabled);
    eventually("nobody is left", || {
        client.get("/").reason() == Some("no_instance")
    });
}

#[test]
fn a_service_with_a_fallback_does_not_fail_open() {
    let (own, sorry) = (Stub::saying("own"), Stub::saying("sorry"));
    let mut desired = with_fallback(&own, &sorry);
    desired.services[0].health_check = Some(HealthCheckSpec::default());
    desired.services[0].fail_open = Some(FailOpenSpec::default());
    let gateway = Gateway::of(desired);
    let id = {
        let snapshot = gateway.registry.snapshot();
        snapshot.service("web").unwrap().members[0].instance.id
    };
    let change = Change::Health {
        id,
        health: Health::Unhealthy,
        detail: "test".into(),
    };
    gateway.registry.apply(change).unwrap();
    let mut client = gateway.connect();
    eventually("the fallback serves", || client.get("/").text() == "sorry");
}
