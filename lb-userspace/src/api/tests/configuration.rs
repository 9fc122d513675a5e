//! Changes of the configuration.

mod document;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const FILE: &str = r#"
[gateway]
listen = []
[api]
token = "hush-hush"
[defaults]
health_check.enabled = false
[services.web]
instances = ["http://127.0.0.1:8001", { endpoint = "http://127.0.0.1:8002", weight = 3 }]
[[routes]]
path = "/shop/*"
service = "web"
"#;

/// An API over [`FILE`], and the folder that it is in.
fn world(more: &str) -> (World, TempDir) {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state.json");
    let text = format!("[state]\nfile = {state:?}\n{FILE}{more}");
    let file = folder.path().join("lb.toml");
    std::fs::write(&file, text).unwrap();
    (World::of(&file), folder)
}

impl World {
    async fn send_json(&self, method: &str, path: &str, body: &Value, tag: Option<&str>) -> Got {
        let path = format!("/api/v1/loadbalancer{path}");
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let mut request = local(method.parse().unwrap(), &path, body);
        let headers = request.headers_mut();
        headers.insert("content-type", "application/json".parse().unwrap());
        if let Some(tag) = tag {
            headers.insert("if-match", tag.parse().unwrap());
        }
        self.send(request).await
    }

    async fn change(&self, method: &str, path: &str, body: Value) -> Got {
        self.send_json(method, path, &body, None).await
    }

    fn weights(&self, service: &str) -> Vec<u16> {
        let snapshot = self.registry.snapshot();
        let service = snapshot.service(service).unwrap();
        service.statuses.iter().map(|s| s.weight).collect()
    }
}

fn errors(problem: &Value) -> Vec<(String, Option<String>)> {
    let errors = problem["errors"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    errors
        .map(|one| (text(&one["pointer"]).unwrap(), text(&one["origin"])))
        .collect()
}

#[tokio::test]
async fn a_service_is_made_changed_and_removed() {
    let (world, _folder) = world("");
    let new = json!({"name": "new", "instances": ["http://127.0.0.1:9001"]});
    let made = world.change("POST", "/services", new.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let location = "/api/v1/loadbalancer/services/new";
    assert_eq!(made.header("location"), location);
    let done = made.data();
    assert_eq!(
        (&done["persisted"], &done["config_revision"]),
        (&true.into(), &2.into())
    );
    assert_eq!(done["changes"], json!(["service new added"]));
    assert_eq!(
        done["diff"],
        json!([{"pointer": "/services/new", "after": {"instances": [{"endpoint": "http://127.0.0.1:9001"}]}}])
    );
    let shown = world.ask(Method::GET, location).await;
    assert_eq!(shown.header("etag"), made.header("etag"));
    assert_eq!(
        shown.data()["config"],
        json!({"instances": [{"endpoint": "http://127.0.0.1:9001"}]})
    );
    let problem = world.change("POST", "/services", new).await.problem(409);
    assert!(
        problem["detail"].as_str().unwrap().contains(location),
        "{problem}"
    );
    let nameless = json!({"instances": []});
    let problem = world
        .change("POST", "/services", nameless)
        .await
        .problem(400);
    assert_eq!(errors(&problem), [("/name".to_owned(), None)]);

    let patch = json!({"algorithm": "adaptive", "timeouts": {"connect": "1s"}});
    let done = world.change("PATCH", "/services/new", patch).await.data();
    assert_eq!(done["diff"].as_array().unwrap().len(), 2);
    let put = json!({"instances": [{"endpoint": "http://127.0.0.1:9001", "weight": 9}]});
    world
        .change("PUT", "/services/new", put.clone())
        .await
        .data();
    assert_eq!(world.get("/services/new").await["config"], put);
    assert_eq!(world.weights("new"), [9]);
    let made = world.change("PUT", "/services/other", put).await;
    assert_eq!(made.status, 201);

    // What something leads to cannot go, and the answer says what that is.
    let problem = world
        .change("DELETE", "/services/web", Value::Null)
        .await
        .problem(422);
    let [(pointer, origin)] = &*errors(&problem) else {
        panic!("{problem}");
    };
    assert_eq!(pointer, "/routes/*~1shop~1*/service");
    assert!(origin.as_ref().unwrap().contains("lb.toml:"), "{origin:?}");
    world
        .change("DELETE", "/services/new", Value::Null)
        .await
        .data();
    assert_eq!(world.ask(Method::GET, location).await.status, 404);
    let problem = world
        .change("PATCH", "/services/new", json!({}))
        .await
        .problem(404);
    assert_eq!(problem["known"], json!(["other", "web"]));
}

#[tokio::test]
async fn instances_are_added_changed_and_removed_by_any_of_their_names() {
    let (world, _folder) = world("");
    let new = json!({"endpoint": "http://127.0.0.1:8003", "weight": 5});
    let made = world.change("POST", "/instances/web", new.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let location = made.header("location").to_owned();
    assert_eq!(
        location,
        "/api/v1/loadbalancer/instances/web/http%3A%2F%2F127.0.0.1%3A8003"
    );
    assert_eq!(world.weights("web"), [1, 3, 5]);
    world
        .change("POST", "/instances/web", new)
        .await
        .problem(409);
    let shown = world.ask(Method::GET, &location).await;
    assert_eq!(shown.header("etag"), made.header("etag"));
    for (name, weight) in [
        ("127.0.0.1:8001", 11),
        ("http://127.0.0.1:8001", 12),
        ("http:/127.0.0.1:8001/", 13),
        ("http%3A%2F%2F127.0.0.1%3A8001", 14),
    ] {
        let path = format!("/instances/web/{name}");
        world
            .change("PATCH", &path, json!({"weight": weight}))
            .await
            .data();
        assert_eq!(world.weights("web"), [weight, 3, 5]);
    }
    world
        .change(
            "PUT",
            "/instances/web/127.0.0.1:8002",
            json!({"max_requests": 7}),
        )
        .await
        .data();
    assert_eq!(world.weights("web"), [14, 1, 5]);
    let made = world
        .change("PUT", "/instances/web/http:/127.0.0.1:8004", json!({}))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let renamed = json!({"endpoint": "http://127.0.0.1:1"});
    let problem = world
        .change("PATCH", "/instances/web/127.0.0.1:8001", renamed)
        .await;
    assert_eq!(errors(&problem.problem(400))[0].0, "/endpoint");
    let bad = json!({"endpoint": "http://127.0.0.1:8005", "weight": "heavy", "wait": 1});
    let problem = world
        .change("POST", "/instances/web", bad)
        .await
        .problem(422);
    let expected = ["/wait", "/weight"].map(|pointer| (pointer.to_owned(), None));
    assert_eq!(errors(&problem), expected);
    let nowhere = world
        .change(
            "POST",
            "/instances/none",
            json!({"endpoint": "127.0.0.1:1"}),
        )
        .await;
    assert_eq!(nowhere.problem(404)["known"], json!(["web"]));
    world
        .change("DELETE", "/instances/web/127.0.0.1:8001", Value::Null)
        .await
        .data();
    let problem = world
        .change("DELETE", "/instances/web/127.0.0.1:8001", Value::Null)
        .await;
    let known = problem.problem(404)["known"].as_array().unwrap().len();
    assert_eq!((known, world.weights("web").len()), (3, 3));
    let method = world.change("PATCH", "/instances/web", json!({})).await;
    assert_eq!(
        (method.status.as_u16(), method.header("allow")),
        (405, "GET, HEAD, POST, OPTIONS")
    );
}

#[tokio::test]
async fn routes_and_vips_go_by_what_they_match() {
    let (world, _folder) = world("[datapath]\ninterfaces = [\"lo\"]\n");
    let route = json!({"host": "Example.org", "path": "/", "service": "web"});
    let made = world.change("POST", "/routes", route).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        made.header("location"),
        "/api/v1/loadbalancer/routes/example.org%2F"
    );
    for path in ["/routes/example.org/", "/routes/example.org%2F"] {
        assert_eq!(world.get(path).await["name"], "example.org/");
    }
    let put = world
        .change("PUT", "/routes/*/new/*", json!({"service": "web"}))
        .await;
    assert_eq!(put.status, 201, "{}", put.body);
    assert_eq!(
        world.get("/routes/*/new/*").await["config"],
        json!({"path": "/new/*", "service": "web"})
    );
    world
        .change("PATCH", "/routes/*/new/*", json!({"priority": 1}))
        .await
        .data();
    let problem = world
        .change("PATCH", "/routes/*/new/*", json!({"service": "none"}))
        .await;
    assert_eq!(
        errors(&problem.problem(422)),
        [("/service".to_owned(), None)]
    );
    world
        .change("DELETE", "/routes/*/new/*", Value::Null)
        .await
        .data();
    assert_eq!(
        world.get("/routes").await["routes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let problem = world
        .change("DELETE", "/routes/*/new/*", Value::Null)
        .await
        .problem(404);
    assert_eq!(problem["known"], json!(["*/shop/*", "example.org/"]));

    let route = json!({"destination": "192.0.2.0/24:80", "path": "/shop/*", "service": "web"});
    let made = world.change("POST", "/routes", route.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        made.header("location"),
        "/api/v1/loadbalancer/routes/192.0.2.0%2F24%3A80%20%2A%2Fshop%2F%2A"
    );
    let path = "/routes/192.0.2.0/24:80%20*/shop/*";
    assert_eq!(world.get(path).await["config"], route);
    let listed = json!({
        "destination": "192.0.2.0/24:80", "host": "*", "path": "/shop/*", "service": "web",
    });
    assert_eq!(world.get("/routes").await["routes"][1], listed);
    let problem = world.change("POST", "/routes", route).await.problem(409);
    assert!(problem.to_string().contains("192.0.2.0/24:80 */shop/*"));
    // A name is enough to make one, and it is no other than it says.
    let path = "/routes/[2001:db8::1]:any%20Example.org/";
    let put = world.change("PUT", path, json!({"service": "web"})).await;
    assert_eq!(put.status, 400, "{}", put.body);
    let path = path.to_lowercase();
    let put = world.change("PUT", &path, json!({"service": "web"})).await;
    assert_eq!(put.status, 201, "{}", put.body);
    assert_eq!(
        world.get(&path).await["config"],
        json!({
            "destination": "[2001:db8::1]:any", "host": "example.org", "path": "/", "service": "web",
        })
    );
    let other = json!({"destination": "[2001:db8::2]:any"});
    world.change("PATCH", &path, other).await.problem(400);
    for path in ["/routes/192.0.2.0/24:80%20*/shop/*", &path] {
        world.change("DELETE", path, Value::Null).await.data();
    }
    assert_eq!(
        world.get("/routes").await["routes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let vip = json!({"address": "192.0.2.9", "port": 80, "service": "web"});
    let made = world.change("POST", "/vips", vip).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        world.get("/vips").await["vips"][0]["vip"],
        "tcp/192.0.2.9:80"
    );
    let put = world
        .change("PUT", "/vips/udp/192.0.2.9:53", json!({"service": "web"}))
        .await;
    assert_eq!(put.status, 201, "{}", put.body);
    world
        .change("DELETE", "/vips/tcp/192.0.2.9:80", Value::Null)
        .await
        .data();
    assert_eq!(
        world.get("/vips").await["vips"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn a_drain_has_an_end_and_tells_how_far_it_is() {
    let (world, _folder) = world("");
    let path = "/instances/web/127.0.0.1:8001";
    let instance = world.instance("web", 0);
    let held = instance.begin(Algorithm::RoundRobin, 0, &world.clock);
    let drain = json!({"deadline": "1h"});
    let shown = world
        .change("POST", &format!("{path}/drain"), drain)
        .await
        .data();
    assert_eq!(shown["drain"]["requests"], 1);
    assert_eq!(shown["drain"]["then"], "disable");
    let left = shown["drain"]["seconds_left"].as_f64().unwrap();
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    for (body, pointer) in [
        (json!({"deadline": "soon"}), "/deadline"),
        (json!({"deadline": "0s"}), "/deadline"),
        (json!({"until": "1h"}), "/until"),
    ] {
        let problem = world
            .change("POST", &format!("{path}/drain"), body)
            .await
            .problem(400);
        assert_eq!(errors(&problem)[0].0, pointer);
    }
    // Another order ends it.
    let shown = world.post(&format!("{path}/enable")).await.data();
    assert_eq!(shown.get("drain"), None);
    assert!(world.state.keeper().view().drains.is_empty());

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let ends = tokio::spawn(end_drains(world.state.clone(), stopped));
    let admin = |position: usize| {
        let snapshot = world.registry.snapshot();
        snapshot.service("web").unwrap().statuses[position].admin
    };
    world
        .change("POST", &format!("{path}/drain"), json!({"deadline": "1ms"}))
        .await
        .data();
    for _ in 0..400 {
        if admin(0) == AdminState::Disabled {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(admin(0), AdminState::Disabled);
    // One that is to go does so when nothing is left.
    let other = "/instances/web/127.0.0.1:8002";
    let going = world
        .change("DELETE", &format!("{other}?drain=1h"), Value::Null)
        .await;
    assert_eq!(going.status, 202, "{}", going.body);
    assert_eq!(going.data()["drain"]["then"], "remove");
    for _ in 0..400 {
        if world.weights("web").len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(world.weights("web").len(), 1);
    let last = world.get("/config/revisions").await["revisions"][0].clone();
    assert_eq!(
        (&last["who"], &last["cause"]),
        (&"lb".into(), &"end of a drain".into())
    );
    drop(held);
    stop.send_replace(true);
    ends.await.unwrap();
}

#[tokio::test]
async fn without_a_state_file_changes_are_said_to_be_volatile() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("lb.toml");
    std::fs::write(&file, FILE).unwrap();
    let world = World::of(&file);
    let patch = json!({"weight": 8});
    let done = world
        .change("PATCH", "/instances/web/127.0.0.1:8001", patch)
        .await
        .data();
    assert_eq!(done["persisted"], false);
    assert_eq!(world.get("/config").await["persisted"], false);
}
