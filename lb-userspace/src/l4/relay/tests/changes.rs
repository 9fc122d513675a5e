//! What happens to connections when something changes.

use super::*;
use crate::model::{AdminState, Health, Timestamp};

/// A stage with two instances, and a connection to each.
struct Pair {
    stage: Stage,
    at: SocketAddr,
    echoes: [Echo; 2],
    clients: [Client; 2],
}

impl Pair {
    fn new() -> Self {
        let echoes = [Echo::start(b'a'), Echo::start(b'b')];
        let at = unused_address();
        let web = web(&[&echoes[0], &echoes[1]]);
        let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
        let mut clients = [Client::connect(at), Client::connect(at)];
        // In turns; which is first is up to them. Workers take turns of their own.
        let mut letters = [0; 2];
        eventually("a connection to each", || {
            letters = [0, 1].map(|i| clients[i].letter().unwrap());
            if letters[0] == letters[1] {
                clients[1] = Client::connect(at);
                clients[0] = Client::connect(at);
            }
            letters[0] != letters[1]
        });
        if letters[0] == b'b' {
            clients.swap(0, 1);
        }
        Self {
            stage,
            at,
            echoes,
            clients,
        }
    }

    fn expect_new(&self, letter: u8) {
        for _ in 0..6 {
            assert_eq!(Client::connect(self.at).letter(), Ok(letter));
        }
    }
}

#[test]
fn connections_go_on_while_their_instance_drains_until_it_is_given_up() {
    let mut pair = Pair::new();
    let drained = pair.echoes[0].name();
    pair.stage
        .world
        .admin("web", &drained, AdminState::Draining);
    pair.stage.settle();
    pair.expect_new(b'b');
    assert!(pair.clients.iter_mut().all(Client::is_alive));
    let snapshot = pair.stage.world.snapshot();
    let service = snapshot.service("web").unwrap();
    let instance = &service.members[service.find(&drained).unwrap()].instance;
    assert!(instance.kernel.live.load(Relaxed) >= 1);
    instance.sever(Timestamp(u64::MAX - 1));
    assert_eq!(pair.clients[0].end(), Err(ErrorKind::ConnectionReset));
    assert!(pair.clients[1].is_alive());
    eventually("the end of its connections", || {
        instance.kernel.live.load(Relaxed) == 0 && instance.in_flight() == 0
    });
    assert_eq!(instance.connections.open(), 0);
}

#[test]
fn who_is_down_loses_its_connections_at_once() {
    for disabled in [true, false] {
        let mut pair = Pair::new();
        let lost = pair.echoes[0].name();
        if disabled {
            pair.stage.world.admin("web", &lost, AdminState::Disabled);
        } else {
            pair.stage.world.health("web", &lost, Health::Unhealthy);
        }
        assert_eq!(pair.clients[0].end(), Err(ErrorKind::ConnectionReset));
        pair.expect_new(b'b');
        assert!(pair.clients[1].is_alive());
    }
}

#[test]
fn a_member_that_is_removed_takes_its_connections_along_and_no_others() {
    let mut pair = Pair::new();
    let left = web(&[&pair.echoes[1]]);
    let vips = vec![tcp(pair.at, "web")];
    pair.stage.world.configure(vec![left], vips);
    assert_eq!(pair.clients[0].end(), Err(ErrorKind::ConnectionReset));
    assert!(pair.clients[1].is_alive());
}

#[test]
fn vips_come_and_go_in_place() {
    let (echo, other) = (Echo::start(b'a'), Echo::start(b'o'));
    let [stays, goes, comes] = [(); 3].map(|()| unused_address());
    let services = || {
        let members = [(&*other.name(), 1)];
        let other = service("other", Algorithm::RoundRobin, &members);
        vec![other, web(&[&echo])]
    };
    let stage = Stage::new(services(), vec![tcp(stays, "web"), tcp(goes, "web")]);
    let (mut kept, mut lost) = (Client::connect(stays), Client::connect(goes));
    assert_eq!([kept.letter(), lost.letter()], [Ok(b'a'), Ok(b'a')]);
    let vips = vec![tcp(stays, "web"), tcp(comes, "other")];
    stage.world.configure(services(), vips);
    assert_eq!(lost.end(), Err(ErrorKind::ConnectionReset));
    assert!(kept.is_alive());
    stage.settle();
    assert_eq!(Client::connect(comes).letter(), Ok(b'o'));
    eventually("a closed socket", || TcpStream::connect(goes).is_err());
    // Another service behind the same socket.
    let vips = vec![tcp(stays, "other"), tcp(comes, "other")];
    stage.world.configure(services(), vips);
    assert_eq!(kept.end(), Err(ErrorKind::ConnectionReset));
    assert_eq!(Client::connect(stays).letter(), Ok(b'o'));
    stage.report_when("figures of both services", |report| {
        let mut vips = report.vips.iter();
        let vip = vips.find(|vip| vip.vip.address == stays.ip());
        vip.is_some_and(|vip| vip.vip.service == name("other") && vip.traffic.connections == 2)
    });
}

#[test]
fn a_fallback_serves_while_nobody_else_does_and_keeps_what_it_has() {
    let (own, sorry, at) = (Echo::start(b'a'), Echo::start(b's'), unused_address());
    let members = [(&*sorry.name(), 1)];
    let sorry = service("sorry", Algorithm::RoundRobin, &members);
    let web = ServiceSpec {
        fallback: Some(name("sorry")),
        ..web(&[&own])
    };
    let stage = Stage::new(vec![sorry, web], vec![tcp(at, "web")]);
    let order = |state| {
        stage.world.admin("web", &own.name(), state);
        stage.settle();
    };
    let mut first = Client::connect(at);
    assert_eq!(first.letter(), Ok(b'a'));
    order(AdminState::Draining);
    let mut diverted = Client::connect(at);
    assert_eq!(diverted.letter(), Ok(b's'));
    assert!(first.is_alive());
    order(AdminState::Enabled);
    assert_eq!(Client::connect(at).letter(), Ok(b'a'));
    assert!(first.is_alive() && diverted.is_alive());
}

#[test]
fn what_cannot_be_relayed_or_listened_at_is_said() {
    let (echo, at) = (Echo::start(b'a'), unused_address());
    let taken = TcpListener::bind(unused_address()).unwrap();
    let taken_at = taken.local_addr().unwrap();
    let far: SocketAddr = "192.0.2.9:80".parse().unwrap();
    let vips = vec![
        tcp(at, "web"),
        vip("127.0.0.1:53", Protocol::Udp, "web"),
        tcp(taken_at, "web"),
        tcp(far, "web"),
    ];
    let stage = Stage::new(vec![web(&[&echo])], vips);
    let report = stage.handle.report();
    assert_eq!(report.unserved, 2, "{:?}", report.warnings);
    let says = |text: &str| report.warnings.iter().any(|warning| warning.contains(text));
    assert!(says(
        "VIP udp/127.0.0.1:53 is not served: a relay joins TCP connections"
    ));
    assert!(says(&format!("cannot listen at {taken_at}")));
    assert!(says("ip route add local 192.0.2.9/32 dev lo"));
    assert_eq!(Client::connect(at).letter(), Ok(b'a'));
    drop(taken);
    stage.report_when("the address", |report| report.unserved == 1);
    assert_eq!(Client::connect(taken_at).letter(), Ok(b'a'));
}

#[test]
fn a_shutdown_waits_for_connections_and_not_for_ever() {
    let mut pair = Pair::new();
    let relay = pair.stage.relay.take().unwrap();
    let [mut ends, mut stays] = pair.clients;
    let at = pair.at;
    let stopping = thread::spawn(move || {
        let start = Instant::now();
        relay.shutdown(Duration::from_secs(3));
        start.elapsed()
    });
    eventually("a closed socket", || TcpStream::connect(at).is_err());
    assert!(ends.is_alive());
    ends.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends.end(), Ok(()));
    assert_eq!(stays.end(), Err(ErrorKind::ConnectionReset));
    let took = stopping.join().unwrap();
    assert!(took >= Duration::from_secs(3), "{took:?}");
}
