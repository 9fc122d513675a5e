//! The HTTP client alone.

use super::{
    super::http::{Client, HttpError},
    peer::{Manner, Peer},
    *,
};

/// Time enough on any machine.
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn connections_are_kept_and_replaced() {
    let peer = Peer::new(Manner::Says(200, "yes"));
    let client = Client::new(&url(&peer), LONG);
    for _ in 0..3 {
        let answer = client.get("/x").await.unwrap();
        assert_eq!(answer.body.as_deref(), Some(&b"yes"[..]));
    }
    assert_eq!(peer.connections(), 1);
    let answer = client.post("/y?z", "{}".into()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(peer.connections(), 1);
    let last = peer.got().pop().unwrap();
    assert_eq!((&*last.line, &*last.body), ("POST /y?z HTTP/1.1", "{}"));
    // One that the peer has closed is not used, and not noticed by whoever asks.
    peer.now(Manner::Writes(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ));
    assert_eq!(client.get("/x").await.unwrap().status, 200);
    peer.now(Manner::Says(503, ""));
    assert_eq!(client.get("/x").await.unwrap().status, 503);
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_base_path_stands_before_every_path() {
    let peer = Peer::new(Manner::Says(200, ""));
    let url = HttpUrl::parse(&format!("http://{}/base/", peer.address)).unwrap();
    Client::new(&url, LONG).get("/x").await.unwrap();
    assert_eq!(peer.got()[0].line, "GET /base/x HTTP/1.1");
}

#[tokio::test]
async fn whoever_does_not_answer_is_given_up() {
    let peer = Peer::new(Manner::Silent);
    let client = Client::new(&url(&peer), Duration::from_millis(50));
    let error = client.get("/x").await.unwrap_err();
    assert!(matches!(error, HttpError::Late { .. }), "{error}");
    for endless in [
        Manner::Endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
        Manner::Endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        peer.now(endless);
        let error = client.get("/x").await.unwrap_err();
        let told = matches!(error, HttpError::Late { .. } | HttpError::Broken(_));
        assert!(told, "{error}");
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_a_limit() {
    let peer = Peer::new(Manner::Endless(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        "0123456789",
    ));
    let client = Client::new(&url(&peer), LONG);
    let answer = client.get("/x").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body), (200, None));
    // The rest of it is nobody's answer.
    peer.now(Manner::Says(200, "yes"));
    let answer = client.get("/x").await.unwrap();
    assert_eq!(answer.body.as_deref(), Some(&b"yes"[..]));
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn what_is_no_http_is_said_to_be_none() {
    let peer = Peer::new(Manner::Writes("SSH-2.0-OpenSSH_9.2\r\n"));
    let client = Client::new(&url(&peer), LONG);
    let error = client.get("/x").await.unwrap_err();
    assert!(matches!(error, HttpError::Broken(_)), "{error}");
    peer.goes();
    eventually("connections are refused", || {
        std::net::TcpStream::connect(peer.address).is_err()
    })
    .await;
    let error = client.get("/x").await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&peer.address.to_string()));
}
