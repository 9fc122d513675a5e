//! What holds for every answer, and the three healths of which anybody may ask.

use super::*;
use crate::l7::GatewayStats;

fn far(request: axum::http::request::Builder) -> Request<Body> {
    let request = request.body(Body::empty()).unwrap();
    with_peer(request, SocketAddr::from(([192, 0, 2, 7], 1)))
}

#[tokio::test]
async fn a_request_is_found_again_by_its_id() {
    let world = World::new();
    let path = "/api/v1/loadbalancer/stats/nothing";
    let given = Request::get(path)
        .header("host", "localhost")
        .header("x-request-id", "from-the-client.7");
    let given = with_peer(given.body(Body::empty()).unwrap(), loopback());
    let got = world.send(given).await;
    let problem = got.problem(404);
    assert_eq!(got.header("x-request-id"), "from-the-client.7");
    assert_eq!(problem["request_id"], "from-the-client.7");
    assert_eq!(problem["instance"], "urn:lb:request:from-the-client.7");
    assert_eq!(
        got.header("content-length"),
        got.body.len().to_string(),
        "the id is part of the length"
    );

    // Whoever says nothing, or something odd, gets one; so does who may not come in.
    let made = world.ask(Method::GET, path).await;
    let id = made.header("x-request-id").to_owned();
    assert_eq!(id.len(), 16);
    assert_eq!(made.problem(404)["request_id"], id.as_str());
    let odd = far(Request::get(path).header("x-request-id", "a\tb"));
    let refused = world.send(odd).await;
    assert_ne!(refused.header("x-request-id"), "a\tb");
    assert_eq!(
        refused.problem(401)["request_id"],
        refused.header("x-request-id")
    );
    let good = world.ask(Method::GET, "/health").await;
    assert_eq!(good.header("x-request-id").len(), 16);
}

#[tokio::test]
async fn nobody_keeps_answers_about_the_moment() {
    let world = World::new();
    for (method, path) in [
        (Method::GET, "/health"),
        (Method::GET, "/metrics"),
        (Method::GET, "/api/v1/loadbalancer/stats"),
        (Method::GET, "/api/v1/loadbalancer/nothing"),
        (Method::OPTIONS, "/api/v1/loadbalancer/stats"),
    ] {
        let got = world.ask(method.clone(), path).await;
        assert_eq!(got.header("cache-control"), "no-store", "{method} {path}");
        assert_eq!(got.header("x-content-type-options"), "nosniff", "{path}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let world = World::new();
    for path in [
        "/health",
        "/metrics",
        "/api/v1/loadbalancer/instances/main-backend/http://127.0.0.1:8081",
        "/api/v1/loadbalancer/nothing",
        "/api/v1/loadbalancer/docs",
    ] {
        let (head, get) = (
            world.ask(Method::HEAD, path).await,
            world.ask(Method::GET, path).await,
        );
        assert_eq!(
            (head.status, head.body.as_str()),
            (get.status, ""),
            "{path}"
        );
        for header in ["content-type", "cache-control"] {
            assert_eq!(head.header(header), get.header(header), "{path}");
        }
        assert!(!head.header("content-length").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn alive_is_not_ready() {
    let world = World::new();
    let ask = async |path: &str| world.send(far(Request::get(path))).await;
    // Nothing serves HTTP yet, and no packet path has the VIP.
    assert_eq!(ask("/livez").await.status, 200);
    let early = ask("/readyz").await;
    assert_eq!(early.status, 503);
    let reasons = |got: &Got| got.json()["data"]["reasons"].as_array().unwrap().len();
    assert_eq!(reasons(&early), 2);

    world.state.set_gateway(Arc::new(GatewayStats::default()));
    let snapshot = world.registry.snapshot();
    let mut report = (*world.state.report()).clone();
    report.reconcile.revision = snapshot.revision;
    world.reporter.publish(report);
    let ready = ask("/readyz").await;
    assert_eq!((ready.status.as_u16(), reasons(&ready)), (200, 0));
    assert_eq!(ready.json()["data"]["ready"], true);

    // No instance works: elsewhere that is no better.
    for at in 0..2 {
        let instance = world.instance("main-backend", at);
        world.health(&instance, Health::Unhealthy, "503 from GET /health");
    }
    assert_eq!(ask("/health").await.json()["data"]["status"], "degraded");
    assert_eq!(ask("/readyz").await.status, 200);

    world.state.stop();
    assert_eq!(ask("/livez").await.status, 200);
    assert_eq!(ask("/readyz").await.status, 503);
    assert_eq!(ask("/health").await.status, 503);
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let world = World::new();
    for (path, media_type) in [
        ("/api/v1/docs", "text/html"),
        ("/api/v1/loadbalancer/docs", "text/html"),
        ("/api/v1/loadbalancer/docs/page.js", "text/javascript"),
        ("/api/v1/loadbalancer/docs/page.css", "text/css"),
    ] {
        let got = world.ask(Method::GET, path).await;
        assert_eq!(got.status, 200, "{path}");
        assert!(got.header("content-type").starts_with(media_type), "{path}");
        let policy = got.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!got.body.contains("//cdn") && !got.body.contains("https://"));
        // As the API: not for strangers.
        world.send(far(Request::get(path))).await.problem(401);
    }
}
