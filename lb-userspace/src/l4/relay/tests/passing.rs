//! What passes, and how it ends.

use super::*;
use crate::model::Ports;

#[test]
fn an_end_is_passed_on_while_the_other_way_stays_open() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let _stage = Stage::new(vec![web(&[&echo])], vec![tcp(at, "web")]);
    let mut client = Client::connect(at);
    client.0.write_all(b"all that I have to say").unwrap();
    client.0.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    client.0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"aall that I have to say");
}

#[test]
fn large_transfers_are_whole_whoever_is_slow() {
    const LARGE: usize = 8 << 20;
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let stage = Stage::new(vec![web(&[&echo])], vec![tcp(at, "web")]);
    let mut client = Client::connect(at);
    assert_eq!(client.letter(), Ok(b'a'));
    let sent: Vec<u8> = (0..LARGE).map(|i| (i * 31 + i / 251) as u8).collect();
    let mut writer = client.0.try_clone().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // Until nobody takes anything any more.
    thread::sleep(Duration::from_millis(200));
    let mut heard = Vec::new();
    client.0.read_to_end(&mut heard).unwrap();
    writing.join().unwrap();
    assert!(heard == sent, "{} bytes of {LARGE}", heard.len());
    let report = stage.report_when("the figures", |report| {
        let vip = &report.vips[0];
        vip.traffic.connections == 1 && vip.live == Some(0)
    });
    let traffic = report.vips[0].traffic;
    let large = LARGE as u64;
    assert_eq!(
        (traffic.connections, traffic.bytes_in, traffic.bytes_out),
        (1, large, large + 1)
    );
    assert_eq!((traffic.packets_in, traffic.dropped), (0, 0));
    let snapshot = stage.world.snapshot();
    let kernel = &snapshot.services[0].members[0].instance.kernel;
    assert_eq!(kernel.connections.load(Relaxed), 1);
    assert_eq!(kernel.live.load(Relaxed), 0);
    assert_eq!(kernel.bytes_in.load(Relaxed), large);
    // Busy twice over it would be for half of its connections only.
    let _held = Client::connect(at);
    let instance = &snapshot.services[0].members[0].instance;
    eventually("a connection", || kernel.live.load(Relaxed) == 1);
    assert_eq!((instance.in_flight(), instance.busy_with()), (1, 1));
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let listener = TcpListener::bind(unused_address()).unwrap();
    let (instance, at) = (listener.local_addr().unwrap(), unused_address());
    let members = [(&*instance.to_string(), 1)];
    let web = service("web", Algorithm::RoundRobin, &members);
    let _stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    let mut client = Client::connect(at);
    let (accepted, _) = listener.accept().unwrap();
    let accepted = socket2::Socket::from(accepted);
    accepted.set_linger(Some(Duration::ZERO)).unwrap();
    drop(accepted);
    assert_eq!(client.end(), Err(ErrorKind::ConnectionReset));
    // And the other way.
    let client = socket2::Socket::from(Client::connect(at).0);
    let (mut accepted, _) = listener.accept().unwrap();
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = accepted.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_does_not_accept_is_passed_over_and_blamed() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let nobody = [unused_address(), unused_address()].map(|address| address.to_string());
    let members = [(&*nobody[0], 1), (&*nobody[1], 1), (&*echo.name(), 1)];
    let web = service("web", Algorithm::RoundRobin, &members);
    let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    for _ in 0..12 {
        assert_eq!(Client::connect(at).letter(), Ok(b'a'));
    }
    let snapshot = stage.world.snapshot();
    let service = snapshot.service("web").unwrap();
    let totals = |name: &str| {
        let at = service.find(name).unwrap();
        service.members[at].instance.totals_of_all()
    };
    for name in &nobody {
        let totals = totals(name);
        assert_eq!(totals.successes, 0);
        // Once for each client at most.
        assert!((1..=12).contains(&totals.failures), "{totals:?}");
    }
    assert_eq!(totals(&echo.name()).successes, 12);
}

#[test]
fn nobody_but_the_dead_is_a_reset_at_once() {
    let at = unused_address();
    let members = [(&*unused_address().to_string(), 1)];
    let web = service("web", Algorithm::RoundRobin, &members);
    let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    let start = Instant::now();
    assert_eq!(Client::connect(at).end(), Err(ErrorKind::ConnectionReset));
    assert!(start.elapsed() < Duration::from_secs(4));
    let report = stage.report_when("a refusal", |report| report.vips[0].traffic.dropped > 0);
    assert_eq!(report.vips[0].relayed.unwrap().refused, [0, 0, 1, 0, 0]);
    assert_eq!(report.vips[0].traffic.connections, 0);
}

#[test]
fn several_ports_are_kept_and_one_port_comes_first() {
    let at = unused_address();
    let (first, other) = (unused_address().ip(), Echo::start(b'z'));
    let ports = [7001_u16, 7003];
    for (letter, port) in [b'a', b'c'].into_iter().zip(ports) {
        Echo::start_at(SocketAddr::new(first, port), letter);
    }
    let range = VipSpec {
        ports: Ports::Range(7001, 7003),
        ..tcp(at, "range")
    };
    let single = tcp(SocketAddr::new(at.ip(), 7002), "web");
    let endpoint = SocketAddr::new(first, 80).to_string();
    let services = vec![
        service("range", Algorithm::RoundRobin, &[(&endpoint, 1)]),
        web(&[&other]),
    ];
    let _stage = Stage::new(services, vec![single, range]);
    for (port, letter) in [(7001, b'a'), (7002, b'z'), (7003, b'c')] {
        let mut client = Client::connect(SocketAddr::new(at.ip(), port));
        assert_eq!(client.letter(), Ok(letter), "{port}");
    }
}

#[test]
fn the_same_client_gets_the_same_instance_where_sources_are_hashed() {
    use crate::model::HashKey;
    let echoes = [Echo::start(b'a'), Echo::start(b'b'), Echo::start(b'c')];
    let at = unused_address();
    let spec = |hash_key| ServiceSpec {
        algorithm: Algorithm::ConsistentHash,
        hash_key,
        ..web(&[&echoes[0], &echoes[1], &echoes[2]])
    };
    let stage = Stage::new(vec![spec(HashKey::Source)], vec![tcp(at, "web")]);
    let letters = || -> std::collections::BTreeSet<u8> {
        (0..30)
            .map(|_| Client::connect(at).letter().unwrap())
            .collect()
    };
    assert_eq!(letters().len(), 1);
    stage
        .world
        .configure(vec![spec(HashKey::Flow)], vec![tcp(at, "web")]);
    eventually("flows are spread", || letters().len() > 1);
}

#[test]
fn the_same_client_stays_with_its_instance_where_addresses_are_sessions() {
    use crate::{
        affinity::SessionId,
        model::{AffinitySpec, SessionSource},
    };
    let echoes = [Echo::start(b'a'), Echo::start(b'b'), Echo::start(b'c')];
    let at = unused_address();
    let affinity = AffinitySpec {
        enabled: true,
        sources: vec![SessionSource::Address],
        ..AffinitySpec::default()
    };
    let spec = ServiceSpec {
        affinity,
        ..web(&[&echoes[0], &echoes[1], &echoes[2]])
    };
    let stage = Stage::new(vec![spec], vec![tcp(at, "web")]);
    let first = Client::connect(at).letter().unwrap();
    for _ in 0..20 {
        assert_eq!(Client::connect(at).letter(), Ok(first));
    }
    let sessions = stage.world.0.sessions();
    let client = SessionId::of_address([127, 0, 0, 1].into());
    let found = sessions.find(client, crate::model::Timestamp(0));
    assert_eq!(found.len(), 1, "it is among the sessions");
    // An instance that takes nothing new loses it to another, which keeps it.
    let name = echoes[usize::from(first - b'a')].name();
    stage
        .world
        .admin("web", &name, crate::model::AdminState::Draining);
    let mut second = first;
    eventually("it goes elsewhere", || {
        second = Client::connect(at).letter().unwrap();
        second != first
    });
    stage
        .world
        .admin("web", &name, crate::model::AdminState::Enabled);
    for _ in 0..10 {
        assert_eq!(Client::connect(at).letter(), Ok(second));
    }
}
