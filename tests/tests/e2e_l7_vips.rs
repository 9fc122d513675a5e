//! VIPs of the gateway: many addresses and ports, and nobody who listens at them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use lb_tests::client::{curl::curl, http, load};
use lb_tests::daemon::{API, Rights};
use lb_tests::instance;
use lb_tests::scene::{Configuration, FAMILIES, Scene, address};
use lb_tests::topology::{Family, v4, v6};

/// Last parts of addresses of the network that nobody has; the first ones are VIPs.
const HELD: [u8; 3] = [200, 201, 207];
const ELSEWHERE: u8 = 208;
/// Connections of one measurement.
const COUNT: u32 = 24;

fn configuration(vips: &str) -> Configuration {
    Configuration::new(&format!("[]\nvips = {vips}"))
        .service("web", instance::HTTP, &[1, 1], "")
        .route("", "web")
}

/// 200 to 207 of both families.
fn vips() -> String {
    format!(
        "[\"{}/29:8000-8003\", \"[{}/125]:8000-8003\"]",
        v4(200),
        v6(200)
    )
}

/// Has the client send packets for these addresses to the balancer, which keeps them.
fn deliver(scene: &Scene) -> Result<()> {
    let balancer = &scene.topology.balancer.namespace;
    for (number, family) in HELD
        .iter()
        .chain([&ELSEWHERE])
        .flat_map(|number| FAMILIES.map(|family| (*number, family)))
    {
        let address = address(number, family);
        scene.topology.route_to_balancer(address)?;
        let line = match family {
            Family::V4 => format!("route add local {address}/32 dev lo"),
            Family::V6 => format!("route add local {address}/128 dev lo"),
        };
        balancer.ip(&[line])?;
    }
    Ok(())
}

/// What became of a request to an address and port.
fn ask(scene: &Scene, number: u8, family: Family, port: u16) -> Result<http::Answer> {
    let target = SocketAddr::new(address(number, family), port);
    let client = &scene.topology.client.namespace;
    http::request(client, target, Method::GET, "/name", "")
}

fn steered(scene: &Scene, result: &str) -> Result<u64> {
    let balancer = &scene.topology.balancer.namespace;
    let metrics = http::request(balancer, API, Method::GET, "/metrics", "")?.text();
    let name = format!("lb_gateway_steered_connections_total{{result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line
        .and_then(|count| count.parse().ok())
        .unwrap_or_default())
}

#[test]
#[ignore = "needs root"]
fn connections_to_any_address_and_port_are_served_and_others_are_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("access.log");
    let access =
        format!("[access_log]\nenabled = true\npath = {log:?}\nfields = [\"destination\"]\n");
    let scene = Scene::new(2, configuration(&vips()).with(&access).text())?;
    deliver(&scene)?;
    for (number, family) in HELD.iter().flat_map(|n| FAMILIES.map(|f| (*n, f))) {
        for port in [8000, 8003] {
            let answer = ask(&scene, number, family, port)?;
            ensure!(answer.status == 200, "{number} {family}: {}", answer.text());
        }
        let beyond = ask(&scene, number, family, 8004);
        ensure!(beyond.is_err(), "{number} {family}: somebody listens");
    }
    let elsewhere = ask(&scene, ELSEWHERE, Family::V6, 8000);
    ensure!(elsewhere.is_err(), "an address of nobody is served");
    // Each request has a connection of its own.
    let expected = u64::try_from(HELD.len() * 2 * 2)?;
    let read = || steered(&scene, "handed_over");
    let counted = lb_tests::cleanup::within(Duration::from_secs(5), || {
        read().is_ok_and(|count| count == expected)
    });
    ensure!(counted, "expected {expected}, found {}", read()?);
    ensure!(steered(&scene, "no_socket")? == 0, "no socket");
    // The log knows which of them a client has meant.
    let target = SocketAddr::new(address(HELD[2], Family::V6), 8003);
    let line = format!("{{\"destination\":\"{target}\"}}");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let logged = lb_tests::cleanup::within(Duration::from_secs(5), || {
        read().lines().any(|found| found == line)
    });
    ensure!(logged, "expected {line}, found\n{}", read());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_reload_changes_what_is_served_and_a_stop_ends_it() -> Result<()> {
    let mut scene = Scene::new(2, configuration("[]").text())?;
    deliver(&scene)?;
    let [number, other, _] = HELD;
    ensure!(ask(&scene, number, Family::V4, 8000).is_err(), "too early");
    let reload = |scene: &Scene, vips: &str| {
        scene.daemon.configure(configuration(vips).text())?;
        scene.daemon.post_admin("reload").map(drop)
    };
    let serves = |scene: &Scene, number: u8, port: u16| {
        lb_tests::cleanup::within(Duration::from_secs(3), || {
            ask(scene, number, Family::V4, port).is_ok_and(|answer| answer.status == 200)
        })
    };
    reload(&scene, &vips())?;
    ensure!(serves(&scene, number, 8000), "{}", scene.daemon.log());
    // Requests go on while something else changes.
    let target = SocketAddr::new(address(number, Family::V4), 8000);
    let plan = load::Plan::requests(target, "/name", 400);
    let load = load::start(&scene.topology.client.namespace, plan);
    let only = format!(
        "[\"{0}:8000\", \"{1}:any\"]",
        address(number, Family::V4),
        address(other, Family::V4)
    );
    reload(&scene, &only)?;
    ensure!(serves(&scene, other, 9999), "{}", scene.daemon.log());
    let tally = load.finish()?;
    ensure!(tally.failures().is_empty(), "{tally}");
    ensure!(
        ask(&scene, number, Family::V4, 8001).is_err(),
        "still served"
    );
    let held = (0..COUNT).map(|_| ask(&scene, other, Family::V4, 12_345));
    ensure!(held.flatten().all(|answer| answer.status == 200), "refused");
    reload(&scene, "[]")?;
    let gone = lb_tests::cleanup::within(Duration::from_secs(3), || {
        ask(&scene, number, Family::V4, 8000).is_err()
    });
    ensure!(gone, "still served");
    reload(&scene, &vips())?;
    ensure!(serves(&scene, number, 8000), "{}", scene.daemon.log());
    scene.daemon.stop(Duration::from_secs(10))?;
    ensure!(
        ask(&scene, number, Family::V4, 8000).is_err(),
        "served by nobody"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn addresses_and_ports_of_one_range_lead_to_services_of_their_own() -> Result<()> {
    let [plain, own, _] = HELD;
    let to = |destination: &str, path: &str| {
        format!(
            "[[routes]]\ndestination = \"{destination}\"\npath = \"{path}\"\nservice = \"two\"\n"
        )
    };
    let destinations = [
        to(&format!("{}:any", v4(own)), "/shop/*"),
        to(&format!("[{}]", v6(own)), "/shop/*"),
        to(&format!("{}/29:8003", v4(200)), "/*"),
        to(&format!("[{}/125]:8003", v6(200)), "/*"),
        to(&format!("{}:9000", v4(1)), "/*"),
    ]
    .concat();
    // Listeners have destinations as well as VIPs.
    let listen = format!("[\"0.0.0.0:9000\", \"[::]:9000\"]\nvips = {}", vips());
    let with = |destinations: &str| {
        let services = Configuration::new(&listen)
            .service("one", instance::HTTP, &[1, 0], "")
            .service("two", instance::HTTP, &[0, 1], "");
        services.route("", "one").with(destinations)
    };
    let scene = Scene::new(2, with(&destinations).text())?;
    deliver(&scene)?;
    let client = &scene.topology.client.namespace;
    let asked = |number: u8, family: Family, port: u16, path: &str| {
        let url = format!(
            "http://{}{path}",
            SocketAddr::new(address(number, family), port)
        );
        let answer = curl(client, &[&url])?;
        ensure!(answer.status == 200, "{url}: {}", answer.status);
        Ok((url, answer.body.trim_end().to_owned()))
    };
    for family in FAMILIES {
        for (number, port, path, expected) in [
            (plain, 8000, "/shop/hat", "i1"),
            (own, 8000, "/shop/hat", "i2"),
            (own, 8002, "/shop", "i2"),
            // What its routes do not serve is left to the others.
            (own, 8000, "/other", "i1"),
            (own, 8003, "/other", "i2"),
            (plain, 8003, "/shop/hat", "i2"),
        ] {
            let (url, found) = asked(number, family, port, path)?;
            ensure!(
                found == expected,
                "{url}: {expected} expected, found {found}"
            );
        }
    }
    for (family, expected) in [(Family::V4, "i2"), (Family::V6, "i1")] {
        let (url, found) = asked(1, family, 9000, "/")?;
        ensure!(
            found == expected,
            "{url}: {expected} expected, found {found}"
        );
    }
    let to = SocketAddr::new(address(own, Family::V6), 8001);
    let told = scene
        .daemon
        .get(&format!("/explain?url=/shop/hat&destination={to}"))?;
    ensure!(told["service"] == "two", "{told}");
    // Without them everything goes where it went before.
    scene.daemon.configure(with("").text())?;
    scene.daemon.post_admin("reload")?;
    let (url, found) = asked(own, Family::V4, 8003, "/shop/hat")?;
    ensure!(found == "i1", "{url}: {found}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn without_the_rights_the_start_fails_and_says_why() -> Result<()> {
    let Err(error) = Scene::with(1, configuration(&vips()).text(), Rights::NoKernel) else {
        anyhow::bail!("it runs");
    };
    let error = format!("{error:#}");
    ensure!(
        error.contains("gateway.vips") && error.contains("CAP_BPF"),
        "{error}"
    );
    Ok(())
}
