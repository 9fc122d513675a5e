//! The Prometheus exposition: exact lines after known traffic, and the rules of the format.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::{
    integration::Integrations,
    l7::GatewayStats,
    model::{AdminState, Reason, RetryCause},
    telemetry::names::{self, Kind},
};

async fn scrape(world: &World) -> String {
    let got = world.ask(Method::GET, "/metrics").await;
    assert_eq!(got.status, 200);
    let format = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(got.header("content-type"), format);
    got.body
}

fn busy() -> World {
    let world = World::new();
    let mut limited = desired();
    let main = limited
        .services
        .iter_mut()
        .find(|service| service.name.as_str() == "main-backend");
    let main = main.unwrap();
    main.limits.connections = std::num::NonZeroU32::new(500);
    for instance in &mut main.instances {
        instance.max_connections = Some(200);
    }
    let limited = Change::Configure(Box::new(limited));
    world.registry.apply(limited).unwrap();
    let a = world.instance("main-backend", 0);
    world.serve(&a, Outcome::Success, 3, 4);
    world.serve(&a, Outcome::Failure, 1, 400);
    let service = Arc::clone(world.registry.snapshot().service("main-backend").unwrap());
    service.stats.answered(Reason::RequestTimeout);
    service.stats.retries.made(RetryCause::Status);
    let gateway = Arc::new(GatewayStats::default());
    gateway.runs(tokio::runtime::Handle::current().metrics());
    gateway.answers.answered(Reason::NoRoute);
    world.state.set_gateway(gateway);
    let integrations = Integrations::exemplary(service.name());
    world.state.set_integrations(Arc::new(integrations));
    a.measured.set_score(0.95);
    a.probe_latency
        .add(world.clock.now(), Duration::from_millis(2));
    world.health(&a, Health::Healthy, "200");
    discovery::has_sources(&world);
    world
}

#[tokio::test]
async fn the_guides_metrics_have_its_names_and_labels() {
    let world = busy();
    let b = world.instance("main-backend", 1);
    let _held = b.begin(Algorithm::Adaptive, 0, &world.clock);
    b.kernel.live.store(2, std::sync::atomic::Ordering::Relaxed);
    let text = scrape(&world).await;
    let adaptive =
        r#"service="main-backend",algorithm="adaptive",instance="http://127.0.0.1:8080""#;
    let a = r#"service="main-backend",instance="http://127.0.0.1:8080""#;
    let b = r#"service="main-backend",instance="http://127.0.0.1:8081""#;
    let times = "gateway_load_balancer_response_time_seconds";
    for line in [
        format!("gateway_load_balancer_request_total{{{adaptive},success=\"true\"}} 3"),
        format!("gateway_load_balancer_request_total{{{adaptive},success=\"false\"}} 1"),
        format!("{times}_bucket{{{adaptive},le=\"0.00025\"}} 0"),
        format!("{times}_bucket{{{adaptive},le=\"0.0025\"}} 0"),
        format!("{times}_bucket{{{adaptive},le=\"0.005\"}} 3"),
        format!("{times}_bucket{{{adaptive},le=\"0.25\"}} 3"),
        format!("{times}_bucket{{{adaptive},le=\"0.5\"}} 4"),
        format!("{times}_bucket{{{adaptive},le=\"30\"}} 4"),
        format!("{times}_bucket{{{adaptive},le=\"+Inf\"}} 4"),
        format!("{times}_sum{{{adaptive}}} 0.412"),
        format!("{times}_count{{{adaptive}}} 4"),
        format!("gateway_instance_active_connections{{{a}}} 0"),
        format!("gateway_instance_active_connections{{{b}}} 3"),
        format!("gateway_instance_total_requests{{{a}}} 4"),
        format!("gateway_instance_success_rate{{{a}}} 0.75"),
        format!("gateway_instance_average_response_time{{{a}}} 0.103"),
        format!("gateway_instance_health_score{{{a}}} 0.95"),
        format!("lb_instance_weight{{{b}}} 30"),
        format!("lb_instance_effective_weight{{{b}}} 30"),
        format!("lb_instance_health{{{a},state=\"healthy\"}} 1"),
        format!("lb_instance_health{{{a},state=\"unhealthy\"}} 0"),
        format!("lb_instance_probe_latency_seconds{{{a}}} 0.002"),
        r#"lb_answers_total{service="main-backend",reason="request_timeout"} 1"#.to_owned(),
        r#"lb_gateway_answers_total{reason="no_route"} 1"#.to_owned(),
        "lb_gateway_open_connections 0".to_owned(),
        r#"lb_retries_total{service="main-backend",reason="status"} 1"#.to_owned(),
        r#"lb_retries_refused_total{service="main-backend",reason="budget"} 0"#.to_owned(),
        r#"lb_reloads_total{result="refused"} 0"#.to_owned(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    // Who served nothing in the last minute has no rate.
    assert!(!text.contains(&format!("gateway_instance_success_rate{{{b}}}")));
    world.clock.advance(Duration::from_secs(120));
    let later = scrape(&world).await;
    assert!(!later.contains("gateway_instance_success_rate"));
    assert!(later.contains(&format!("gateway_instance_total_requests{{{a}}} 4\n")));
}

#[tokio::test]
async fn every_series_belongs_to_a_declared_family_and_stands_once() {
    let text = scrape(&busy()).await;
    let declared: HashMap<&str, _> = names::ALL.iter().map(|f| (f.name, *f)).collect();
    let mut family = None;
    let mut seen = HashSet::new();
    let mut helped = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert_eq!(help, declared[name].help);
            assert!(helped.insert(name), "{name} is not in one piece");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let expected = match declared[name].kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!(kind, expected, "{name}");
            family = Some(declared[name]);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        assert!(seen.insert(series.to_owned()), "{series} twice");
        let family = family.unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|_| family.kind == Kind::Histogram)
            .unwrap_or(name);
        assert_eq!(base, family.name, "{line}");
        let labels: Vec<&str> = labels
            .split(',')
            .filter_map(|pair| Some(pair.split_once('=')?.0))
            .filter(|label| *label != "le")
            .collect();
        assert_eq!(labels, family.labels, "{line}");
    }
    for family in names::ALL {
        let l4 = family.name.starts_with("lb_l4_");
        assert!(
            l4 || helped.contains(family.name),
            "{} is missing",
            family.name
        );
    }
}

#[tokio::test]
async fn states_change_with_the_state() {
    let world = busy();
    let change = Change::Admin {
        service: name("main-backend"),
        instance: A.to_owned(),
        state: AdminState::Draining,
    };
    world.registry.apply(change).unwrap();
    let text = scrape(&world).await;
    let a = r#"service="main-backend",instance="http://127.0.0.1:8080""#;
    for line in [
        format!("lb_instance_admin{{{a},state=\"draining\"}} 1"),
        format!("lb_instance_admin{{{a},state=\"enabled\"}} 0"),
        format!("lb_instance_effective_weight{{{a}}} 0"),
        format!("lb_instance_weight{{{a}}} 10"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}

#[tokio::test]
async fn packets_add_up_and_an_absent_packet_path_has_no_zeros() {
    let world = World::new();
    let ocr = world.instance("ocr-service", 0);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    ocr.kernel.live.store(5, relaxed);
    ocr.kernel.dropped.store(6, relaxed);
    let text = scrape(&world).await;
    let vip = r#"vip="udp/192.0.2.1:53",service="ocr-service""#;
    let instance = r#"service="ocr-service",instance="127.0.0.1:8004""#;
    for line in [
        "lb_l4_received_packets_total 100".to_owned(),
        r#"lb_l4_packets_total{result="forwarded",reason="transmitted"} 60"#.to_owned(),
        r#"lb_l4_packets_total{result="passed",reason="not_vip"} 37"#.to_owned(),
        r#"lb_l4_packets_total{result="dropped",reason="ttl_expired"} 3"#.to_owned(),
        r#"lb_l4_packets_total{result="dropped",reason="no_route"} 0"#.to_owned(),
        r#"lb_l4_events_total{event="connections_opened"} 7"#.to_owned(),
        r#"lb_l4_attached{interface="eth0",mode="generic"} 1"#.to_owned(),
        format!("lb_l4_vip_bytes_total{{{vip},direction=\"in\"}} 6000"),
        format!("lb_l4_vip_connections_total{{{vip}}} 7"),
        format!("lb_l4_vip_live_connections{{{vip}}} 4"),
        format!("lb_l4_instance_live_connections{{{instance}}} 5"),
        format!("lb_l4_instance_dropped_packets_total{{{instance}}} 6"),
        "lb_l4_connection_entries 7".to_owned(),
        "lb_l4_tables_max 63".to_owned(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    let packets = text
        .lines()
        .filter(|line| line.starts_with("lb_l4_packets_total{"));
    let sum: u64 = packets
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(sum, 100);
    // Instances of services without a VIP have nothing to do with the kernel.
    assert!(!text.contains(r#"lb_l4_instance_live_connections{service="main-backend""#));

    world.reporter.publish(Report::default());
    world.clock.advance(Duration::from_millis(1));
    let text = scrape(&world).await;
    assert!(!text.contains("lb_l4_packets_total"), "{text}");
}

#[tokio::test]
async fn metrics_are_not_for_strangers() {
    let world = World::new();
    let far = SocketAddr::from(([192, 0, 2, 7], 1));
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    world.send(with_peer(request, far)).await.problem(401);
    let request = Request::get("/metrics").header("authorization", "Bearer secret");
    let request = request.body(Body::empty()).unwrap();
    assert_eq!(world.send(with_peer(request, far)).await.status, 200);
}
