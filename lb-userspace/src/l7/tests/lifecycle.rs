//! Listeners that come and go, limits of connections, and the end of lb.

use super::*;

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let registry = Arc::new(Registry::new(1, []));
    let listeners = vec![ListenerSpec { address }];
    let desired = Desired {
        listeners,
        ..Desired::default()
    };
    registry
        .apply(Change::Configure(Box::new(desired)))
        .unwrap();
    let error = start(registry, Clock::real(), 2, None, None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[test]
fn a_second_lb_does_not_share_a_port_by_mistake() {
    let gateway = Gateway::of(everything_to(&[]));
    let registry = Arc::clone(&gateway.registry);
    assert!(start(registry, Clock::real(), 1, None, None, None).is_err());
}

#[test]
fn listeners_come_and_go_without_touching_others() {
    let stub = Stub::saying("x");
    let mut gateway = Gateway::with(everything_to(&[stub.address]), 2, None);
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status(), 200);
    let new = unused_address();
    gateway.reload(|desired| desired.listeners.push(ListenerSpec { address: new }));
    eventually("the new listener is open", || {
        TcpStream::connect(new).is_ok()
    });
    let mut late = Peer::connect(new);
    assert_eq!(late.get("/").status(), 200);
    gateway.reload(|desired| desired.listeners.truncate(1));
    eventually("the new listener is closed", || {
        TcpStream::connect(new).is_err()
    });
    // Connections outlive the listener that accepted them, and the other listener.
    assert_eq!(late.get("/").status(), 200);
    assert_eq!(kept.get("/").status(), 200);
    assert_eq!(gateway.get("/").status(), 200);
}

#[test]
fn an_address_that_is_free_later_is_opened_later() {
    let stub = Stub::saying("x");
    let mut gateway = Gateway::to(&[&stub]);
    let taken = TcpListener::bind(unused_address()).unwrap();
    let address = taken.local_addr().unwrap();
    gateway.reload(|desired| desired.listeners.push(ListenerSpec { address }));
    assert_eq!(gateway.get("/").status(), 200);
    drop(taken);
    eventually("it is open", || {
        TcpStream::connect(address).is_ok_and(|stream| Peer::new(stream).get("/").status() == 200)
    });
}

#[test]
fn a_reload_moves_routes_under_open_connections() {
    let (one, two) = (Stub::saying("one"), Stub::saying("two"));
    let mut gateway = Gateway::to(&[&one]);
    let mut client = gateway.connect();
    assert_eq!(client.get("/").text(), "one");
    gateway.reload(|desired| desired.services = vec![service("web", &[two.address])]);
    assert_eq!(client.get("/").text(), "two");
    gateway.reload(|desired| desired.routes.clear());
    assert_eq!(client.get("/").status(), 404);
}

#[test]
fn a_storm_of_changes_disturbs_nobody() {
    let (one, two) = (Stub::saying("x"), Stub::saying("x"));
    let talker = Stub::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        let mut byte = [0];
        while let Ok(1) = peer.stream.read(&mut byte) {
            peer.send(byte);
        }
    });
    let mut desired = everything_to(&[one.address, two.address]);
    desired.services.push(service("talk", &[talker.address]));
    desired.routes.push(RouteSpec::new(
        PathPattern::Exact("/talk".to_owned()),
        ServiceName::new("talk").unwrap(),
    ));
    let mut gateway = Gateway::with(desired, 2, None);
    let mut tunnel = gateway.connect();
    tunnel.send("GET /talk HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.head().unwrap().status(), 101);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, over) = (gateway.connect(), Arc::clone(&over));
            thread::spawn(move || {
                let mut served = 0;
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/").status(), 200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    let extra = [unused_address(), unused_address()];
    for round in 0..100 {
        gateway.reload(|desired| {
            desired.services[0].instances[0].weight = 1 + round % 5;
            desired.services[0].timeouts.request = Duration::from_secs(20 + u64::from(round));
            desired.listeners.truncate(1);
            let address = extra[usize::from(round % 2)];
            desired.listeners.push(ListenerSpec { address });
        });
        let change = Change::Algorithm {
            service: ServiceName::new("web").unwrap(),
            algorithm: Algorithm::ALL[usize::from(round) % Algorithm::ALL.len()],
        };
        gateway.registry.apply(change).unwrap();
        assert_eq!(tunnel.send("y").bytes(1), b"y");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
}

#[test]
fn idle_connections_to_instances_that_are_disabled_are_closed() {
    let (tell, closed) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let stub = Stub::new(move |mut peer| {
        peer.request();
        peer.send(ok("x"));
        tell.lock().unwrap().send(peer.is_closed()).unwrap();
    });
    let gateway = Gateway::to(&[&stub]);
    assert_eq!(gateway.get("/").status(), 200);
    gateway
        .registry
        .apply(Change::Admin {
            service: ServiceName::new("web").unwrap(),
            instance: stub.address.to_string(),
            state: crate::model::AdminState::Disabled,
        })
        .unwrap();
    assert!(closed.recv_timeout(PATIENCE).unwrap());
    assert_eq!(gateway.get("/").reason(), Some("no_instance"));
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let stub = Stub::saying("x");
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.header_timeout = Duration::from_millis(100);
    desired.gateway.keepalive_timeout = Duration::from_millis(100);
    let gateway = Gateway::of(desired);
    let mut silent = gateway.connect();
    let mut slow = gateway.connect();
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/").status(), 200);
    let begun = Instant::now();
    // A byte now and then does not help.
    while slow.try_send("G").is_ok() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert!(silent.is_closed() && idle.is_closed());
}

#[test]
fn heads_have_limits() {
    let stub = Stub::saying("x");
    for (most, bytes) in [(100, 64 * 1024), (20, 16 * 1024), (200, 8192)] {
        let mut desired = everything_to(&[stub.address]);
        desired.gateway.max_headers = most;
        desired.gateway.max_head_bytes = bytes;
        let gateway = Gateway::of(desired);
        let ask = |fields: usize, filler: usize| {
            let mut head = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned();
            (1..fields).for_each(|at| head.push_str(&format!("X{at}: y\r\n")));
            head.push_str(&format!("Z: {}\r\n\r\n", "z".repeat(filler)));
            let mut client = gateway.connect();
            // lb may answer and close before it has read everything.
            let _ = client.try_send(head);
            client.answer().status()
        };
        assert_eq!(ask(most - 1, 1), 200, "{most} fields");
        assert_eq!(ask(most + 1, 1), 431, "{most} fields");
        assert_eq!(ask(2, bytes - 200), 200, "{bytes} bytes");
        assert_eq!(ask(2, bytes), 431, "{bytes} bytes");
    }
}

#[test]
fn a_shutdown_finishes_what_is_begun_and_closes_what_is_not() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let stub = Stub::new(move |mut peer| {
        while let Some(request) = peer.request() {
            if request.start.starts_with("GET /slow ") {
                wait.lock().unwrap().recv().unwrap();
            }
            peer.send(ok("done"));
        }
    });
    let mut gateway = Gateway::to(&[&stub]);
    let mut fresh = gateway.connect();
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/").status(), 200);
    let mut busy = gateway.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is in flight", || gateway.instance(0).in_flight() == 1);
    let proxy = gateway.proxy.take().unwrap();
    let ending = thread::spawn(move || proxy.shutdown(PATIENCE));
    assert!(idle.is_closed() && fresh.is_closed());
    eventually("nothing listens", || {
        TcpStream::connect(gateway.address).is_err()
    });
    assert!(!ending.is_finished());
    go.send(()).unwrap();
    let answer = busy.answer();
    assert_eq!((answer.status(), answer.text()), (200, "done"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(busy.is_closed());
    ending.join().unwrap();
}

#[test]
fn a_shutdown_ends_at_its_limit_and_says_why() {
    let stub = Stub::new(|mut peer| {
        if peer
            .request()
            .is_some_and(|request| request.field("upgrade").is_some())
        {
            peer.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        }
        peer.is_closed();
    });
    let mut gateway = Gateway::to(&[&stub]);
    let mut waiting = gateway.connect();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut tunnel = gateway.connect();
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.head().unwrap().status(), 101);
    eventually("both are in flight", || {
        gateway.instance(0).in_flight() == 2
    });
    let begun = Instant::now();
    gateway
        .proxy
        .take()
        .unwrap()
        .shutdown(Duration::from_millis(200));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(195) && took < Duration::from_secs(5),
        "{took:?}"
    );
    let answer = waiting.answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (503, Some("shutting_down"))
    );
    assert!(tunnel.is_closed());
    assert_eq!(gateway.instance(0).in_flight(), 0);
}

#[test]
fn dropping_the_proxy_ends_it() {
    let stub = Stub::saying("x");
    let mut gateway = Gateway::with(everything_to(&[stub.address]), 3, None);
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status(), 200);
    drop(gateway.proxy.take());
    assert!(client.is_closed());
    assert!(TcpStream::connect(gateway.address).is_err());
}
