//! What holds when several sources speak.

use std::time::Duration;

use super::*;
use crate::model::{
    Algorithm, DatapathMode, Forwarding, GatewaySpec, HashKey, HealthCheckSpec, HostPattern,
    PathPattern, Probe, RouteSpec, TimeoutSpec,
};

#[test]
fn nothing_at_all_gives_the_defaults_of_the_model() {
    let config = load_text("").unwrap();
    assert_eq!(config.daemon, DaemonSpec::default());
    let address = ([0, 0, 0, 0], 8000).into();
    assert_eq!(
        config.desired,
        Desired {
            listeners: vec![ListenerSpec { address }],
            gateway: GatewaySpec::default(),
            ..Desired::default()
        }
    );
    assert!(config.settings.iter().all(|s| s.origin == Origin::Default));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "[gateway]\nlisten = [\"10.0.0.1:80\"]\n[log]\nlevel = \"warn\"\n\
                [defaults]\nalgorithm = \"round_robin\"\n";
    let env = [("PORT", "9000"), ("LB_DEFAULT_ALGORITHM", "adaptive")];
    let flags = Overrides {
        default_algorithm: Some("consistent_hash".to_owned()),
        workers: Some("3".to_owned()),
        ..Overrides::default()
    };
    let config = load_all(file, &env, &flags).unwrap();
    for (path, expected) in [
        ("log.level", "\"warn\" # lb.toml:4:9"),
        ("log.format", "\"text\" # default"),
        (
            "gateway.listen",
            "[\"0.0.0.0:9000\"] # environment variable PORT",
        ),
        ("gateway.workers", "3 # flag --workers"),
        (
            "defaults.algorithm",
            "\"consistent_hash\" # flag --default-algorithm",
        ),
    ] {
        assert_eq!(setting(&config, path), expected, "{path}");
    }
    assert_eq!(config.daemon.workers, 3);
    assert_eq!(
        config.desired.listeners[0].address,
        ([0, 0, 0, 0], 9000).into()
    );
}

#[test]
fn every_flag_reaches_its_setting() {
    let some = |text: &str| Some(text.to_owned());
    let flags = Overrides {
        config: None,
        watch: true,
        listen: vec!["127.0.0.1:1".to_owned(), "2".to_owned()],
        api_listen: some("off"),
        workers: some("7"),
        log_level: some("Debug"),
        log_format: some("json"),
        state_file: some("/var/lib/lb/flag.json"),
        interface: vec!["eth0".to_owned(), "eth1".to_owned()],
        datapath_mode: some("generic"),
        default_algorithm: some("adaptive"),
    };
    let config = load_all("", &[], &flags).unwrap();
    for (path, expected) in [
        (
            "gateway.listen",
            "[\"127.0.0.1:1\", \"0.0.0.0:2\"] # flag --listen",
        ),
        ("reload.watch", "true # flag --watch"),
        ("api.listen", "\"off\" # flag --api-listen"),
        ("gateway.workers", "7 # flag --workers"),
        ("log.level", "\"debug\" # flag --log-level"),
        ("log.format", "\"json\" # flag --log-format"),
        (
            "datapath.interfaces",
            "[\"eth0\", \"eth1\"] # flag --interface",
        ),
        ("datapath.mode", "\"generic\" # flag --datapath-mode"),
        (
            "defaults.algorithm",
            "\"adaptive\" # flag --default-algorithm",
        ),
    ] {
        assert_eq!(setting(&config, path), expected, "{path}");
    }
    assert_eq!(config.daemon.api.listen, []);
    assert_eq!(config.daemon.datapath.mode, DatapathMode::Generic);
}

#[test]
fn a_service_takes_from_the_defaults_what_it_does_not_say() {
    let config = load_text(
        r#"
[defaults]
algorithm = "adaptive"
hash_key = "path"
forwarding = "l2dsr"
health_check = { interval = "1s", rise = 5 }
timeouts.connect = "1s"
hash_bound = 1.5

[services.plain]
instances = ["10.0.0.1:1"]

[services.own]
algorithm = "consistent_hash"
hash_key = "header:X-User"
forwarding = "nat"
instances = [{ endpoint = "http://localhost:81/", weight = 0 }, "[fd00::1]:2"]
health_check = { path = "/up?deep=1", status = 204, host = "h:1", fall = 1, port = 9 }
timeouts = { request = "1h30m", idle = "250ms" }
hash_bound = "off"

[[routes]]
path = "/*"
service = "plain"

[[routes]]
host = "*.Example.org"
path = "/a"
service = "own"
"#,
    )
    .unwrap();
    let [own, plain] = config.desired.services.as_slice() else {
        panic!("{:?}", config.desired.services);
    };
    // The default timeout of 2 s does not fit the interval.
    let second = Duration::from_secs(1);
    let check = HealthCheckSpec {
        interval: second,
        timeout: second,
        rise: 5,
        ..HealthCheckSpec::default()
    };
    assert_eq!(plain.algorithm, Algorithm::Adaptive);
    assert_eq!(
        (&plain.hash_key, plain.hash_bound),
        (&HashKey::Path, Some(150))
    );
    assert_eq!(plain.forwarding, Forwarding::L2Dsr);
    assert_eq!(plain.health_check, Some(check.clone()));
    assert_eq!(plain.instances[0].weight, 1);
    let timeouts = TimeoutSpec {
        connect: second,
        ..TimeoutSpec::default()
    };
    assert_eq!(plain.timeouts, timeouts);

    assert_eq!(own.algorithm, Algorithm::ConsistentHash);
    assert_eq!(own.hash_key, HashKey::Header("x-user".to_owned()));
    assert_eq!(own.hash_bound, None);
    assert_eq!(own.forwarding, Forwarding::Nat);
    assert_eq!(own.instances[0].weight, 0);
    assert_eq!(own.instances[0].endpoint.name(), "http://localhost:81");
    assert_eq!(
        own.instances[1].endpoint.address(),
        "[fd00::1]:2".parse().unwrap()
    );
    let probe = Probe::Http {
        path: "/up?deep=1".to_owned(),
        status: (204, 204),
        host: Some("h:1".to_owned()),
    };
    let expected = HealthCheckSpec {
        probe,
        fall: 1,
        port: Some(9),
        ..check
    };
    assert_eq!(own.health_check, Some(expected));
    let expected = TimeoutSpec {
        request: Duration::from_secs(5400),
        idle: Duration::from_millis(250),
        ..timeouts
    };
    assert_eq!(own.timeouts, expected);

    let [any, suffix] = config.desired.routes.as_slice() else {
        panic!("{:?}", config.desired.routes);
    };
    assert_eq!(any.host, HostPattern::Any);
    assert_eq!(any.path, PathPattern::Prefix("/".to_owned()));
    assert_eq!(suffix.host, HostPattern::Suffix("example.org".to_owned()));
    assert_eq!(suffix.path, PathPattern::Exact("/a".to_owned()));
    for (path, expected) in [
        ("services.plain.algorithm", "\"adaptive\" # lb.toml:3:13"),
        ("services.plain.health_check.rise", "5 # lb.toml:6:42"),
        ("services.plain.health_check.timeout", "\"1s\" # default"),
        ("services.own.health_check.type", "\"http\" # default"),
        ("services.own.instances[0].weight", "0 # lb.toml:17:60"),
    ] {
        assert_eq!(setting(&config, path), expected, "{path}");
    }
}

#[test]
fn routes_have_destinations_and_differ_by_them() {
    let route = |destination: &str, host: &str| {
        let host = format!("host = {host:?}\npath = \"/*\"\nservice = \"web\"\n");
        match destination {
            "" => format!("[[routes]]\n{host}"),
            _ => format!("[[routes]]\ndestination = {destination:?}\n{host}"),
        }
    };
    let written = [
        "",
        "10.0.0.7",
        "10.0.0.7:80",
        "10.0.0.7:80-89",
        " 10.0.0.0/24:any",
        "[2001:db8::1]",
        "[2001:db8::/64]:8000-8999",
        "0.0.0.0/0:8000",
    ];
    let read = [
        "any",
        "\"10.0.0.7:any\"",
        "\"10.0.0.7:80\"",
        "\"10.0.0.7:80-89\"",
        "\"10.0.0.0/24:any\"",
        "\"[2001:db8::1]:any\"",
        "\"[2001:db8::/64]:8000-8999\"",
        "\"0.0.0.0/0:8000\"",
    ];
    let routes = written.map(|destination| route(destination, "*")).concat();
    let text = format!("[services.web]\ninstances = [\"10.0.0.1:80\"]\n{routes}");
    let config = load_text(&text).unwrap();
    for (number, read) in read.iter().enumerate() {
        let path = format!("routes[{number}].destination");
        let shown = setting(&config, &path);
        assert!(shown.starts_with(&format!("{read} # ")), "{shown}");
    }
    let texts: Vec<_> = config.desired.routes.iter().map(RouteSpec::text).collect();
    assert_eq!(texts[..2], ["/*", "10.0.0.7:any /*"]);
    let keys = config.document.whole["routes"].as_object().unwrap();
    assert_eq!(keys.len(), written.len());
    for key in ["*/*", "10.0.0.7:any */*", "[2001:db8::/64]:8000-8999 */*"] {
        assert!(keys.contains_key(key), "{keys:?}");
    }
}

#[test]
fn a_service_that_only_udp_reaches_is_not_checked_unless_it_asks() {
    let text = |check: &str, more: &str| {
        format!(
            "datapath.interfaces = [\"eth0\"]\n[services.dns]\ninstances = [\"10.0.0.1:53\"]\n\
             {check}\n[[vips]]\naddress = \"10.0.0.9\"\nport = 53\nprotocol = \"udp\"\n\
             service = \"dns\"\n{more}"
        )
    };
    let checked = |text: &str| {
        load_text(text).unwrap().desired.services[0]
            .health_check
            .is_some()
    };
    assert!(!checked(&text("", "")));
    assert!(checked(&text("health_check.enabled = true", "")));
    let tcp = "[[vips]]\naddress = \"10.0.0.9\"\nport = 53\nservice = \"dns\"\n";
    assert!(checked(&text("", tcp)));
    assert!(!checked(&text("health_check.enabled = false", tcp)));
}

#[test]
fn the_summary_counts_and_remarks() {
    let config = load_text(include_str!("../../../../examples/l4.toml")).unwrap();
    assert_eq!(
        config.summary().to_string(),
        "4 services with 12 instances, 0 routes, 7 VIPs (6 TCP, 1 UDP)\n\
         HTTP not listened for; API on 127.0.0.1:7700"
    );
    let config = load_text("[services.a]\ninstances = [\"10.0.0.1:1\"]").unwrap();
    assert_eq!(
        config.summary().to_string(),
        "1 service with 1 instance, 0 routes, 0 VIPs (0 TCP, 0 UDP)\n\
         HTTP on 0.0.0.0:8000; API on 127.0.0.1:7700 and beside HTTP\n\
         note: lb.toml:1:11: services.a: no route and no VIP leads here"
    );
}

#[test]
fn a_service_recovers_as_the_defaults_say_setting_by_setting() {
    let text = r#"
        routes = [{ path = "/*", service = "web" }, { path = "/x", service = "old" }]
        [defaults.recovery]
        step = 0.25
        interval = "15s"
        [services.web]
        instances = ["10.0.0.1:80"]
        recovery = { threshold = 1, interval = "1m" }
        [services.old]
        instances = ["10.0.0.2:80"]
        recovery = { enabled = false }
    "#;
    let config = load_text(text).unwrap();
    let recovery = |at: usize| config.desired.services[at].recovery;
    let web = crate::model::RecoverySpec {
        threshold: 100,
        step: 25,
        interval: std::time::Duration::from_secs(60),
        ..crate::model::RecoverySpec::default()
    };
    let by_name = |name: &str| {
        let named = |s: &crate::model::ServiceSpec| s.name.as_str() == name;
        config.desired.services.iter().position(named).unwrap()
    };
    assert_eq!(recovery(by_name("web")), Some(web));
    assert_eq!(recovery(by_name("old")), None);
}

#[test]
fn syn_cookies_are_for_services_whose_answers_come_back() {
    const TCP: &str = "[[vips]]\naddress = \"10.0.0.9\"\nport = 53\nservice = \"shop\"";
    let udp = format!("{TCP}\nprotocol = \"udp\"");
    let text = |settings: &str, rest: &str| {
        format!(
            "datapath.interfaces = [\"eth0\"]\n[services.shop]\ninstances = [\"10.0.0.1:53\"]\n\
             {settings}\n{rest}\n"
        )
    };
    let above = |text: &str| {
        let config = load_text(text).unwrap();
        config.desired.services[0].limits.arrivals.cookies_above
    };
    let asks = "limits.syn_cookies_above = 5000";
    assert_eq!(above(&text("", TCP)), None);
    assert_eq!(above(&text(asks, TCP)), Some(5000));
    assert_eq!(above(&text("limits.syn_cookies_above = 0", TCP)), Some(0));
    let dnat = format!("{asks}\nforwarding = \"dnat\"");
    assert_eq!(above(&text(&dnat, &format!("{TCP}\n{udp}"))), Some(5000));
    // As a default it is for whom it has an effect.
    for (settings, rest) in [("forwarding = \"l2dsr\"", TCP), ("", &udp), ("", "")] {
        let rest = format!("{rest}\n[defaults]\n{asks}");
        assert_eq!(above(&text(settings, &rest)), Some(5000));
    }
    for (settings, rest, expected) in [
        (
            "forwarding = \"gue\"",
            TCP,
            "forwarding = \"nat\" or \"dnat\": with \"gue\" the answers of instances do not come back \
             through lb, and SYNs are answered by the instance's own kernel, which makes cookies when \
             it has to (net.ipv4.tcp_syncookies)",
        ),
        (
            "",
            udp.as_str(),
            "a TCP VIP that leads to the service: UDP has no SYNs",
        ),
        (
            "",
            "",
            "a VIP that leads to the service: connections to the gateway are accepted by this host's \
             kernel, which makes cookies when it has to (net.ipv4.tcp_syncookies)",
        ),
    ] {
        let settings = format!("{asks}\n{settings}");
        let found = faults(load_text(&text(&settings, rest)));
        let expected = format!(
            "lb.toml:4:28: services.shop.limits.syn_cookies_above: expected {expected}; found 5000"
        );
        assert_eq!(found, [expected]);
    }
}
