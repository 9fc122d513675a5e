//! What is refused, and what the refusal tells.

use super::*;

#[tokio::test]
async fn what_does_not_exist_is_answered_with_what_does() {
    let world = World::new();
    for path in [
        "/stats/main-backed",
        "/instances/main-backed",
        "/instances/main-backed/127.0.0.1:8080",
        "/algorithms/main-backed",
    ] {
        let got = world
            .ask(Method::GET, &format!("/api/v1/loadbalancer{path}"))
            .await;
        let problem = got.problem(404);
        let known = serde_json::json!(["main-backend", "ocr-service"]);
        assert_eq!(problem["known"], known, "{path}");
        assert!(got.body.contains("main-backed\\\""), "{}", got.body);
    }
    for (method, path) in [
        (Method::GET, "/instances/main-backend/127.0.0.1:9"),
        (Method::GET, "/instances/main-backend/%FF"),
        (Method::POST, "/instances/main-backend/127.0.0.1:9/drain"),
    ] {
        let path = format!("/api/v1/loadbalancer{path}");
        let problem = world.ask(method, &path).await.problem(404);
        if !path.ends_with("%FF") {
            assert_eq!(problem["known"], serde_json::json!([A, B]), "{path}");
        }
    }
    let problem = world.ask(Method::GET, "/api/v1/loadbalancer/x").await;
    let problem = problem.problem(404);
    assert!(problem["known"].as_array().unwrap().len() == PREFIXES.len());
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let world = World::new();
    let api = "/api/v1/loadbalancer";
    let instance = format!("{api}/instances/main-backend/{B}");
    for (method, path, allow) in [
        (Method::POST, format!("{api}/stats"), "GET, HEAD, OPTIONS"),
        (Method::DELETE, "/health".to_owned(), "GET, HEAD, OPTIONS"),
        (
            Method::POST,
            format!("{api}/algorithms/ocr-service"),
            "GET, HEAD, PUT, OPTIONS",
        ),
        (
            Method::GET,
            "/api/v1/admin/loadbalancer/reload".to_owned(),
            "POST, OPTIONS",
        ),
        (
            Method::POST,
            instance.clone(),
            "GET, HEAD, PUT, PATCH, DELETE, OPTIONS",
        ),
        (Method::GET, format!("{instance}/drain"), "POST, OPTIONS"),
        (Method::PUT, format!("{instance}/enable"), "POST, OPTIONS"),
    ] {
        let got = world.ask(method.clone(), &path).await;
        got.problem(405);
        assert_eq!(got.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_that_do_not_fit_change_nothing() {
    let world = World::new();
    let path = "/algorithms/main-backend";
    for (body, pointer, expected) in [
        ("", "", "JSON"),
        ("{", "", "JSON"),
        ("{}", "", "`algorithm`"),
        (r#"{"algorithm": 5}"#, "/algorithm", "a string"),
        (r#"{"algoritm": "adaptive"}"#, "/algoritm", "`algorithm`"),
        (r#"{"algorithm": "adaptive", "x": 1}"#, "/x", "`algorithm`"),
        (r#"{"algorithm": "adaptive"} {}"#, "", "JSON"),
        (
            r#"{"algorithm": "fastest"}"#,
            "/algorithm",
            "least_response_time",
        ),
        (r#"{"algorithm": "Adaptive"}"#, "/algorithm", "adaptive"),
    ] {
        let problem = world.put(path, body).await.problem(400);
        let fault = &problem["errors"][0];
        assert_eq!(fault["pointer"], pointer, "{body}: {problem}");
        let text = fault.to_string() + problem["detail"].as_str().unwrap();
        assert!(text.contains(expected), "{body}: {problem}");
    }
    let unknown = world
        .put(path, r#"{"algorithm": "fastest"}"#)
        .await
        .problem(400);
    for algorithm in Algorithm::ALL {
        let detail = unknown["detail"].as_str().unwrap();
        assert!(detail.contains(algorithm.as_str()), "{detail}");
    }
    let long = format!(r#"{{"algorithm": "{}"}}"#, "x".repeat(70_000));
    world.put(path, &long).await.problem(413);
    assert_eq!(world.get(path).await["algorithm"], "adaptive");
    assert_eq!(world.registry.snapshot().revision, 1);
}

#[tokio::test]
async fn only_json_is_read() {
    let world = World::new();
    let path = "/api/v1/loadbalancer/algorithms/main-backend";
    let body = r#"{"algorithm": "round_robin"}"#;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = local(Method::PUT, path, Body::from(body));
        if let Some(content_type) = content_type {
            let value = content_type.parse().unwrap();
            request.headers_mut().insert("content-type", value);
        }
        world.send(request).await.problem(415);
    }
    // What says nothing needs no type; what a verb does not take is refused whatever its type.
    for (verb, status) in [("enable", 400), ("disable", 400), ("drain", 415)] {
        let verb = format!("/api/v1/loadbalancer/instances/main-backend/{B}/{verb}");
        let odd = local(Method::POST, &verb, Body::from(r#"{"when": "later"}"#));
        world.send(odd).await.problem(status);
        let mut odd = local(Method::POST, &verb, Body::from(r#"{"when": "later"}"#));
        let json = "application/json".parse().unwrap();
        odd.headers_mut().insert("content-type", json);
        let problem = world.send(odd).await.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], "/when");
        let empty = local(Method::POST, &verb, Body::from(" {} "));
        assert_eq!(world.send(empty).await.status, 200);
    }
}

#[tokio::test]
async fn a_refused_change_does_not_happen() {
    let world = World::new();
    let path = format!("/api/v1/loadbalancer/instances/main-backend/{B}/disable");
    let far = SocketAddr::from(([192, 0, 2, 7], 1));
    let request = |authorization: Option<&str>| {
        let mut request = Request::post(&path).header("host", "lb.example.org");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        with_peer(request.body(Body::empty()).unwrap(), far)
    };
    let refused = world.send(request(None)).await;
    refused.problem(401);
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    let wrong = world.send(request(Some("Bearer wrong"))).await;
    wrong.problem(401);
    assert!(wrong.header("www-authenticate").contains("invalid_token"));
    let here = Request::post(&path).header("host", "localhost");
    let no_peer = here.body(Body::empty()).unwrap();
    world.send(no_peer).await.problem(401);
    assert_eq!(world.registry.snapshot().revision, 1);
    assert_eq!(world.send(request(Some("Bearer secret"))).await.status, 200);
    assert_eq!(world.registry.snapshot().revision, 2);
    // Paths that do not exist are no way to find out which do.
    let probe = Request::get("/api/v1/loadbalancer/secret").body(Body::empty());
    world
        .send(with_peer(probe.unwrap(), far))
        .await
        .problem(401);
}

#[tokio::test]
async fn a_reload_that_fails_says_all_that_is_wrong() {
    let fault = |pointer: &str| Fault {
        origin: None,
        pointer: pointer.to_owned(),
        expected: "a port".to_owned(),
        found: "99999".to_owned(),
    };
    let failure = ReloadFailure {
        message: "2 faults in lb.toml".to_owned(),
        faults: vec![fault("listeners[0].address"), fault("services.web")],
    };
    let world = World::with_reload(Arc::new(move |_| {
        let failure = failure.clone();
        Box::pin(async { Err(failure) })
    }));
    let got = world
        .ask(Method::POST, "/api/v1/admin/loadbalancer/reload")
        .await;
    let problem = got.problem(422);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
    assert_eq!(problem["errors"][0]["pointer"], "listeners[0].address");
    let health = world.get("/health").await;
    assert_eq!(health["last_reload"]["success"], false);
    assert_eq!(health["status"], "degraded");
    let metrics = world.ask(Method::GET, "/metrics").await.body;
    assert!(
        metrics.contains("lb_reloads_total{result=\"refused\"} 1\n"),
        "{metrics}"
    );
}

proptest::proptest! {
    /// Whatever is asked, the answer is one of the API's own and no failure of it.
    #[test]
    fn no_request_is_too_odd_to_answer(
        method in proptest::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "X"]),
        prefix in proptest::sample::select(PREFIXES.to_vec()),
        segments in proptest::collection::vec(
            proptest::sample::select(vec![
                "stats", "instances", "algorithms", "main-backend", "http:", "", "127.0.0.1:8081",
                "drain", "enable", "reload", "%2F", "%FF", "%", "..", "a?b=c", "{service}",
            ]),
            0..6,
        ),
        body in "[{}\":a-z ]{0,12}",
        json in proptest::bool::ANY,
    ) {
        let path = format!("{prefix}/{}", segments.join("/"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut request = local(method.parse().unwrap(), &path, Body::from(body));
            if json {
                let value = "application/json".parse().unwrap();
                request.headers_mut().insert("content-type", value);
            }
            let got = world.send(request).await;
            // Nothing of a gateway runs in here.
            let unready = prefix == "/readyz" && got.status == 503;
            assert!(got.status.as_u16() < 500 || unready, "{method} {path}: {} {}", got.status, got.body);
            if method != "HEAD" && prefix != "/metrics" {
                assert_eq!(got.json()["success"], got.status.is_success());
            }
        });
    }
}
