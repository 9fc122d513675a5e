//! What is found out about an instance by its HTTP, seen by connections through a VIP: how soon new
//! ones avoid it, what becomes of those that are held, and which share of them it has when it comes
//! back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::timeline::{Entry, Timeline};
use lb_tests::client::{held::Held, http};
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, instance};
use serde_json::Value;

const BAD: &str = "10.77.0.11:8080";

/// Within which a decision of the control plane has to be in the kernel.
const PROMPT: Duration = Duration::from_millis(100);

/// How long at most an instance that served some fifty requests a second must have served nothing
/// for its failures in a row to count.
const SILENT: Duration = Duration::from_millis(500);

/// How often the control plane is asked what it has decided.
const LOOK: Duration = Duration::from_millis(5);

/// It is ejected and comes back in steps.
const EJECTS: &str = "breaker = { enabled = false }\noutlier = { base_time = \"500ms\" }\n\
                      recovery = { start = 0.2, step = 0.4, interval = \"2500ms\" }";

/// A service behind both a route and a VIP.
fn configuration(settings: &str) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .packets()
        .service_over(
            &[Family::V4],
            "shop",
            instance::HTTP,
            &[10, 10, 10],
            settings,
        )
        .route("/shop", "shop")
        .with(&format!(
            "[[vips]]\naddress = \"{}\"\nport = {}\nservice = \"shop\"",
            address(NAT, Family::V4),
            instance::HTTP
        ))
}

fn vip() -> SocketAddr {
    SocketAddr::new(address(NAT, Family::V4), instance::HTTP)
}

fn set(scene: &Scene, what: &str) -> Result<()> {
    let namespace = &scene.topology.client.namespace;
    let at = SocketAddr::new(address(11, Family::V4), instance::HTTP);
    let path = format!("/_set/{what}");
    let answer = http::request(namespace, at, Method::GET, &path, "")?;
    ensure!(answer.status.is_success(), "{path}: {answer:?}");
    Ok(())
}

/// New connections through the VIP, one after the other.
fn flows(scene: &Scene) -> Timeline {
    let namespace = &scene.topology.client.namespace;
    Timeline::start(namespace, vip(), "/", true, Duration::ZERO)
}

/// Requests through the gateway on one connection.
fn requests(scene: &Scene) -> Timeline {
    let namespace = &scene.topology.client.namespace;
    let pause = Duration::from_millis(1);
    Timeline::start(namespace, scene.gateway(80), "/shop", false, pause)
}

/// A moment, at most a look before it came true, at which the bad instance was not yet like that.
fn last_before(scene: &Scene, is: impl Fn(&Value) -> bool) -> Result<Instant> {
    let mut before = Instant::now();
    let came = cleanup::within(Duration::from_secs(3), || {
        let now = Instant::now();
        let one = scene.daemon.get(&format!("/instances/shop/{BAD}"));
        let came = one.is_ok_and(|one| is(&one));
        if !came {
            before = now;
            std::thread::sleep(LOOK);
        }
        came
    });
    ensure!(came, "lb does not notice that {BAD} is bad");
    Ok(before)
}

/// When the last new connection to the bad instance was begun before it came back, if it was after
/// `since`.
fn last_flow(flows: &[Entry], since: Instant, until: Instant) -> Duration {
    let last = flows
        .iter()
        .filter(|entry| entry.instance == "i1" && entry.begun < until)
        .map(|entry| entry.begun)
        .max();
    last.map_or(Duration::ZERO, |last| last.saturating_duration_since(since))
}

#[test]
#[ignore = "needs root"]
fn new_connections_avoid_a_drained_and_an_ejected_instance_at_once() -> Result<()> {
    let longer = EJECTS.replace("500ms", "5s");
    let scene = Scene::new(3, configuration(&longer).text())?;
    let (flows, requests) = (flows(&scene), requests(&scene));
    std::thread::sleep(Duration::from_millis(300));
    let drained = Instant::now();
    scene.daemon.post(&format!("/instances/shop/{BAD}/drain"))?;
    std::thread::sleep(Duration::from_millis(400));
    let enabled = Instant::now();
    scene
        .daemon
        .post(&format!("/instances/shop/{BAD}/enable"))?;
    std::thread::sleep(Duration::from_millis(300));
    set(&scene, "status/500")?;
    let knew = last_before(&scene, |one| one["ejected"].is_object())?;
    std::thread::sleep(Duration::from_millis(700));
    let one = scene.daemon.get(&format!("/instances/shop/{BAD}"))?;
    let (flows, requests) = (flows.stop()?, requests.stop()?);
    ensure!(
        one["ejected"].is_object() && one["available"] == false,
        "{one}"
    );
    let by = |end: Instant| flows.iter().filter(|entry| entry.begun < end).count();
    ensure!(
        by(drained) > 30,
        "too few connections to tell: {}",
        by(drained)
    );
    let took = last_flow(&flows, drained, enabled);
    ensure!(
        took <= PROMPT,
        "drained: the last new connection came {took:?} later"
    );

    // It is ejected by the fifth failure that the gateway saw, once it was silent for long enough.
    let failed = |entry: &&Entry| entry.begun > enabled && entry.status == Some(500);
    let fifth = requests.iter().filter(failed).nth(4);
    let fifth = fifth.with_context(|| format!("expected five failures, found {one}"))?;
    let waited = knew.saturating_duration_since(fifth.ended);
    ensure!(waited <= SILENT, "ejected {waited:?} after five failures");
    let took = last_flow(&flows, knew, Instant::now());
    ensure!(
        took <= PROMPT,
        "ejected: the last new connection came {took:?} later"
    );
    let more = flows.iter().filter(|entry| entry.begun > knew + PROMPT);
    ensure!(more.count() > 30, "too few connections after the ejection");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn new_connections_avoid_an_instance_that_refuses_them_at_once() -> Result<()> {
    let settings = "breaker = { enabled = false }\nretry = { max = 0 }\n\
                    health_check = { enabled = false }";
    let mut scene = Scene::new(3, configuration(settings).text())?;
    let (flows, requests) = (flows(&scene), requests(&scene));
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    scene.kill("i1")?;
    std::thread::sleep(Duration::from_millis(700));
    let one = scene.daemon.get(&format!("/instances/shop/{BAD}"))?;
    let (flows, requests) = (flows.stop()?, requests.stop()?);
    ensure!(one["ejected"]["by"] == "consecutive_failures", "{one}");
    let before = flows
        .iter()
        .filter(|entry| entry.instance == "i1" && entry.begun < begun);
    ensure!(before.count() > 10, "too few connections to tell");
    // There is no silence to wait for: the fifth failure is when lb knew.
    // What was under way then is one of them.
    let failed = |entry: &&Entry| entry.ended > begun && entry.status != Some(200);
    let fifth = requests.iter().filter(failed).nth(4);
    let fifth = fifth.with_context(|| format!("expected five failures, found {one}"))?;
    let refused = flows.iter().filter(|entry| entry.status.is_none());
    let last = refused.map(|entry| entry.begun).max();
    let took = last.map_or(Duration::ZERO, |last| {
        last.saturating_duration_since(fifth.ended)
    });
    ensure!(
        took <= PROMPT,
        "the last refused connection came {took:?} after the fifth failure"
    );
    let more = flows
        .iter()
        .filter(|entry| entry.begun > fifth.ended + PROMPT);
    ensure!(more.count() > 30, "too few connections after the ejection");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn new_connections_avoid_an_instance_whose_breaker_opens_at_once() -> Result<()> {
    let settings = "breaker = { consecutive_failures = 3, open_time = \"5s\" }\n\
                    outlier = { enabled = false }\nretry = { max = 0 }";
    let scene = Scene::new(3, configuration(settings).text())?;
    let (flows, requests) = (flows(&scene), requests(&scene));
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    set(&scene, "status/500")?;
    let knew = last_before(&scene, |one| one["breaker"]["state"] == "open")?;
    std::thread::sleep(Duration::from_millis(700));
    let one = scene.daemon.get(&format!("/instances/shop/{BAD}"))?;
    let (flows, requests) = (flows.stop()?, requests.stop()?);
    ensure!(one["breaker"]["state"] == "open", "{one}");
    let before = flows
        .iter()
        .filter(|entry| entry.instance == "i1" && entry.begun < begun);
    ensure!(before.count() > 10, "too few connections to tell");
    // It opens with the third failure that the gateway saw, once it was silent for long enough.
    let failed = |entry: &&Entry| entry.begun > begun && entry.status == Some(500);
    let third = requests.iter().filter(failed).nth(2);
    let third = third.with_context(|| format!("expected three failures, found {one}"))?;
    let waited = knew.saturating_duration_since(third.ended);
    ensure!(waited <= SILENT, "open {waited:?} after three failures");
    let took = last_flow(&flows, knew, Instant::now());
    ensure!(
        took <= PROMPT,
        "the last new connection came {took:?} after the breaker had opened"
    );
    let more = flows.iter().filter(|entry| entry.begun > knew + PROMPT);
    ensure!(more.count() > 30, "too few connections after that");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_to_an_ejected_instance_go_on_and_new_ones_return_by_steps() -> Result<()> {
    let held = Configuration::service_over;
    let configuration = held(
        configuration(EJECTS),
        &[Family::V4],
        "echo",
        instance::TCP,
        &[10, 10, 10],
        "",
    )
    .with(&format!(
        "[[vips]]\naddress = \"{}\"\nport = {}\nservice = \"echo\"",
        address(NAT, Family::V4),
        instance::TCP
    ));
    let scene = Scene::new(3, configuration.text())?;
    let client = &scene.topology.client.namespace;
    // On a connection to the bad instance through the VIP requests go on, whatever lb thinks of it.
    let keep: Vec<Timeline> = (0..6)
        .map(|_| Timeline::start(client, vip(), "/", false, Duration::from_millis(20)))
        .collect();
    let echo = SocketAddr::new(address(NAT, Family::V4), instance::TCP);
    let held = Held::open(client, echo, 12)?;
    let before = held.opened().clone();
    let (flows, requests) = (flows(&scene), requests(&scene));
    set(&scene, "status/500")?;
    let path = format!("/instances/shop/{BAD}");
    let ejected = scene.daemon.wait_for(&path, Duration::from_secs(3), |one| {
        one["ejected"].is_object()
    });
    set(&scene, "status/200")?;
    ejected?;
    let seen = shares_by_second(&scene, &path)?;
    flows.stop()?;
    requests.stop()?;
    expect_steps(&seen, false)?;
    let mut on_bad = 0;
    for timeline in keep {
        let entries = timeline.stop()?;
        let first = entries.first().context("no requests")?.instance.clone();
        let moved = entries.iter().find(|entry| entry.instance != first);
        ensure!(moved.is_none(), "a connection to {first} became {moved:?}");
        on_bad += u32::from(first == "i1");
    }
    ensure!(on_bad > 0, "no connection to the bad instance was held");
    let after = held.close()?;
    ensure!(after == before, "opened {before}; at the end {after}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_was_measured_of_who_comes_back_is_no_part_of_its_share() -> Result<()> {
    // Its score and success rate would leave it a fraction of each step.
    let settings = format!("algorithm = \"health_aware\"\n{EJECTS}");
    let scene = Scene::new(3, configuration(&settings).text())?;
    let (flows, requests) = (flows(&scene), requests(&scene));
    let path = format!("/instances/shop/{BAD}");
    // Factors follow within seconds, failures in a row would take it out before.
    set(&scene, "failing/40")?;
    let learned = scene
        .daemon
        .wait_for(&path, Duration::from_secs(15), |one| {
            one["factor"].as_f64() < Some(0.8)
        });
    set(&scene, "failing/0")?;
    learned?;
    set(&scene, "status/500")?;
    let ejected = scene.daemon.wait_for(&path, Duration::from_secs(5), |one| {
        one["ejected"].is_object()
    });
    set(&scene, "status/200")?;
    ejected?;
    let one = scene
        .daemon
        .wait_for(&path, Duration::from_secs(5), |one| {
            one["recovery"]["share"].as_f64() == Some(0.2)
        })?;
    ensure!(one["factor"].as_f64() < Some(0.95), "{one}");
    let seen = shares_by_second(&scene, &path)?;
    flows.stop()?;
    requests.stop()?;
    expect_steps(&seen, true)
}

/// Every second at a step had the step's part of the connections: within two points, and three
/// deviations of a sample besides where their places are hashed.
fn expect_steps(seen: &[Second], hashed: bool) -> Result<()> {
    for (step, exact) in [(0.2, 0.2 / 2.2), (0.6, 0.6 / 2.6)] {
        let of_step: Vec<&Second> = seen.iter().filter(|one| one.share == step).collect();
        ensure!(!of_step.is_empty(), "no second at {step}: {seen:?}");
        for Second { bad, all, .. } in of_step {
            let deviation = f64::sqrt(exact * (1.0 - exact) / all);
            let off = 0.02 + if hashed { 3.0 * deviation } else { 0.0 };
            let found = bad / all;
            ensure!(
                (found - exact).abs() <= off,
                "expected {exact:.3} of {all} connections at {step}, found {found:.3}"
            );
        }
    }
    Ok(())
}

/// New connections of a second.
#[derive(Clone, Copy, Debug)]
struct Second {
    /// Share of its weight that the bad instance had all that second long.
    share: f64,
    /// Connections that it got.
    bad: f64,
    /// All of them.
    all: f64,
}

/// The seconds until the bad instance has recovered.
fn shares_by_second(scene: &Scene, path: &str) -> Result<Vec<Second>> {
    let connections = |stats: &Value| -> Option<(f64, f64)> {
        let of = |at: usize| stats["shares"][at]["connections"].as_f64();
        Some((of(0)?, of(0)? + of(1)? + of(2)?))
    };
    let share = |one: &Value| one["recovery"]["share"].as_f64();
    let mut seen = Vec::new();
    let mut last = None;
    cleanup::within(Duration::from_secs(15), || {
        Scene::age_figures();
        let (Ok(before), Ok(stats)) = (scene.daemon.get(path), scene.daemon.get("/stats/shop"))
        else {
            return false;
        };
        let Ok(after) = scene.daemon.get(path) else {
            return false;
        };
        let (now, counted) = (share(&before), connections(&stats));
        if share(&after) != now {
            last = None;
        } else if let (Some((then, since, (bad, all))), Some((later_bad, later_all))) =
            (last, counted)
        {
            let since: Instant = since;
            if then != now {
                last = None;
            } else if since.elapsed() >= Duration::from_secs(1) {
                seen.extend(now.map(|share| Second {
                    share,
                    bad: later_bad - bad,
                    all: later_all - all,
                }));
                last = None;
            }
        }
        if last.is_none() {
            last = counted.map(|counted| (now, Instant::now(), counted));
        }
        before["ejected"].is_null() && before["recovery"].is_null() && !seen.is_empty()
    });
    Ok(seen)
}
