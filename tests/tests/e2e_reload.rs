//! A reload is a difference in place: hundreds of them under load, and nobody who is not concerned
//! notices anything.
//!
//! The suite runs a short form. `LB_TEST_RELOADS` says how many changes there are (1000 for the
//! whole), `LB_TEST_SECONDS` in what time at least (60), `LB_TEST_SOCKETS` how many WebSockets are held
//! meanwhile (500).

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::client::http;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::client::tunnels::Tunnels;
use lb_tests::daemon::API;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::{instance, topology};
use nix::sys::signal::Signal;

const PROMPT: Duration = Duration::from_secs(20);

/// Every so many changes, one waits for the watch of the file.
const WATCHED: u32 = 50;

/// Changes from which on the daemon's memory tells something: before that, what it bounds (the feed
/// of events, windows of new instances) is still filling up.
const WHOLE: u32 = 1000;

/// Growth of the daemon's memory after the warm-up that counts as none.
const GROWTH: f64 = 0.05;

/// The same for the short form, which ends while the daemon warms up.
const SHORT_GROWTH: f64 = 0.4;

fn figure(variable: &str, otherwise: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("expected a number in {variable}, found {text:?}")),
        Err(_) => Ok(otherwise),
    }
}

/// The configuration after `change` changes: what clients use stays, everything else moves.
fn configuration(change: u32, found: &Path) -> Configuration {
    let list = |numbers: &[u8], weight: u32| {
        let items = numbers.iter().map(|number| {
            let endpoint = format!("{}:{}", topology::v4(*number), instance::HTTP);
            format!("{{ endpoint = \"{endpoint}\", weight = {weight} }}")
        });
        items.collect::<Vec<_>>().join(", ")
    };
    let extra = 81 + change % 4;
    let listen = match change % 3 {
        0 => "[\"0.0.0.0:80\"]".to_owned(),
        _ => format!("[\"0.0.0.0:80\", \"0.0.0.0:{extra}\"]"),
    };
    // Members come and go, and weigh something else.
    let members: &[u8] = [&[11, 12][..], &[12, 13], &[11, 13], &[11, 12, 13]][change as usize % 4];
    let mut configuration = Configuration::new(&listen)
        .with("[reload]\nwatch = true")
        .with(&format!(
            "[services.stay]\ninstances = [{}]",
            list(&[11, 12, 13], 5)
        ))
        .route("/stay", "stay")
        .with(&format!(
            "[services.moves]\nalgorithm = \"{}\"\ninstances = [{}]",
            ["least_connections", "round_robin", "consistent_hash"][change as usize / 4 % 3],
            list(members, 1 + change % 7)
        ))
        .route("/moves", "moves")
        .with(&format!(
            "[services.mark]\ninstances = [{}]",
            list(&[11], 1 + change % 60_000)
        ))
        .with(&format!(
            "[services.found]\ndiscovery.file = {:?}",
            found.display().to_string()
        ))
        .route("/found", "found");
    for number in 0..change % 5 {
        configuration = configuration
            .with(&format!(
                "[services.extra-{number}]\ninstances = [{}]",
                list(&[12], 1)
            ))
            .route(&format!("/extra-{number}"), &format!("extra-{number}"));
    }
    configuration
}

/// A file that is replaced, never half there.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)?;
    Ok(())
}

struct Run {
    scene: Scene,
    folder: tempfile::TempDir,
    load: Vec<Load>,
}

impl Run {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let found = folder.path().join("found.json");
        replace(&found, &listed(0))?;
        let scene = Scene::new(3, configuration(0, &found).text())?;
        let load = ["/stay/{}", "/moves/{}", "/found/{}"].map(|path| {
            let plan = Plan {
                requests: None,
                pause: Duration::from_millis(5),
                ..Plan::requests(scene.gateway(80), path, 0)
            };
            load::start(&scene.topology.client.namespace, plan)
        });
        Ok(Self {
            scene,
            folder,
            load: load.into(),
        })
    }

    /// Makes a change and waits until it holds.
    fn change(&mut self, change: u32) -> Result<()> {
        let found = self.folder.path().join("found.json");
        if change.is_multiple_of(10) {
            replace(&found, &listed(change))?;
        }
        let configuration = configuration(change, &found);
        replace(&self.scene.daemon.file(), configuration.text())?;
        match change % WATCHED {
            // Nobody says anything: the file has changed.
            0 => {}
            odd if odd % 2 == 1 => self.scene.daemon.process()?.signal(Signal::SIGHUP)?,
            _ => {
                let path = "/api/v1/admin/loadbalancer/reload";
                let balancer = &self.scene.topology.balancer.namespace;
                let answer = http::request(balancer, API, Method::POST, path, "")?;
                ensure!(answer.status.is_success(), "{}", answer.text());
            }
        }
        let weight = 1 + change % 60_000;
        let held = self
            .scene
            .daemon
            .wait_for("/instances/mark", PROMPT, |list| {
                list["instances"][0]["weight"] == weight
            });
        held.map(drop)
    }

    /// Resident memory of the daemon in bytes.
    fn memory(&mut self) -> Result<f64> {
        let pid = self.scene.daemon.process()?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let text = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(text.trim().parse::<f64>()? * 1024.0)
    }
}

/// The list of the service that is found, in JSON.
fn listed(change: u32) -> String {
    let numbers: &[u8] = if change.is_multiple_of(20) {
        &[11, 12]
    } else {
        &[12, 13]
    };
    let items = numbers
        .iter()
        .map(|number| format!("\"{}:{}\"", topology::v4(*number), instance::HTTP));
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

#[test]
#[ignore = "needs root"]
fn many_changes_under_load_are_noticed_by_nobody() -> Result<()> {
    let changes = figure("LB_TEST_RELOADS", 200)?;
    let seconds = figure("LB_TEST_SECONDS", 15)?;
    let sockets = figure("LB_TEST_SOCKETS", 100)?;
    let mut run = Run::new()?;
    let client = run.scene.topology.client.namespace.clone();
    let target = run.scene.gateway(80);
    let tunnels = Tunnels::open(&client, target, "/stay/ws", sockets)?;
    let warm = changes / 4;
    let (started, mut longest, mut before) = (Instant::now(), Duration::ZERO, 0.0);
    let pace = Duration::from_secs(seconds.into()) / changes;
    for change in 1..=changes {
        let begun = Instant::now();
        run.change(change)?;
        longest = longest.max(begun.elapsed());
        if change == warm {
            before = run.memory()?;
        }
        // No faster than asked for: what is measured is what goes on meanwhile.
        sleep((pace * change).saturating_sub(started.elapsed()));
    }
    let took = started.elapsed();
    let after = run.memory()?;
    let alive = tunnels.close()?;
    let mut served = 0;
    for load in run.load.drain(..) {
        let tally = load.stop()?;
        ensure!(tally.failures().is_empty(), "{tally}");
        served += tally.total();
    }
    let growth = after / before - 1.0;
    let figures = format!(
        "{changes} changes in {:.1} s, the longest {longest:?}; {served} requests, none failed; \
         {} of {sockets} WebSockets alive; memory {:.1} MB, {:+.1} % since the warm-up",
        took.as_secs_f64(),
        alive.total(),
        after / 1e6,
        growth * 100.0
    );
    #[expect(
        clippy::print_stdout,
        reason = "the figures are what the long form is run for"
    )]
    {
        println!("{figures}");
    }
    ensure!(alive.failures().is_empty(), "{alive}\n{figures}");
    ensure!(alive.total() == u64::from(sockets), "{figures}");
    let limit = if changes < WHOLE {
        SHORT_GROWTH
    } else {
        GROWTH
    };
    ensure!(growth < limit, "{figures}");
    // Each was a reload, and none was refused.
    let metrics = run.scene.daemon.cli(&["metrics"])?;
    let refused = "lb_reloads_total{result=\"refused\"} 0";
    ensure!(metrics.contains(refused), "{metrics}");
    Ok(())
}
