//! Sessions as the API lists and forgets them.

use super::*;
use crate::{
    affinity::{SessionId, store::scope},
    model::{Break, Followed},
};

const PATH: &str = "/api/v1/loadbalancer/sessions";

/// The world, and what `sessions` sessions have left behind.
fn world(sessions: usize) -> World {
    let world = World::new();
    for number in 0..sessions {
        pin(&world, &format!("s{number}"), "main-backend", number % 2);
    }
    world
}

fn pin(world: &World, id: &str, service: &str, at: usize) {
    let instance = world.instance(service, at).identity;
    let session = SessionId::of(id.as_bytes());
    let (number, ttl) = (scope(&name(service)), Duration::from_secs(1800));
    let store = world.registry.sessions();
    store.pin(session, number, instance, None, ttl, world.clock.now());
}

async fn list(world: &World, query: &str) -> Value {
    world
        .ask(Method::GET, &format!("{PATH}{query}"))
        .await
        .data()
}

#[tokio::test]
async fn a_session_is_listed_shown_and_forgotten_as_one() {
    let world = world(1);
    pin(&world, "s0", "ocr-service", 0);
    world.clock.advance(Duration::from_secs(60));
    let session = SessionId::of(b"s0").to_string();
    let all = list(&world, "").await;
    assert_eq!(all["sessions"][0]["session"], session.as_str());
    assert_eq!(all["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(all["store"]["entries"], 2);
    for named in ["s0", &session, &session.to_uppercase(), "s0/"] {
        let one = list(&world, &format!("/{named}")).await;
        assert_eq!(one, all["sessions"][0], "{named}");
    }
    let pins = all["sessions"][0]["pins"].as_array().unwrap();
    let of = |service: &str| pins.iter().find(|pin| pin["service"] == service).unwrap();
    assert_eq!(of("main-backend")["instance"], A);
    // To the second: an entry is not told a moment too old, nor expires a moment too soon.
    let seconds = |name: &str| of("main-backend")[name].as_f64().unwrap();
    assert!((60.0..61.0).contains(&seconds("age_seconds")));
    assert!((1740.0..1741.0).contains(&seconds("expires_in_seconds")));
    assert_eq!(pins.len(), 2);

    let path = format!("{PATH}/s0");
    let gone = world.ask(Method::DELETE, &path).await.data();
    assert_eq!(gone["entries"], 2);
    for method in [Method::DELETE, Method::GET] {
        let problem = world.ask(method, &path).await.problem(404);
        assert_eq!(problem["type"], "urn:lb:problem:no-such-session");
        assert!(!problem.to_string().contains("\"s0\""), "{problem}");
    }
    let problem = world.ask(Method::PUT, &path).await;
    assert_eq!(problem.header("allow"), "GET, HEAD, DELETE, OPTIONS");
    problem.problem(405);
}

#[tokio::test]
async fn pages_and_filters_show_every_session_once() {
    let world = world(25);
    let mut seen = Vec::new();
    let mut query = "?limit=10".to_owned();
    loop {
        let got = world.ask(Method::GET, &format!("{PATH}{query}")).await;
        let page = got.data();
        let link = got.header("link");
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 10);
        seen.extend(sessions.iter().map(|one| one["session"].to_string()));
        match page.get("next") {
            Some(next) => {
                query = format!("?limit=10&after={}", next.as_str().unwrap());
                assert_eq!(link, format!("<{query}>; rel=\"next\""));
            }
            None => {
                assert_eq!(link, "");
                break;
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 25);
    let count = async |query: &str| {
        list(&world, query).await["sessions"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("?service=main-backend").await, 25);
    assert_eq!(count("?service=ocr-service").await, 0);
    let here = format!("?service=main-backend&instance={A}");
    assert_eq!(count(&here).await, 13);
    for (query, status) in [
        ("?limit=0", 400),
        ("?limit=10001", 400),
        ("?limit=x", 400),
        ("?page=2", 400),
        ("?service=a&service=a", 400),
        ("?instance=x", 400),
        ("?service=nobody", 404),
        ("?service=main-backend&instance=x", 404),
    ] {
        let answer = world.ask(Method::GET, &format!("{PATH}{query}")).await;
        answer.problem(status);
    }
    let gone = world.ask(Method::DELETE, PATH).await.data();
    assert_eq!(gone["entries"], 25);
    assert_eq!(count("").await, 0);
    // Cookies that are out there are over, too.
    assert!(world.registry.sessions().cleared() > 0);
}

#[tokio::test]
async fn figures_are_those_of_services_with_affinity_and_a_reset_ends_them() {
    let world = world(2);
    let stats = Arc::clone(
        &world
            .registry
            .snapshot()
            .service("main-backend")
            .unwrap()
            .affinity,
    );
    (0..3).for_each(|_| stats.follow(0, Followed::Hit));
    stats.follow(0, Followed::Broken);
    stats.broke(0, Break::Failed);
    let all = list(&world, "").await;
    let services = all["services"].as_array().unwrap();
    assert_eq!(services.len(), 1);
    let main = &services[0];
    assert_eq!(
        (&main["service"], &main["ttl_seconds"]),
        (&"main-backend".into(), &1800.0.into())
    );
    assert_eq!(
        (&main["requests"]["hit"], &main["requests"]["broken"]),
        (&3.into(), &1.into())
    );
    assert_eq!(
        (&main["hit_rate"], &main["breaks"]["failed"]),
        (&0.75.into(), &1.into())
    );
    let path = "/api/v1/admin/loadbalancer/reset";
    world.ask(Method::POST, path).await.data();
    let all = list(&world, "").await;
    assert_eq!(all["store"]["entries"], 0);
    assert_eq!(all["services"][0]["requests"]["hit"], 0);
    assert_eq!(all["services"][0].get("hit_rate"), None);
}
