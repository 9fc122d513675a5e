//! A real Prometheus scrapes lb, and its answers are what happened.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_tests::cleanup::{self, Folder};
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::process::Process;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::{Family, Host};
use serde_json::Value;

const PORT: u16 = 9090;

/// A running Prometheus that scrapes lb once a second; killed when dropped.
struct Prometheus<'h> {
    host: &'h Host,
    process: Process,
    _folder: Folder,
}

impl<'h> Prometheus<'h> {
    /// Starts one beside lb, with the alerting rules that come with it.
    fn start(host: &'h Host) -> Result<Self> {
        let folder = Folder::temporary("lb-prometheus-")?;
        let (file, data) = (folder.path().join("p.yml"), folder.path().join("data"));
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/alerts.yml");
        fs::write(
            &file,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\n\
                 scrape_configs:\n- job_name: lb\n  static_configs: [{{targets: ['127.0.0.1:7700']}}]\n"
            ),
        )?;
        let mut command = host.namespace.command("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
        let mut process = Process::start("prometheus", &mut command)?;
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let ready = cleanup::within(Duration::from_secs(30), || {
            let connected = host.namespace.enter(|| TcpStream::connect(address).is_ok());
            process.ended().is_some() || connected.unwrap_or_default()
        });
        if !ready || process.ended().is_some() {
            bail!("Prometheus did not come up: {}", process.log());
        }
        Ok(Self {
            host,
            process,
            _folder: folder,
        })
    }

    fn get(&self, path: &str, arguments: &[&str]) -> Result<Value> {
        let url = format!("http://127.0.0.1:{PORT}{path}");
        let mut all = vec!["--get", url.as_str()];
        all.extend(arguments);
        let answer = curl(&self.host.namespace, &all)?;
        serde_json::from_str(&answer.body).with_context(|| format!("{answer:?}"))
    }

    /// The value of a query that has one.
    fn value(&self, query: &str) -> Result<f64> {
        let argument = format!("query={query}");
        let found = self.get("/api/v1/query", &["--data-urlencode", &argument])?;
        let value = found["data"]["result"][0]["value"][1].as_str();
        let value = value.with_context(|| format!("{query}: {found}"))?;
        Ok(value.parse()?)
    }

    /// Waits until a query has this value.
    fn comes_to(&self, query: &str, expected: f64) -> Result<()> {
        let same = || {
            let found = self.value(query);
            found.is_ok_and(|found| (found - expected).abs() < 1e-9)
        };
        ensure!(
            cleanup::within(Duration::from_secs(20), same),
            "{query}: expected {expected}, found {:?}; {}",
            self.value(query),
            self.process.log()
        );
        Ok(())
    }
}

#[test]
#[ignore = "needs root and prometheus"]
fn prometheus_scrapes_what_happened() -> Result<()> {
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[10, 10], "")
        .route("/shop", "shop");
    let scene = Scene::new(2, configuration.text())?;
    let prometheus = Prometheus::start(&scene.topology.balancer)?;
    prometheus.comes_to("up{job=\"lb\"}", 1.0)?;

    let client = &scene.topology.client.namespace;
    let plan = Plan::requests(scene.gateway(80), "/shop/{}", 300);
    let answered = load::run(client, &plan)?;
    ensure!(answered.total() == 300, "{answered}");
    prometheus.comes_to(
        "sum(lb_requests_total{service=\"shop\",status=\"2xx\"})",
        300.0,
    )?;
    prometheus.comes_to(
        "sum(gateway_load_balancer_request_total{service=\"shop\"})",
        300.0,
    )?;
    prometheus.comes_to("lb_request_duration_seconds_count{service=\"shop\"}", 300.0)?;
    prometheus.comes_to("count(lb_instance_effective_weight > 0)", 2.0)?;

    // The type that it was told, by OpenMetrics, and that every rule can be evaluated.
    let told = prometheus.get(
        "/api/v1/metadata",
        &["--data-urlencode", "metric=lb_requests"],
    )?;
    ensure!(
        told["data"]["lb_requests"][0]["type"] == "counter",
        "{told}"
    );
    let rules = prometheus.get("/api/v1/rules", &[])?;
    let groups = rules["data"]["groups"].as_array().context("no groups")?;
    let all = groups.iter().filter_map(|group| group["rules"].as_array());
    let all: Vec<&Value> = all.flatten().collect();
    ensure!(all.len() >= 8, "{rules}");
    let broken = all.iter().find(|rule| rule["health"] == "err");
    ensure!(broken.is_none(), "{broken:?}");
    Ok(())
}
