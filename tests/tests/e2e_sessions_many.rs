//! Very many sessions, loaded through the proxy, found again and expired.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hyper::Method;
use lb_tests::client::http::{Client, runtime};
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::parameter::parameter;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use serde_json::Value;

/// Requests a second that even a busy machine manages.
const PACE: u64 = 2000;
/// Sessions of which each visit is compared.
const WATCHED: u64 = 200;

/// The instances that the watched sessions are answered by.
fn visit(scene: &Scene) -> Result<Vec<String>> {
    let target = scene.gateway(80);
    scene.topology.client.namespace.enter(|| {
        runtime()?.block_on(async {
            let mut client = Client::new(target, "lb.test");
            let mut seen = Vec::new();
            for number in 0..WATCHED {
                let session = number.to_string();
                let field = [("x-session-id", session.as_str())];
                let answer = client.send(Method::GET, "/shop/", &field, Bytes::new());
                let answer = answer.await?;
                ensure!(answer.status.is_success(), "{}", answer.text());
                seen.push(answer.instance().unwrap_or_default().to_owned());
            }
            Ok(seen)
        })
    })?
}

/// `LB_TEST_SESSIONS` says how many.
#[test]
#[ignore = "needs root"]
fn very_many_sessions_are_kept_found_again_and_expire() -> Result<()> {
    let sessions = u64::from(parameter("LB_TEST_SESSIONS", 50_000)?);
    // Nobody must expire while the others come, however slow that is.
    let ttl = Duration::from_secs(10 + sessions / PACE);
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(
            &[Family::V4],
            "shop",
            instance::HTTP,
            &[10, 10, 10],
            &format!(
                "algorithm = \"round_robin\"\n\
                 affinity = {{ enabled = true, ttl = \"{}s\" }}",
                ttl.as_secs()
            ),
        )
        .route("/shop", "shop");
    let scene = Scene::new(3, configuration.text())?;
    let mut plan = Plan::requests(scene.gateway(80), "/shop/", sessions);
    plan.sessions = sessions;
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(
        tally.failures().is_empty() && tally.total() == sessions && tally.instances() == 3,
        "{tally}"
    );
    let store = |told: &Value, field: &str| told["store"][field].as_u64().unwrap_or_default();
    let full = scene.daemon.get("/sessions?limit=1")?;
    let (entries, memory) = (store(&full, "entries"), store(&full, "memory_bytes"));
    ensure!(
        entries == sessions && store(&full, "evicted") == 0,
        "expected {sessions} sessions: {}",
        full["store"]
    );
    // What a million may take, and what the smallest store takes anyway.
    ensure!(
        memory <= 128 * sessions + (1 << 20),
        "{memory} bytes for {sessions} sessions"
    );
    ensure!(visit(&scene)? == visit(&scene)?, "sessions that wander");
    let megabytes = memory as f64 / 1e6;
    writeln!(io::stderr(), "{sessions} sessions in {megabytes:.1} MB")?;
    let over = ttl + Duration::from_secs(20);
    let empty = (scene.daemon).wait_for("/sessions?limit=1", over, |told| {
        store(told, "entries") == 0
    })?;
    ensure!(store(&empty, "expired") == sessions, "{}", empty["store"]);
    Ok(())
}
