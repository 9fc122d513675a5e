//! Instances that are found: by DNS from a real name server, by SRV records, in a file. What is found
//! changes under load, and no request and no connection notices.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_server::proto::rr::RecordType;
use lb_tests::client::held::Held;
use lb_tests::client::load::{self, Load, Plan};
use lb_tests::client::tunnels::Tunnels;
use lb_tests::daemon::Daemon;
use lb_tests::dns::{Manner, NameServer};
use lb_tests::instance::{self, Instance};
use lb_tests::scene::{Configuration, NAT, Scene, address};
use lb_tests::topology::{Family, Topology};
use lb_tests::{cleanup, topology};
use serde_json::Value;

const PROMPT: Duration = Duration::from_secs(15);

/// Answers hold for this long, in seconds.
const TTL: u32 = 1;

/// A name server on the client's host, instances, and a daemon that asks the one for the others.
struct World {
    scene: Scene,
    names: NameServer,
}

impl World {
    /// `prepare` fills the zone before the daemon starts.
    fn new(
        instances: u8,
        discovery: &str,
        prepare: impl FnOnce(&NameServer) -> Result<()>,
    ) -> Result<Self> {
        let topology = Topology::new(instances)?;
        let names = NameServer::start(&topology.client)?;
        prepare(&names)?;
        let mut running = Vec::new();
        for host in &topology.instances {
            running.push(Instance::start(host, &[])?);
        }
        let configuration = Configuration::new("[\"0.0.0.0:80\"]")
            .with(&format!(
                "[defaults.discovery]\nservers = [\"{}\"]\ntimeout = \"4s\"\n\
                 min_interval = \"200ms\"\nmax_interval = \"2s\"",
                names.address
            ))
            .with(&format!("[services.web]\ndiscovery = {{ {discovery} }}"))
            .route("/web", "web");
        let daemon = Daemon::start(&topology.balancer, configuration.text())?;
        let scene = Scene {
            daemon,
            instances: running,
            topology,
        };
        Ok(Self { scene, names })
    }

    fn load(&self) -> Load {
        let plan = Plan {
            requests: None,
            pause: Duration::from_millis(2),
            ..Plan::requests(self.scene.gateway(80), "/web/{}", 0)
        };
        load::start(&self.scene.topology.client.namespace, plan)
    }

    /// Waits until the service has these instances, those that leave not counted.
    fn has(&self, numbers: &[u8]) -> Result<()> {
        let expected: Vec<String> = numbers.iter().map(|number| endpoint(*number)).collect();
        let found = self
            .scene
            .daemon
            .wait_for("/instances/web", PROMPT, |list| takers(list) == expected);
        found.map(drop)
    }

    /// The one source.
    fn source(&self) -> Result<Value> {
        let mut all = self.scene.daemon.get("/discovery")?;
        Ok(all["sources"][0].take())
    }

    /// Waits until the source is in this state.
    fn is(&self, state: &str) -> Result<Value> {
        let all = self.scene.daemon.wait_for("/discovery", PROMPT, |all| {
            all["sources"][0]["state"] == state
        })?;
        Ok(all["sources"][0].clone())
    }
}

fn endpoint(number: u8) -> String {
    format!("{}:{}", topology::v4(number), instance::HTTP)
}

fn ip(number: u8) -> IpAddr {
    topology::v4(number).into()
}

/// Names of the instances that take new traffic.
fn takers(list: &Value) -> Vec<String> {
    let all = list["instances"].as_array().map_or(&[][..], Vec::as_slice);
    let taking = all.iter().filter(|one| one["available"] == true);
    let mut names: Vec<String> = taking
        .filter_map(|one| Some(one["instance"].as_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn more(load: &Load, count: u64) -> Result<()> {
    let goal = load.sent() + count;
    let done = cleanup::within(Duration::from_secs(30), || load.sent() >= goal);
    ensure!(done, "{count} more requests take more than half a minute");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_name_is_followed_under_load_when_its_time_is_over() -> Result<()> {
    let world = World::new(3, "dns = \"web.test:8080\"", |names| {
        names.addresses("web.test", TTL, &[ip(11)])
    })?;
    // The first answer was there before the gateway was.
    world.has(&[11])?;
    let load = world.load();
    more(&load, 100)?;
    for addresses in [&[11, 12][..], &[12, 13], &[13], &[11, 12, 13]] {
        let all: Vec<IpAddr> = addresses.iter().map(|number| ip(*number)).collect();
        world.names.addresses("web.test", TTL, &all)?;
        world.has(addresses)?;
        more(&load, 200)?;
    }
    let tally = load.stop()?;
    ensure!(tally.failures().is_empty(), "{tally}");
    ensure!(tally.instances() == 3, "{tally}");
    // Nobody is asked before the last answer's time is over.
    let asked = world.names.asked();
    let times: Vec<_> = (asked.iter())
        .filter(|asked| asked.kind == RecordType::A)
        .map(|asked| asked.at)
        .collect();
    // On a busy machine an answer may be late and a question be asked twice, but not often.
    let (first, last) = times.first().zip(times.last()).context("nobody asks")?;
    let longest = u32::try_from(times.len())? - 1;
    ensure!(longest >= 4, "{times:?}");
    let rest = (*last - *first) / longest;
    ensure!(rest >= Duration::from_millis(900), "{rest:?}");
    let source = world.source()?;
    ensure!(
        source["state"] == "good" && source["failures"] == 0,
        "{source}"
    );
    ensure!(
        source["kind"] == "dns" && source["source"] == "web.test:8080",
        "{source}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn srv_records_say_hosts_ports_and_weights() -> Result<()> {
    let world = World::new(3, "srv = \"_http._tcp.web.test\"", |names| {
        names.addresses("a.test", 30, &[ip(11)])?;
        names.addresses("b.test", 30, &[ip(12)])?;
        names.addresses("c.test", 30, &[ip(13)])?;
        let targets = [
            (10, 30, 8080, "a.test"),
            (10, 10, 8080, "b.test"),
            (20, 99, 8080, "c.test"),
        ];
        names.targets("_http._tcp.web.test", TTL, &targets)
    })?;
    world.has(&[11, 12])?;
    let plan = Plan::requests(world.scene.gateway(80), "/web/{}", 400);
    let tally = load::run(&world.scene.topology.client.namespace, &plan)?;
    ensure!(
        tally.failures().is_empty() && tally.total() == 400,
        "{tally}"
    );
    ensure!(
        (tally.share("i1") - 0.75).abs() < 0.03 && tally.of("i3") == 0,
        "{tally}"
    );
    // The name's owner lets the others stand in, and weighs anew.
    let targets = [
        (5, 1, 8080, "c.test"),
        (5, 1, 8080, "a.test"),
        (10, 9, 8080, "b.test"),
    ];
    world.names.targets("_http._tcp.web.test", TTL, &targets)?;
    world.has(&[11, 13])?;
    let tally = load::run(&world.scene.topology.client.namespace, &plan)?;
    ensure!(
        (tally.share("i1") - 0.5).abs() < 0.03 && tally.of("i2") == 0,
        "{tally}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn whatever_happens_to_the_name_server_the_service_goes_on() -> Result<()> {
    let mut world = World::new(2, "dns = \"web.test:8080\"", |names| {
        names.addresses("web.test", TTL, &[ip(11)])
    })?;
    let load = world.load();
    for (manner, told) in [
        (Manner::ServFail, "Server Failure"),
        (Manner::Silent, "no answer"),
    ] {
        world.names.behave(manner);
        let source = world.is("stale")?;
        let problem = source["problem"].as_str().unwrap_or_default();
        let known = problem.contains(told) || problem.contains("timed out");
        ensure!(known, "{source}");
        more(&load, 200)?;
        world.names.behave(Manner::Right);
        world.is("good")?;
    }
    // The name is gone, and then the server is.
    world.names.remove("web.test");
    let source = world.is("stale")?;
    ensure!(source.to_string().contains("NXDOMAIN"), "{source}");
    ensure!(
        source["instances"][0]["instance"] == endpoint(11),
        "{source}"
    );
    let health = world.scene.daemon.get("/health")?;
    ensure!(health["status"] == "degraded", "{health}");
    ensure!(
        health.to_string().contains("web.test does not exist"),
        "{health}"
    );
    let told = world.scene.daemon.cli(&["discovery"])?;
    ensure!(
        told.contains("stale") && told.contains("NXDOMAIN"),
        "{told}"
    );
    let metrics = world.scene.daemon.cli(&["metrics"])?;
    let series = "lb_discovery_state{service=\"web\",kind=\"dns\",source=\"web.test:8080\",state=\"stale\"} 1";
    ensure!(metrics.contains(series), "{metrics}");
    let client = world.scene.topology.client.clone();
    drop(world.names);
    more(&load, 500)?;
    // It is back, and says something else.
    world.names = NameServer::start(&client)?;
    world.names.addresses("web.test", TTL, &[ip(12)])?;
    world.scene.daemon.post("/discovery/refresh")?;
    world.has(&[12])?;
    more(&load, 200)?;
    let tally = load.stop()?;
    ensure!(tally.failures().is_empty(), "{tally}");
    ensure!(tally.of("i2") > 100, "{tally}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_answer_that_does_not_fit_a_datagram_arrives_whole() -> Result<()> {
    let many: Vec<IpAddr> = (100..180).map(ip).collect();
    let world = World::new(1, "dns = \"web.test:8080\"", |names| {
        names.addresses("web.test", TTL, &many)
    })?;
    let source = world.is("good")?;
    let found = source["instances"].as_array().map_or(0, Vec::len);
    ensure!(found == 80, "{found}");
    let asked = world.names.asked();
    ensure!(asked.iter().any(|asked| asked.tcp), "{asked:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_empty_answer_is_believed_when_the_service_says_when() -> Result<()> {
    let discovery = "dns = \"web.test:8080\", empty_after = \"2s\", drain = \"1s\"";
    let world = World::new(1, discovery, |names| {
        names.addresses("web.test", TTL, &[ip(11)])
    })?;
    world.has(&[11])?;
    world.names.remove("web.test");
    world.is("stale")?;
    world.has(&[])?;
    world.names.addresses("web.test", TTL, &[ip(11)])?;
    world.has(&[11])
}

#[test]
#[ignore = "needs root"]
fn web_sockets_outlive_the_name_of_their_instance() -> Result<()> {
    let world = World::new(2, "dns = \"web.test:8080\"", |names| {
        names.addresses("web.test", TTL, &[ip(11)])
    })?;
    let client = world.scene.topology.client.namespace.clone();
    let tunnels = Tunnels::open(&client, world.scene.gateway(80), "/web/ws", 5)?;
    ensure!(tunnels.opened().of("i1") == 5, "{}", tunnels.opened());
    world.names.addresses("web.test", TTL, &[ip(12)])?;
    world.has(&[12])?;
    let left = world.scene.daemon.get("/discovery")?;
    ensure!(left["leaving"][0]["instance"] == endpoint(11), "{left}");
    ensure!(left["leaving"][0]["in_flight"] == 5, "{left}");
    let goal = tunnels.beats() + 50;
    let alive = cleanup::within(PROMPT, || tunnels.beats() >= goal);
    ensure!(alive, "the tunnels are silent");
    let tally = tunnels.close()?;
    ensure!(tally.failures().is_empty() && tally.total() == 5, "{tally}");
    // Now it has finished.
    world
        .scene
        .daemon
        .wait_for("/instances/web", PROMPT, |list| {
            list["instances"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_file_is_followed_and_connections_in_the_kernel_stay() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("web.toml");
    let write = |name: &str, numbers: &[u8]| -> Result<()> {
        let list: Vec<String> = numbers
            .iter()
            .map(|number| format!("{}:{}", topology::v4(*number), instance::TCP))
            .collect();
        fs::write(folder.path().join(name), format!("instances = {list:?}")).map_err(Into::into)
    };
    // As Kubernetes mounts a ConfigMap: a link to a folder that is swapped.
    write("one", &[11])?;
    symlink("one", &path)?;
    let configuration = Configuration::new("[]")
        .packets()
        .with(&format!(
            "[services.stream]\nforwarding = \"nat\"\nalgorithm = \"round_robin\"\n\
             discovery.file = {:?}",
            path.display().to_string()
        ))
        .with(&format!(
            "[[vips]]\naddress = \"{}\"\nport = {}\nservice = \"stream\"",
            address(NAT, Family::V4),
            instance::TCP
        ));
    let scene = Scene::new(2, configuration.text())?;
    let vip = (address(NAT, Family::V4), instance::TCP).into();
    let client = &scene.topology.client.namespace;
    let held = Held::open(client, vip, 10)?;
    ensure!(held.opened().of("i1") == 10, "{}", held.opened());
    write("two", &[12])?;
    symlink("two", folder.path().join("swap"))?;
    fs::rename(folder.path().join("swap"), &path)?;
    let list = scene.daemon.wait_for("/instances/stream", PROMPT, |list| {
        takers(list).len() == 1 && !takers(list)[0].contains("0.11:")
    })?;
    ensure!(
        list["instances"].as_array().map_or(0, Vec::len) == 2,
        "{list}"
    );
    // What is begun from here on goes to the other one; what there was stays where it is.
    let new = Held::open(client, vip, 10)?;
    ensure!(new.opened().of("i2") == 10, "{}", new.opened());
    std::thread::sleep(Duration::from_secs(4));
    // A file with a fault changes nothing, and says where it is wrong.
    fs::write(folder.path().join("two"), "instances = [\"10.77.0.12\"]")?;
    let sources = scene.daemon.wait_for("/discovery", PROMPT, |all| {
        all["sources"][0]["state"] == "stale"
    })?;
    ensure!(
        sources.to_string().contains(":1:14: instances[0].endpoint"),
        "{sources}"
    );
    for (connections, instance) in [(held, "i1"), (new, "i2")] {
        let tally = connections.close()?;
        ensure!(
            tally.failures().is_empty() && tally.of(instance) == 10,
            "{tally}"
        );
    }
    scene.daemon.wait_for("/instances/stream", PROMPT, |list| {
        list["instances"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    })?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_changed_configuration_is_reloaded_when_it_is_watched() -> Result<()> {
    let with = |weight: u16| {
        Configuration::new("[\"0.0.0.0:80\"]")
            .with("[reload]\nwatch = true")
            .service_over(&[Family::V4], "web", instance::HTTP, &[weight], "")
            .route("/web", "web")
    };
    let scene = Scene::new(1, with(1).text())?;
    let weight = |weight: u16| {
        scene.daemon.wait_for("/instances/web", PROMPT, |list| {
            list["instances"][0]["weight"] == weight
        })
    };
    weight(1)?;
    scene.daemon.configure(with(7).text())?;
    weight(7)?;
    scene.daemon.configure(with(9).with("[colour]").text())?;
    let health = scene.daemon.wait_for("/health", PROMPT, |health| {
        health["last_reload"]["success"] == false
    })?;
    ensure!(health.to_string().contains("1 fault"), "{health}");
    weight(7)?;
    let file = scene.daemon.file();
    let new = file.with_extension("new");
    fs::write(&new, with(9).text()).context("cannot write")?;
    fs::rename(new, file)?;
    weight(9)?;
    Ok(())
}
