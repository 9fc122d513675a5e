//! What holds when several sources speak.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::*;
use crate::model::{
    Algorithm, ApiAddress, DatapathMode, Forwarding, GatewaySpec, HashKey, HealthCheckSpec,
    HostPattern, PathPattern, Probe, Role, RouteSpec, TimeoutSpec,
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
fn a_destination_that_nothing_is_served_at_is_noticed() {
    let notices = |gateway: &str, destination: &str| {
        let text = format!(
            "{gateway}\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n[[routes]]\n\
             destination = {destination:?}\npath = \"/*\"\nservice = \"web\"\n"
        );
        let notices = load_text(&text).unwrap().notices;
        notices.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let any = "gateway.listen = [\"0.0.0.0:80\"]";
    let one = "gateway.listen = [\"10.0.0.7:80\", \"[::]:81\"]";
    let vips = "gateway.listen = []\ngateway.vips = [\"10.0.0.0/24:80\"]";
    for (gateway, destination) in [
        (any, "10.0.0.8:80"),
        (any, "10.0.0.0/8"),
        (one, "10.0.0.0/8:80-90"),
        (one, "[2001:db8::1]:81"),
        (vips, "10.0.0.9"),
        (vips, "10.0.0.0/8:any"),
    ] {
        let none: [&str; 0] = [];
        assert_eq!(notices(gateway, destination), none, "{gateway}");
    }
    for (gateway, destination) in [
        (any, "10.0.0.8:81"),
        (any, "[2001:db8::1]:80"),
        (one, "10.0.0.8:80"),
        (one, "10.0.0.7:81"),
        (vips, "10.0.1.9:80"),
        (vips, "10.0.0.0/24:81-90"),
    ] {
        let found = notices(gateway, destination);
        let expected = format!(
            "routes[0].destination: neither gateway.listen nor gateway.vips has anything of \
             {destination}, so no request comes by this route"
        );
        assert!(
            found.len() == 1 && found[0].ends_with(&expected),
            "{gateway}: {found:?}"
        );
    }
}

#[test]
fn a_key_that_packets_do_not_have_is_noticed_where_there_are_only_packets() {
    let notices = |key: &str, more: &str| {
        let text = format!(
            "datapath.interfaces = [\"eth0\"]\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n\
             algorithm = \"consistent_hash\"\nhash_key = \"{key}\"\n[[vips]]\n\
             address = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n{more}"
        );
        load_text(&text).unwrap().notices.len()
    };
    let route = "[[routes]]\npath = \"/*\"\nservice = \"web\"\n";
    assert_eq!(notices("cookie:sid", ""), 1);
    assert_eq!(notices("cookie:sid", route), 0);
    assert_eq!((notices("source", ""), notices("flow", "")), (0, 0));
}

/// The notices of a configuration with a packet path, as `lb check` tells them.
fn notices(text: &str) -> Vec<String> {
    let text = format!("datapath.interfaces = [\"eth0\"]\n{text}");
    let config = load_text(&text).unwrap_or_else(|faults| panic!("{faults}"));
    config.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn instances_whose_family_no_vip_of_their_service_has_are_noticed() {
    const V4: &str = "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n";
    const V6: &str = "[[vips]]\naddress = \"fd00::9\"\nport = 80\nservice = \"web\"\n";
    let found = |instances: &str, more: &str, vips: &str| {
        notices(&format!(
            "[services.web]\ninstances = [{instances}]\n{more}\n{vips}"
        ))
    };
    let both = "\"10.0.0.1:80\", \"[fd00::1]:80\"";
    assert_eq!(
        found(both, "", V4),
        [
            "lb.toml:3:29: services.web.instances[1].endpoint: is of IPv6 and all VIPs of the service \
             are of IPv4, so it gets no packets of any VIP"
        ]
    );
    let more = &format!("{both}, \"[fd00::2]:80\", \"[fd00::3]:80\"");
    let notice = found(more, "forwarding = \"dnat\"", V4).concat();
    assert!(
        notice.ends_with("; nor does any other of IPv6 (2)"),
        "{notice}"
    );
    let notice = found(both, "forwarding = \"l2dsr\"", V6).concat();
    assert!(
        notice.contains("instances[0].endpoint: is of IPv4"),
        "{notice}"
    );
    // VIPs of both families need instances of both; and where packets stay as they are, those of the
    // other family do when there is nobody else.
    assert_eq!(found(both, "", &format!("{V4}{V6}")), [""; 0]);
    assert_eq!(
        found("\"[fd00::1]:80\"", "forwarding = \"gue\"", V4),
        [""; 0]
    );
    // Connections of a relay are two, of any family each.
    let relayed = format!("{V4}[datapath]\nmode = \"relay\"\n");
    let relayed = format!("[services.web]\ninstances = [{both}]\n{relayed}");
    assert_eq!(load_text(&relayed).unwrap().notices, []);
}

#[test]
fn what_a_relay_that_is_asked_for_does_not_do_is_noticed() {
    let found = |mode: &str, limits: &str| {
        notices(&format!(
            "datapath.mode = \"{mode}\"\n{limits}\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n\
             [[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n"
        ))
    };
    let limits = "defaults.limits = { new_connections = 9, source_new_connections = 9, \
                  syn_cookies_above = 9 }\ndefaults.forwarding = \"dnat\"\n\
                  datapath.acl.rules = { \"192.0.2.0/24\" = \"deny\" }";
    let told = found("relay", limits);
    let of_service = "services.web: with datapath.mode = \"relay\" ";
    for what in [
        &format!("{of_service}instances get connections to their own addresses"),
        &format!("{of_service}limits.new_connections does not hold"),
        &format!("{of_service}limits.source_new_connections does not hold"),
        &format!("{of_service}limits.syn_cookies_above has no effect"),
        "datapath.acl: with datapath.mode = \"relay\" the source ACL",
    ] {
        let lines = told.iter().filter(|line| line.contains(what));
        assert_eq!(lines.count(), 1, "{what}: {told:#?}");
    }
    assert_eq!(told.len(), 5, "{told:#?}");
    assert_eq!(found("relay", ""), [""; 0]);
    // Nobody knows beforehand what `auto` comes to.
    assert_eq!(found("auto", limits), [""; 0]);
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
fn a_port_alone_means_every_ipv4_address_but_loopback_for_the_api() {
    for (listen, gateway, api) in [
        ("81", "0.0.0.0:81", "127.0.0.1:81"),
        (":81", "0.0.0.0:81", "127.0.0.1:81"),
        ("localhost:81", "127.0.0.1:81", "127.0.0.1:81"),
        ("0.0.0.0:81", "0.0.0.0:81", "0.0.0.0:81"),
        ("[::]:81", "[::]:81", "[::]:81"),
    ] {
        let config = load_text(&format!("[gateway]\nlisten = \"{listen}\"")).unwrap();
        assert_eq!(
            config.desired.listeners[0].address,
            gateway.parse().unwrap()
        );
        let config = load_text(&format!("[api]\nlisten = \"{listen}\"")).unwrap();
        let expected = [ApiAddress::Tcp(api.parse().unwrap())];
        assert_eq!(config.daemon.api.listen, expected);
    }
    let config = load_text("[gateway]\nlisten = []\n[api]\nlisten = 81").unwrap();
    assert_eq!(config.desired.listeners, []);
    let expected = [ApiAddress::Tcp("127.0.0.1:81".parse().unwrap())];
    assert_eq!(config.daemon.api.listen, expected);
}

#[test]
fn the_api_listens_in_several_places() {
    let places = |config: &Config| -> Vec<String> {
        let listen = &config.daemon.api.listen;
        listen.iter().map(ToString::to_string).collect()
    };
    let text = "[api]\nlisten = [7700, \"unix:/run/lb/api.sock\"]\nsocket_mode = \"0660\"\n\
                socket_owner = \"root:0\"\n";
    let config = load_text(text).unwrap();
    let both = ["127.0.0.1:7700", "unix:/run/lb/api.sock"];
    assert_eq!(places(&config), both);
    assert_eq!(
        setting(&config, "api.listen"),
        "[\"127.0.0.1:7700\", \"unix:/run/lb/api.sock\"] # lb.toml:2:10"
    );
    let socket = &config.daemon.api.socket;
    assert_eq!(socket.mode, 0o660);
    let owner = socket.owner.as_ref().unwrap();
    assert_eq!((owner.user, owner.group), (Some(0), Some(0)));
    assert!(
        config
            .summary()
            .to_string()
            .contains("API on 127.0.0.1:7700, unix:/run/lb/api.sock and")
    );
    // No shell knows lists.
    let env = [("LB_API_LISTEN", "7700, unix:/run/lb/api.sock")];
    let config = load_all("", &env, &Overrides::default()).unwrap();
    assert_eq!(places(&config), both);
    let alone = load_text("api.listen = \"unix:/run/lb/api.sock\"").unwrap();
    assert_eq!(places(&alone), ["unix:/run/lb/api.sock"]);
}

#[test]
fn a_token_comes_from_one_place_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let text = format!("[api]\ntoken_file = {:?}\n", file.display().to_string());
    let token = |config: &Config| config.daemon.api.access.tokens[0].digest.to_vec();
    let hash = |text: &str| digest(&SHA256, text.as_bytes()).as_ref().to_vec();
    assert_eq!(token(&load_text(&text).unwrap()), hash("from-file"));
    let env = [("LB_API_TOKEN", "from-env")];
    let config = load_all(&text, &env, &Overrides::default()).unwrap();
    assert_eq!(token(&config), hash("from-env"));
    assert!(!config.effective().to_string().contains("from-env"));
    let both = load_text(&format!("{text}token = \"a\"")).map(|_| ());
    assert_eq!(
        both.unwrap_err().list()[0].expected,
        "either token or token_file"
    );

    let secret = load_text("[api]\ntoken = \"two words\"")
        .unwrap_err()
        .to_string();
    assert!(!secret.contains("two words"), "{secret}");
}

#[test]
fn tokens_have_names_and_roles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hush-two\n").unwrap();
    let hash = "c846af09c88a238676292c8cb78c9ba097ba8f24a11014de6de1c6a510d6db7f"; // of "hush-three"
    let text = format!(
        "[api]\ntoken = \"hush-zero\"\nloopback_role = \"none\"\n\
         [[api.tokens]]\nname = \"a\"\ntoken = \"hush-one\"\nrole = \"read\"\n\
         [[api.tokens]]\nname = \"b\"\ntoken_file = {:?}\nrole = \"operate\"\n\
         [[api.tokens]]\nname = \"c\"\ntoken_sha256 = \"{hash}\"\nrole = \"configure\"\n",
        file.display().to_string()
    );
    let config = load_text(&text).unwrap();
    let access = &config.daemon.api.access;
    assert_eq!(access.loopback, None);
    let expected = [
        ("api.token", "hush-zero", Role::Configure),
        ("a", "hush-one", Role::Read),
        ("b", "hush-two", Role::Operate),
        ("c", "hush-three", Role::Configure),
    ];
    assert_eq!(access.tokens.len(), expected.len());
    for (token, (name, text, role)) in access.tokens.iter().zip(expected) {
        assert_eq!((&*token.name, token.role), (name, role));
        assert_eq!(token.digest, digest(&SHA256, text.as_bytes()).as_ref());
    }
    let shown = format!("{}{config:?}", config.effective());
    for secret in ["hush", hash] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
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
