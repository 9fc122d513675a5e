//! Clients that stay with their instance: what follows from a service's configuration, and when it is
//! forgotten.

use super::*;
use crate::model::{AffinitySpec, SessionSource};

const TTL: Duration = Duration::from_secs(60);

fn stays(spec: ServiceSpec) -> ServiceSpec {
    let affinity = AffinitySpec {
        enabled: true,
        ttl: TTL,
        sources: vec![SessionSource::Own, SessionSource::Address],
        ..AffinitySpec::default()
    };
    ServiceSpec { affinity, ..spec }
}

fn web(algorithm: Algorithm) -> ServiceSpec {
    stays(service("web", algorithm, &[(A, 1), (B, 1), (C, 1)]))
}

impl Balancer {
    /// Brings affinity into the kernel, as the daemon does with each pass.
    fn stay(&mut self) {
        let (plan, mut memory) = (self.world.plan(), self.memory.clone());
        let applied = self.affinities.apply(&plan, &self.state, &mut memory);
        applied.unwrap();
    }

    /// The instances of so many new connections of a client.
    fn instances(&self, client: u8, ports: std::ops::Range<u16>) -> Vec<String> {
        let connect = |port| {
            let first = self.send([10, 1, 0, client], port, SYN).unwrap();
            assert_eq!(self.send([10, 1, 0, client], port, ACK), Ok(first.clone()));
            first
        };
        let mut found: Vec<String> = ports.map(connect).collect();
        found.dedup();
        found
    }

    fn remembered(&mut self) -> u64 {
        while !self.affinities.step(&mut self.memory).unwrap() {}
        self.affinities.clients()
    }
}

#[test]
fn clients_stay_under_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let mut balancer = Balancer::new(vec![web(algorithm)]);
        balancer.stay();
        for client in 1..=15 {
            let stayed = balancer.instances(client, 1000..1020);
            assert_eq!(stayed.len(), 1, "{algorithm}: {stayed:?}");
        }
        let remembers = algorithm != Algorithm::ConsistentHash;
        let expected = if remembers { 15 } else { 0 };
        assert_eq!(balancer.remembered(), expected, "{algorithm}");
    }
}

#[test]
fn without_the_address_among_the_sources_connections_are_spread() {
    let mut spec = web(Algorithm::RoundRobin);
    spec.affinity.sources.pop();
    let mut balancer = Balancer::new(vec![spec]);
    balancer.stay();
    assert_eq!(balancer.instances(1, 1000..1020).len(), 20);
    assert_eq!(balancer.remembered(), 0);
}

#[test]
fn clients_go_elsewhere_when_their_instance_drains_and_stay_there() {
    let mut balancer = Balancer::new(vec![web(Algorithm::RoundRobin)]);
    balancer.stay();
    let first = balancer.instances(1, 1000..1001);
    balancer.world.admin("web", &first[0], AdminState::Draining);
    balancer.settle();
    balancer.stay();
    let second = balancer.instances(1, 1001..1010);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    balancer.world.admin("web", &first[0], AdminState::Enabled);
    balancer.settle();
    balancer.stay();
    assert_eq!(balancer.instances(1, 1010..1020), second);
}

#[test]
fn who_stays_away_is_forgotten_and_so_is_everybody_when_affinity_goes() {
    let mut balancer = Balancer::new(vec![web(Algorithm::RoundRobin)]);
    balancer.stay();
    for client in 1..=10 {
        balancer.instances(client, 1000..1001);
    }
    balancer.memory.kernel().set_now(TTL.as_nanos() as u64);
    balancer.instances(1, 1001..1002);
    assert_eq!(balancer.remembered(), 10);
    balancer.memory.kernel().set_now(TTL.as_nanos() as u64 + 2);
    assert_eq!(balancer.remembered(), 1);
    let plain = service("web", Algorithm::RoundRobin, &[(A, 1), (B, 1), (C, 1)]);
    let vips = vec![vip(VIP, Protocol::Tcp, "web")];
    balancer.world.configure(vec![plain], vips);
    balancer.settle();
    balancer.stay();
    assert_eq!(balancer.remembered(), 0);
    assert_eq!(balancer.instances(1, 1002..1022).len(), 20);
}
