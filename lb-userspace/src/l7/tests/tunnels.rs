//! Upgrades: accepted, refused, asked for by nobody.

use super::*;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// An instance that switches and then echoes bytes, greeting first.
fn switching() -> Stub {
    Stub::new(|mut peer| {
        let request = peer.request().unwrap();
        assert_eq!(request.field("connection"), Some("upgrade"));
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("sec-websocket-key"), Some("x"));
        peer.send(format!("{SWITCH}hi"));
        let mut byte = [0];
        while let Ok(1) = peer.stream.read(&mut byte) {
            if peer.try_send(byte.map(|b| b.to_ascii_uppercase())).is_err() {
                break;
            }
        }
    })
}

#[test]
fn a_tunnel_passes_bytes_both_ways_and_counts_as_in_flight() {
    let stub = switching();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    // What is sent before the answer must not be lost, nor be taken for a request.
    client.send(format!("{ASK}early"));
    let answer = client.head().unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert_eq!(answer.field("connection"), Some("upgrade"));
    assert_eq!(answer.field("sec-websocket-accept"), Some("y"));
    assert_eq!(client.bytes(2), b"hi");
    assert_eq!(client.bytes(5), b"EARLY");
    for _ in 0..100 {
        assert_eq!(client.send("ping").bytes(4), b"PING");
    }
    assert_eq!(gateway.instance(0).in_flight(), 1);
    assert_eq!(gateway.totals(0), (1, 0));
    drop(client);
    eventually("the tunnel ends", || gateway.instance(0).in_flight() == 0);
}

#[test]
fn a_tunnel_outlives_every_limit_of_http() {
    let stub = switching();
    let mut desired = everything_to(&[stub.address]);
    let short = Duration::from_millis(50);
    desired.gateway.header_timeout = short;
    desired.gateway.keepalive_timeout = short;
    desired.services[0].timeouts.request = short;
    let timeouts = &mut desired.services[0].timeouts;
    timeouts.idle = short;
    timeouts.response = short;
    (timeouts.attempt, timeouts.total) = (Some(short), Some(short));
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    client.send(ASK);
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.bytes(2), b"hi");
    thread::sleep(short * 8);
    assert_eq!(client.send("still").bytes(5), b"STILL");
}

#[test]
fn a_refusal_is_an_answer_and_the_connection_stays_http() {
    let stub = Stub::answering(|request| match request.field("upgrade") {
        Some(_) => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        None => ok(&request.start),
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send(format!("{ASK}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"));
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (403, "no"));
    assert_eq!(client.answer().text(), "GET /next HTTP/1.1");
    assert_eq!(gateway.instance(0).in_flight(), 0);
}

#[test]
fn nobody_switches_unasked() {
    let stub = Stub::new(|mut peer| {
        peer.request();
        peer.send(SWITCH);
        peer.request();
    });
    let gateway = Gateway::to(&[&stub]);
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, Some("bad_answer"))
    );
    assert_eq!(gateway.answers(Reason::BadAnswer), 1);
}

#[test]
fn some_upgrades_are_not_asked_for() {
    let stub = Stub::answering(|request| {
        let fields = ["upgrade", "connection", "http2-settings"];
        ok(&fields
            .map(|name| request.field(name).unwrap_or("-"))
            .join(" "))
    });
    let gateway = Gateway::to(&[&stub]);
    for asked in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Content-Length: 1\r\n\r\nx",
    ] {
        let answer = gateway.connect().send(asked).answer();
        assert_eq!(answer.text(), "- - -", "{asked}");
    }
}
