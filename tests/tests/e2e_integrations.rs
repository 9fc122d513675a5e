//! Systems beside lb: what they say is followed, what they are told is true, and whatever is wrong
//! with them no request notices.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::beside::{Beside, Manner};
use lb_tests::client::http;
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use serde_json::Value;

/// Where the system beside lb is, in the balancer's namespace.
const BESIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

const METRICS: &str = "/monitoring/metrics";

/// How long something may take that is to happen soon.
const SOON: Duration = Duration::from_secs(20);

fn configuration(integration: &str) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[10, 10], "")
        .service_over(&[Family::V4], "cart", instance::HTTP, &[10], "")
        .route("/shop", "shop")
        .route("/cart", "cart")
        .with(integration)
}

fn both() -> String {
    format!(
        "[integration.circuit_breaker]\nurl = \"http://{BESIDE}\"\ncheck_interval = \"1s\"\n\
         [integration.metrics]\nurl = \"http://{BESIDE}/\"\ninterval = \"500ms\"\nqueue = 5"
    )
}

fn ask(scene: &Scene, path: &str) -> Result<http::Answer> {
    let client = &scene.topology.client.namespace;
    http::request(client, scene.gateway(80), Method::GET, path, "")
}

/// How an integration fares.
fn integration(all: &Value, name: &str) -> Value {
    let list = all["integrations"].as_array().cloned().unwrap_or_default();
    let mut list = list.into_iter();
    list.find(|one| one["integration"] == name)
        .unwrap_or_default()
}

fn figure(scene: &Scene, name: &str, figure: &str) -> Result<u64> {
    let all = scene.daemon.get("/integrations")?;
    let found = integration(&all, name);
    found[figure]
        .as_u64()
        .with_context(|| format!("no {figure} of {name} in {all}"))
}

/// Waits until the backend's word about the shop is this.
fn word(scene: &Scene, state: &str) -> Result<Value> {
    let said = |all: &Value| {
        let words = all["breakers"].as_array().cloned().unwrap_or_default();
        let mut words = words.iter();
        words.any(|word| word["service"] == "shop" && word["state"] == state)
    };
    scene.daemon.wait_for("/integrations", SOON, said)
}

#[test]
#[ignore = "needs root"]
fn what_the_breaker_backend_says_is_followed() -> Result<()> {
    let scene = Scene::new(2, configuration(&both()).text())?;
    let beside = Beside::start(&scene.topology.balancer.namespace, BESIDE)?;
    word(&scene, "closed")?;
    ensure!(ask(&scene, "/shop")?.status == 200);

    beside.says("shop", "OPEN");
    word(&scene, "open")?;
    let answer = ask(&scene, "/shop")?;
    ensure!(
        answer.status == 503 && answer.text() == "breaker_backend_open",
        "{answer:?}"
    );
    let again = answer
        .headers
        .get("retry-after")
        .context("no Retry-After")?;
    ensure!(again == "1", "{again:?}");
    // It is a word about one service.
    ensure!(ask(&scene, "/cart")?.status == 200);
    let list = scene.daemon.cli(&["breakers", "list", "shop"])?;
    ensure!(list.contains("open, says the backend"), "{list}");
    let status = scene.daemon.cli(&["status"])?;
    ensure!(status.contains("in the backend is open"), "{status}");
    let metrics = scene.daemon.cli(&["metrics"])?;
    let line = "lb_breaker_backend_state{service=\"shop\",state=\"open\"} 1";
    ensure!(metrics.contains(line), "{metrics}");
    // An operator knows better.
    scene.daemon.cli(&["breakers", "close", "shop"])?;
    ensure!(ask(&scene, "/shop")?.status == 200);
    scene.daemon.cli(&["breakers", "reset", "shop"])?;
    word(&scene, "open")?;
    let refused = || ask(&scene, "/shop").is_ok_and(|answer| answer.status == 503);
    ensure!(
        lb_tests::cleanup::within(SOON, refused),
        "the order was not forgotten"
    );

    // Half-open: requests pass, and what becomes of them lets all pass.
    beside.says("shop", "half_open");
    word(&scene, "half_open")?;
    for _ in 0..20 {
        let answer = ask(&scene, "/shop")?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    // Gone while it is open: after three polls nobody believes it any more.
    beside.says("shop", "OPEN");
    word(&scene, "open")?;
    beside.goes();
    let served = || ask(&scene, "/shop").is_ok_and(|answer| answer.status == 200);
    ensure!(
        lb_tests::cleanup::within(SOON, served),
        "it is believed for ever"
    );
    beside.comes_back()?;
    word(&scene, "open")?;
    ensure!(ask(&scene, "/shop")?.status == 503);
    // A reload that takes it away takes back what it said.
    scene.daemon.configure(configuration("").text())?;
    scene.daemon.cli(&["reload"])?;
    ensure!(
        lb_tests::cleanup::within(SOON, served),
        "it is followed though it is off"
    );
    let all = scene.daemon.get("/integrations")?;
    ensure!(
        integration(&all, "circuit_breaker")["state"] == "off",
        "{all}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_systems_are_told_is_what_instances_did() -> Result<()> {
    let mut scene = Scene::new(2, configuration(&both()).text())?;
    let beside = Beside::start(&scene.topology.balancer.namespace, BESIDE)?;
    word(&scene, "closed")?;
    let path = "/monitoring/circuit-breakers/shop/events";
    let count = |event: &str| -> u64 {
        let posts = beside.posted(path);
        let lists = posts.iter().filter_map(Value::as_array).flatten();
        lists
            .filter(|one| one["event"] == event)
            .filter_map(|one| one["count"].as_u64())
            .sum()
    };
    let client = &scene.topology.client.namespace;
    let plan = Plan::requests(scene.gateway(80), "/shop", 300);
    ensure!(load::run(client, &plan)?.failures().is_empty());
    ensure!(
        lb_tests::cleanup::within(SOON, || count("success") >= 300),
        "{} successes were reported of 300",
        count("success")
    );
    // While it does not take reports they wait; nothing is lost.
    beside.is(Manner::Failing);
    for _ in 0..5 {
        ask(&scene, "/shop?status=500")?;
    }
    let failed = figure(&scene, "circuit_breaker_events", "failed")?;
    scene.daemon.wait_for("/integrations", SOON, |all| {
        integration(all, "circuit_breaker_events")["failed"].as_u64() > Some(failed + 1)
    })?;
    ensure!(count("failure") == 0);
    beside.is(Manner::Well);
    ensure!(
        lb_tests::cleanup::within(SOON, || count("failure") >= 5),
        "failures were not reported"
    );
    ensure!(figure(&scene, "circuit_breaker_events", "dropped")? == 0);

    // Metrics: what the last push says is what was counted.
    let pushed = |name: &str, success: &str| -> f64 {
        let last = beside.posted(METRICS).pop().unwrap_or_default();
        let list = last.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter(|one| one["name"] == name && one["type"] == "counter")
            .filter(|one| one["tags"]["service"] == "shop" && one["tags"]["success"] == success)
            .filter_map(|one| one["value"].as_f64())
            .sum()
    };
    let requests = "gateway_load_balancer_request_total";
    ensure!(
        lb_tests::cleanup::within(SOON, || pushed(requests, "true") >= 300.0),
        "the requests were not pushed"
    );
    let last = beside.posted(METRICS).pop().unwrap_or_default().to_string();
    for name in [
        "gateway_load_balancer_response_time_seconds_bucket",
        "gateway_instance_active_connections",
        "gateway_instance_total_requests",
        "gateway_instance_success_rate",
        "gateway_instance_average_response_time",
        "gateway_instance_health_score",
        "lb_session",
    ] {
        ensure!(last.contains(name), "{name} was not pushed: {last}");
    }
    ensure!(!last.contains("\"lb_revision\""), "{last}");
    // Gone for long: batches are given up, and counted, and their number stays bounded.
    beside.goes();
    scene.daemon.wait_for("/integrations", SOON, |all| {
        integration(all, "metrics")["dropped"].as_u64() > Some(0)
    })?;
    let before = beside.posted(METRICS).len();
    beside.comes_back()?;
    ensure!(
        lb_tests::cleanup::within(SOON, || beside.posted(METRICS).len() > before),
        "nothing is pushed after it is back"
    );
    // The end is told, too.
    ask(&scene, "/shop")?;
    scene.daemon.stop(SOON)?;
    ensure!(count("success") >= 301, "{} successes", count("success"));
    Ok(())
}

const TRACES: &str = "/v1/traces";

/// All spans that were exported, and the name of the service that they say they are of.
fn spans(beside: &Beside) -> Vec<(Value, Value)> {
    let mut all = Vec::new();
    for export in beside.posted(TRACES) {
        let resource = &export["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0]["value"]["stringValue"];
        let spans = resource["scopeSpans"][0]["spans"].as_array().cloned();
        all.extend(
            spans
                .unwrap_or_default()
                .into_iter()
                .map(|s| (service.clone(), s)),
        );
    }
    all
}

/// An attribute of a span, as text.
fn attribute(span: &Value, key: &str) -> Option<String> {
    let list = span["attributes"].as_array()?;
    let value = &list.iter().find(|one| one["key"] == key)?["value"];
    let text = value.get("stringValue").or(value.get("intValue"))?;
    Some(text.as_str()?.to_owned())
}

#[test]
#[ignore = "needs root"]
fn traces_are_exported_with_a_span_for_each_request_and_try() -> Result<()> {
    let tracing = format!(
        "[tracing]\notlp_endpoint = \"http://{BESIDE}\"\nservice_name = \"edge\"\n\
         interval = \"100ms\"\ntimeout = \"1s\"\nqueue = 2"
    );
    let mut scene = Scene::new(2, configuration(&tracing).text())?;
    let beside = Beside::start(&scene.topology.balancer.namespace, BESIDE)?;
    let client = scene.topology.client.namespace.clone();
    let plan = Plan::requests(scene.gateway(80), "/shop", 100);
    let answered = load::run(&client, &plan)?;
    ensure!(answered.failures().is_empty(), "{answered}");
    ensure!(
        lb_tests::cleanup::within(SOON, || spans(&beside).len() >= 200),
        "{} spans of 100 requests and their tries",
        spans(&beside).len()
    );
    let all = spans(&beside);
    let (servers, tries): (Vec<_>, Vec<_>) = all.iter().partition(|(_, span)| span["kind"] == 2);
    ensure!(servers.len() == 100 && tries.len() == 100, "{}", all.len());
    let mut traces = std::collections::BTreeSet::new();
    for (service, span) in &servers {
        ensure!(service == "edge", "{service}");
        ensure!(span["name"] == "GET /shop/*", "{span}");
        ensure!(span.get("parentSpanId").is_none(), "{span}");
        let trace = span["traceId"].as_str().unwrap_or_default().to_owned();
        ensure!(trace.len() == 32 && traces.insert(trace.clone()), "{span}");
        let below: Vec<_> = tries
            .iter()
            .filter(|(_, one)| one["parentSpanId"] == span["spanId"])
            .collect();
        ensure!(
            below.len() == 1 && below[0].1["traceId"] == trace.as_str(),
            "{span}"
        );
        for (key, expected) in [
            ("lb.service", "shop"),
            ("http.response.status_code", "200"),
            ("url.path", "/shop"),
        ] {
            ensure!(attribute(span, key).as_deref() == Some(expected), "{span}");
        }
        let instance = attribute(&below[0].1, "lb.instance").unwrap_or_default();
        ensure!(instance.starts_with("10.77.0.1"), "{}", below[0].1);
    }
    // An instance that is gone is a try of its own.
    scene.kill("i1")?;
    let before = spans(&beside).len();
    let answered = load::run(&client, &plan)?;
    ensure!(answered.failures().is_empty(), "{answered}");
    let failed = || {
        let all = spans(&beside);
        let reason = |span: &Value| attribute(span, "lb.reason");
        all[before..]
            .iter()
            .any(|(_, span)| span["kind"] == 3 && reason(span).as_deref() == Some("connect_failed"))
    };
    ensure!(
        lb_tests::cleanup::within(SOON, failed),
        "no try that failed was exported"
    );
    scene.revive("i1")?;
    // A collector that is ill costs spans, which are counted, and no request.
    beside.is(Manner::Silent);
    let long = Plan {
        pause: Duration::from_millis(2),
        requests: None,
        ..plan.clone()
    };
    let load = load::start(&client, long);
    scene.daemon.wait_for("/integrations", SOON, |all| {
        integration(all, "traces")["dropped"].as_u64() > Some(0)
    })?;
    let tally = load.stop()?;
    ensure!(tally.failures().is_empty(), "{:?}", tally.failures());
    beside.is(Manner::Well);
    let before = spans(&beside).len();
    ensure!(
        lb_tests::cleanup::within(SOON, || spans(&beside).len() > before),
        "nothing is exported after it is well"
    );
    // Off by a reload: traces go through untouched.
    scene.daemon.configure(configuration("").text())?;
    scene.daemon.cli(&["reload"])?;
    let all = scene.daemon.get("/integrations")?;
    ensure!(integration(&all, "traces")["state"] == "off", "{all}");
    ensure!(ask(&scene, "/shop")?.status == 200);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn requests_do_not_notice_what_is_wrong_with_systems_beside_lb() -> Result<()> {
    let scene = Scene::new(2, configuration(&both()).text())?;
    let beside = Beside::start(&scene.topology.balancer.namespace, BESIDE)?;
    word(&scene, "closed")?;
    let client = &scene.topology.client.namespace;
    let plan = Plan::requests(scene.gateway(80), "/shop", 1500);
    let phase = |what: &str| -> Result<Duration> {
        let failed = figure(&scene, "circuit_breaker", "failed")?;
        let begun = Instant::now();
        let tally = load::run(client, &plan)?;
        let took = begun.elapsed();
        ensure!(
            tally.failures().is_empty() && tally.total() == 1500,
            "{what}: {:?}",
            tally.failures()
        );
        if what != "well" {
            // It is asked all the while, or the phase would prove nothing.
            scene.daemon.wait_for("/integrations", SOON, |all| {
                integration(all, "circuit_breaker")["failed"].as_u64() > Some(failed)
            })?;
        }
        Ok(took)
    };
    let (mut well, mut ill) = (Duration::ZERO, Duration::ZERO);
    for manner in Manner::ILL {
        beside.is(Manner::Well);
        well += phase("well")?;
        beside.is(manner);
        ill += phase(&format!("{manner:?}"))?;
    }
    beside.is(Manner::Well);
    well += phase("well")?;
    beside.goes();
    ill += phase("gone")?;
    // Seven phases of each, in turn: what the machine does meanwhile concerns both alike.
    ensure!(
        ill < well * 2,
        "{ill:?} for the requests beside a system that is ill, {well:?} beside one that is well"
    );
    let all_are = |state: &'static str| {
        move |all: &Value| {
            let mut names = ["circuit_breaker", "circuit_breaker_events", "metrics"].iter();
            names.all(|name| integration(all, name)["state"] == state)
        }
    };
    let all = scene
        .daemon
        .wait_for("/integrations", SOON, all_are("failing"))?;
    ensure!(integration(&all, "metrics")["error"].is_string(), "{all}");
    beside.is(Manner::Well);
    beside.comes_back()?;
    scene
        .daemon
        .wait_for("/integrations", SOON, all_are("working"))?;
    Ok(())
}
