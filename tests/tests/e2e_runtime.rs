//! The configuration changed at run time, seen by the clients of the proxy and across crashes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::Method;
use lb_tests::client::curl::curl;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::client::tunnels::Tunnels;
use lb_tests::scene::{Configuration, Scene, address};
use lb_tests::topology::Family;
use lb_tests::{cleanup, command, instance};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A shop on the first host, and where what is set at run time is kept.
fn shop(state: &Path) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .with(&format!("[state]\nfile = {state:?}"))
        .service_over(&[Family::V4], "shop", instance::HTTP, &[10], "")
        .route("/shop", "shop")
}

fn endless(scene: &Scene) -> Load {
    let plan = Plan {
        requests: None,
        pause: Duration::from_millis(1),
        ..Plan::requests(scene.gateway(80), "/shop/{}", 0)
    };
    load::start(&scene.topology.client.namespace, plan)
}

fn more(load: &Load, count: u64) -> Result<()> {
    let goal = load.sent() + count;
    let done = cleanup::within(Duration::from_secs(20), || load.sent() >= goal);
    ensure!(done, "{count} more requests take more than twenty seconds");
    Ok(())
}

/// The endpoint of a host's instance.
fn endpoint(number: u8) -> String {
    format!("{}:{}", address(number, Family::V4), instance::HTTP)
}

/// A change by curl; its status and what it answers.
fn change(scene: &Scene, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let url = format!("http://127.0.0.1:7700/api/v1/loadbalancer{path}");
    let body = body.to_string();
    let answer = curl(
        &scene.topology.balancer.namespace,
        &[
            "--request",
            method,
            "--header",
            "Content-Type: application/json",
            "--data",
            &body,
            &url,
        ],
    )?;
    Ok((answer.status, serde_json::from_str(&answer.body)?))
}

#[test]
#[ignore = "needs root"]
fn what_is_changed_under_load_is_there_after_a_crash() -> Result<()> {
    let folder = TempDir::new()?;
    let state = folder.path().join("state.json");
    let mut scene = Scene::new(3, shop(&state).text())?;
    let load = endless(&scene);
    more(&load, 200)?;
    let new = json!({"endpoint": endpoint(12), "weight": 30});
    let (status, made) = change(&scene, "POST", "/instances/shop", &new)?;
    ensure!(status == 201 && made["data"]["persisted"] == true, "{made}");
    more(&load, 400)?;
    let blog = json!({"name": "blog", "instances": [endpoint(13)]});
    let (status, made) = change(&scene, "POST", "/services", &blog)?;
    ensure!(status == 201, "{made}");
    let (status, made) = change(
        &scene,
        "PUT",
        "/routes/*/blog/*",
        &json!({"service": "blog"}),
    )?;
    ensure!(status == 201, "{made}");
    let blogs = |scene: &Scene| {
        let plan = Plan::requests(scene.gateway(80), "/blog/{}", 40);
        load::run(&scene.topology.client.namespace, &plan)
    };
    let tally = blogs(&scene)?;
    ensure!(tally.of("i3") == 40, "{tally}");

    // One that is wrong changes nothing, and no request notices.
    let before = scene.daemon.get("/config")?;
    let wrong =
        json!({"services": {"shop": {"instances": [{"endpoint": "nowhere", "weight": 5}]}}});
    let (status, refused) = change(&scene, "PATCH", "/config", &wrong)?;
    ensure!(status == 422, "{refused}");
    let pointer = "/services/shop/instances/0/endpoint";
    ensure!(refused["errors"][0]["pointer"] == pointer, "{refused}");
    ensure!(
        scene.daemon.get("/config")? == before,
        "something has changed"
    );
    more(&load, 200)?;
    let all = load.stop()?;
    ensure!(all.failures().is_empty(), "{all}");
    ensure!(all.of("i1") > 0 && all.of("i2") > 0, "{all}");
    scene
        .daemon
        .post(&format!("/instances/shop/{}/drain", endpoint(11)))?;

    scene.daemon.kill()?;
    scene.daemon.start_again()?;
    let after = scene.daemon.get("/config")?;
    ensure!(after["document"] == before["document"], "{after}");
    ensure!(
        after["config_revision"] == before["config_revision"],
        "{after}"
    );
    let tally = blogs(&scene)?;
    ensure!(tally.of("i3") == 40, "{tally}");
    let plan = Plan::requests(scene.gateway(80), "/shop/{}", 40);
    let tally = load::run(&scene.topology.client.namespace, &plan)?;
    ensure!(tally.of("i2") == 40, "the drain is forgotten: {tally}");
    let shown = scene.daemon.cli(&["config", "show", "--origin"])?;
    let line = shown
        .lines()
        .find(|line| line.starts_with("services.shop.instances[1].weight"));
    let line = line.unwrap_or_default();
    ensure!(
        line.contains("= 30") && line.contains("run time (revision 2, by loopback"),
        "{shown}"
    );

    // Back to the first revision, and a reload leaves it so.
    let done = scene.daemon.cli(&["config", "rollback", "1"])?;
    ensure!(done.contains("service blog removed"), "{done}");
    scene.daemon.cli(&["reload"])?;
    let names = scene.daemon.get("/services")?;
    ensure!(
        names["services"].as_array().map_or(0, Vec::len) == 1,
        "{names}"
    );
    let listed = scene.daemon.cli(&["config", "revisions"])?;
    ensure!(listed.contains("rollback to 1"), "{listed}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_refuses_the_change_and_nothing_else() -> Result<()> {
    let folder = TempDir::new()?;
    let mount = Mounted::tmpfs(folder.path(), "64k")?;
    let state = folder.path().join("state.json");
    let mut scene = Scene::new(2, shop(&state).text())?;
    let kept = fs::read(&state)?;
    let filler = folder.path().join("filler");
    // Whatever fits is taken.
    drop(fs::write(&filler, vec![0; 1 << 20]));
    let load = endless(&scene);
    more(&load, 100)?;
    let new = json!({"endpoint": endpoint(12)});
    let (status, refused) = change(&scene, "POST", "/instances/shop", &new)?;
    ensure!(status == 507, "{refused}");
    ensure!(refused["type"] == "urn:lb:problem:not-kept", "{refused}");
    let drain = format!("/instances/shop/{}/drain", endpoint(11));
    ensure!(
        scene.daemon.post(&drain).is_err(),
        "an order was taken that cannot be kept"
    );
    ensure!(fs::read(&state)? == kept, "the state file has changed");
    more(&load, 100)?;
    let all = load.stop()?;
    ensure!(all.failures().is_empty() && all.of("i2") == 0, "{all}");
    fs::remove_file(&filler)?;
    let made = scene.daemon.ask(Method::POST, "/instances/shop", &new)?;
    ensure!(made["persisted"] == true, "{made}");

    // What is damaged is not started with.
    scene.daemon.kill()?;
    let text = fs::read_to_string(&state)?;
    fs::write(&state, &text[..text.len() / 2])?;
    let refused = scene.daemon.start_again().err();
    let said = refused
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(said.contains("expected a state file of lb"), "{said}");
    fs::write(&state, text)?;
    scene.daemon.start_again()?;
    drop(scene);
    drop(mount);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_a_drain_waits_for_in_vain_is_cut() -> Result<()> {
    let folder = TempDir::new()?;
    let state = folder.path().join("state.json");
    let scene = Scene::new(2, shop(&state).text())?;
    let new = json!({"endpoint": endpoint(12), "weight": 10});
    scene.daemon.ask(Method::POST, "/instances/shop", &new)?;
    let client = &scene.topology.client.namespace;
    let held = Tunnels::open(client, scene.gateway(80), "/shop/ws", 8)?;
    let (leaving, staying) = (held.opened().of("i1"), held.opened().of("i2"));
    ensure!(leaving > 0 && staying > 0, "{}", held.opened());
    let load = endless(&scene);
    more(&load, 50)?;

    // Nobody is cut while there is time.
    let name = endpoint(11);
    let drain = format!("/instances/shop/{name}/drain");
    let begun = Instant::now();
    let told = scene
        .daemon
        .ask(Method::POST, &drain, &json!({"deadline": "3s"}))?;
    ensure!(told["drain"]["then"] == "disable", "{told}");
    let beats = held.beats() + 16;
    ensure!(cleanup::within(Duration::from_secs(2), || held.beats() >= beats));
    let shown = scene.daemon.get(&format!("/instances/shop/{name}"))?;
    if begun.elapsed() < Duration::from_secs(2) {
        ensure!(shown["admin"] == "draining", "{shown}");
        ensure!(shown["drain"]["requests"] == leaving, "{shown}");
    }
    scene.daemon.wait_for(
        &format!("/instances/shop/{name}"),
        Duration::from_secs(10),
        |shown| shown["admin"] == "disabled" && shown["drain"].is_null(),
    )?;
    let gone = || {
        let shown = scene.daemon.get(&format!("/instances/shop/{name}"));
        shown.is_ok_and(|shown| shown["connections"]["open"] == 0)
    };
    ensure!(
        cleanup::within(Duration::from_secs(5), gone),
        "what is left of the instance is still open: {:?}",
        scene.daemon.get(&format!("/instances/shop/{name}"))
    );
    more(&load, 50)?;
    let left = held.close()?;
    ensure!(left.of("i1") == 0 && left.of("i2") == staying, "{left}");
    ensure!(left.failures().len() as u64 == leaving, "{left}");

    // The same when it goes for good, and what is new afterwards is none of its business.
    scene
        .daemon
        .post(&format!("/instances/shop/{name}/enable"))?;
    let held = Tunnels::open(client, scene.gateway(80), "/shop/ws", 8)?;
    let (leaving, staying) = (held.opened().of("i1"), held.opened().of("i2"));
    ensure!(leaving > 0 && staying > 0, "{}", held.opened());
    scene.daemon.cli(&[
        "instances",
        "remove",
        "shop",
        &endpoint(12),
        "--drain",
        "1s",
    ])?;
    let alone = |shown: &Value| shown["instances"].as_array().map_or(0, Vec::len) == 1;
    scene
        .daemon
        .wait_for("/instances/shop", Duration::from_secs(10), alone)?;
    let beats = held.beats();
    ensure!(cleanup::within(Duration::from_secs(5), || held.beats() > beats + 8));
    std::thread::sleep(Duration::from_secs(2));
    let left = held.close()?;
    ensure!(left.of("i2") == 0 && left.of("i1") == leaving, "{left}");
    let all = load.stop()?;
    ensure!(all.failures().is_empty(), "{all}");
    Ok(())
}

/// A file system that goes away again.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn tmpfs(at: &'p Path, size: &str) -> Result<Self> {
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        command::output(&mut mount)?;
        Ok(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0).status());
    }
}
