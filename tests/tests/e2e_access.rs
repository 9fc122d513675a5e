//! Who may manage the daemon, and what it says of itself to those who watch it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Plan};
use lb_tests::client::tcp;
use lb_tests::command;
use lb_tests::instance;
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;

const TOKEN: &str = "correct-horse-battery-staple";

fn configuration(api: &str) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\", \"[::]:80\"]")
        .packets()
        .with(&format!("[api]\n{api}"))
        .service_over(
            &[Family::V4],
            "shop",
            instance::HTTP,
            &[10, 10],
            "algorithm = \"round_robin\"",
        )
        .service("echo", instance::TCP, &[10, 10], "")
        .route("/shop", "shop")
        .vips(NAT, instance::TCP, "tcp", "echo")
}

#[test]
#[ignore = "needs root"]
fn only_who_shows_the_token_may_manage_from_elsewhere() -> Result<()> {
    let scene = Scene::new(2, configuration(&format!("token = \"{TOKEN}\"")).text())?;
    let (client, balancer) = (&scene.topology.client, &scene.topology.balancer);
    let right = format!("Authorization: Bearer {TOKEN}");
    let wrong = format!("Authorization: Bearer {TOKEN}r");
    let basic = format!("Authorization: Basic {TOKEN}");
    let paths = [
        "/metrics",
        "/api/v1/loadbalancer/stats",
        "/api/v1/loadbalancer/instances/shop",
        "/api/v1/loadbalancer/datapath",
    ];
    for gateway in [format!("{}", balancer.v4), format!("[{}]", balancer.v6)] {
        for path in paths {
            let url = format!("http://{gateway}{path}");
            for (header, status) in [
                ("Accept: */*", 401),
                (wrong.as_str(), 401),
                (basic.as_str(), 401),
                ("X-Forwarded-For: 127.0.0.1", 401),
                (right.as_str(), 200),
            ] {
                let answer = curl(&client.namespace, &["--header", header, &url])?;
                ensure!(answer.status == status, "{url} with {header:?}: {answer:?}");
            }
        }
        let health = curl(&client.namespace, &[&format!("http://{gateway}/health")])?;
        ensure!(health.status == 200, "{health:?}");
        ensure!(
            !health.body.contains("10.77.0.11"),
            "/health names instances: {health:?}"
        );
    }

    // What is refused has no effect.
    let resource = "/api/v1/loadbalancer/instances/shop/10.77.0.11:8080";
    let drain = format!("http://{}{resource}/drain", balancer.v4);
    for (header, status) in [("Accept: */*", 401), (wrong.as_str(), 401)] {
        let answer = curl(
            &client.namespace,
            &["--request", "POST", "--header", header, &drain],
        )?;
        ensure!(answer.status == status, "{answer:?}");
    }
    let path = "/instances/shop/10.77.0.11:8080";
    ensure!(
        scene.daemon.get(path)?["admin"] == "enabled",
        "drained without a token"
    );
    let answer = curl(
        &client.namespace,
        &["--request", "POST", "--header", &right, &drain],
    )?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(
        scene.daemon.get(path)?["admin"] == "draining",
        "not drained with a token"
    );

    // A local peer needs none, unless a proxy has passed the request on.
    let local = format!("http://127.0.0.1{resource}");
    let answer = curl(&balancer.namespace, &[&local])?;
    ensure!(answer.status == 200, "{answer:?}");
    let answer = curl(
        &balancer.namespace,
        &["--header", "X-Forwarded-For: 10.77.0.2", &local],
    )?;
    ensure!(answer.status == 401, "{answer:?}");
    // The API's own listener is not for others at all.
    let own = format!("http://{}:7700/health", balancer.v4);
    ensure!(
        curl(&client.namespace, &[&own]).is_err(),
        "the API listens for everybody"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn without_a_token_nobody_manages_from_elsewhere() -> Result<()> {
    let scene = Scene::new(2, configuration("").text())?;
    let (client, balancer) = (&scene.topology.client, &scene.topology.balancer);
    let url = format!("http://{}/api/v1/loadbalancer/stats", balancer.v4);
    for header in [
        "Accept: */*",
        "Authorization: Bearer x",
        "Authorization: Bearer ",
    ] {
        let answer = curl(&client.namespace, &["--header", header, &url])?;
        ensure!(answer.status == 401, "{header:?}: {answer:?}");
    }
    // A page in a browser on lb's machine.
    let local = "http://127.0.0.1/api/v1/loadbalancer/stats";
    let answer = curl(
        &balancer.namespace,
        &["--header", "Host: evil.example.org", local],
    )?;
    ensure!(answer.status == 403, "{answer:?}");
    let reload = "http://127.0.0.1:7700/api/v1/admin/loadbalancer/reload";
    let from = [
        "--request",
        "POST",
        "--header",
        "Origin: http://evil.example.org",
        reload,
    ];
    let answer = curl(&balancer.namespace, &from)?;
    ensure!(answer.status == 403, "{answer:?}");
    Ok(())
}

/// Samples by family; each checked against the rules of the text format.
struct Exposition {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line does not end");
        let (mut types, mut helped) = (BTreeMap::new(), BTreeSet::new());
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').context("a metric without help")?;
                ensure!(helped.insert(name.to_owned()), "{name} has help twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("a metric without type")?;
                ensure!(helped.contains(name), "{name} has a type before help");
                ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                ensure!(
                    types.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "{name} twice"
                );
            } else {
                let (series, value) = line.rsplit_once(' ').context("a sample without value")?;
                let value: f64 = value.parse().with_context(|| line.to_owned())?;
                let name = series.split('{').next().unwrap_or_default();
                let family = family(name, &types).with_context(|| format!("no type: {line}"))?;
                let is_counter = types[family] == "counter";
                ensure!(
                    !is_counter || (name.ends_with("_total") && value >= 0.0),
                    "{line}"
                );
                ensure!(
                    samples.insert(series.to_owned(), value).is_none(),
                    "{series} twice"
                );
            }
        }
        Ok(Self { types, samples })
    }

    /// The sum of the samples of a name that have all these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = self.samples.iter().filter(|(series, _)| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        of_name
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// Buckets grow, and the last one has everything.
    fn check_histogram(&self, name: &str, labels: &str) -> Result<()> {
        let start = format!("{name}_bucket{{{labels},le=\"");
        let mut buckets = Vec::new();
        for (series, value) in self.samples.range(start.clone()..) {
            let Some(bound) = series.strip_prefix(&start) else {
                break;
            };
            let bound = bound.trim_end_matches("\"}");
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse()?
            };
            buckets.push((bound, *value));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        ensure!(buckets.len() > 2, "no buckets {start}");
        ensure!(
            buckets.is_sorted_by(|one, other| one.1 <= other.1),
            "{buckets:?}"
        );
        let last = buckets.last().copied().unwrap_or_default();
        let count = self
            .samples
            .get(&format!("{name}_count{{{labels}}}"))
            .copied();
        ensure!(
            last.0.is_infinite() && Some(last.1) == count,
            "{last:?}, {count:?}"
        );
        Ok(())
    }
}

fn family<'a>(name: &'a str, types: &BTreeMap<String, String>) -> Option<&'a str> {
    if types.contains_key(name) {
        return Some(name);
    }
    let parts = ["_bucket", "_sum", "_count"];
    let histogram = parts.iter().find_map(|part| name.strip_suffix(part))?;
    (types.get(histogram)? == "histogram").then_some(histogram)
}

/// Exactly: both are counts.
fn expect(what: &str, found: f64, expected: f64) -> Result<()> {
    if (found - expected).abs() > 1e-9 {
        bail!("{what}: expected {expected}, found {found}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn metrics_say_what_clients_have_seen() -> Result<()> {
    let scene = Scene::new(2, configuration("").text())?;
    let client = &scene.topology.client.namespace;
    let plan = Plan::requests(scene.gateway(80), "/shop/{}", 100);
    let answered = load::run(client, &plan)?;
    ensure!(answered.total() == 100, "{answered}");
    let failing = Plan::requests(scene.gateway(80), "/shop?status=500", 10);
    ensure!(
        load::run(client, &failing)?.failures().len() == 10,
        "500 is no failure"
    );
    let lost = Plan::requests(scene.gateway(80), "/nowhere", 7);
    ensure!(load::run(client, &lost)?.total() == 0, "a route to nowhere");
    let vip = (address(NAT, Family::V4), instance::TCP).into();
    let connected = tcp::connections(client, vip, 40)?;
    ensure!(connected.total() == 40, "{connected}");

    Scene::age_figures();
    let text = curl(
        &scene.topology.balancer.namespace,
        &["--include", "http://127.0.0.1:7700/metrics"],
    )?;
    let (head, body) = text.body.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    let body = if body.ends_with('\n') {
        body.to_owned()
    } else {
        format!("{body}\n")
    };
    let found = Exposition::parse(&body)?;
    // Prometheus' own opinion, which is empty where there is nothing to say.
    let opinion = command::with_input(Command::new("promtool").args(["check", "metrics"]), &body)?;
    ensure!(opinion.is_empty(), "{opinion}");

    let total = "gateway_load_balancer_request_total";
    let ok = [
        "service=\"shop\"",
        "algorithm=\"round_robin\"",
        "success=\"true\"",
    ];
    expect("successes", found.sum(total, &ok), 100.0)?;
    expect("failures", found.sum(total, &["success=\"false\""]), 10.0)?;
    for (name, number) in [("i1", 11), ("i2", 12)] {
        let endpoint = format!("instance=\"10.77.0.{number}:8080\"");
        #[expect(clippy::cast_precision_loss, reason = "a hundred at most")]
        let seen = answered.of(name) as f64;
        expect(
            name,
            found.sum(total, &[&endpoint, "success=\"true\""]),
            seen,
        )?;
        let labels = format!("service=\"shop\",algorithm=\"round_robin\",{endpoint}");
        found.check_histogram("gateway_load_balancer_response_time_seconds", &labels)?;
    }
    let of_shop = |status: &str| {
        let status = format!("status=\"{status}\"");
        found.sum("lb_requests_total", &["service=\"shop\"", &status])
    };
    expect("served", of_shop("2xx"), 100.0)?;
    expect("not served", of_shop("5xx"), 10.0)?;
    expect("given up", of_shop("client_gone"), 0.0)?;
    found.check_histogram("lb_request_duration_seconds", "service=\"shop\"")?;
    ensure!(
        found.sum("lb_answer_body_bytes_total", &["service=\"shop\""]) >= 110.0,
        "answers without a byte"
    );
    ensure!(
        found.sum("lb_gateway_busy_seconds_total", &[]) > 0.0,
        "requests cost no time"
    );
    expect(
        "no route",
        found.sum("lb_gateway_answers_total", &["reason=\"no_route\""]),
        7.0,
    )?;
    for name in [
        "gateway_instance_active_connections",
        "gateway_instance_total_requests",
        "gateway_instance_success_rate",
        "gateway_instance_average_response_time",
        "gateway_instance_health_score",
        "lb_build_info",
        "process_resident_memory_bytes",
    ] {
        ensure!(found.types.contains_key(name), "no {name}");
    }
    let rate = found.sum("gateway_instance_success_rate", &["service=\"shop\""]);
    ensure!(rate > 1.6 && rate < 2.0, "the two success rates: {rate}");

    expect(
        "connections",
        found.sum("lb_l4_vip_connections_total", &["service=\"echo\""]),
        40.0,
    )?;
    expect(
        "of instances",
        found.sum("lb_l4_instance_connections_total", &[]),
        40.0,
    )?;
    expect(
        "still open",
        found.sum("lb_l4_instance_live_connections", &[]),
        0.0,
    )?;
    let received = found.sum("lb_l4_received_packets_total", &[]);
    expect("packets", found.sum("lb_l4_packets_total", &[]), received)?;
    expect(
        "attached",
        found.sum("lb_l4_attached", &["mode=\"native\""]),
        1.0,
    )
}

#[test]
#[ignore = "needs promtool"]
fn prometheus_takes_the_alert_rules() -> Result<()> {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/alerts.yml");
    let opinion = command::output(Command::new("promtool").args(["check", "rules", rules]))?;
    ensure!(opinion.contains("SUCCESS: "), "{opinion}");
    Ok(())
}
