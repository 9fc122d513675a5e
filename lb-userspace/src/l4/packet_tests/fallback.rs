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

/// A packet of the flow from this port to the VIP; where it goes then.
fn packet(balancer: &Balancer, port: u16, flags: u8) -> Result<IpAddr, Counter> {
    let mut packet = tcp([10, 1, 0, 1], port, [192, 0, 2, 1], 80, flags);
    match balancer.memory.send(&mut packet) {
        Verdict::Transmit => Ok(<[u8; 4]>::try_from(&packet[30..34]).unwrap().into()),
        Verdict::Pass(reason) | Verdict::Drop(reason) => Err(reason),
        left => panic!("left otherwise: {left:?}"),
    }
}

#[test]
fn flows_that_are_not_remembered_stay_when_the_fallback_forwards_otherwise() {
    let mut web = service("web", Algorithm::ConsistentHash, &[(A, 1)]);
    web.forwarding = Forwarding::L2Dsr;
    web.fallback = Some(name("sorry"));
    web.idle_timeout = Some(Duration::from_secs(2 * 3600));
    let sorry = service("sorry", Algorithm::RoundRobin, &[(B, 1)]);
    let mut balancer = Balancer::new(vec![web, sorry]);
    // To the VIP's own address at A's MAC address, or translated to B.
    let (own, stood_in) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 2]));
    let old = 1000..1050;
    for port in old.clone() {
        assert_eq!(packet(&balancer, port, SYN), Ok(own));
    }
    assert!(balancer.memory.kernel().flows().is_empty());
    balancer.world.admin("web", A, AdminState::Draining);
    balancer.settle();
    assert_eq!(packet(&balancer, 2000, SYN), Ok(stood_in));
    // Half of them are heard of, and remembered; the others after A is back.
    for port in 1000..1025 {
        assert_eq!(packet(&balancer, port, ACK), Ok(own), "{port}");
    }
    assert_eq!(balancer.memory.kernel().flows().len(), 25 + 2);
    assert_eq!(balancer.live(A), 25);
    assert!(balancer.state.owns(balancer.world.id("web", A).index));
    balancer.world.admin("web", A, AdminState::Enabled);
    balancer.settle();
    assert_eq!(packet(&balancer, 2000, ACK), Ok(stood_in));
    for port in old {
        assert_eq!(packet(&balancer, port, ACK), Ok(own), "{port}");
    }
    assert_eq!(packet(&balancer, 2001, SYN), Ok(own));
    assert!(balancer.memory.counters().unwrap().adds_up());
}
