//! What decides the shares of the proxy beside its turns: the bound of consistent hashing, and what
//! instances say of their own load.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::tally::Tally;
use lb_tests::topology::Family;

const INSTANCES: [&str; 3] = ["i1", "i2", "i3"];

/// One service over three instances at `/NAME`.
fn with(all: Configuration, name: &str, settings: &str) -> Configuration {
    all.service_over(&[Family::V4], name, instance::HTTP, &[1, 1, 1], settings)
        .route(&format!("/{name}"), name)
}

fn shares(scene: &Scene, path: &str, clients: u32, requests: u64) -> Result<[f64; 3]> {
    let plan = Plan {
        clients,
        ..Plan::requests(scene.gateway(80), path, requests)
    };
    let tally: Tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(tally.failures().is_empty(), "{path}: {tally}");
    Ok(INSTANCES.map(|name| tally.share(name)))
}

/// Changes how an instance answers from now on.
fn tell(scene: &Scene, name: &str, what: &str) -> Result<()> {
    let host = scene.host(name)?;
    let url = format!("http://{}:{}/_set/{what}", host.v4, instance::HTTP);
    let answer = curl(&scene.topology.balancer.namespace, &[&url])?;
    ensure!(answer.status == 200, "{url}: {answer:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_hot_key_does_not_overload_its_instance_and_a_cool_one_stays() -> Result<()> {
    let hashed = |bound| {
        format!("algorithm = \"consistent_hash\"\nhash_key = \"path\"\nhash_bound = {bound}")
    };
    let all = Configuration::new("[\"0.0.0.0:80\"]");
    let all = with(all, "bound", &hashed("1.25"));
    let all = with(all, "free", &hashed("0"));
    let scene = Scene::new(3, all.text())?;
    // Twelve requests for one path at once: each instance may have ⌈1.25 · 12 / 3⌉ of them.
    let hot = shares(&scene, "/bound/hot?delay=10", 12, 1200)?;
    let most = hot.iter().copied().fold(0.0, f64::max);
    ensure!(most < 5.0 / 12.0 + 0.08, "{hot:?}");
    ensure!(hot.iter().all(|share| *share > 0.05), "{hot:?}");
    let cool = shares(&scene, "/bound/hot?delay=1", 1, 100)?;
    ensure!(cool.contains(&1.0), "{cool:?}");
    let free = shares(&scene, "/free/hot?delay=10", 12, 240)?;
    ensure!(free.contains(&1.0), "{free:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_says_it_is_busy_gets_less() -> Result<()> {
    let listens =
        "load_reports = { enabled = true, blackout = \"0s\", weighted_round_robin = true }";
    let all = Configuration::new("[\"0.0.0.0:80\"]");
    let all = with(all, "listens", listens);
    let scene = Scene::new(3, with(all, "deaf", "").text())?;
    for (name, load) in INSTANCES.into_iter().zip([25, 25, 90]) {
        tell(&scene, name, &format!("load/{load}"))?;
    }
    // Every instance has to say so before it counts, and weights follow within seconds.
    shares(&scene, "/listens/{}", 4, 60)?;
    let settled = |body: &serde_json::Value| {
        let weights = body["weights"].as_array().into_iter().flatten();
        weights
            .filter(|w| w["report"]["factor"].as_f64().is_some_and(|f| f < 0.57))
            .count()
            == 1
    };
    let wait = Duration::from_secs(15);
    let detail = scene
        .daemon
        .wait_for("/algorithms/listens", wait, settled)?;
    let busy = &detail["weights"][2];
    ensure!(
        (busy["report"]["utilization"].as_f64().unwrap_or(0.0) - 0.9).abs() < 1e-3,
        "{busy}"
    );
    let listened = shares(&scene, "/listens/{}", 4, 1000)?;
    ensure!((listened[2] - 0.2).abs() < 0.03, "{listened:?}");
    let deaf = shares(&scene, "/deaf/{}", 4, 300)?;
    ensure!((deaf[2] - 1.0 / 3.0).abs() < 0.01, "{deaf:?}");
    let seen = |path: &str| -> Result<bool> {
        let url = format!("http://{}/{path}/x", scene.gateway(80));
        let answer = curl(&scene.topology.client.namespace, &["--head", &url])?;
        Ok(answer.body.to_lowercase().contains("endpoint-load-metrics"))
    };
    ensure!(
        !seen("listens")? && seen("deaf")?,
        "reports are for lb alone"
    );
    Ok(())
}
