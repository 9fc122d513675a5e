//! Who is let in by sockets, budgets and what is written down of it.

use axum::extract::ConnectInfo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
};

use super::*;
use crate::{
    api::access::tests::token,
    model::{ApiAddress, ApiRates, AuditLogSpec, SocketSpec},
};

const STATS: &str = "/api/v1/loadbalancer/stats";
const RELOAD: &str = "/api/v1/admin/loadbalancer/reload";

fn access(spec: AccessSpec, audit: Audit) -> Arc<Access> {
    Access::new(Prepared::from(spec), audit)
}

/// A request from an address, with a token or without.
fn from(peer: [u8; 4], shown: Option<&str>, path: &str) -> Request<Body> {
    let mut request = Request::get(path).header("host", "localhost");
    if let Some(shown) = shown {
        request = request.header("authorization", format!("Bearer {shown}"));
    }
    with_peer(request.body(Body::empty()).unwrap(), (peer, 4000).into())
}

#[tokio::test]
async fn every_caller_has_a_budget_of_its_own() {
    let spec = AccessSpec {
        tokens: vec![token("one", "1", Role::Read), token("two", "2", Role::Read)],
        rates: Some(ApiRates {
            requests: 1,
            burst: 3,
            failures: 100,
        }),
        ..AccessSpec::default()
    };
    let world = World::guarded(access(spec.clone(), Audit::to_log()));
    let ask = async |peer, shown| world.send(from(peer, shown, STATS)).await;
    let far = [192, 0, 2, 1];
    for _ in 0..3 {
        assert_eq!(ask(far, Some("1")).await.status, 200);
    }
    let refused = ask(far, Some("1")).await;
    assert_eq!(
        refused.problem(429)["type"],
        "urn:lb:problem:too-many-requests"
    );
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("ratelimit-policy"), "\"api\";q=1;w=1");
    assert_eq!(refused.header("ratelimit"), "\"api\";r=0;t=1");
    // A budget is the caller's wherever it asks from, and nobody else's.
    assert_eq!(ask([192, 0, 2, 2], Some("1")).await.status, 429);
    assert_eq!(ask(far, Some("2")).await.status, 200);
    assert_eq!(ask([127, 0, 0, 1], None).await.status, 200);
    // Nobody in particular has one by address.
    for _ in 0..3 {
        assert_eq!(ask(far, None).await.status, 401);
    }
    assert_eq!(ask(far, None).await.status, 429);
    assert_eq!(ask([192, 0, 2, 9], None).await.status, 401);
    // Health is nobody's business but everybody's.
    for _ in 0..20 {
        assert_eq!(world.send(from(far, None, "/health")).await.status, 200);
    }
    // A reload that changes nothing forgives nothing; time does.
    world.state.access().replace(Prepared::from(spec.clone()));
    assert_eq!(ask(far, Some("1")).await.status, 429);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(ask(far, Some("1")).await.status, 200);
    let off = AccessSpec {
        rates: None,
        ..spec
    };
    world.state.access().replace(Prepared::from(off));
    for _ in 0..10 {
        assert_eq!(ask(far, Some("1")).await.status, 200);
    }
}

#[tokio::test]
async fn whoever_guesses_tokens_has_to_wait_even_when_one_is_right() {
    let spec = AccessSpec {
        tokens: vec![token("one", "right", Role::Read)],
        rates: Some(ApiRates {
            failures: 2,
            ..ApiRates::default()
        }),
        ..AccessSpec::default()
    };
    let world = World::guarded(access(spec, Audit::to_log()));
    let ask = async |peer, shown| world.send(from(peer, shown, STATS)).await.status.as_u16();
    let (guesser, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    assert_eq!(ask(guesser, Some("right")).await, 200);
    assert_eq!(ask(guesser, Some("a")).await, 401);
    assert_eq!(ask(guesser, Some("b")).await, 401);
    assert_eq!(ask(guesser, Some("c")).await, 429);
    assert_eq!(ask(guesser, Some("right")).await, 429);
    assert_eq!(ask(guesser, None).await, 401);
    assert_eq!(ask(other, Some("right")).await, 200);
    // This machine guesses nothing that it does not have.
    for _ in 0..5 {
        assert_eq!(ask([127, 0, 0, 1], Some("a")).await, 200);
    }
    assert_eq!(ask([127, 0, 0, 1], Some("right")).await, 200);
    // But whom a proxy on it passes on may.
    let proxied = async |shown| {
        let mut request = from([127, 0, 0, 1], Some(shown), STATS);
        let header = "10.0.0.1".parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", header);
        world.send(request).await.status.as_u16()
    };
    let found = [
        proxied("a").await,
        proxied("b").await,
        proxied("right").await,
    ];
    assert_eq!(found, [401, 401, 429]);
    assert_eq!(ask([127, 0, 0, 1], None).await, 200);
    world.clock.advance(Duration::from_secs(31));
    assert_eq!(ask(guesser, Some("right")).await, 200);
}

#[tokio::test]
async fn the_audit_log_has_every_change_and_every_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (audit, writer) = Audit::open(&AuditLogSpec {
        path: Some(path.clone()),
    })
    .unwrap();
    let spec = AccessSpec {
        tokens: vec![
            token("watch", "hush-1", Role::Read),
            token("owner", "hush-2", Role::Configure),
        ],
        ..AccessSpec::default()
    };
    let world = World::guarded(access(spec, audit));
    let far = [192, 0, 2, 1];
    let ask = async |method: Method, path: &str, shown| {
        let mut request = from(far, shown, path);
        *request.method_mut() = method;
        world.send(request).await;
    };
    let drain = format!("/api/v1/loadbalancer/instances/main-backend/{B}/drain");
    ask(Method::GET, STATS, Some("hush-1")).await;
    ask(
        Method::POST,
        &format!("{drain}?token=hush-3"),
        Some("hush-2"),
    )
    .await;
    ask(Method::POST, RELOAD, Some("hush-1")).await;
    ask(Method::GET, STATS, Some("hush-4")).await;
    ask(
        Method::DELETE,
        "/api/v1/loadbalancer/sessions/hush-5",
        Some("hush-2"),
    )
    .await;
    ask(Method::POST, &format!("{RELOAD}?dry_run=true"), None).await;
    writer.unwrap().finish(Duration::from_secs(10));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hush"), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let column = |name: &str| -> Vec<Value> { lines.iter().map(|l| l[name].clone()).collect() };
    assert_eq!(column("status"), [200, 403, 401, 404, 401]);
    assert_eq!(column("method"), ["POST", "POST", "GET", "DELETE", "POST"]);
    let (owner, watch) = ("token owner", "token watch");
    let callers = [Some(owner), Some(watch), None, Some(owner), None];
    assert_eq!(column("caller"), callers.map(Value::from));
    let roles = [
        Some("configure"),
        Some("read"),
        None,
        Some("configure"),
        None,
    ];
    assert_eq!(column("role"), roles.map(Value::from));
    let reasons = [
        None,
        Some("role-missing"),
        Some("unauthorized"),
        Some("no-such-session"),
        Some("unauthorized"),
    ];
    assert_eq!(column("reason"), reasons.map(Value::from));
    assert_eq!(column("revision_before"), [1, 2, 2, 2, 2]);
    assert_eq!(column("revision_after"), [2, 2, 2, 2, 2]);
    assert_eq!(lines[0]["path"], drain);
    assert_eq!(lines[0]["peer"], "192.0.2.1:4000");
    assert_eq!(lines[4]["dry_run"], true);
    humantime::parse_rfc3339(lines[0]["timestamp"].as_str().unwrap()).unwrap();
}

async fn exchange(path: &std::path::Path, head: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!("{head}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_socket_lets_in_by_its_role_and_tells_users_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let address = ApiAddress::Unix(path.clone());
    let (listener, file) = Listener::bind(&address, &SocketSpec::default())
        .await
        .unwrap();
    let spec = AccessSpec {
        socket: Some(Role::Operate),
        loopback: None,
        ..AccessSpec::default()
    };
    let world = World::guarded(access(spec, Audit::to_log()));
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(serve(listener, world.state.clone(), stopped));
    let status = async |head: &str| {
        let answer = exchange(&path, head).await;
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let get = format!("GET {STATS} HTTP/1.1\r\nHost:");
    assert_eq!(status(&format!("{get} localhost")).await, 200);
    assert_eq!(
        status(
            "POST /api/v1/admin/loadbalancer/reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0"
        )
        .await,
        200
    );
    let reload = format!("POST {RELOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0");
    let refused = exchange(&path, &reload).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let user = crate::config::user_name(rustix::process::geteuid().as_raw());
    if let Some(user) = user {
        assert!(
            refused.contains(&format!("found user {user} with operate")),
            "{refused}"
        );
    }
    // Pages and proxies are no more welcome here than elsewhere.
    assert_eq!(status(&format!("{get} evil.example")).await, 403);
    assert_eq!(
        status(&format!("{get} localhost\r\nX-Forwarded-For: 10.0.0.1")).await,
        401
    );
    let posted = "POST /api/v1/admin/loadbalancer/reset HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0";
    assert_eq!(status(posted).await, 403);
    // What is asked from here is explained as if from this machine.
    let explain = "GET /api/v1/loadbalancer/explain?url=/api/v1/auth/x HTTP/1.1\r\nHost: localhost";
    assert_eq!(status(explain).await, 200);
    stop.send_replace(true);
    served.await.unwrap().unwrap();
    assert!(path.exists());
    drop(file);
    assert!(!path.exists());
}

#[test]
fn a_peer_that_is_noted_is_not_overruled_by_an_address() {
    let mut request = local(Method::GET, STATS, Body::empty());
    request.extensions_mut().insert(access::Peer::Unknown);
    let (parts, _) = request.into_parts();
    assert!(parts.extensions.get::<ConnectInfo<SocketAddr>>().is_some());
    assert_eq!(access::Peer::of(&parts), access::Peer::Unknown);
}
