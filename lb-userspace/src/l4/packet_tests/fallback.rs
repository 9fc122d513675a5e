//! Services that serve VIPs in the place of others.

use super::*;
use crate::l4::fixture::name;

fn balancer() -> Balancer {
    let mut web = service("web", Algorithm::RoundRobin, &[(A, 1)]);
    web.fallback = Some(name("sorry"));
    let sorry = service("sorry", Algorithm::RoundRobin, &[(B, 1), (C, 1)]);
    Balancer::new(vec![web, sorry])
}

#[test]
fn packets_go_to_the_fallback_while_nobody_else_takes_them_and_connections_stay_there() {
    let mut balancer = balancer();
    let own = balancer.open(1000);
    assert_eq!(own, A);
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.settle();
    // What has begun goes on, what begins goes elsewhere, by the fallback's algorithm.
    assert_eq!(balancer.goes_on(1000), Ok(A.to_owned()));
    let spread = balancer.spread(2000..2010);
    assert_eq!(spread, [(B.to_owned(), 5), (C.to_owned(), 5)].into());
    let held = balancer.open(3000);
    balancer.world.admin("web", A, AdminState::Enabled);
    balancer.settle();
    assert_eq!(balancer.open(3001), A);
    assert_eq!(balancer.goes_on(3000), Ok(held));
}

#[test]
fn a_fallback_without_anybody_changes_nothing() {
    let mut balancer = balancer();
    balancer.world.admin("web", A, AdminState::Disabled);
    for instance in [B, C] {
        balancer
            .world
            .admin("sorry", instance, AdminState::Disabled);
    }
    balancer.settle();
    let sent = balancer.send([10, 1, 0, 1], 1000, SYN);
    assert_eq!(sent, Err(Counter::DropNoInstance));
    let warnings = balancer.world.plan().warnings;
    assert!(warnings[0].contains("service web"), "{warnings:?}");
}

#[test]
fn a_service_that_is_gone_is_nobodys_fallback() {
    let mut balancer = balancer();
    let mut web = service("web", Algorithm::RoundRobin, &[(A, 1)]);
    web.fallback = Some(name("gone"));
    balancer
        .world
        .configure(vec![web], vec![vip(VIP, Protocol::Tcp, "web")]);
    balancer.world.apply(Change::Admin {
        service: name("web"),
        instance: A.to_owned(),
        state: AdminState::Disabled,
    });
    balancer.settle();
    assert_eq!(
        balancer.send([10, 1, 0, 1], 1000, SYN),
        Err(Counter::DropNoInstance)
    );
}
