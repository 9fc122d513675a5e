//! Requests that two parsers could read differently.
//!
//! Each case says what lb answers and what an instance gets to see. Where a request is refused, no
//! byte of it and nothing that follows it on its connection may reach an instance.

use super::*;

/// Records every request that it gets and answers each.
fn recorder() -> (Stub, Arc<std::sync::Mutex<Vec<Message>>>) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let stub = Stub::new(move |mut peer| {
        while let Some(request) = peer.request() {
            record.lock().unwrap().push(request);
            peer.send(ok("x"));
        }
    });
    (stub, seen)
}

/// What follows every case on its connection: it must be served as a request of its own or not at
/// all, and never as a part of the one before.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// Refused with this status, and the connection is closed.
    Refused(u16),
    /// Served with this body, and then the next one is, too.
    Served(&'static str),
    /// Served with this body, and the connection is closed.
    Last(&'static str),
}
use Expected::{Last, Refused, Served};

fn check(name: &str, sent: &str, expected: &Expected) {
    let (stub, seen) = recorder();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send(format!("{sent}{NEXT}"));
    let status = client.answer().status();
    let rest = match expected {
        Refused(wanted) => {
            assert_eq!(status, *wanted, "{name}");
            assert!(client.is_closed(), "{name}: must close");
            &[][..]
        }
        Served(body) => {
            assert_eq!(status, 200, "{name}");
            assert_eq!(client.answer().status(), 200, "{name}: the next");
            &[*body, ""][..]
        }
        Last(body) => {
            assert_eq!(status, 200, "{name}");
            assert!(client.is_closed(), "{name}: must close");
            &[*body][..]
        }
    };
    let seen = seen.lock().unwrap();
    let bodies: Vec<&str> = seen.iter().map(Message::text).collect();
    assert_eq!(bodies, rest, "{name}");
    for request in seen.iter() {
        let framings = request.count("content-length") + request.count("transfer-encoding");
        assert!(framings <= 1, "{name}: {request:?}");
        assert_eq!(request.count("host"), 1, "{name}: {request:?}");
    }
}

#[test]
fn lengths_and_codings() {
    for (name, fields, expected) in [
        ("length", "Content-Length: 5\r\n\r\nhello", Served("hello")),
        ("length zero", "Content-Length: 0\r\n\r\n", Served("")),
        ("no length", "\r\n", Served("")),
        (
            "same length twice",
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Served("hello"),
        ),
        (
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            Refused(400),
        ),
        (
            "list of lengths",
            "Content-Length: 5, 5\r\n\r\nhello",
            Refused(400),
        ),
        (
            "signed length",
            "Content-Length: +5\r\n\r\nhello",
            Refused(400),
        ),
        (
            "negative length",
            "Content-Length: -1\r\n\r\n",
            Refused(400),
        ),
        (
            "hex length",
            "Content-Length: 0x5\r\n\r\nhello",
            Refused(400),
        ),
        ("empty length", "Content-Length:\r\n\r\n", Refused(400)),
        (
            "space in length",
            "Content-Length: 1 1\r\n\r\n",
            Refused(400),
        ),
        (
            "huge length",
            "Content-Length: 99999999999999999999\r\n\r\n",
            Refused(400),
        ),
        (
            "chunked",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Served("hello"),
        ),
        (
            "case",
            "Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Served("hello"),
        ),
        (
            "coding and length",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Last("hello"),
        ),
        (
            "length and coding",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Last("hello"),
        ),
        ("gzip", "Transfer-Encoding: gzip\r\n\r\nx", Refused(400)),
        (
            "gzip, chunked",
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Refused(501),
        ),
        (
            "chunked, gzip",
            "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "chunked in a list",
            "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
            Refused(501),
        ),
        (
            "xchunked",
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "quoted",
            "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "identity",
            "Transfer-Encoding: identity\r\n\r\n",
            Refused(400),
        ),
        (
            "tab",
            "Transfer-Encoding:\tchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Served("hello"),
        ),
        (
            "vertical tab",
            "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
    ] {
        check(
            name,
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"),
            &expected,
        );
    }
}

#[test]
fn lines() {
    for (name, sent, expected) in [
        (
            "space before colon",
            "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
            Refused(400),
        ),
        (
            "folded",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
            Refused(400),
        ),
        (
            "folded first",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            Refused(400),
        ),
        (
            "no colon",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            Refused(400),
        ),
        (
            "empty name",
            "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
            Refused(400),
        ),
        (
            "bare return",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: z\r\n\r\n",
            Refused(400),
        ),
        (
            "nul",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\0\r\n\r\n",
            Refused(400),
        ),
        (
            "name not a token",
            "GET / HTTP/1.1\r\nHost: a\r\nX(): y\r\n\r\n",
            Refused(400),
        ),
        (
            "space in target",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        ("version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(400)),
        (
            "version two",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "version lower case",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "method not a token",
            "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "two spaces",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "empty line first",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(""),
        ),
        (
            "old and coded",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "old with length",
            "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            Last("hi"),
        ),
    ] {
        check(name, sent, &expected);
    }
}

#[test]
fn targets_and_hosts() {
    for (name, sent, expected) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n", Refused(400)),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Refused(400),
        ),
        (
            "same host twice",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "empty host",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            Refused(400),
        ),
        (
            "list of hosts",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            Refused(400),
        ),
        (
            "path in host",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            Refused(400),
        ),
        (
            "user in host",
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            Refused(400),
        ),
        (
            "port not a number",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            Refused(400),
        ),
        (
            "absolute",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(""),
        ),
        (
            "absolute, no host",
            "GET http://b/ HTTP/1.1\r\n\r\n",
            Refused(400),
        ),
        (
            "absolute, user",
            "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "other scheme",
            "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "authority",
            "GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "no slash",
            "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "asterisk",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "asterisk of options",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(""),
        ),
        (
            "connect",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            Refused(501),
        ),
        ("trace", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(501)),
        (
            "climbing",
            "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
        (
            "climbing encoded",
            "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
    ] {
        check(name, sent, &expected);
    }
}

#[test]
fn a_chunk_that_is_none_ends_the_exchange() {
    for (name, chunks) in [
        ("no number", "g\r\nx\r\n0\r\n\r\n"),
        ("sign", "+1\r\nx\r\n0\r\n\r\n"),
        ("prefix", "0x1\r\nx\r\n0\r\n\r\n"),
        ("space first", " 1\r\nx\r\n0\r\n\r\n"),
        ("too long", "1\r\nxy\r\n0\r\n\r\n"),
        ("overflow", "fffffffffffffffff\r\nx\r\n0\r\n\r\n"),
        ("bare line feed", "1\nx\r\n0\r\n\r\n"),
    ] {
        let (stub, seen) = recorder_of_heads();
        let gateway = Gateway::to(&[&stub]);
        let mut client = gateway.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{NEXT}"
        ));
        if let Some(mut answer) = client.head() {
            assert_eq!(answer.status(), 400, "{name}");
            client.framed(&mut answer);
        }
        assert!(client.is_closed(), "{name}: must close");
        eventually(name, || gateway.instance(0).in_flight() == 0);
        let paths = seen.lock().unwrap().clone();
        assert!(
            !paths.iter().any(|path| path.contains("/next")),
            "{name}: {paths:?}"
        );
    }
}

/// Records the start lines of what it gets, whatever the framing, and answers nothing.
fn recorder_of_heads() -> (Stub, Arc<std::sync::Mutex<Vec<String>>>) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let stub = Stub::new(move |mut peer| {
        let mut all = Vec::new();
        let _ = peer.stream.read_to_end(&mut all);
        let text = String::from_utf8_lossy(&all).into_owned();
        record
            .lock()
            .unwrap()
            .extend(text.lines().map(str::to_owned));
    });
    (stub, seen)
}

#[test]
fn answers_with_two_readings_are_refused() {
    for (name, head, expected) in [
        (
            "two lengths",
            "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
            Some("bad_answer"),
        ),
        (
            "bad length",
            "Content-Length: x\r\n\r\n",
            Some("bad_answer"),
        ),
        (
            "coding",
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Some("bad_answer"),
        ),
        (
            "both",
            "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            None,
        ),
    ] {
        let stub = Stub::new(move |mut peer| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{head}"));
            peer.is_closed();
        });
        let gateway = Gateway::to(&[&stub]);
        let answer = gateway.get("/");
        assert_eq!(answer.reason(), expected, "{name}");
        if expected.is_none() {
            assert_eq!(
                (answer.field("content-length"), answer.text()),
                (None, "x"),
                "{name}"
            );
        }
    }
}

#[test]
fn bytes_after_an_answer_are_never_taken_for_another_answer() {
    let stub = Stub::new(|mut peer| {
        while peer.request().is_some() {
            let both = format!("{}{}", ok("mine"), ok("poison"));
            if peer.try_send(both).is_err() {
                break;
            }
        }
    });
    let gateway = Gateway::to(&[&stub]);
    for _ in 0..5 {
        let mut client = gateway.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "mine");
        }
    }
}
