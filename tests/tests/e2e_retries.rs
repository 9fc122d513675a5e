//! Retries, counted at the instances.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lb_tests::client::curl::curl;
use lb_tests::client::http::{Client, runtime};
use lb_tests::client::load::{self, Plan};
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use lb_tests::{cleanup, instance};

/// What a service may have of retries in a period without any requests, and workers it has.
const FLOOR: u64 = 30;

const REQUESTS: u64 = 2000;

/// Three instances that nothing keeps away from clients, whatever they do.
fn unguarded() -> Configuration {
    let settings = "breaker = { enabled = false }\noutlier = { enabled = false }\n\
                    retry = { backoff = \"1ms\" }";
    Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[1, 1, 1], settings)
        .route("/shop", "shop")
}

/// Asks every instance itself, and gives back what each says.
fn each(scene: &Scene, path: &str) -> Result<Vec<String>> {
    let hosts = scene.topology.instances.iter();
    hosts
        .map(|host| {
            let at = SocketAddr::new(host.v4.into(), instance::HTTP);
            Ok(curl(&host.namespace, &[&format!("http://{at}{path}")])?.body)
        })
        .collect()
}

/// Requests that the instances have seen.
fn seen(scene: &Scene) -> Result<u64> {
    let counts = each(scene, "/_count")?;
    let counts = counts.iter().map(|count| Ok(count.trim().parse::<u64>()?));
    counts.sum()
}

/// Connections that were refused by the hosts of the instances.
fn refused(scene: &Scene) -> Result<u64> {
    let hosts = scene.topology.instances.iter();
    hosts
        .map(|host| {
            let text = host
                .namespace
                .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
            let (names, values) = (tcp.next(), tcp.next());
            let (names, values) = names.zip(values).context("no figures of TCP")?;
            let mut fields = names.split(' ').zip(values.split(' '));
            let resets = fields.find(|(name, _)| *name == "OutRsts");
            Ok(resets.context("no OutRsts")?.1.parse::<u64>()?)
        })
        .sum()
}

/// Asks in vain.
fn ask(scene: &Scene) -> Result<()> {
    let target = scene.gateway(80);
    let asking = scene.topology.client.namespace.spawn(move || {
        runtime()?.block_on(async {
            let mut client = Client::new(target, "lb.test");
            for _ in 0..REQUESTS {
                let status = client.get("/shop/").await?.status;
                ensure!(
                    status.is_server_error(),
                    "expected failures, found {status}"
                );
            }
            Ok(())
        })
    });
    asking
        .join()
        .map_err(|_| anyhow!("the client's thread panicked"))?
}

/// An outage may cost a fifth more, or the floor where that is more, of each worker.
fn within_budget(asked: u64, retries: &serde_json::Value) -> Result<()> {
    let most = REQUESTS + REQUESTS / 5 + FLOOR;
    let least = REQUESTS + REQUESTS / 10;
    ensure!(
        (least..=most).contains(&asked),
        "expected {least} to {most} requests at the instances, found {asked}; {retries}"
    );
    let counted = retries["retries"].as_u64().unwrap_or_default();
    ensure!(asked == REQUESTS + counted, "{asked} asked; {retries}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_outage_of_busy_instances_costs_them_a_fifth_more() -> Result<()> {
    let scene = Scene::new(3, unguarded().text())?;
    each(&scene, "/_set/status/503")?;
    ask(&scene)?;
    within_budget(seen(&scene)?, &scene.daemon.get("/stats/shop")?)
}

#[test]
#[ignore = "needs root"]
fn an_outage_of_dead_instances_costs_their_hosts_a_fifth_more() -> Result<()> {
    let mut scene = Scene::new(3, unguarded().text())?;
    for name in ["i1", "i2", "i3"] {
        scene.kill(name)?;
    }
    let before = refused(&scene)?;
    ask(&scene)?;
    let asked = refused(&scene)? - before;
    within_budget(asked, &scene.daemon.get("/stats/shop")?)
}

/// Two of three are killed in the same moment, in the middle of a load: their connections are
/// reset, and whoever was waiting is served by the third.
#[test]
#[ignore = "needs root"]
fn instances_that_are_killed_together_cost_no_request() -> Result<()> {
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[1, 1, 1], "")
        .route("/shop", "shop");
    let mut scene = Scene::new(3, configuration.text())?;
    let plan = Plan {
        requests: None,
        ..Plan::requests(scene.gateway(80), "/shop/{}", 0)
    };
    let load = load::start(&scene.topology.client.namespace, plan);
    let more = |count: u64| -> Result<()> {
        let goal = load.sent() + count;
        let done = cleanup::within(Duration::from_secs(20), || load.sent() >= goal);
        ensure!(done, "{count} more requests take more than twenty seconds");
        Ok(())
    };
    more(1000)?;
    scene.kill("i1")?;
    scene.kill("i3")?;
    more(1000)?;
    let tally = load.stop()?;
    let stats = scene.daemon.get("/stats/shop")?;
    ensure!(tally.failures().is_empty(), "{tally}\n{stats}");
    ensure!(stats["retries"].as_u64() > Some(0), "{stats}");
    Ok(())
}

/// An instance takes requests and does not answer: all are served by the other one.
#[test]
#[ignore = "needs root"]
fn a_second_instance_answers_when_the_first_one_hangs() -> Result<()> {
    let settings = "hedge = { enabled = true, after = \"50ms\", max_extra = 0.5 }\n\
                    outlier = { enabled = false }";
    let configuration = Configuration::new("[\"0.0.0.0:80\"]")
        .service_over(&[Family::V4], "shop", instance::HTTP, &[1, 1], settings)
        .route("/shop", "shop");
    let scene = Scene::new(2, configuration.text())?;
    // Hedges of a worker are paid for by its own requests, so each has to have some: of so many
    // connections none is left without.
    let plan = Plan {
        clients: 32,
        ..Plan::requests(scene.gateway(80), "/shop/{}", 320)
    };
    load::run(&scene.topology.client.namespace, &plan)?;
    let host = scene.host("i1")?;
    let at = SocketAddr::new(host.v4.into(), instance::HTTP);
    curl(&host.namespace, &[&format!("http://{at}/_set/delay/60000")])?;
    let plan = Plan::requests(scene.gateway(80), "/shop/{}", 40);
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    let stats = scene.daemon.get("/stats/shop")?;
    ensure!(tally.of("i2") == 40, "{tally}\n{stats}");
    let won = stats["hedges"].as_array().and_then(|hedges| {
        let won = hedges.iter().find(|hedge| hedge["reason"] == "won")?;
        won["count"].as_u64()
    });
    ensure!(won >= Some(1), "{stats}");
    Ok(())
}
