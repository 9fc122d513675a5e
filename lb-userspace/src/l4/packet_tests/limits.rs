//! Limits of connections: what an instance and a service may have, packet by packet.

use std::num::NonZeroU32;

use super::*;
use crate::model::LimitSpec;

const FIN: u8 = 1;
const RST: u8 = 4;

fn limited(algorithm: Algorithm, service_limit: u32, instance_limit: u32) -> ServiceSpec {
    ServiceSpec {
        limits: LimitSpec {
            connections: NonZeroU32::new(service_limit),
            instance_connections: NonZeroU32::new(instance_limit),
            ..LimitSpec::default()
        },
        ..service("web", algorithm, &[(A, 10), (B, 10), (C, 10)])
    }
}

impl Balancer {
    fn try_open(&self, port: u16) -> Result<String, Counter> {
        self.send([10, 1, 0, 1], port, SYN)
    }

    fn all_live(&self) -> [u64; 3] {
        [A, B, C].map(|name| self.live(name))
    }

    /// Ends a connection as its client would.
    fn end(&self, port: u16) {
        let _ = self.send([10, 1, 0, 1], port, RST | ACK);
    }
}

#[test]
fn an_instance_gets_no_connection_beyond_its_limit_under_any_algorithm() {
    for algorithm in Algorithm::ALL {
        let mut spec = limited(algorithm, 0, 10);
        spec.hash_key = HashKey::Flow;
        spec.instances[1].max_connections = Some(25);
        let mut balancer = Balancer::new(vec![spec]);
        let mut refused = 0;
        for port in 1000..1100 {
            match balancer.try_open(port) {
                Ok(_) => {}
                Err(reason) => {
                    assert_eq!(reason, Counter::DropConnectionLimit, "{algorithm}");
                    refused += 1;
                }
            }
            let [a, b, c] = balancer.all_live();
            assert!(a <= 10 && b <= 25 && c <= 10, "{algorithm}: {a} {b} {c}");
        }
        assert_eq!(balancer.all_live(), [10, 25, 10], "{algorithm}");
        assert_eq!(refused, 55, "{algorithm}");
        // Who has a connection keeps it.
        for port in 1000..1020 {
            assert!(balancer.goes_on(port).is_ok(), "{algorithm}");
        }
        // A place that comes free is taken, and a limit that is lifted is one no more.
        balancer.end(1000);
        assert_eq!(balancer.all_live().iter().sum::<u64>(), 44, "{algorithm}");
        assert!(balancer.try_open(3000).is_ok(), "{algorithm}");
        let mut spec = limited(algorithm, 0, 0);
        spec.hash_key = HashKey::Flow;
        balancer
            .world
            .configure(vec![spec], vec![vip(VIP, Protocol::Tcp, "web")]);
        balancer.settle();
        balancer.spread(4000..4100);
        assert_eq!(balancer.all_live().iter().sum::<u64>(), 145, "{algorithm}");
        assert!(balancer.memory.kernel().counters().adds_up());
    }
}

#[test]
fn a_service_never_has_more_than_its_limit_and_all_of_that_can_be_used() {
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::ConsistentHash,
    ] {
        let mut spec = limited(algorithm, 30, 0);
        spec.hash_key = HashKey::Source;
        spec.instances[2].max_connections = Some(4);
        let mut balancer = Balancer::new(vec![spec]);
        // One client: hashing by source wants all of its connections in one place.
        for port in 1000..1060 {
            let _ = balancer.try_open(port);
            if port % 5 == 0 {
                balancer.limit();
            }
            let live = balancer.all_live();
            assert!(live.iter().sum::<u64>() <= 30 && live[2] <= 4, "{live:?}");
        }
        assert_eq!(balancer.all_live().iter().sum::<u64>(), 30, "{algorithm}");
        // Those of one instance end; the room that they leave goes where it is wanted.
        for port in 1000..1060 {
            if balancer.goes_on(port).as_deref() == Ok(A) {
                balancer.end(port);
            }
        }
        balancer.world.admin("web", A, AdminState::Draining);
        balancer.settle();
        for port in 2000..2060 {
            let _ = balancer.try_open(port);
            balancer.limit();
            assert!(balancer.all_live().iter().sum::<u64>() <= 30, "{algorithm}");
        }
        let live = balancer.all_live();
        assert_eq!((live[0], live.iter().sum()), (0, 30), "{algorithm}");
    }
}

#[test]
fn a_lower_limit_of_a_service_breaks_nothing_and_lets_nobody_in() {
    let mut balancer = Balancer::new(vec![limited(Algorithm::RoundRobin, 30, 0)]);
    balancer.spread(1000..1024);
    let lower = limited(Algorithm::RoundRobin, 12, 0);
    balancer
        .world
        .configure(vec![lower], vec![vip(VIP, Protocol::Tcp, "web")]);
    balancer.settle();
    assert_eq!(balancer.try_open(2000), Err(Counter::DropConnectionLimit));
    for port in 1000..1024 {
        assert!(balancer.goes_on(port).is_ok());
    }
    for port in 1000..1014 {
        let _ = balancer.send([10, 1, 0, 1], port, FIN | RST | ACK);
    }
    balancer.limit();
    let opened = (3000..3030).filter(|port| balancer.try_open(*port).is_ok());
    assert_eq!(opened.count(), 2);
}
