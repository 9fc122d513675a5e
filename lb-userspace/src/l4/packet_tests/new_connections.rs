//! Limits of new connections: by service and by source, packet by packet.

use std::num::NonZeroU32;

use super::*;
use crate::model::{ArrivalRate, ArrivalsSpec, LimitSpec};

const RST: u8 = 4;
const SECOND: u64 = 1_000_000_000;

fn rate(per_second: u32, burst: u32) -> Option<ArrivalRate> {
    let (per_second, burst) = (NonZeroU32::new(per_second)?, NonZeroU32::new(burst)?);
    Some(ArrivalRate { per_second, burst })
}

fn limited(spec: ServiceSpec, arrivals: ArrivalsSpec) -> ServiceSpec {
    let limits = LimitSpec {
        arrivals,
        ..LimitSpec::default()
    };
    ServiceSpec { limits, ..spec }
}

fn web(algorithm: Algorithm, forwarding: Forwarding) -> ServiceSpec {
    ServiceSpec {
        forwarding,
        hash_key: HashKey::Flow,
        ..service("web", algorithm, &[(A, 10), (B, 10), (C, 10)])
    }
}

impl Balancer {
    /// How many of these clients' SYNs begin a connection.
    fn begun(&self, clients: impl Iterator<Item = ([u8; 4], u16)>) -> usize {
        let opened = clients.filter(|(client, port)| self.send(*client, *port, SYN).is_ok());
        opened.count()
    }
}

#[test]
fn limits_bite_where_connections_begin_and_nowhere_else() {
    for (algorithm, forwarding) in [
        (Algorithm::RoundRobin, Forwarding::Nat),
        (Algorithm::LeastConnections, Forwarding::L2Dsr),
        (Algorithm::ConsistentHash, Forwarding::L2Dsr),
    ] {
        let spec = ArrivalsSpec {
            service: rate(10, 40),
            source: rate(5, 8),
            ..ArrivalsSpec::default()
        };
        let mut balancer = Balancer::new(vec![limited(web(algorithm, forwarding), spec)]);
        balancer.pace();
        balancer.memory.kernel().set_now(100 * SECOND);
        let one = [10, 1, 0, 1];
        assert_eq!(
            balancer.begun((1000..1100).map(|port| (one, port))),
            8,
            "{algorithm}"
        );
        assert_eq!(
            balancer.send(one, 2000, SYN),
            Err(Counter::DropSourceArrivals)
        );
        let others = (0..50_u16).map(|n| ([10, 1, 1, n as u8], 1000 + n));
        assert_eq!(balancer.begun(others), 32, "{algorithm}");
        let other = [10, 1, 2, 1];
        assert_eq!(balancer.send(other, 2000, SYN), Err(Counter::DropArrivals));
        // Whoever has a connection has it.
        for port in 1000..1008 {
            for _ in 0..50 {
                assert!(balancer.send(one, port, ACK).is_ok(), "{algorithm} {port}");
            }
        }
        // Half a second gives five to all of them, two to the one.
        balancer.memory.kernel().set_now(100 * SECOND + SECOND / 2);
        assert_eq!(
            balancer.begun((3000..3100).map(|port| (one, port))),
            2,
            "{algorithm}"
        );
        assert_eq!(
            balancer.begun((0..9_u16).map(|n| ([10, 1, 3, n as u8], n + 1))),
            3
        );
        let counters = balancer.memory.kernel().counters();
        assert!(counters.adds_up());
        assert!(counters.get(Counter::DropArrivals) > 0);
        let _ = balancer.send(one, 1000, RST | ACK);
    }
}

#[test]
fn vips_of_a_service_share_a_bucket_and_services_do_not() {
    let spec = ArrivalsSpec {
        service: rate(1, 10),
        ..ArrivalsSpec::default()
    };
    let mut world = World::new(
        vec![
            limited(web(Algorithm::RoundRobin, Forwarding::Nat), spec),
            limited(
                ServiceSpec {
                    name: crate::l4::fixture::name("other"),
                    ..web(Algorithm::RoundRobin, Forwarding::Nat)
                },
                spec,
            ),
        ],
        vec![
            vip("192.0.2.1:80", Protocol::Tcp, "web"),
            vip("192.0.2.1:81", Protocol::Tcp, "web"),
            vip("192.0.2.1:82", Protocol::Tcp, "other"),
        ],
    );
    let memory = Memory::new(8);
    let mut state = Reconciler::adopt(&memory, GRACE).unwrap();
    let mut limits = arrivals::Limits::new(3);
    let plan = world.plan();
    let mut datapath = memory.clone();
    state.apply(&plan, &mut datapath, Timestamp(0)).unwrap();
    limits
        .apply(&world.snapshot(), &state, &mut datapath)
        .unwrap();
    memory.take_log();
    limits
        .apply(&world.snapshot(), &state, &mut datapath)
        .unwrap();
    assert_eq!(memory.take_log(), [""; 0]);
    memory.kernel().set_now(100 * SECOND);
    let begun = |port: u16| {
        let send = |client: &u16| {
            let mut packet = tcp([10, 1, 0, 1], *client, [192, 0, 2, 1], port, SYN);
            memory.send(&mut packet) == Verdict::Transmit
        };
        (1000..1100).filter(send).count()
    };
    assert_eq!([begun(80), begun(81), begun(82)], [10, 0, 10]);
    // Without limits the maps are as if there never were any.
    let services = vec![web(Algorithm::RoundRobin, Forwarding::Nat)];
    let vips = vec![vip("192.0.2.1:80", Protocol::Tcp, "web")];
    world = World::new(services, vips);
    limits
        .apply(&world.snapshot(), &state, &mut datapath)
        .unwrap();
    assert_eq!(memory.take_log().len(), 3);
}

#[test]
fn syns_are_answered_by_cookies_where_that_can_be() {
    let cookies = |forwarding, above| {
        let spec = ArrivalsSpec {
            cookies_above: Some(above),
            ..ArrivalsSpec::default()
        };
        let mut balancer =
            Balancer::new(vec![limited(web(Algorithm::RoundRobin, forwarding), spec)]);
        let mut datapath = balancer.memory.clone();
        cookies::Keys::default().renew(&mut datapath).unwrap();
        balancer.pace();
        balancer.memory.kernel().set_now(100 * SECOND);
        balancer
    };
    let fates = |balancer: &Balancer, ports: std::ops::Range<u16>| {
        let send = |port: u16| {
            let mut packet = tcp([10, 1, 0, 1], port, [192, 0, 2, 1], 80, SYN);
            balancer.memory.send(&mut packet)
        };
        let fates: Vec<Verdict> = ports.map(send).collect();
        let of = |fate| fates.iter().filter(|found| **found == fate).count();
        (
            of(Verdict::Transmit),
            of(Verdict::Answer(Counter::AnsweredCookie)),
        )
    };
    for forwarding in [Forwarding::Nat, Forwarding::Dnat] {
        let always = cookies(forwarding, 0);
        assert_eq!(fates(&always, 1000..1100), (0, 100));
        assert_eq!(always.memory.kernel().flows().len(), 0);
        let above = cookies(forwarding, 40);
        assert_eq!(fates(&above, 1000..1100), (40, 60));
        // While SYNs come as fast there are none but cookies.
        above.memory.kernel().set_now(100 * SECOND + SECOND / 2);
        assert_eq!(fates(&above, 2000..2100), (0, 100));
        above.memory.kernel().set_now(110 * SECOND);
        assert_eq!(fates(&above, 3000..3040), (40, 0));
    }
    // As a default it has no effect where answers go elsewhere.
    let direct = cookies(Forwarding::L2Dsr, 0);
    assert_eq!(fates(&direct, 1000..1100), (100, 0));
}
