//! What decides the shares of the proxy beside its turns: the bound of consistent hashing, what
//! instances say of their own load, and the steps of those that come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::algorithms::{self, ALGORITHMS, asked, http_of, services, set};
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::instance;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::tally::Tally;
use lb_tests::topology::Family;
use serde_json::{Value, json};

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
    let settled = |body: &Value| {
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

/// The instance that comes back.
const BAD: &str = "10.77.0.11:8080";

/// The steps of the recoveries that are measured, as shares of the weight.
const STEPS: [f64; 2] = [0.2, 0.6];

/// Sessions of a service. Hashing is by them where there are any, and then they are a sample.
const SESSIONS: u64 = 300;
const HASHED_SESSIONS: u64 = 20_000;

/// What the first instance has of its weight in each service; nothing while it is ejected, waits,
/// or has all of it.
fn steps(scene: &Scene) -> Result<Vec<Option<f64>>> {
    let list = scene.daemon.get("/recovery")?;
    let list = list["recoveries"].as_array().context("no recoveries")?;
    let share = |service: String| {
        let one = list.iter().find(|one| one["service"] == service)?;
        one["recovery"]["share"]
            .as_f64()
            .filter(|share| *share > 0.0)
    };
    Ok(services().map(share).collect())
}

/// The counters, and the steps as they were both before and after these were read.
fn counted(scene: &Scene) -> Result<(Value, Vec<Option<f64>>)> {
    let before = steps(scene)?;
    let stats = scene.daemon.get("/stats")?;
    let after = steps(scene)?;
    let same = before.into_iter().zip(after);
    let same = same.map(|(before, after)| before.filter(|_| before == after));
    Ok((stats, same.collect()))
}

/// Takes the first instance out of the service of each algorithm and lets it come back.
fn come_back(scene: &Scene) -> Result<()> {
    // Algorithms that go by load might leave it before it has failed often enough, so they are set
    // when it is out.
    let gone = |instances: &Value| {
        let all = instances["instances"].as_array().into_iter().flatten();
        all.filter(|one| one["instance"] == BAD)
            .all(|one| one["ejected"].is_object() || one["recovery"].is_object())
    };
    set(scene, http_of(11), "status/500")?;
    scene
        .daemon
        .wait_for("/instances", Duration::from_secs(5), gone)?;
    for (service, algorithm) in services().zip(ALGORITHMS) {
        let wanted = json!({ "algorithm": algorithm });
        scene
            .daemon
            .put(&format!("/algorithms/{service}"), &wanted)?;
    }
    set(scene, http_of(11), "status/200")
}

/// What the part of the recovering instance may be off in a second with `all` requests: two points;
/// where keys are hashed, three deviations of a sample besides; and with sessions on a machine that
/// is busy with something else what two workers may be off whatever the rate: three requests of
/// slack and two of rounding each.
fn tolerance(service: &str, sessions: bool, exact: f64, all: f64) -> f64 {
    let deviation = |sample: f64| (exact * (1.0 - exact) / sample).sqrt();
    match (service, sessions) {
        ("consistent-hash", false) => 0.02 + 3.0 * deviation(all),
        ("consistent-hash", true) => 0.02 + 3.0 * deviation(all.min(HASHED_SESSIONS as f64)),
        (_, true) => f64::max(0.02, 10.0 / all),
        (_, false) => 0.02,
    }
}

/// Watches an instance come back under every algorithm, second by second.
fn watch_recoveries(sessions: bool) -> Result<()> {
    let affinity = format!("affinity = {{ enabled = {sessions} }}");
    let settings = format!(
        "breaker = {{ enabled = false }}\noutlier = {{ base_time = \"500ms\" }}\n{affinity}\n\
         recovery = {{ start = 0.2, step = 0.4, interval = \"2500ms\" }}"
    );
    let all = algorithms::configuration(Some("round_robin"), &settings);
    let scene = Scene::new(3, all.text())?;
    let load = |service: String| {
        let plan = Plan {
            clients: 2,
            sessions: match service.as_str() {
                _ if !sessions => 0,
                "consistent-hash" => HASHED_SESSIONS,
                _ => SESSIONS,
            },
            ..algorithms::plan(&scene, &service)
        };
        load::start(&scene.topology.client.namespace, plan)
    };
    let loads: Vec<Load> = services().map(load).collect();
    come_back(&scene)?;
    let mut seen = [[0_u32; STEPS.len()]; ALGORITHMS.len()];
    let end = Instant::now() + Duration::from_secs(12);
    let (mut before, mut steps_before) = counted(&scene)?;
    while seen.as_flattened().contains(&0) && Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
        let (after, steps_after) = counted(&scene)?;
        for (at, service) in services().enumerate() {
            let share = steps_before[at].filter(|_| steps_before[at] == steps_after[at]);
            let Some(share) = share else {
                continue;
            };
            let step = STEPS.iter().position(|step| (step - share).abs() < 1e-6);
            let step = step.with_context(|| format!("{service}: a share of {share}"))?;
            let ((bad, all), (later_bad, later_all)) =
                (asked(&before, &service)?, asked(&after, &service)?);
            let (bad, all) = (later_bad - bad, later_all - all);
            let (exact, found) = (share / (2.0 + share), bad / all);
            ensure!(
                (found - exact).abs() <= tolerance(&service, sessions, exact, all),
                "{service} at {share}: {bad} of {all} requests, expected {exact:.3}"
            );
            seen[at][step] += 1;
        }
        (before, steps_before) = (after, steps_after);
    }
    for load in loads {
        load.stop()?;
    }
    ensure!(
        !seen.as_flattened().contains(&0),
        "not every step of every algorithm had a second of its own: {seen:?}\n{}",
        scene.daemon.log()
    );
    if sessions {
        let figures = scene.daemon.get("/sessions")?;
        let services = figures["services"].as_array().context("no services")?;
        // Sessions were pinned to the others, and moved for its share: but where their hash decides.
        for one in services {
            let moved = one["breaks"]["recovery"].as_u64().unwrap_or(0);
            let hashes = one["service"] == "consistent-hash";
            ensure!(hashes || moved > 0, "{one}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn who_comes_back_has_its_step_in_every_second_under_every_algorithm() -> Result<()> {
    watch_recoveries(false)
}

#[test]
#[ignore = "needs root"]
fn who_comes_back_has_its_step_in_every_second_though_every_client_has_a_session() -> Result<()> {
    watch_recoveries(true)
}
