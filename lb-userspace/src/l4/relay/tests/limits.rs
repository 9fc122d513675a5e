//! How many connections there may be, for how long, and what becomes of the others.

use std::num::NonZeroU32;

use super::*;
use crate::{
    model::{AclAction, AclSpec, ArrivalRate, Forwarding, WithoutInstances},
    registry::{Change, Desired},
};

#[test]
fn the_limit_of_a_service_holds_for_all_its_instances_and_workers() {
    let echoes = [Echo::start(b'a'), Echo::start(b'b')];
    let at = unused_address();
    let mut web = web(&[&echoes[0], &echoes[1]]);
    web.limits.connections = NonZeroU32::new(3);
    web.without_instances = WithoutInstances::Refuse;
    let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    let mut held: Vec<Client> = (0..3).map(|_| Client::connect(at)).collect();
    assert!(held.iter_mut().all(|client| client.letter().is_ok()));
    for _ in 0..4 {
        assert_eq!(Client::connect(at).end(), Err(ErrorKind::ConnectionReset));
    }
    let report = stage.report_when("refusals", |report| report.vips[0].traffic.dropped == 4);
    assert_eq!(report.vips[0].relayed.unwrap().refused, [0, 4, 0, 0, 0]);
    held.pop();
    eventually("room", || Client::connect(at).letter().is_ok());
}

#[test]
fn who_finds_no_instance_waits_where_packets_would_be_dropped() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let stage = Stage::new(vec![web(&[])], vec![tcp(at, "web")]);
    let mut client = Client::connect(at);
    let waiting = thread::spawn(move || client.letter());
    thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    let vips = vec![tcp(at, "web")];
    stage.world.configure(vec![web(&[&echo])], vips);
    assert_eq!(waiting.join().unwrap(), Ok(b'a'));
}

#[test]
fn who_finds_no_instance_waits_no_longer_than_connecting_may_take() {
    let at = unused_address();
    let mut web = web(&[]);
    web.timeouts.connect = Duration::from_millis(300);
    let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    let start = Instant::now();
    assert_eq!(Client::connect(at).end(), Err(ErrorKind::ConnectionReset));
    assert!(start.elapsed() >= Duration::from_millis(300));
    stage.report_when("a refusal", |report| {
        report.vips[0].relayed.unwrap().refused == [1, 0, 0, 0, 0]
    });
}

#[test]
fn there_are_no_more_connections_than_there_may_be() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let spec = DatapathSpec {
        max_connections: 2,
        ..DatapathSpec::default()
    };
    let stage = Stage::with(spec, vec![web(&[&echo])], vec![tcp(at, "web")]);
    let mut held = [Client::connect(at), Client::connect(at)];
    assert_eq!(held.each_mut().map(Client::letter), [Ok(b'a'); 2]);
    assert_eq!(Client::connect(at).end(), Err(ErrorKind::ConnectionReset));
    let report = stage.report_when("figures", |report| {
        report.vips[0].traffic.dropped > 0 && report.connections.entries == 2
    });
    assert_eq!(report.vips[0].relayed.unwrap().refused, [0, 0, 0, 1, 0]);
    assert_eq!(report.connections.max, 2);
}

#[test]
fn silence_ends_a_connection_and_half_a_one_sooner() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let listener = TcpListener::bind(unused_address()).unwrap();
    let silent = listener.local_addr().unwrap();
    let spec = DatapathSpec {
        tcp_idle_timeout: Duration::from_secs(4),
        udp_idle_timeout: Duration::from_secs(1),
        ..DatapathSpec::default()
    };
    let members = [(&*silent.to_string(), 1)];
    let services = vec![
        service("half", Algorithm::RoundRobin, &members),
        web(&[&echo]),
    ];
    let half = unused_address();
    let vips = vec![tcp(at, "web"), tcp(half, "half")];
    let _stage = Stage::with(spec, services, vips);
    let mut client = Client::connect(at);
    assert_eq!(client.letter(), Ok(b'a'));
    let mut half = Client::connect(half);
    let _accepted = listener.accept().unwrap();
    half.0.shutdown(Shutdown::Write).unwrap();
    let start = Instant::now();
    assert_eq!(half.end(), Err(ErrorKind::ConnectionReset));
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    // Whoever says something now and then is not silent.
    assert!(client.is_alive());
    assert_eq!(client.end(), Err(ErrorKind::ConnectionReset));
    assert!(start.elapsed() >= took + Duration::from_secs(2));
}

#[test]
fn who_may_not_send_is_reset() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let stage = Stage::new(vec![web(&[&echo])], vec![tcp(at, "web")]);
    assert_eq!(Client::connect(at).letter(), Ok(b'a'));
    let desired = Desired {
        services: vec![web(&[&echo])],
        vips: vec![tcp(at, "web")],
        acl: AclSpec {
            rules: [("127.0.0.0/8".parse().unwrap(), AclAction::Deny)].into(),
            files: Vec::new(),
        },
        ..Desired::default()
    };
    let configure = Change::Configure(Box::new(desired));
    stage.world.apply(configure);
    assert_eq!(Client::connect(at).end(), Err(ErrorKind::ConnectionReset));
    stage.report_when("a refusal", |report| {
        report.vips[0].relayed.unwrap().refused == [0, 0, 0, 0, 1]
    });
}

/// `web` with everything that only the kernel can do.
fn guarded(echo: &Echo) -> ServiceSpec {
    let mut web = web(&[echo]);
    let ten = NonZeroU32::new(10).unwrap();
    let rate = Some(ArrivalRate {
        per_second: ten,
        burst: ten,
    });
    web.forwarding = Forwarding::Dnat;
    web.limits.arrivals.service = rate;
    web.limits.arrivals.source = rate;
    web.limits.arrivals.cookies_above = Some(100);
    web
}

#[test]
fn who_did_not_ask_for_a_relay_hears_which_protections_are_gone() {
    let (echo, places) = (Echo::start(b'a'), [unused_address(), unused_address()]);
    let vips = || places.map(|at| tcp(at, "web")).to_vec();
    let (spec, services) = (DatapathSpec::default(), vec![guarded(&echo)]);
    let stage = Stage::because("no rights", spec, services, vips());
    let warnings = stage.warnings();
    let times = |word: &str| warnings.iter().filter(|w| w.contains(word)).count();
    // The forwarding is told of each VIP, limits once a service.
    assert_eq!(times("not what dnat would bring"), 2, "{warnings:?}");
    for limit in ["new_connections", "source_new_connections"] {
        let word = format!("connections of service web are relayed: limits.{limit} ");
        assert_eq!(times(&word), 1, "{warnings:?}");
    }
    assert_eq!(times("limits.syn_cookies_above "), 1, "{warnings:?}");
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    let desired = Desired {
        services: vec![web(&[&echo])],
        vips: vips(),
        acl: AclSpec {
            rules: [("192.0.2.0/24".parse().unwrap(), AclAction::Deny)].into(),
            files: Vec::new(),
        },
        ..Desired::default()
    };
    let configure = Change::Configure(Box::new(desired));
    stage.world.apply(configure);
    let warnings = stage.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("source ACL"), "{warnings:?}");
    stage.world.configure(vec![web(&[&echo])], vips());
    assert_eq!(stage.warnings(), [""; 0]);
}

#[test]
fn who_asked_for_a_relay_knows() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let stage = Stage::new(vec![guarded(&echo)], vec![tcp(at, "web")]);
    assert_eq!(stage.warnings(), [""; 0]);
}
