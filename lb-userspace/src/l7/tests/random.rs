//! Requests put together at random from parts that parsers disagree about.
//!
//! Whatever a client sends: an instance only ever sees complete requests that lb has framed, at
//! most one for each answer that the client gets, none of which the client has smuggled in as the
//! body of another; and lb goes on serving others.

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// What an instance has seen: start lines, and whether it could make sense of all of it.
#[derive(Debug, Default)]
struct Seen {
    starts: Vec<String>,
    nonsense: Vec<String>,
}

/// An instance that reads by the letter of RFC 9112 and notes what is not by the letter.
fn strict(seen: &Arc<std::sync::Mutex<Seen>>) -> Stub {
    let seen = Arc::clone(seen);
    Stub::new(move |mut peer| {
        while let Some(head) = peer.head() {
            let parts: Vec<&str> = head.start.split(' ').collect();
            let framings = head.count("content-length") + head.count("transfer-encoding");
            let length = head.field("content-length");
            let good = parts.len() == 3
                && parts[2] == "HTTP/1.1"
                && framings <= 1
                && head.count("host") == 1
                && length.is_none_or(|length| length.bytes().all(|b| b.is_ascii_digit()))
                && matches!(head.field("transfer-encoding"), None | Some("chunked"));
            let mut seen = seen.lock().unwrap();
            if !good {
                seen.nonsense.push(format!("{head:?}"));
                return;
            }
            seen.starts.push(head.start.clone());
            drop(seen);
            if !body(&mut peer, &head) || peer.try_send(ok("x")).is_err() {
                return;
            }
        }
    })
}

/// Reads a body; `false` when the connection ends within it, which is how lb gives a request up.
fn body(peer: &mut Peer, head: &Message) -> bool {
    if let Some(length) = head.field("content-length") {
        let mut bytes = vec![0; length.parse().unwrap()];
        return peer.stream.read_exact(&mut bytes).is_ok();
    }
    if head.field("transfer-encoding").is_none() {
        return true;
    }
    loop {
        let mut line = String::new();
        if peer.stream.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        if peer.stream.read_exact(&mut bytes).is_err() {
            return false;
        }
        assert!(bytes.ends_with(b"\r\n"));
        if size == 0 {
            return true;
        }
    }
}

fn part() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET /a HTTP/1.1\r\n",
        "POST /b HTTP/1.1\r\n",
        "POST /c HTTP/1.0\r\n",
        "GET http://h/d HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET /e\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 30\r\n",
        "content-length : 3\r\n",
        "Content-Length: +3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: x\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: content-length\r\n",
        "Connection: transfer-encoding, host\r\n",
        "Connection: keep-alive\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\n",
        "X: y\n",
        "X: y\rZ: w\r\n",
        "\0",
        "\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nX-Trailer: GET /smuggled HTTP/1.1\r\n\r\n",
        "ffffffffffffffff0\r\n",
        "abc",
        "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ])
}

/// A beginning that gets through, so that what follows is read in the middle of things.
fn beginning() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "GET /a HTTP/1.1\r\nHost: a\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ])
}

#[test]
fn nothing_that_a_client_sends_confuses_an_instance() {
    let seen = Arc::new(std::sync::Mutex::new(Seen::default()));
    let stub = strict(&seen);
    let gateway = Gateway::to(&[&stub]);
    let messages = (beginning(), prop::collection::vec(part(), 0..12));
    let served = AtomicU16::new(0);
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&messages, |(beginning, parts)| {
        *seen.lock().unwrap() = Seen::default();
        let sent = format!("{beginning}{}", parts.concat());
        let mut client = gateway.connect();
        let _ = client.try_send(&sent);
        // Long enough for whatever gets through to be served: closing would take it back.
        let stream = client.stream.get_ref();
        stream
            .set_read_timeout(Some(Duration::from_millis(15)))
            .unwrap();
        let mut answers = Vec::new();
        let _ = client.stream.read_to_end(&mut answers);
        drop(client);
        eventually("nothing is in flight", || {
            gateway.instance(0).in_flight() == 0
        });
        let seen = seen.lock().unwrap();
        prop_assert!(seen.nonsense.is_empty(), "{sent:?}: {:?}", seen.nonsense);
        // Every request starts where a request line stands in what was sent.
        let lines = sent.matches(" HTTP/1.").count();
        prop_assert!(seen.starts.len() <= lines, "{sent:?}: {:?}", seen.starts);
        served.fetch_add(seen.starts.len() as u16, Ordering::Relaxed);
        drop(seen);
        prop_assert_eq!(gateway.get("/").status(), 200);
        Ok(())
    });
    outcome.unwrap();
    // A test whose requests are all refused would show nothing.
    let served = served.into_inner();
    assert!(served > 30, "only {served} requests got through");
}
