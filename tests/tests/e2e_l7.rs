//! Requests through the proxy: routes, algorithms, instances that fail, names of instances.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::daemon::Daemon;
use lb_tests::instance::{self, Instance};
use lb_tests::nginx::Nginx;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::{Family, Topology};
use lb_tests::{cleanup, tally::Tally};
use serde_json::{Value, json};

/// The configuration of the integration guide's services, as it is shipped.
const GUIDE: &str = include_str!("../../examples/openpenpal.toml");

/// Which ports the guide's services have, and a path of each.
const SERVICES: [(&str, &[u16], &str); 6] = [
    ("main", &[8080, 8081], "/api/v1/auth/login"),
    ("main", &[], "/api/v1/users"),
    ("write", &[8001, 8011], "/api/v1/letters/write/7?draft=1"),
    ("courier", &[8002, 8012], "/api/v1/courier/tasks"),
    ("admin", &[8003], "/api/v1/admin/users"),
    ("ocr", &[8004], "/api/v1/ocr/"),
];

fn shop(weights: &[u16]) -> Configuration {
    let settings = "hash_key = \"path\"\nhash_bound = 0\nhealth_check = { enabled = true, path = \"/health\", \
                    interval = \"200ms\", timeout = \"150ms\", rise = 1, fall = 2 }";
    Configuration::new("[\"0.0.0.0:80\", \"[::]:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, weights, settings)
        .route("/shop", "shop")
}

/// Requests that are sent until they are told to stop.
fn endless(scene: &Scene, path: &str) -> Load {
    let plan = Plan {
        requests: None,
        pause: Duration::from_millis(1),
        ..Plan::requests(scene.gateway(80), path, 0)
    };
    load::start(&scene.topology.client.namespace, plan)
}

/// Waits until so many more requests were sent.
fn more(load: &Load, count: u64) -> Result<()> {
    let goal = load.sent() + count;
    let done = cleanup::within(Duration::from_secs(10), || load.sent() >= goal);
    ensure!(done, "{count} more requests take more than ten seconds");
    Ok(())
}

fn requests(scene: &Scene, path: &str, count: u64) -> Result<Tally> {
    let plan = Plan::requests(scene.gateway(80), path, count);
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(tally.failures().is_empty(), "{path}: {tally}");
    Ok(tally)
}

#[test]
#[ignore = "needs root"]
fn the_guides_services_are_routed() -> Result<()> {
    let topology = Topology::new(0)?;
    let host = &topology.balancer;
    let mut running = Vec::new();
    for (name, ports, _) in SERVICES {
        for port in ports {
            let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port);
            running.push(Instance::start_http(host, &format!("{name}-{port}"), at)?);
        }
    }
    let daemon = Daemon::start(host, GUIDE)?;
    let client = &topology.client.namespace;
    for (name, _, path) in SERVICES {
        let url = format!("http://{}:8000{path}", host.v4);
        for _ in 0..4 {
            let answer = curl(client, &[&url])?;
            ensure!(
                answer.status == 200 && answer.body.starts_with(name),
                "{path}: {answer:?}"
            );
        }
    }
    let url = |path: &str| format!("http://{}:8000{path}", host.v4);
    // A prefix ends at a slash, and lb's own paths are not the admin service's.
    for (path, status) in [
        ("/api/v1/authors", 404),
        ("/", 404),
        ("/api/v1/admin/loadbalancer/reload", 401),
        ("/api/v1/auth/../admin/users", 400),
    ] {
        let answer = curl(client, &["--path-as-is", &url(path)])?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    let none = curl(client, &["--head", &url("/nowhere")])?;
    ensure!(
        none.body.to_lowercase().contains("proxy-status: lb"),
        "{none:?}"
    );
    let algorithms = daemon.get("/algorithms")?;
    let expected = [
        ("admin-service", "weighted_round_robin"),
        ("courier-service", "health_aware"),
        ("main-backend", "adaptive"),
        ("ocr-service", "least_connections"),
        ("write-service", "least_response_time"),
    ];
    let expected =
        expected.map(|(service, algorithm)| json!({"service": service, "algorithm": algorithm}));
    ensure!(
        algorithms["services"] == Value::from(expected.to_vec()),
        "{}",
        algorithms["services"]
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn files_of_nginx_arrive_whole() -> Result<()> {
    let topology = Topology::new(2)?;
    let large: Vec<u8> = (0..24_u32 << 20)
        .map(|at| (at ^ (at >> 9)).to_le_bytes()[0])
        .collect();
    let files: [(&str, &[u8]); 2] = [("large", &large), ("small", b"0123456789")];
    let _nginx = (
        Nginx::start(&topology.instances[0], 8080, &files)?,
        Nginx::start(&topology.instances[1], 8080, &files)?,
    );
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .service("files", 8080, &[1, 1], "algorithm = \"round_robin\"")
        .with("[[routes]]\nhost = \"*.files.test\"\npath = \"/*\"\nservice = \"files\"");
    let _daemon = Daemon::start(&topology.balancer, configuration.text())?;
    let client = &topology.client.namespace;
    let gateway = format!("lb.files.test:80:{}", topology.balancer.v4);
    let get = |arguments: &[&str]| curl(client, &[&["--resolve", &gateway], arguments].concat());

    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    let got = get(&["--output", &path, "http://lb.files.test/large"])?;
    ensure!(got.status == 200, "{got:?}");
    ensure!(std::fs::read(&path)? == large, "the file came broken");
    // curl keeps its connection over several URLs; round robin shows on it.
    let url = "http://lb.files.test/small";
    let both = get(&["--include", url, url, url, url])?;
    let names = |name: &str| both.body.matches(&format!("x-instance: {name}")).count();
    ensure!((names("i1"), names("i2")) == (2, 2), "{both:?}");
    let part = get(&["--range", "2-5", url])?;
    ensure!(
        (part.status, part.body.as_str()) == (206, "2345"),
        "{part:?}"
    );
    let head = get(&["--head", url])?;
    ensure!(
        head.status == 200 && head.body.to_lowercase().contains("content-length: 10"),
        "{head:?}"
    );
    let etag = head.body.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("etag: ")
            .map(str::to_owned)
    });
    let etag = etag.map(|etag| format!("If-None-Match: {}", etag.trim()));
    let unchanged = get(&["--header", etag.as_deref().unwrap_or_default(), url])?;
    ensure!(unchanged.status == 304, "{unchanged:?}");
    let missing = get(&["http://lb.files.test/missing"])?;
    ensure!(
        missing.status == 404 && missing.body.contains("nginx"),
        "{missing:?}"
    );
    let other = curl(client, &[&format!("http://{}/small", topology.balancer.v4)])?;
    ensure!(
        other.status == 404 && !other.body.contains("nginx"),
        "{other:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn uploads_arrive_whole() -> Result<()> {
    let scene = Scene::new(1, shop(&[1]).text())?;
    let file = tempfile::NamedTempFile::new()?;
    let length = 24 << 20;
    file.as_file().set_len(length)?;
    let path = file.path().to_string_lossy().into_owned();
    let url = format!("http://{}/shop/upload", scene.topology.balancer.v4);
    for way in [
        &["--upload-file", path.as_str()][..],
        &[
            "--upload-file",
            &path,
            "--header",
            "Transfer-Encoding: chunked",
        ],
    ] {
        let sent = curl(
            &scene.topology.client.namespace,
            &[way, &["--include", &url]].concat(),
        )?;
        let received = format!("x-received: {length}");
        ensure!(
            sent.status == 200 && sent.body.contains(&received),
            "{sent:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn no_request_fails_while_the_algorithm_is_changed() -> Result<()> {
    let scene = Scene::new(3, shop(&[20, 10, 10]).text())?;
    let load = endless(&scene, "/shop/{}");
    let list = scene.daemon.get("/algorithms")?;
    let all = list["algorithms"].as_array().cloned().unwrap_or_default();
    ensure!(all.len() == 7, "{list}");
    for round in 0..2 {
        for algorithm in all.iter().filter_map(|one| one["name"].as_str()) {
            let set = scene
                .daemon
                .put("/algorithms/shop", &json!({"algorithm": algorithm}))?;
            ensure!(set["algorithm"] == algorithm, "{set}");
            more(&load, 100)?;
            if round == 0 {
                continue;
            }
            let tally = requests(&scene, "/shop/other/{}", 200)?;
            // The others go by what they measure, and may find one instance enough.
            let spreads = ["round_robin", "weighted_round_robin", "consistent_hash"];
            ensure!(
                tally.instances() == 3 || !spreads.contains(&algorithm),
                "{algorithm}: {tally}"
            );
            if algorithm == "consistent_hash" {
                let same = requests(&scene, "/shop/same", 30)?;
                ensure!(same.instances() == 1, "{algorithm}: {same}");
            }
        }
    }
    let all = load.stop()?;
    ensure!(all.failures().is_empty() && all.instances() == 3, "{all}");

    // In turn, by weight.
    scene.daemon.put(
        "/algorithms/shop",
        &json!({"algorithm": "weighted_round_robin"}),
    )?;
    let tally = requests(&scene, "/shop/{}", 400)?;
    for (name, expected) in [("i1", 0.5), ("i2", 0.25), ("i3", 0.25)] {
        ensure!((tally.share(name) - expected).abs() < 0.03, "{tally}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn no_request_fails_when_an_instance_dies() -> Result<()> {
    let mut scene = Scene::new(3, shop(&[10, 10, 10]).text())?;
    let load = endless(&scene, "/shop/{}");
    more(&load, 300)?;
    scene.kill("i2")?;
    let path = "/instances/shop/10.77.0.12:8080";
    let limit = Duration::from_secs(3);
    scene
        .daemon
        .wait_for(path, limit, |one| one["health"] == "unhealthy")?;
    more(&load, 300)?;
    let without = requests(&scene, "/shop/{}", 60)?;
    ensure!(without.of("i2") == 0, "{without}");
    let health = scene.daemon.get("/health")?;
    ensure!(health["status"] == "degraded", "{health}");
    scene.revive("i2")?;
    scene
        .daemon
        .wait_for(path, limit, |one| one["health"] == "healthy")?;
    more(&load, 300)?;
    let all = load.stop()?;
    ensure!(all.failures().is_empty() && all.of("i2") > 0, "{all}");
    let again = requests(&scene, "/shop/{}", 60)?;
    ensure!(again.of("i2") > 0, "{again}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_comes_back_has_its_step_under_every_algorithm() -> Result<()> {
    let mut scene = Scene::new(3, shop(&[10, 10, 10]).text())?;
    let (path, limit) = ("shop/10.77.0.12:8080", Duration::from_secs(3));
    let (one, force) = (
        format!("/instances/{path}"),
        format!("/recovery/{path}/force"),
    );
    let wait = |scene: &Scene, health: &str| {
        scene
            .daemon
            .wait_for(&one, limit, |one| one["health"] == health)
    };
    wait(&scene, "healthy")?;
    scene.kill("i2")?;
    wait(&scene, "unhealthy")?;
    scene.revive("i2")?;
    let back = wait(&scene, "healthy")?;
    ensure!(back["recovery"].is_object(), "{back}");
    let algorithms = scene.daemon.get("/algorithms")?;
    let names = algorithms["algorithms"].as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.len() == 7, "{algorithms}");
    for algorithm in names {
        let set = json!({"algorithm": algorithm});
        scene.daemon.put("/algorithms/shop", &set)?;
        let tally = requests(&scene, "/shop/{}", 2100)?;
        let off = tally.share("i2") - 1.0 / 21.0;
        ensure!(
            tally.failures().is_empty() && off.abs() < 0.02,
            "{algorithm}: {tally}"
        );
    }
    let list = scene.daemon.get("/recovery")?;
    ensure!(list["recoveries"][0]["recovery"]["share"] == 0.1, "{list}");
    let forced = scene.daemon.post(&force)?;
    ensure!(forced["recovery"].is_null(), "{forced}");
    scene.daemon.put(
        "/algorithms/shop",
        &json!({"algorithm": "weighted_round_robin"}),
    )?;
    let tally = requests(&scene, "/shop/{}", 300)?;
    ensure!((tally.share("i2") - 1.0 / 3.0).abs() < 0.03, "{tally}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_instance_answers_to_each_of_its_names() -> Result<()> {
    let configuration =
        shop(&[10, 10]).with("[services.named]\ninstances = [\"http://localhost:8080\"]");
    let scene = Scene::new(2, configuration.text())?;
    let daemon = &scene.daemon;
    let listed = daemon.get("/instances")?;
    ensure!(
        listed["instances"].as_array().map(Vec::len) == Some(3),
        "{listed}"
    );
    let one = "10.77.0.12:8080";
    let names = [
        ("shop", one.to_owned()),
        ("shop", format!("http://{one}")),
        ("shop", format!("http:/{one}")),
        ("shop", format!("http://{one}/")),
        ("shop", format!("http%3A%2F%2F{one}")),
        ("named", "http://localhost:8080".to_owned()),
        ("named", "localhost:8080".to_owned()),
        ("named", "127.0.0.1:8080".to_owned()),
    ];
    for (service, name) in &names {
        let path = format!("/instances/{service}/{name}");
        for (verb, admin) in [
            ("drain", "draining"),
            ("disable", "disabled"),
            ("enable", "enabled"),
        ] {
            let answer = daemon.post(&format!("{path}/{verb}"))?;
            ensure!(answer["admin"] == admin, "{path}/{verb}: {answer}");
            let seen = daemon.get(&path)?;
            ensure!(seen["admin"] == admin, "{path}: {seen}");
            if *service == "shop" && verb != "enable" {
                let tally = requests(&scene, "/shop/{}", 20)?;
                ensure!(tally.of("i2") == 0, "{path}: {tally}");
            }
        }
    }
    for path in [
        "/instances/shop/10.77.0.99:8080",
        "/instances/nothing/10.77.0.12:8080",
    ] {
        let error = daemon.post(&format!("{path}/drain")).err();
        let text = error.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(text.contains("404"), "{path}: {text:?}");
    }

    // The command line, which is a client of the same API.
    let shown = daemon.cli(&["instances", "drain", "shop", one])?;
    ensure!(shown.contains("drain"), "{shown}");
    let shown = daemon.cli(&[
        "instances",
        "drain",
        "shop",
        &format!("http://{one}"),
        "--wait",
    ])?;
    ensure!(shown.contains("is drained"), "{shown}");
    let listed = daemon.cli(&["--json", "instances", "list", "shop"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    ensure!(listed.to_string().contains("\"draining\""), "{listed}");
    daemon.cli(&["instances", "enable", "shop", one])?;
    let shown = daemon.cli(&["algorithm", "set", "shop", "least_connections"])?;
    ensure!(shown.contains("least_connections"), "{shown}");
    for command in ["status", "stats", "services", "routes", "vips", "metrics"] {
        let shown = daemon.cli(&[command])?;
        ensure!(shown.len() > 10, "lb {command}: {shown:?}");
    }
    Ok(())
}
