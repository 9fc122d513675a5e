//! A real Prometheus scrapes lb, and its answers are what happened.

use anyhow::{Context, Result, ensure};
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::prometheus::Prometheus;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use serde_json::Value;

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
