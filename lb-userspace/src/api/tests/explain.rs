//! `/explain`: it tells what the gateway would do, and does nothing.

use super::*;

const PATH: &str = "/explain";

async fn explain(world: &World, query: &str) -> Value {
    world.get(&format!("{PATH}?{query}")).await
}

#[tokio::test]
async fn it_names_route_candidates_and_choice() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    // Both are known, and nobody waits to be explored; A is ten times as quick.
    world.serve(&b, Outcome::Success, 20, 100);
    world.serve(&a, Outcome::Success, 20, 10);
    let told = explain(&world, "url=/api/v1/auth/login%3Fid=7&method=POST").await;
    assert_eq!(told["request"]["method"], "POST");
    assert_eq!(told["request"]["path"], "/api/v1/auth/login");
    assert_eq!(told["request"]["client"], "127.0.0.1");
    assert_eq!(told["route"]["path"], "/api/v1/auth/*");
    assert_eq!(told["service"], "main-backend");
    assert_eq!(told["algorithm"], "adaptive");
    assert!(told.get("key").is_none() && told.get("refused").is_none());
    assert_eq!(told["instance"], A);
    assert_eq!(told["candidates"][0]["chance"], 1.0);
    assert_eq!(told["candidates"][0]["latency_ms"], 10.0);
    assert_eq!(told["candidates"][1]["chance"], 0.0);
    assert!(told["candidates"][1].get("excluded").is_none());

    let other = explain(&world, "url=http://x.example.org/exact").await;
    assert_eq!(other["route"]["host"], "*.example.org");
    assert_eq!(other["request"]["host"], "x.example.org");
}

#[tokio::test]
async fn exclusions_have_their_reasons() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    world.health(&a, Health::Unhealthy, "connection refused");
    let told = explain(&world, "url=/api/v1/auth").await;
    let first = &told["candidates"][0];
    assert_eq!(
        (&first["excluded"], &first["detail"], &first["chance"]),
        (
            &"unhealthy".into(),
            &"connection refused".into(),
            &0.0.into()
        )
    );
    assert_eq!(told["instance"], B);
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("only candidate of 2"), "{reason}");

    let drain = format!("/instances/main-backend/{B}/drain");
    assert_eq!(world.post(&drain).await.status, 200);
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told["candidates"][1]["excluded"], "draining");
    assert_eq!(told["refused"]["status"], 503);
    assert_eq!(told["refused"]["reason"], "no_instance");
    assert!(told.get("instance").is_none());
    assert_eq!(b.in_flight(), 0);
}

#[tokio::test]
async fn a_destination_matters_when_it_is_said() {
    let world = World::new();
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told.get("routes_left_out"), None, "{told}");
    let mut desired = desired();
    desired.routes.push(RouteSpec {
        destination: Some(GatewayVip {
            prefix: "192.0.2.0/24".parse().unwrap(),
            ports: Ports::One(80),
        }),
        ..RouteSpec::new(PathPattern::Prefix("/".to_owned()), name("ocr-service"))
    });
    let change = Change::Configure(Box::new(desired));
    world.registry.apply(change).unwrap();
    for (query, service, left_out) in [
        ("url=/api/v1/auth", "main-backend", Some(1)),
        // A host is no destination.
        ("url=http://192.0.2.7/api/v1/auth", "main-backend", Some(1)),
        (
            "url=/api/v1/auth&destination=192.0.2.7:80",
            "ocr-service",
            None,
        ),
        (
            "url=/api/v1/auth&destination=[::ffff:192.0.2.7]:80",
            "ocr-service",
            None,
        ),
        (
            "url=/api/v1/auth&destination=192.0.2.7:81",
            "main-backend",
            None,
        ),
    ] {
        let told = explain(&world, query).await;
        assert_eq!(told["service"], service, "{query}");
        let found = told.get("routes_left_out").and_then(Value::as_u64);
        assert_eq!(found, left_out, "{query}");
        let to = query.split_once("destination=").map(|(_, to)| to);
        assert_eq!(
            told["request"].get("destination").and_then(Value::as_str),
            to
        );
        let route = &told["route"]["destination"];
        assert_eq!(*route == "192.0.2.0/24:80", service == "ocr-service");
    }
}

#[tokio::test]
async fn a_key_decides_alike_each_time_and_without_one_the_client_does() {
    let world = World::new();
    let mut desired = desired();
    desired.services[0].algorithm = Algorithm::ConsistentHash;
    desired.services[0].hash_key = HashKey::Header("x-user".to_owned());
    let change = Change::Configure(Box::new(desired));
    world.registry.apply(change).unwrap();
    let ask = async |user: u32, client: u32| {
        let told = explain(
            &world,
            &format!("url=/api/v1/auth&header=X-User:%20{user}&client=10.0.0.{client}"),
        )
        .await;
        assert_eq!(told["key"]["source"], "header x-user");
        assert_eq!(told["request"]["client"], format!("10.0.0.{client}"));
        told["instance"].as_str().unwrap().to_owned()
    };
    let mut seen = std::collections::HashSet::new();
    for user in 0..20 {
        let chosen = ask(user, 1).await;
        assert_eq!(chosen, ask(user, 2).await);
        seen.insert(chosen);
    }
    assert_eq!(seen.len(), 2);
    // The port is a part of a flow, and no part of an address.
    let told = explain(&world, "url=/api/v1/auth&client=10.0.0.1:5").await;
    assert_eq!(told["request"]["client"], "10.0.0.1");
}

#[tokio::test]
async fn what_lb_would_refuse_is_told_as_such() {
    let world = World::new();
    for (query, status, reason) in [
        ("url=/nowhere", 404, "no_route"),
        ("url=/api/v1/auth/../x", 400, "bad_request"),
        ("url=/api/v1/auth&method=TRACE", 501, "unsupported"),
    ] {
        let told = explain(&world, query).await;
        assert_eq!(told["refused"]["status"], status, "{query}");
        assert_eq!(told["refused"]["reason"], reason, "{query}");
        assert_eq!(told["candidates"].as_array().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn it_takes_no_turn_and_counts_nothing() {
    let world = World::new();
    let before = world.instance("main-backend", 0).asked();
    for _ in 0..3 {
        explain(&world, "url=/api/v1/auth").await;
    }
    for position in 0..2 {
        let instance = world.instance("main-backend", position);
        assert_eq!(instance.asked(), before);
        assert_eq!(instance.totals_of_all().successes, 0);
    }
    let stats = world.registry.snapshot();
    let stats = &stats.service("main-backend").unwrap().stats;
    assert!(
        crate::model::Reason::ALL
            .iter()
            .all(|r| stats.answers(*r) == 0)
    );
}

#[tokio::test]
async fn queries_are_read_or_refused() {
    let world = World::new();
    for (query, pointer) in [
        ("", "url"),
        ("url=", "url"),
        ("url=relative", "url"),
        ("url=example.org:80", "url"),
        ("url=/&url=/", "url"),
        ("url=/&method=G%20T", "method"),
        ("url=/&client=me", "client"),
        ("url=/&destination=192.0.2.7", "destination"),
        ("url=/&destination=a:80", "destination"),
        ("url=/&header=none", "header"),
        ("url=/&header=a%0Ab:%201", "header"),
        ("url=/&path=/", ""),
    ] {
        let path = format!("/api/v1/loadbalancer{PATH}?{query}");
        let problem = world.ask(Method::GET, &path).await.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
}

#[tokio::test]
async fn a_session_goes_where_it_is_pinned() {
    let world = World::new();
    let ask = "url=/api/v1/auth&header=X-Session-ID:%20abc";
    let told = explain(&world, ask).await;
    let session = crate::affinity::SessionId::of(b"abc");
    assert_eq!(told["session"]["session"], session.to_string());
    assert_eq!(told["session"]["way"], "new");
    assert!(told["candidates"][1]["chance"].as_f64() < Some(1.0));
    let service = name("main-backend");
    let pinned = world.instance("main-backend", 0);
    let (scope, ttl) = (
        crate::affinity::store::scope(&service),
        Duration::from_secs(60),
    );
    let store = world.registry.sessions();
    store.pin(
        session,
        scope,
        pinned.identity,
        None,
        ttl,
        world.clock.now(),
    );
    let told = explain(&world, ask).await;
    assert_eq!(told["session"]["way"], "memory");
    assert_eq!(told["session"]["instance"], A);
    assert_eq!(
        (&told["instance"], &told["candidates"][0]["chance"]),
        (&A.into(), &1.0.into())
    );
    assert_eq!(told["reason"], format!("its session is pinned to {A}"));
    world.health(&pinned, Health::Unhealthy, "gone");
    let told = explain(&world, ask).await;
    assert_eq!(told["session"]["broken"], "unavailable");
    assert_eq!(told["instance"], B);
    // Asking keeps nobody alive.
    let entry = store.find(session, world.clock.now())[0];
    assert!(entry.expires <= world.clock.now() + ttl + Duration::from_secs(1));
}

#[tokio::test]
async fn open_breakers_are_the_reason_of_a_refusal() {
    let world = World::new();
    let path = "/breakers/main-backend";
    world.post(&format!("{path}/{A}/open")).await.data();
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told["candidates"][0]["excluded"], "breaker_open");
    assert_eq!((&told["instance"], told.get("refused")), (&B.into(), None));
    world.post(&format!("{path}/{B}/open")).await.data();
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told["refused"]["reason"], "breaker_open", "{told}");
    world.post(&format!("{path}/open")).await.data();
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told["refused"]["reason"], "service_breaker_open", "{told}");
}

#[tokio::test]
async fn instances_without_a_free_place_are_told_as_full() {
    let world = World::new();
    let mut desired = desired();
    desired.services[0].limits.instance = std::num::NonZeroU32::new(1);
    let change = Change::Configure(Box::new(desired));
    world.registry.apply(change).unwrap();
    let busy = [0, 1].map(|position| {
        let instance = world.instance("main-backend", position);
        instance.begin(Algorithm::Adaptive, 0, &world.clock)
    });
    let told = explain(&world, "url=/api/v1/auth").await;
    assert_eq!(told["candidates"][0]["excluded"], "full");
    assert_eq!(told["refused"]["reason"], "at_capacity");
    drop(busy);
    let told = explain(&world, "url=/api/v1/auth").await;
    assert!(told["candidates"][0].get("excluded").is_none());
    assert!(told.get("refused").is_none());
}

#[tokio::test]
async fn connections_that_are_all_in_use_are_told_and_idle_ones_are_none_of_them() {
    let world = World::new();
    let mut desired = desired();
    desired.services[0].limits.connections = std::num::NonZeroU32::new(1);
    let change = Change::Configure(Box::new(desired));
    world.registry.apply(change).unwrap();
    let opened = {
        let snapshot = world.registry.snapshot();
        let member = &snapshot.service("main-backend").unwrap().members[0];
        let opened = member.instance.try_connect(&member.most_connections, 0);
        opened.unwrap()
    };
    let told = explain(&world, "url=/api/v1/auth").await;
    // The service has as many as it may have, so b is out of them as well.
    for candidate in told["candidates"].as_array().unwrap() {
        assert_eq!(candidate["excluded"], "no_connection", "{told}");
    }
    assert_eq!(told["refused"]["reason"], "connection_limit");
    let shown = world.get(&format!("/instances/main-backend/{A}")).await;
    assert_eq!(shown["connections"]["open"], 1, "{shown}");
    assert_eq!(shown.get("max_connections"), None, "{shown}");
    let limits = world.get("/limits").await;
    let service = &limits["services"][0];
    assert_eq!(
        (&service["max_connections"], &service["connections"]),
        (&1.into(), &1.into()),
        "{limits}"
    );
    drop(opened.connection().take());
    let told = explain(&world, "url=/api/v1/auth").await;
    assert!(told.get("refused").is_none(), "{told}");
    assert!(told["candidates"][1].get("excluded").is_none(), "{told}");
}
