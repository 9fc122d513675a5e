//! `/explain/flow`: packets are read or refused, and without a packet path there is no answer.

use serde_json::json;

use super::*;

const PATH: &str = "/api/v1/loadbalancer/explain/flow";

#[tokio::test]
async fn queries_are_read_or_refused() {
    let world = World::new();
    let ends = "source=198.51.100.7:4000&destination=192.0.2.1:80";
    for (query, pointer) in [
        ("".to_owned(), "source"),
        (
            "source=198.51.100.7&destination=192.0.2.1:80".to_owned(),
            "source",
        ),
        ("source=198.51.100.7:4000".to_owned(), "destination"),
        (
            "source=198.51.100.7:4000&destination=[2001:db8::1]:80".to_owned(),
            "destination",
        ),
        (format!("{ends}&protocol=sctp"), "protocol"),
        (format!("{ends}&flags=urgent"), "flags"),
        (format!("{ends}&protocol=udp&flags=syn"), "flags"),
        (format!("{ends}&port=80"), ""),
    ] {
        let path = format!("{PATH}?{query}");
        let problem = world.ask(Method::GET, &path).await.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
}

#[tokio::test]
async fn nobody_knows_what_a_packet_path_would_do_that_is_not_there() {
    let world = World::new();
    for more in ["", "&protocol=udp", "&flags=ack,fin", "&interface=eth0"] {
        let path = format!("{PATH}?source=198.51.100.7:4000&destination=192.0.2.1:80{more}");
        let problem = world.ask(Method::GET, &path).await.problem(409);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("expected a packet path"), "{detail}");
    }
}

/// A world whose VIPs a relay serves: one of TCP that leads to `main-backend`, beside the one of UDP.
fn relayed() -> World {
    let world = World::new();
    let mut desired = desired();
    desired.vips.push(VipSpec {
        address: [192, 0, 2, 1].into(),
        ports: Ports::One(80),
        protocol: Protocol::Tcp,
        service: name("main-backend"),
    });
    let change = Change::Configure(Box::new(desired));
    world.registry.apply(change).unwrap();
    let mut report = Report {
        mode: Some(PathMode::Relay),
        ..Report::default()
    };
    report.connections.max = 10;
    world.reporter.publish(report);
    world
}

#[tokio::test]
async fn of_a_relay_the_connection_is_told_that_a_packet_begins() {
    let world = relayed();
    let told = world
        .get("/explain/flow?source=198.51.100.7:4000&destination=192.0.2.1:80")
        .await;
    let facts = ["verdict", "counter", "vip", "service", "algorithm"].map(|name| &told[name]);
    let expected = [
        "relayed",
        "relayed",
        "tcp/192.0.2.1:80",
        "main-backend",
        "adaptive",
    ];
    assert_eq!(facts, expected.map(|text| json!(text)).each_ref());
    assert_eq!(told["packet"]["flags"], json!(["syn"]));
    assert_eq!(told["packet"].get("interface"), None);
    let shares = [0, 1].map(|at| told["candidates"][at]["share"].as_f64().unwrap());
    assert!((shares[0] + shares[1] - 1.0).abs() < 0.01, "{shares:?}");
    let likeliest = if shares[0] > shares[1] { A } else { B };
    assert_eq!(told["instance"], likeliest);
    // Nothing was counted, and nobody got a turn.
    let b = world.instance("main-backend", 1);
    assert_eq!((b.in_flight(), b.connections.open()), (0, 0));
}

#[tokio::test]
async fn of_a_relay_refusals_are_told_with_their_reason() {
    let world = relayed();
    let path = "/explain/flow?source=198.51.100.7:4000&destination=192.0.2.1:80";
    for at in 0..2 {
        let instance = world.instance("main-backend", at);
        world.health(&instance, Health::Unhealthy, "connection refused");
    }
    let told = world.get(path).await;
    let facts = ["verdict", "counter"].map(|name| &told[name]);
    assert_eq!(facts, [&json!("refused"), &json!("no_instance")]);
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("waits for that to change"), "{reason}");
    assert_eq!(told["candidates"][0]["excluded"], "unhealthy");
    assert_eq!(told.get("instance"), None);
}

#[tokio::test]
async fn what_a_relay_does_not_serve_is_the_hosts() {
    let world = relayed();
    let ends = "source=198.51.100.7:4000&destination=192.0.2.1";
    let nobodys = world.get(&format!("/explain/flow?{ends}:81")).await;
    assert_eq!(nobodys["verdict"], "passed");
    assert_eq!(nobodys.get("vip"), None);
    let udp = world
        .get(&format!("/explain/flow?{ends}:53&protocol=udp"))
        .await;
    assert_eq!(
        [&udp["verdict"], &udp["vip"]],
        [&json!("passed"), &json!("udp/192.0.2.1:53")]
    );
    let reason = udp["reason"].as_str().unwrap();
    assert!(reason.contains("UDP has none"), "{reason}");
    for (more, pointer) in [("&flags=ack", "flags"), ("&interface=eth0", "interface")] {
        let path = format!("{PATH}?{ends}:80{more}");
        let problem = world.ask(Method::GET, &path).await.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], pointer);
        let said = problem.to_string();
        assert!(said.contains("VIPs are relayed"), "{said}");
    }
}

#[tokio::test]
async fn a_vip_that_no_connection_gets_to_is_not_relayed() {
    let path = "/explain/flow?source=198.51.100.7:4000&destination=192.0.2.1:80";
    let mut report = Report {
        mode: Some(PathMode::Relay),
        ..Report::default()
    };
    report.connections.max = 10;
    let (mut closed, mut lost) = (report.clone(), report);
    let in_use = "Address already in use".to_owned();
    closed
        .unheard
        .insert("192.0.2.1:80".parse().unwrap(), in_use);
    lost.undelivered.insert("192.0.2.1".parse().unwrap());
    for (report, why) in [
        (closed, "already in use"),
        (lost, "no address of this host"),
    ] {
        let world = relayed();
        world.reporter.publish(report);
        let told = world.get(path).await;
        assert_eq!(
            [&told["verdict"], &told["vip"]],
            ["passed", "tcp/192.0.2.1:80"]
                .map(|text| json!(text))
                .each_ref()
        );
        let reason = told["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
        assert_eq!(told.get("instance"), None);
    }
}
