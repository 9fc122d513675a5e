//! What reaches the other side, and in what shape.

use super::*;
use crate::model::{GatewayVip, IpPrefix, LoadReportSpec, Ports};

/// An instance that answers with the request as it got it.
fn echo() -> Stub {
    Stub::answering(|request| {
        let mut text = format!("{}\n", request.start);
        let mut fields = request.fields.clone();
        fields.sort();
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push('\n');
        text.push_str(request.text());
        ok(&text)
    })
}

#[test]
fn a_request_is_forwarded_as_it_came_but_for_what_ends_here() {
    let stub = echo();
    let gateway = Gateway::to(&[&stub]);
    let sent = "GET /a%2Fb?q=1&q=%20 HTTP/1.1\r\nHost: Example.org:8080\r\nX-Custom: Value\r\n\
                Accept: a\r\nAccept: b\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                X-Forwarded-For: 6.6.6.6\r\nExpect: 100-continue\r\n\r\n";
    let answer = gateway.connect().send(sent).answer();
    let expected = "GET /a%2Fb?q=1&q=%20 HTTP/1.1\naccept: a\naccept: b\nhost: Example.org:8080\n\
                    via: 1.1 lb\nx-custom: Value\nx-forwarded-for: 127.0.0.1\n\
                    x-forwarded-host: Example.org:8080\nx-forwarded-proto: http\n\n";
    assert_eq!(answer.text(), expected);
    assert_eq!(answer.field("via"), Some("1.1 lb"));
    assert_eq!(answer.count("date"), 1);
}

#[test]
fn connections_are_kept_on_both_sides() {
    let accepted = Arc::new(AtomicU16::new(0));
    let counter = Arc::clone(&accepted);
    let stub = Stub::new(move |mut peer| {
        counter.fetch_add(1, Ordering::Relaxed);
        while let Some(request) = peer.request() {
            peer.send(ok(&request.start));
        }
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    for at in 0..50 {
        let path = format!("/{at}");
        assert_eq!(client.get(&path).text(), format!("GET {path} HTTP/1.1"));
    }
    assert_eq!(gateway.get("/other").status(), 200);
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(gateway.instance(0).in_flight(), 0);
    assert_eq!(gateway.totals(0), (51, 0));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stub = echo();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let one = |at: usize| format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send((0..20).map(one).collect::<String>());
    for at in 0..20 {
        let answer = client.answer();
        assert!(
            answer.text().starts_with(&format!("GET /{at} ")),
            "{answer:?}"
        );
    }
}

#[test]
fn chunked_bodies_and_their_trailers_pass_in_both_directions() {
    let stub = Stub::new(|mut peer| {
        while let Some(request) = peer.request() {
            assert_eq!(request.field("transfer-encoding"), Some("chunked"));
            assert_eq!(request.field("content-length"), None);
            let sum = request.field("trailer x-sum").unwrap().to_owned();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n");
            for part in request.body.chunks(3) {
                let part = std::str::from_utf8(part).unwrap();
                peer.send(format!("{:x}\r\n{part}\r\n", part.len()));
            }
            peer.send(format!("0\r\nx-sum: {sum}\r\n\r\n"));
        }
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
             Trailer: x-sum\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-sum: 11\r\n\r\n",
        );
        let answer = client.answer();
        assert_eq!(answer.text(), "hello world");
        assert_eq!(answer.field("trailer x-sum"), Some("11"));
    }
}

#[test]
fn answers_without_a_body_keep_their_fields_and_the_connection() {
    let stub = Stub::answering(|request| match request.start.as_str() {
        "HEAD / HTTP/1.1" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_owned(),
        "GET /204 HTTP/1.1" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n".to_owned(),
        "GET /304 HTTP/1.1" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_owned(),
        _ => ok("body"),
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.field("content-length"), Some("1234"));
    let empty = client.get("/204");
    assert_eq!((empty.status(), empty.field("x-a")), (204, Some("1")));
    assert_eq!(
        (
            empty.field("content-length"),
            empty.field("transfer-encoding")
        ),
        (None, None)
    );
    let unchanged = client.get("/304");
    assert_eq!(
        (unchanged.status(), unchanged.field("etag")),
        (304, Some("\"x\""))
    );
    assert_eq!(client.get("/").text(), "body");
}

#[test]
fn an_answer_that_ends_with_its_connection_is_framed_for_the_client() {
    let stub = Stub::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.text(), "until the end");
    }
}

#[test]
fn old_clients_get_what_they_understand() {
    let stub = Stub::answering(|request| {
        assert!(request.start.ends_with("HTTP/1.1"), "{}", request.start);
        let host = request.field("host").unwrap();
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n{host}")
            .replace(host, "")
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    let answer = client.send("GET / HTTP/1.0\r\n\r\n").answer();
    assert!(answer.start.starts_with("HTTP/1.0 200"), "{}", answer.start);
    assert_eq!(
        (answer.field("transfer-encoding"), answer.text()),
        (None, "x")
    );
}

#[test]
fn the_client_is_told_to_continue_when_the_instance_is_there() {
    let stub = echo();
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 100);
    let answer = client.send("hello").answer();
    assert!(answer.text().ends_with("\n\nhello"), "{answer:?}");
    assert!(!answer.text().contains("expect"), "{answer:?}");
}

#[test]
fn hundred_continue_is_not_said_for_nothing() {
    let gateway = Gateway::of(everything_to(&[]));
    let mut client = gateway.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status(), 503);
}

/// More than every buffer on the way together.
const BIG: usize = 96 << 20;

/// Most that may be on the way: what the kernel keeps for four sockets at its default limits
/// (6 MiB to receive, 4 MiB to send) and lb's own buffers.
const ON_THE_WAY: usize = 24 << 20;

/// Writes `BIG` bytes in the background and counts them.
fn pour(peer: &Peer) -> Arc<std::sync::atomic::AtomicUsize> {
    let poured = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&poured);
    let mut stream = peer.stream.get_ref().try_clone().unwrap();
    thread::spawn(move || {
        let part = vec![b'x'; 1 << 16];
        for _ in 0..BIG / part.len() {
            stream.write_all(&part).unwrap();
            counter.fetch_add(part.len(), Ordering::Relaxed);
        }
    });
    poured
}

/// Waits until nothing more is poured, which must be long before the end.
fn stalls(poured: &std::sync::atomic::AtomicUsize) {
    let mut before = usize::MAX;
    eventually("the flow stalls", || {
        thread::sleep(Duration::from_millis(100));
        let now = poured.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    let amount = poured.load(Ordering::Relaxed);
    assert!(
        amount < ON_THE_WAY,
        "{amount} bytes are on the way to nobody"
    );
}

#[test]
fn an_instance_that_does_not_read_stops_the_client() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let stub = Stub::new(move |mut peer| {
        let head = peer.head().unwrap();
        wait.lock().unwrap().recv().unwrap();
        let length: usize = head.field("content-length").unwrap().parse().unwrap();
        let read = peer
            .bytes(length)
            .iter()
            .filter(|byte| **byte == b'x')
            .count();
        peer.send(ok(&read.to_string()));
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n"
    ));
    let poured = pour(&client);
    stalls(&poured);
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), BIG.to_string());
}

#[test]
fn a_client_that_does_not_read_stops_the_instance() {
    let (tell, poured) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let stub = Stub::new(move |mut peer| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n"));
        tell.lock().unwrap().send(pour(&peer)).unwrap();
        peer.request();
    });
    let gateway = Gateway::to(&[&stub]);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stalls(&poured.recv_timeout(PATIENCE).unwrap());
    assert_eq!(gateway.instance(0).in_flight(), 1);
    let answer = client.answer();
    assert_eq!(answer.body.len(), BIG);
    assert!(answer.body.iter().all(|byte| *byte == b'x'));
    eventually("the request is over", || {
        gateway.instance(0).in_flight() == 0
    });
}

#[test]
fn what_a_client_has_connected_to_decides_even_after_it_has() {
    let (one, two) = (Stub::saying("one"), Stub::saying("two"));
    let other = unused_address();
    let route = |destination, service: &str| RouteSpec {
        destination,
        ..RouteSpec::new(
            PathPattern::Prefix("/".to_owned()),
            ServiceName::new(service).unwrap(),
        )
    };
    let mut gateway = Gateway::of(Desired {
        services: vec![
            service("one", &[one.address]),
            service("two", &[two.address]),
        ],
        routes: vec![route(None, "one")],
        listeners: vec![ListenerSpec { address: other }],
        ..Desired::default()
    });
    let mut first = gateway.connect();
    let mut second = Peer::connect(other);
    assert_eq!(
        (first.get("/").text(), second.get("/").text()),
        ("one", "one")
    );
    gateway.reload(|desired| {
        let destination = GatewayVip {
            prefix: IpPrefix::of(other.ip()),
            ports: Ports::One(other.port()),
        };
        desired.routes.push(route(Some(destination), "two"));
    });
    assert_eq!(
        (first.get("/").text(), second.get("/").text()),
        ("one", "two")
    );
}

#[test]
fn routes_and_hosts_decide() {
    let (one, two) = (Stub::saying("one"), Stub::saying("two"));
    let route = |host: HostPattern, path: &str, service: &str| RouteSpec {
        host,
        ..RouteSpec::new(
            PathPattern::Prefix(path.to_owned()),
            ServiceName::new(service).unwrap(),
        )
    };
    let gateway = Gateway::of(Desired {
        services: vec![
            service("one", &[one.address]),
            service("two", &[two.address]),
        ],
        routes: vec![
            route(HostPattern::Any, "/one", "one"),
            route(HostPattern::Exact("two.example".to_owned()), "/", "two"),
        ],
        ..Desired::default()
    });
    let mut client = gateway.connect();
    assert_eq!(client.get("/one/x?y").text(), "one");
    let lost = client.get("/other");
    assert_eq!((lost.status(), lost.reason()), (404, Some("no_route")));
    for head in [
        "GET /one HTTP/1.1\r\nHost: TWO.example:80\r\n\r\n",
        "GET http://two.example/one HTTP/1.1\r\nHost: other\r\n\r\n",
    ] {
        assert_eq!(client.send(head).answer().text(), "two");
    }
    let answers = &gateway.proxy.as_ref().unwrap().stats().answers;
    assert_eq!(answers.answers(Reason::NoRoute), 1);
}

#[test]
fn management_paths_are_answered_and_told_who_asks() {
    use axum::{Router, extract::ConnectInfo, routing::get};
    let own = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    async fn broken() -> String {
        panic!("as this test expects")
    }
    let router = Router::new()
        .route("/health", get(own))
        .route("/health/broken", get(broken));
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let management = Management {
        service: tower::util::BoxCloneSyncService::new(router),
        runtime: control.handle().clone(),
        prefixes: &["/health"],
    };
    let stub = Stub::saying("instance");
    let gateway = Gateway::with(everything_to(&[stub.address]), 1, Some(management));
    let mut client = gateway.connect();
    assert_eq!(client.get("/health").text(), "127.0.0.1");
    assert_eq!(client.get("/health/none").status(), 404);
    assert_eq!(client.get("/health/broken").reason(), Some("bad_answer"));
    assert_eq!(client.get("/healthy").text(), "instance");
}

/// What comes from a channel, as a stream of events does.
struct Trickle(tokio::sync::mpsc::Receiver<&'static str>);

impl http_body::Body for Trickle {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let part = std::task::ready!(self.0.poll_recv(cx));
        std::task::Poll::Ready(part.map(|part| Ok(http_body::Frame::data(part.into()))))
    }
}

#[test]
fn a_connection_is_not_idle_while_lb_itself_still_answers() {
    use axum::{Router, body::Body, routing::get};
    let trickling = || async {
        let (sender, parts) = tokio::sync::mpsc::channel(1);
        thread::spawn(move || {
            sender.blocking_send("one, ").unwrap();
            // Much longer than connections may be idle.
            thread::sleep(Duration::from_millis(600));
            sender.blocking_send("two").unwrap();
        });
        Body::new(Trickle(parts))
    };
    let router = Router::new().route("/events", get(trickling));
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let management = Management {
        service: tower::util::BoxCloneSyncService::new(router),
        runtime: control.handle().clone(),
        prefixes: &["/events"],
    };
    let stub = Stub::saying("instance");
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.keepalive_timeout = Duration::from_millis(50);
    let gateway = Gateway::with(desired, 1, Some(management));
    let mut client = gateway.connect();
    assert_eq!(client.get("/events").text(), "one, two");
    // It is idle afterwards, and closed for that, but not before.
    assert_eq!(gateway.get("/other").text(), "instance");
}

#[test]
fn trusted_proxies_are_believed() {
    let stub = echo();
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    let answer = client
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n")
        .answer();
    assert!(
        answer
            .text()
            .contains("x-forwarded-for: 6.6.6.6, 127.0.0.1\n"),
        "{answer:?}"
    );
    assert!(
        answer.text().contains("x-forwarded-proto: https\n"),
        "{answer:?}"
    );
}

#[test]
fn an_instances_report_of_its_load_is_heard_and_kept_from_the_client() {
    let stub = Stub::answering(|_| {
        "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.75, rps_fractional=40\r\n\
         Content-Length: 0\r\n\r\n"
            .to_owned()
    });
    let gateway = |load_reports| {
        let mut desired = everything_to(&[stub.address]);
        desired.services[0].load_reports = load_reports;
        Gateway::of(desired)
    };
    for (spec, heard, seen) in [
        (None, false, 1),
        (Some(LoadReportSpec::default()), true, 0),
        (
            Some(LoadReportSpec {
                strip: false,
                ..LoadReportSpec::default()
            }),
            true,
            1,
        ),
    ] {
        let gateway = gateway(spec);
        let answer = gateway.get("/");
        assert_eq!(answer.count("endpoint-load-metrics"), seen);
        let reports = &gateway.instance(0).reports;
        let said = reports
            .last(Clock::real().now())
            .map(|(report, _)| (report.utilization, report.rate));
        assert_eq!(said, heard.then_some((0.75, 40.0)));
    }
}

#[test]
fn a_report_in_bytes_is_heard_before_one_in_words_and_neither_is_passed_on() {
    // cpu_utilization 0.3, rps_fractional 10, eps 1.
    let stub = Stub::answering(|_| {
        "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.75\r\n\
         Endpoint-Load-Metrics-Bin: CTMzMzMzM9M/MQAAAAAAACRAOQAAAAAAAPA/\r\n\
         Content-Length: 0\r\n\r\n"
            .to_owned()
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].load_reports = Some(LoadReportSpec::default());
    let gateway = Gateway::of(desired);
    let answer = gateway.get("/");
    assert_eq!(answer.count("endpoint-load-metrics"), 0);
    assert_eq!(answer.count("endpoint-load-metrics-bin"), 0);
    let instance = gateway.instance(0);
    let (report, _) = instance.reports.last(Clock::real().now()).unwrap();
    assert_eq!(
        (report.utilization, report.rate, report.errors),
        (0.3, 10.0, 1.0)
    );
}
