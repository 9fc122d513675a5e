//! Limits of time, each with its own reason.

use super::*;
use crate::{l7::Closed, model::RetryCause};

const SHORT: Duration = Duration::from_millis(100);

impl Gateway {
    fn closings(&self, why: Closed) -> u64 {
        self.proxy.as_ref().unwrap().stats().closings(why)
    }
}

/// An instance that takes requests, and nothing else, until lb closes the connection.
fn silent() -> Stub {
    Stub::new(|mut peer| {
        peer.request();
        peer.is_closed();
    })
}

#[test]
fn a_head_that_stops_half_way_is_told_so() {
    let mut desired = everything_to(&[unused_address()]);
    desired.gateway.header_timeout = SHORT;
    desired.gateway.keepalive_timeout = SHORT * 20;
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    let begun = Instant::now();
    let answer = client.send("GET / HTTP/1.1\r\nHo").answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (408, Some("header_timeout"))
    );
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.is_closed() && begun.elapsed() < SHORT * 15);

    // One that never began is closed without a word, and so is a connection that is kept in vain.
    let begun = Instant::now();
    assert!(gateway.connect().is_closed());
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < SHORT * 15);
    assert_eq!(gateway.closings(Closed::Head), 2);
    let stats = gateway.proxy.as_ref().unwrap().stats();
    assert_eq!(stats.answers.answers(Reason::HeaderTimeout), 1);

    // Between two requests there is more time than within the second one.
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status(), 502);
    thread::sleep(SHORT * 4);
    assert_eq!(client.get("/").status(), 502);
    let begun = Instant::now();
    let answer = client.send("GET /").answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (408, Some("header_timeout"))
    );
    assert!(begun.elapsed() < SHORT * 15);
    assert_eq!(gateway.closings(Closed::KeepAlive), 0);
}

#[test]
fn a_try_that_takes_too_long_is_repeated_elsewhere() {
    let stubs = [silent(), Stub::saying("fine")];
    let mut desired = everything_to(&[stubs[0].address, stubs[1].address]);
    desired.services[0].timeouts.attempt = Some(SHORT);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "fine");
    }
    let stats = Arc::clone(&gateway.registry.snapshot().services[0].stats);
    assert_eq!(stats.retries.count(RetryCause::TryTimeout), 2);
    assert_eq!(gateway.totals(0), (0, 2));
    // What may have been acted upon is not repeated.
    let statuses: Vec<_> = (0..2)
        .map(|_| {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
            let answer = client.answer();
            (answer.status(), answer.reason().map(str::to_owned))
        })
        .collect();
    assert!(
        statuses.contains(&(504, Some("try_timeout".to_owned()))),
        "{statuses:?}"
    );
    assert!(statuses.contains(&(200, None)), "{statuses:?}");
    eventually("nothing is in flight", || {
        gateway.instance(0).in_flight() == 0
    });
}

#[test]
fn an_instance_that_has_the_request_must_begin_to_answer() {
    let stub = silent();
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.response = SHORT;
    let gateway = Gateway::of(desired);
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (504, Some("response_timeout"))
    );
    // While the client still sends, it is the client that lb waits for.
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    for _ in 0..3 {
        thread::sleep(SHORT * 2);
        client.send("x");
    }
    let answer = client.answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (504, Some("response_timeout"))
    );
}

#[test]
fn a_client_must_go_on_with_its_upload() {
    let stub = silent();
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.upload = SHORT;
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx");
    let answer = client.answer();
    assert_eq!(
        (answer.status(), answer.reason()),
        (408, Some("client_timeout"))
    );
    assert_eq!(gateway.totals(0), (0, 0));
}

#[test]
fn a_whole_exchange_has_a_limit() {
    let stub = Stub::new(|mut peer| {
        if peer.request().unwrap().start.contains("/silent") {
            peer.is_closed();
            return;
        }
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while peer.try_send("x").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.total = Some(SHORT * 2);
    let gateway = Gateway::of(desired);
    let answer = gateway.get("/silent");
    assert_eq!(
        (answer.status(), answer.reason()),
        (504, Some("total_timeout"))
    );
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    let mut body = Vec::new();
    let _ = client.stream.read_to_end(&mut body);
    assert!(!body.is_empty() && body.len() < 1000, "{}", body.len());
    eventually("it is counted", || gateway.closings(Closed::Total) == 1);
}

#[test]
fn a_silent_tunnel_is_cut() {
    let stub = Stub::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        let mut byte = [0];
        while let Ok(1) = peer.stream.read(&mut byte) {
            let _ = peer.try_send(byte);
        }
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].timeouts.tunnel = SHORT * 4;
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 101);
    for _ in 0..8 {
        thread::sleep(SHORT);
        assert_eq!(client.send("x").bytes(1), b"x");
    }
    assert!(client.is_closed());
    eventually("it is counted", || gateway.closings(Closed::Tunnel) == 1);
    eventually("the request is over", || {
        gateway.instance(0).in_flight() == 0
    });
}

#[test]
fn a_connection_ends_with_its_last_request() {
    let stub = Stub::answering(|request| match &*request.start {
        "GET /empty HTTP/1.1" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        _ => ok("x"),
    });
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.max_connection_requests = Some(3);
    let gateway = Gateway::of(desired);
    for last in ["/", "/empty"] {
        let mut client = gateway.connect();
        for _ in 0..2 {
            assert_eq!(client.get("/").field("connection"), None);
        }
        assert_eq!(client.get(last).field("connection"), Some("close"));
        assert!(client.is_closed());
    }
    let mut desired = everything_to(&[unused_address()]);
    desired.gateway.max_connection_age = Some(SHORT);
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    assert_eq!(client.get("/").field("connection"), None);
    thread::sleep(SHORT);
    assert_eq!(client.get("/").field("connection"), Some("close"));
    assert!(client.is_closed());
}
