//! Instances that are down, silent, slow or wrong, and clients that go away.

use super::*;

/// An address at which nothing listens.
fn nowhere() -> SocketAddr {
    unused_address()
}

#[test]
fn a_refused_connection_goes_to_another_instance_whatever_the_method() {
    let stub = Stub::answering(|request| ok(request.text()));
    let gateway = Gateway::of(everything_to(&[nowhere(), stub.address]));
    let mut client = gateway.connect();
    for at in 0..10 {
        let answer = client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{at}"
            ))
            .answer();
        assert_eq!((answer.status(), answer.text()), (200, &*at.to_string()));
    }
    assert_eq!(gateway.totals(1), (10, 0));
    let (successes, failures) = gateway.totals(0);
    assert!(successes == 0 && failures >= 4, "{failures}");
    let stats = Arc::clone(&gateway.registry.snapshot().services[0].stats);
    assert_eq!(stats.retries.total(), failures);
}

#[test]
fn each_way_to_fail_has_its_answer() {
    let gateway = Gateway::of(everything_to(&[nowhere(), nowhere()]));
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, Some("connect_failed"))
    );
    assert_eq!(gateway.answers(Reason::ConnectFailed), 1);

    let gateway = Gateway::of(everything_to(&[]));
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (503, Some("no_instance"))
    );
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(answer.text(), "no_instance");

    let stub = Stub::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 two hundred\r\n\r\n");
        peer.request();
    });
    let gateway = Gateway::to(&[&stub]);
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, Some("bad_answer"))
    );

    let stub = Stub::new(|mut peer| {
        peer.request();
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let answer = client.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, Some("connection_lost"))
    );
    assert_eq!(gateway.totals(0).0, 0);
    // The client's connection is not to blame.
    assert_eq!(client.get("/").status(), 502);
}

#[test]
fn statuses_of_500_and_above_are_failures_and_passed_on() {
    let stub = Stub::answering(|request| match &*request.start {
        "GET /500 HTTP/1.1" => "HTTP/1.1 500 Oops\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let answer = client.get("/500");
    assert_eq!(
        (answer.start.as_str(), answer.text()),
        ("HTTP/1.1 500 Oops", "x")
    );
    assert_eq!(client.get("/404").status(), 404);
    assert_eq!(gateway.totals(0), (1, 1));
}

/// An instance whose every connection answers one request and breaks at the second.
fn one_each() -> Stub {
    Stub::new(|mut peer| {
        peer.request();
        peer.send(ok("fine"));
        peer.request();
    })
}

#[test]
fn a_kept_connection_that_dies_under_a_get_is_replaced() {
    let stub = one_each();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(gateway.totals(0), (20, 0));
}

#[test]
fn what_may_have_been_acted_upon_is_not_repeated() {
    let stub = one_each();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(client.send(post).answer().text(), "fine");
    let answer = client.send(post).answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, Some("connection_lost"))
    );
}

#[test]
fn a_kept_connection_that_was_closed_is_noticed_before_it_is_used() {
    let (tell, closed) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let stub = Stub::new(move |mut peer| {
        peer.request();
        peer.send(ok("fine"));
        drop(peer);
        tell.lock().unwrap().send(()).unwrap();
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    for _ in 0..5 {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(client.send(post).answer().text(), "fine");
        closed.recv_timeout(PATIENCE).unwrap();
        // The close has reached lb's socket; one turn of its loop must suffice to see it.
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_instance_that_says_nothing_is_given_up() {
    let stub = Stub::new(|mut peer| {
        peer.request();
        assert!(peer.is_closed(), "lb must close what it gave up");
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.request = Duration::from_millis(200);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    for count in 1..=2 {
        let begun = Instant::now();
        let answer = client.get("/");
        let took = begun.elapsed();
        assert_eq!(
            (answer.status(), answer.reason()),
            (504, Some("request_timeout"))
        );
        assert!(took >= Duration::from_millis(195), "{took:?}");
        assert_eq!(gateway.totals(0), (0, count));
        assert_eq!(gateway.instance(0).in_flight(), 0);
    }
}

#[test]
fn a_connection_that_does_not_come_about_is_given_up() {
    // A queue of one that is full: the kernel drops further attempts.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&unused_address().into()).unwrap();
    socket.listen(0).unwrap();
    let full = socket.local_addr().unwrap().as_socket().unwrap();
    let queue: Vec<_> = (0..4)
        .map(|_| {
            let filler =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&full.into());
            filler
        })
        .collect();
    let mut desired = everything_to(&[full]);
    desired.services[0].timeouts.connect = Duration::from_millis(150);
    let gateway = Gateway::of(desired);
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (504, Some("connect_timeout"))
    );
    assert_eq!(gateway.totals(0), (0, 1));
    drop(queue);
}

#[test]
fn a_body_that_falls_silent_is_cut_and_never_completed() {
    let stub = Stub::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        assert!(peer.is_closed(), "lb must close what it gave up");
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.idle = Duration::from_millis(100);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    assert_eq!(client.bytes(4), b"half");
    assert!(client.is_closed());
    eventually("the request is over", || {
        gateway.instance(0).in_flight() == 0
    });
}

#[test]
fn a_body_that_breaks_off_breaks_off_for_the_client() {
    for framing in [
        "Content-Length: 10\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf",
    ] {
        let stub = Stub::new(move |mut peer| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
        });
        let gateway = Gateway::to(&[&stub]);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap().status(), 200);
        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest);
        assert!(
            !rest.ends_with(b"0\r\n\r\n"),
            "a broken body must not look complete"
        );
    }
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let (tell, gone) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let stub = Stub::new(move |mut peer| {
        peer.request();
        let closed = peer.is_closed();
        tell.lock().unwrap().send(closed).unwrap();
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is in flight", || gateway.instance(0).in_flight() == 1);
    drop(client);
    assert!(gone.recv_timeout(PATIENCE).unwrap());
    eventually("it is over", || gateway.instance(0).in_flight() == 0);
    // Nobody can say how the instance would have done.
    assert_eq!(gateway.totals(0), (0, 0));
}

#[test]
fn a_client_that_stops_sending_is_told_so_and_the_instance_is_not_blamed() {
    let stub = Stub::new(|mut peer| {
        peer.head();
        peer.is_closed();
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.request = Duration::from_millis(150);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (408, Some("client_timeout"))
    );
    assert!(client.is_closed());
    assert_eq!(gateway.totals(0), (0, 0));
}

#[test]
fn an_upload_that_moves_may_take_longer_than_the_limit() {
    let stub = Stub::answering(|request| ok(request.text()));
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.request = Duration::from_millis(400);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    for digit in 0..10 {
        thread::sleep(Duration::from_millis(80));
        client.send(digit.to_string());
    }
    assert_eq!(client.answer().text(), "0123456789");
}

#[test]
fn an_answer_that_comes_before_the_upload_is_over_is_passed_on() {
    let stub = Stub::new(|mut peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        let mut rest = Vec::new();
        let _ = peer.stream.read_to_end(&mut rest);
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (413, "big"));
    drop(client);
    eventually("it is over", || gateway.instance(0).in_flight() == 0);
}

#[test]
fn a_broken_upload_is_the_clients_fault() {
    let stub = Stub::new(|mut peer| {
        peer.head();
        peer.is_closed();
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    let answer = client.head();
    assert!(answer.is_none_or(|answer| answer.status() == 400));
    eventually("it is over", || gateway.instance(0).in_flight() == 0);
    assert_eq!(gateway.totals(0), (0, 0));
}

#[test]
fn a_killed_instance_costs_no_get() {
    let (one, two) = (Stub::saying("x"), Stub::saying("x"));
    let dying = Stub::new({
        let count = Arc::new(AtomicU16::new(0));
        move |mut peer| {
            while peer.request().is_some() {
                // From the fiftieth request on, connections break instead of being answered.
                if count.fetch_add(1, Ordering::Relaxed) >= 50 {
                    break;
                }
                peer.send(ok("x"));
            }
        }
    });
    let addresses = [&one, &dying, &two].map(|stub| stub.address);
    let mut desired = everything_to(&addresses);
    // Nobody ejects the instance here, so a third of the requests needs a retry.
    desired.services[0].retry.budget = 100;
    let gateway = Gateway::of(desired);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = gateway.connect();
            thread::spawn(move || {
                for _ in 0..100 {
                    assert_eq!(client.get("/").status(), 200);
                }
            })
        })
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    assert!(gateway.totals(1).1 > 0);
}
