//! More requests than instances may have, and more than a client may send.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::client::http::{Client, runtime};
use lb_tests::client::load::{self, Plan};
use lb_tests::instance;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;

/// What an instance takes for a request, and how many at a time it gets.
const SERVICE: Duration = Duration::from_millis(40);
const SLOTS: u32 = 4;
const INSTANCES: u32 = 2;

fn shop(settings: &str) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[1, 1], settings)
        .route("/shop", "shop")
}

/// What came of requests that were sent at a steady rate, whatever became of those before.
#[derive(Debug, Default)]
struct Offered {
    sent: usize,
    served: Vec<Duration>,
    refused: Vec<String>,
}

/// Sends `rate` requests a second for `time`, from clients that each wait for their turn: an
/// answer that takes longer than a client's turn comes round would slow it down, so there are many.
fn offer(scene: &Scene, rate: f64, time: Duration) -> Result<Offered> {
    const CLIENTS: u32 = 100;
    let target = scene.gateway(80);
    let path: Arc<str> = format!("/shop?delay={}", SERVICE.as_millis()).into();
    let thread = scene.topology.client.namespace.spawn(move || {
        runtime()?.block_on(async {
            let begin = tokio::time::Instant::now() + Duration::from_millis(50);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let path = Arc::clone(&path);
                    tokio::spawn(async move {
                        let mut client = Client::new(target, "lb.test");
                        let mut offered = Offered::default();
                        for turn in 0.. {
                            let at = f64::from(turn * CLIENTS + number) / rate;
                            if at > time.as_secs_f64() {
                                break;
                            }
                            tokio::time::sleep_until(begin + Duration::from_secs_f64(at)).await;
                            let sent = Instant::now();
                            offered.sent += 1;
                            match client.get(&path).await {
                                Ok(answer) if answer.status.is_success() => {
                                    offered.served.push(sent.elapsed());
                                }
                                Ok(answer) => offered.refused.push(answer.text()),
                                Err(error) => offered.refused.push(format!("{error:#}")),
                            }
                        }
                        offered
                    })
                })
                .collect();
            let mut all = Offered::default();
            for client in clients {
                let one = client.await?;
                all.sent += one.sent;
                all.served.extend(one.served);
                all.refused.extend(one.refused);
            }
            all.served.sort();
            Ok(all)
        })
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the clients' thread panicked"))?
}

/// Requests a second that the instances can serve, when exactly as many are sent as they have
/// slots.
fn capacity(scene: &Scene) -> Result<f64> {
    let path = format!("/shop?delay={}", SERVICE.as_millis());
    let plan = Plan {
        clients: INSTANCES * SLOTS,
        ..Plan::requests(scene.gateway(80), &path, 300)
    };
    let begun = Instant::now();
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(tally.failures().is_empty(), "{tally}");
    Ok(300.0 / begun.elapsed().as_secs_f64())
}

/// 1.7 times what the instances can do: nearly all of that is served, and soon.
fn overload(settings: &str) -> Result<()> {
    let scene = Scene::new(2, shop(settings).text())?;
    let capacity = capacity(&scene)?;
    let time = Duration::from_secs(4);
    let offered = offer(&scene, capacity * 1.7, time)?;
    let (served, sent) = (offered.served.len(), offered.sent);
    let goodput = served as f64 / time.as_secs_f64() / capacity;
    let p99 = offered.served[served * 99 / 100];
    let summary = format!(
        "capacity {capacity:.0}/s, sent {sent}, served {served}: {goodput:.3} of it, p99 {p99:?}"
    );
    ensure!(goodput >= 0.95, "{summary}");
    ensure!(p99 <= SERVICE * 5, "{summary}");
    let known = ["queue_shed", "queue_full", "queue_timeout"];
    let strange = offered.refused.iter().find(|r| !known.contains(&&***r));
    ensure!(strange.is_none(), "{strange:?}");
    let limits = scene.daemon.get("/limits")?;
    let shop = &limits["services"][0];
    ensure!(
        shop["in_flight"] == 0 && shop["queue"]["waiting"] == 0,
        "{shop}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn overload_is_served_as_far_as_it_goes_and_the_rest_is_told_soon() -> Result<()> {
    overload(&format!(
        "limits = {{ instance_max_requests = {SLOTS} }}\nqueue = {{ size = 200 }}"
    ))
}

#[test]
#[ignore = "needs root"]
fn overload_with_shedding_is_no_worse() -> Result<()> {
    overload(&format!(
        "limits = {{ instance_max_requests = {SLOTS} }}\nqueue = {{ size = 200 }}\n\
         concurrency = {{ enabled = true, min = {} }}",
        INSTANCES * SLOTS
    ))
}

#[test]
#[ignore = "needs root"]
fn a_rate_is_exact_over_seconds_and_workers() -> Result<()> {
    const RATE: f64 = 50.0;
    const BURST: f64 = 10.0;
    let settings = "rate_limit = { requests = 50, burst = 10 }";
    let scene = Scene::new(2, shop(settings).text())?;
    let plan = Plan {
        clients: 8,
        requests: None,
        pause: Duration::from_millis(5),
        ..Plan::requests(scene.gateway(80), "/shop", 0)
    };
    let before = Instant::now();
    let load = load::start(&scene.topology.client.namespace, plan);
    std::thread::sleep(Duration::from_secs(5));
    let tally = load.stop()?;
    let most = BURST + RATE * before.elapsed().as_secs_f64();
    let passed = (tally.of("i1") + tally.of("i2")) as f64;
    ensure!(passed <= most, "{passed} of at most {most}");
    ensure!(
        passed >= BURST + RATE * 4.9 - 3.0,
        "{passed} of about {most}"
    );
    let limits = scene.daemon.get("/limits")?;
    let refused = limits["rate_limits"][0]["refused"].as_u64();
    ensure!(refused.is_some_and(|refused| refused > 0), "{limits}");
    Ok(())
}
