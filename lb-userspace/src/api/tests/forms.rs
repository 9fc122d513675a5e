//! Every way to name an instance.

use super::*;

#[tokio::test]
async fn an_instance_answers_to_each_of_its_names() {
    let world = World::new();
    for form in [
        "http://127.0.0.1:8081",
        "http://127.0.0.1:8081/",
        "http:/127.0.0.1:8081",
        "127.0.0.1:8081",
        "127.0.0.1:8081/",
        "http%3A%2F%2F127.0.0.1%3A8081",
        "http:%2F%2F127.0.0.1:8081",
        "http%3A//127.0.0.1%3a8081",
        "http%3A%2F%2F127.0.0.1%3A8081%2F",
        "127.0.0.1%3A8081",
    ] {
        let found = world.get(&format!("/instances/main-backend/{form}")).await;
        assert_eq!(found["instance"], B, "{form}");
        for (verb, state, drained) in [
            ("drain", "draining", Some(true)),
            ("disable", "disabled", Some(true)),
            ("enable", "enabled", None),
        ] {
            for slash in ["", "/"] {
                let path = format!("/instances/main-backend/{form}/{verb}{slash}");
                let got = world.post(&path).await;
                assert_eq!(got.status, 200, "{path}: {}", got.body);
                let data = got.data();
                assert_eq!(data["instance"], B, "{path}");
                assert_eq!(data["admin"], state, "{path}");
                assert_eq!(data["drained"].as_bool(), drained, "{path}");
                let other = world.get(&format!("/instances/main-backend/{A}")).await;
                assert_eq!(other["admin"], "enabled", "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_trailing_slash_makes_no_difference() {
    let world = World::new();
    for path in [
        "/stats",
        "/stats/main-backend",
        "/instances",
        "/instances/main-backend",
        "/algorithms",
        "/algorithms/main-backend",
        "/services",
        "/routes",
        "/vips",
    ] {
        let plain = world.get(path).await;
        assert_eq!(plain, world.get(&format!("{path}/")).await, "{path}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let world = World::new();
    for path in [
        "/health",
        "/api/v1/loadbalancer/stats",
        "/api/v1/loadbalancer/instances/main-backend/http://127.0.0.1:8081",
    ] {
        let got = world.ask(Method::HEAD, path).await;
        assert_eq!(
            (got.status.as_u16(), got.body.as_str()),
            (200, ""),
            "{path}"
        );
        let length: usize = got.header("content-length").parse().unwrap();
        let full = world.ask(Method::GET, path).await;
        assert_eq!(length, full.body.len(), "{path}");
    }
}

#[test]
fn the_gateway_gives_away_exactly_the_prefixes() {
    for path in [
        "/health",
        "/health/",
        "/metrics",
        "/api/v1/loadbalancer",
        "/api/v1/loadbalancer/instances/a/http://b:1/drain",
        "/api/v1/admin/loadbalancer/reload",
    ] {
        assert!(owns(path), "{path}");
    }
    for path in [
        "/",
        "/healthy",
        "/metrics2",
        "/api/v1/admin/users",
        "/api/v1/loadbalancers",
        "/x/health",
        "//health",
    ] {
        assert!(!owns(path), "{path}");
    }
}
