//! What requests notice of the systems beside lb, whatever state those are in: nothing, if lb keeps
//! its word.
//!
//! One daemon in namespaces, asked at a pace that leaves both cores room, so that what is measured
//! is how long an answer takes and not how long the queue is. Without integrations first, then with
//! both backends that are well, that never answer, that answer what is no HTTP, that lie, and that
//! are gone. Each round measures all of them, beginning with another one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::report::{Comparison, Series};
use crate::{
    beside::{Beside, Manner},
    client::http::{Client, runtime},
    instance,
    scene::{Configuration, Scene},
    topology::Family,
};

const BESIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// Clients, and the mean rest of each between two requests.
const CLIENTS: u64 = 4;
const REST: Duration = Duration::from_micros(1500);
/// Requests of a client in a measurement.
const REQUESTS: usize = 1500;
/// How long lb has to find out how the backends are now.
const NOTICE: Duration = Duration::from_millis(1500);

/// How the backends are; nothing: there are none.
const STATES: [(&str, Option<State>); 7] = [
    ("no integration", None),
    ("well", Some(State::Is(Manner::Well))),
    ("never answer", Some(State::Is(Manner::Silent))),
    ("no HTTP", Some(State::Is(Manner::Garbage))),
    ("lie", Some(State::Is(Manner::Lying))),
    ("endless answers", Some(State::Is(Manner::EndlessBody))),
    ("gone", Some(State::Gone)),
];

#[derive(Clone, Copy, Debug)]
enum State {
    Is(Manner),
    Gone,
}

fn configuration(with: bool) -> Configuration {
    let beside = format!(
        "[integration.circuit_breaker]\nurl = \"http://{BESIDE}\"\ncheck_interval = \"1s\"\n\
         [integration.metrics]\nurl = \"http://{BESIDE}/\"\ninterval = \"500ms\""
    );
    Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[1, 1], "")
        .route("/shop", "shop")
        .with(if with { &beside } else { "" })
}

/// Measures `rounds` rounds; `progress` is told what runs.
///
/// # Errors
/// When something does not come up, or a request fails.
pub fn run(rounds: u32, progress: &mut dyn FnMut(&str)) -> Result<Vec<Comparison>> {
    let scene = Scene::new(2, configuration(false).text())?;
    let beside = Beside::start(&scene.topology.balancer.namespace, BESIDE)?;
    let empty = || {
        STATES.map(|(name, _)| Series {
            name: name.to_owned(),
            values: Vec::new(),
        })
    };
    let mut series = [empty(), empty()];
    measure(&scene)?;
    for round in 0..rounds as usize {
        for step in 0..STATES.len() {
            let position = (step + round) % STATES.len();
            let (name, state) = STATES[position];
            become_so(&scene, &beside, state)?;
            let mut times = measure(&scene)?;
            if matches!(state, Some(State::Gone)) {
                beside.comes_back()?;
            }
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let figures = [0.5, 0.99].map(|share| at(share).as_secs_f64() * 1e6);
            for (series, figure) in series.iter_mut().zip(figures) {
                series[position].values.push(figure);
            }
            progress(&format!(
                "round {}/{rounds}, {name}: p50 {:.0} µs, p99 {:.0} µs",
                round + 1,
                figures[0],
                figures[1]
            ));
        }
    }
    let titles = ["median", "99th percentile"];
    let comparisons = series
        .into_iter()
        .zip(titles)
        .map(|(series, title)| Comparison {
            title: format!("latency beside backends, {title}"),
            unit: "µs",
            series: series.into(),
        });
    Ok(comparisons.collect())
}

fn become_so(scene: &Scene, beside: &Beside, state: Option<State>) -> Result<()> {
    scene
        .daemon
        .configure(configuration(state.is_some()).text())?;
    scene.daemon.post_admin("reload")?;
    match state {
        Some(State::Is(manner)) => beside.is(manner),
        Some(State::Gone) => beside.goes(),
        None => {}
    }
    std::thread::sleep(NOTICE);
    Ok(())
}

/// How long each of a few thousand requests took.
fn measure(scene: &Scene) -> Result<Vec<Duration>> {
    let target = scene.gateway(80);
    scene.topology.client.namespace.enter(|| {
        runtime()?.block_on(async {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| tokio::spawn(client(target, Rng::with_seed(number))))
                .collect();
            let mut times = Vec::new();
            for client in clients {
                times.extend(client.await??);
            }
            Ok(times)
        })
    })?
}

/// A client that asks by chance, as clients do that know nothing of each other.
async fn client(target: SocketAddr, mut random: Rng) -> Result<Vec<Duration>> {
    let mut client = Client::new(target, "lb.test");
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let answer = client.get("/shop").await?;
        times.push(begun.elapsed());
        ensure!(
            answer.status.is_success(),
            "{} {}",
            answer.status,
            answer.text()
        );
        tokio::time::sleep(REST.mul_f64(-(1.0 - random.f64()).ln())).await;
    }
    Ok(times)
}
