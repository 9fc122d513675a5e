//! The source ACL on real connections: rules of run time, files that are followed, restarts.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use lb_tests::cleanup;
use lb_tests::client::held::Held;
use lb_tests::client::{http, tcp, udp};
use lb_tests::daemon::API;
use lb_tests::instance;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::{Family, INTERFACE};
use serde_json::{Value, json};

/// Within which a file that has changed is read.
const FOLLOWED: Duration = Duration::from_secs(5);

fn scene(acl: &str) -> Result<Scene> {
    let configuration = Configuration::new("[]")
        .packets()
        .with(acl)
        .service("nat", instance::TCP, &[10, 10], "")
        .service(
            "dsr",
            instance::TCP,
            &[10, 10],
            "algorithm = \"consistent_hash\"\nforwarding = \"l2dsr\"",
        )
        .service(
            "datagrams",
            instance::UDP,
            &[10, 10],
            "forwarding = \"l2dsr\"",
        )
        .vips(NAT, instance::TCP, "tcp", "nat")
        .vips(DSR, instance::TCP, "tcp", "dsr")
        .vips(DSR, instance::UDP, "udp", "datagrams");
    Scene::new(2, configuration.text())
}

fn targets() -> impl Iterator<Item = SocketAddr> {
    [NAT, DSR].into_iter().flat_map(|number| {
        FAMILIES.map(|family| SocketAddr::new(address(number, family), instance::TCP))
    })
}

/// How many of the VIPs a connection to succeeds.
fn reached(scene: &Scene) -> Result<usize> {
    let client = &scene.topology.client.namespace;
    let mut reached = 0;
    for target in targets() {
        let tally = tcp::connections(client, target, 1)?;
        reached += usize::from(tally.failures().is_empty());
    }
    Ok(reached)
}

fn client(scene: &Scene) -> [String; 2] {
    let host = &scene.topology.client;
    [host.v4.to_string(), host.v6.to_string()]
}

fn denied(scene: &Scene) -> Result<u64> {
    Scene::age_figures();
    let acl = scene.daemon.get("/acl")?;
    acl["denied_packets"].as_u64().context("no count")
}

/// Received is forwarded, passed and dropped, exactly; the counters are read while others count.
fn adds_up(scene: &Scene) -> Result<()> {
    Scene::age_figures();
    let packets = &scene.daemon.get("/datapath")?["packets"];
    let of = |key: &str| packets[key].as_u64().unwrap_or_default();
    let sum = of("forwarded") + of("passed") + of("dropped");
    ensure!(sum.abs_diff(of("received")) <= 64, "{packets}");
    Ok(())
}

/// What was refused is told of each VIP by its reason, to whoever asks how.
fn told_of_each_vip(scene: &Scene) -> Result<()> {
    let datapath = scene.daemon.get("/datapath")?;
    let balancer = &scene.topology.balancer.namespace;
    let metrics = http::request(balancer, API, Method::GET, "/metrics", "")?.text();
    let text = scene.daemon.cli(&["datapath", "status"])?;
    let vips = datapath["vips"].as_array().context("no VIPs")?;
    let asked = |vip: &&Value| vip["service"] != "datagrams";
    ensure!(vips.iter().filter(asked).count() == 4, "{datapath}");
    for vip in vips.iter().filter(asked) {
        let (name, drops) = (vip["vip"].as_str().context("no name")?, &vip["drops"]);
        let denied = drops[0]["count"].as_u64().context("no drops")?;
        ensure!(
            drops[0]["reason"] == "source_denied" && vip["dropped"] == denied && denied > 0,
            "{vip}"
        );
        let is_told = |metric: &str, end: &str| {
            let mut lines = metrics.lines().filter(|line| line.starts_with(metric));
            lines.any(|line| line.contains(&format!("vip=\"{name}\"")) && line.contains(end))
        };
        ensure!(
            is_told("lb_l4_vip_drops_total{", "reason=\"source_denied\"")
                && is_told(
                    "lb_l4_vip_table_generation{",
                    &format!("}} {}", vip["generation"])
                ),
            "{metrics}"
        );
        ensure!(
            text.contains(&format!("{name} refused: source_denied "))
                && text.contains("GENERATION"),
            "{text}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_rule_of_run_time_cuts_whoever_is_connected_and_survives_the_daemon() -> Result<()> {
    let mut scene = scene("")?;
    ensure!(reached(&scene)? == 4, "{}", scene.daemon.log());
    let space = &scene.topology.client.namespace;
    let held: Vec<Held> = targets()
        .map(|target| Held::open(space, target, 2))
        .collect::<Result<_>>()?;
    ensure!(denied(&scene)? == 0);
    for address in client(&scene) {
        let path = format!("/acl/rules/{address}");
        scene.daemon.put(&path, &json!({"action": "deny"}))?;
    }
    scene.settle()?;
    for held in held {
        let tally = held.close()?;
        ensure!(tally.total() == 0 && tally.failures().len() == 2, "{tally}");
    }
    ensure!(denied(&scene)? > 8);
    adds_up(&scene)?;
    told_of_each_vip(&scene)?;
    // Without a daemon the kernel goes on by the same rules.
    let log = scene.daemon.log();
    scene.daemon.kill()?;
    let target = SocketAddr::new(address(DSR, FAMILIES[0]), instance::TCP);
    let tally = tcp::connections(&scene.topology.client.namespace, target, 1)?;
    ensure!(!tally.failures().is_empty(), "{tally}\n{log}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_file_is_followed_and_a_restart_has_its_rules_before_traffic() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("deny.txt");
    // A hundred thousand that hold nobody.
    let many: String = (0..100_000_u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            format!("172.{}.{b}.{c}\n", 16 + a)
        })
        .collect();
    fs::write(&list, &many)?;
    let mut scene = scene(&format!("[datapath.acl]\nfiles = [{list:?}]"))?;
    ensure!(reached(&scene)? == 4, "{}", scene.daemon.log());
    let acl = scene.daemon.get("/acl?limit=0")?;
    ensure!(acl["deny"] == 100_000, "{acl}");
    let writes = |scene: &Scene| -> Result<u64> {
        let datapath = scene.daemon.get("/datapath")?;
        datapath["reconcile"]["writes"]
            .as_u64()
            .context("no writes")
    };
    let before = writes(&scene)?;
    let [v4, v6] = client(&scene);
    fs::write(&list, format!("{many}{v4}\n{v6}/128 # both\n"))?;
    let followed = |scene: &Scene, rules: u64| -> Result<Value> {
        let found = scene
            .daemon
            .wait_for("/acl?limit=0", FOLLOWED, |acl| acl["deny"] == rules)?;
        scene.settle()?;
        Ok(found)
    };
    followed(&scene, 100_002)?;
    ensure!(
        writes(&scene)? == before,
        "rules of the ACL are no part of the snapshot's writes"
    );
    ensure!(reached(&scene)? == 0);
    // A faulty file changes nothing, and says what is wrong where.
    fs::write(&list, "not a prefix\n")?;
    let acl = scene.daemon.wait_for("/acl?limit=0", FOLLOWED, |acl| {
        acl["lists"][0]["faults"]
            .as_array()
            .is_some_and(|faults| !faults.is_empty())
    })?;
    ensure!(acl["deny"] == 100_002, "{acl}");
    let fault = acl["lists"][0]["faults"][0].as_str().unwrap_or_default();
    ensure!(
        fault.contains("deny.txt:1:1: expected an address"),
        "{fault}"
    );
    ensure!(
        scene.daemon.post_admin("reload").is_err(),
        "a reload has to be refused"
    );
    ensure!(reached(&scene)? == 0);
    // A restart goes by the file from its first packet on.
    fs::write(&list, format!("{v4}\n{v6}\n"))?;
    followed(&scene, 2)?;
    scene.daemon.stop(Duration::from_secs(10))?;
    ensure!(reached_without_daemon(&scene)? == 0);
    scene.daemon.start_again()?;
    scene.settle()?;
    ensure!(reached(&scene)? == 0);
    fs::write(&list, "# nobody\n")?;
    followed(&scene, 0)?;
    ensure!(reached(&scene)? == 4);
    let text = scene.daemon.cli(&["acl"])?;
    ensure!(text.contains("0 deny, 0 allow"), "{text}");
    adds_up(&scene)
}

/// One VIP of each forwarding, while nobody can be asked.
fn reached_without_daemon(scene: &Scene) -> Result<usize> {
    let client = &scene.topology.client.namespace;
    let mut reached = 0;
    for number in [NAT, DSR] {
        let target = SocketAddr::new(address(number, FAMILIES[0]), instance::TCP);
        let tally = tcp::connections(client, target, 1)?;
        reached += usize::from(tally.failures().is_empty());
    }
    Ok(reached)
}

/// Last part of the addresses of the client that it has beside its own.
const OTHER: u8 = 40;

/// A hundred thousand rules: prefixes that are denied, with one address inside of each that is allowed.
/// The last ones are the prefixes of the network, inside of which `allowed` is.
fn many(allowed: u8) -> String {
    let mut list = String::new();
    for n in 0..24_999_u32 {
        let v4 = |inside: u32| std::net::Ipv4Addr::from_bits(0xac10_0000 + n * 16 + inside);
        let _ = writeln!(list, "deny {}/28\nallow {}", v4(0), v4(7));
        let _ = writeln!(list, "deny 2001:db8:{n:x}::/48\nallow 2001:db8:{n:x}::7");
    }
    for (family, length) in FAMILIES.into_iter().zip([24, 64]) {
        let (network, inside) = (address(0, family), address(allowed, family));
        let _ = writeln!(list, "deny {network}/{length}\nallow {inside}");
    }
    list
}

/// A connection that has heard from its instance.
fn connected(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut name = String::new();
    BufReader::new(&stream).read_line(&mut name)?;
    ensure!(name.starts_with('i'), "{target}: {name:?}");
    Ok(stream)
}

/// Something is sent, and dropped because of its source. What is dropped has no answer, so that is not
/// waited for.
fn expect_denied(scene: &Scene, send: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = denied(scene)?;
    send()?;
    let is_dropped = cleanup::within(Duration::from_secs(2), || {
        denied(scene).is_ok_and(|now| now > before)
    });
    ensure!(is_dropped, "{before} denied before, and no more since");
    Ok(())
}

/// Of the client's two addresses one gets its datagrams answered, and those of the other are dropped.
fn only(scene: &Scene, allowed: u8, refused: u8) -> Result<()> {
    for family in FAMILIES {
        let target = SocketAddr::new(address(DSR, family), instance::UDP);
        let from = |number| SocketAddr::new(address(number, family), 0);
        let client = &scene.topology.client.namespace;
        client
            .enter(|| udp::echo(from(allowed), target))?
            .with_context(|| format!("from {}", address(allowed, family)))?;
        let socket = client.enter(|| UdpSocket::bind(from(refused)))??;
        expect_denied(scene, || Ok(socket.send_to(b"hello", target).map(drop)?))?;
        socket.set_nonblocking(true)?;
        ensure!(socket.recv(&mut [0; 64]).is_err(), "an answer to {target}");
    }
    Ok(())
}

/// What the daemon says of a hundred thousand rules, and of some of them.
fn says_all(scene: &Scene, allowed: u8, refused: u8) -> Result<()> {
    let acl = scene.daemon.get("/acl?limit=0")?;
    ensure!(acl["deny"] == 50_000 && acl["allow"] == 50_000, "{acl}");
    ensure!(acl["lists"][0]["prefixes"] == 100_000, "{acl}");
    let balancer = &scene.topology.balancer.namespace;
    let metrics = http::request(balancer, API, Method::GET, "/metrics", "")?.text();
    for action in ["allow", "deny"] {
        let line = format!("lb_l4_acl_rules{{action=\"{action}\"}} 50000");
        ensure!(metrics.lines().any(|one| one == line), "no {line}");
    }
    let [v4, v6] = FAMILIES.map(|family| [allowed, refused].map(|one| address(one, family)));
    let asked = [
        ("172.22.26.103".parse()?, "allow"),
        ("172.22.26.104".parse()?, "deny"),
        ("172.22.26.112".parse()?, "none"),
        ("2001:db8:61a6::7".parse()?, "allow"),
        ("2001:db8:61a6::8".parse()?, "deny"),
        ("2001:db8:61a7::8".parse()?, "none"),
        (v4[0], "allow"),
        (v4[1], "deny"),
        (v6[0], "allow"),
        (v6[1], "deny"),
    ];
    for (address, action) in asked {
        let told = scene.daemon.get(&format!("/acl/match?address={address}"))?;
        let rule = told["rule"]["action"].as_str().unwrap_or("none");
        ensure!(rule == action, "expected {action}, found {told}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_hundred_thousand_rules_let_through_who_is_allowed_inside_of_what_is_denied() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("deny.txt");
    fs::write(&list, many(2))?;
    let scene = scene(&format!("[datapath.acl]\nfiles = [{list:?}]"))?;
    let client = &scene.topology.client.namespace;
    // For those alone that ask for it: IPv4 prefers the first address, IPv6 what is not deprecated.
    let [v4, v6] = FAMILIES.map(|family| address(OTHER, family));
    client.ip(&[
        format!("addr add {v4}/24 dev {INTERFACE}"),
        format!("addr add {v6}/64 dev {INTERFACE} nodad preferred_lft 0"),
    ])?;
    says_all(&scene, 2, OTHER)?;
    only(&scene, 2, OTHER)?;
    let streams: Vec<TcpStream> = targets()
        .map(|target| client.enter(|| connected(target))?)
        .collect::<Result<_>>()?;
    for mut stream in &streams {
        stream.write_all(b".")?;
        stream.read_exact(&mut [0])?;
    }
    adds_up(&scene)?;

    fs::write(&list, many(OTHER))?;
    let path = format!("/acl/match?address={}", address(2, Family::V6));
    let is_denied = |told: &Value| told["action"] == "deny";
    scene.daemon.wait_for(&path, FOLLOWED, is_denied)?;
    scene.settle()?;
    says_all(&scene, OTHER, 2)?;
    only(&scene, OTHER, 2)?;
    expect_denied(&scene, || {
        let mut streams = streams.iter();
        streams.try_for_each(|mut stream| Ok(stream.write_all(b".")?))
    })?;
    for mut stream in &streams {
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        let heard = stream.read(&mut [0]);
        ensure!(heard.is_err(), "a connection goes on: {heard:?}");
    }
    adds_up(&scene)
}
