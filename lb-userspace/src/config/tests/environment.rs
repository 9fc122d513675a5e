//! The variables of the integration guide, and lb's own.

use super::*;
use crate::model::{Algorithm, PathPattern};

/// The guide's environment, section 3.
const GUIDE: &[(&str, &str)] = &[
    ("PORT", "8000"),
    ("ENVIRONMENT", "production"),
    ("LOG_LEVEL", "info"),
    ("LB_DEFAULT_ALGORITHM", "adaptive"),
    ("LB_HEALTH_CHECK_ENABLED", "true"),
    ("LB_METRICS_ENABLED", "true"),
    ("LB_CIRCUIT_BREAKER_ENABLED", "true"),
    ("LB_SESSION_AFFINITY_ENABLED", "true"),
    ("LB_SESSION_AFFINITY_TTL", "30m"),
    (
        "MAIN_BACKEND_HOSTS",
        "http://localhost:8080,http://localhost:8081",
    ),
    (
        "WRITE_SERVICE_HOSTS",
        "http://localhost:8001,http://localhost:8011",
    ),
    (
        "COURIER_SERVICE_HOSTS",
        "http://localhost:8002,http://localhost:8012",
    ),
    ("ADMIN_SERVICE_HOSTS", "http://localhost:8003"),
    ("OCR_SERVICE_HOSTS", "http://localhost:8004"),
    ("MAIN_BACKEND_WEIGHT", "10"),
    ("WRITE_SERVICE_WEIGHT", "10"),
    ("COURIER_SERVICE_WEIGHT", "8"),
    ("ADMIN_SERVICE_WEIGHT", "5"),
    ("OCR_SERVICE_WEIGHT", "6"),
    ("CB_BACKEND_URL", "http://localhost:8080"),
    ("CB_CHECK_INTERVAL", "10s"),
    ("METRICS_BACKEND_URL", "http://localhost:8080"),
    ("METRICS_COLLECTION_INTERVAL", "30s"),
];

/// Instances of a service as `name weight`.
fn instances(config: &Config, service: &str) -> Vec<String> {
    let mut services = config.desired.services.iter();
    let spec = services.find(|spec| spec.name.as_str() == service);
    let instances = spec
        .unwrap_or_else(|| panic!("no service {service}"))
        .instances
        .iter();
    instances
        .map(|i| format!("{} {}", i.endpoint, i.weight))
        .collect()
}

/// Routes as `path service`.
fn routes(config: &Config) -> Vec<String> {
    let routes = config.desired.routes.iter();
    let path = |path: &PathPattern| match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{path}/*"),
    };
    let mut routes: Vec<_> = routes
        .map(|r| format!("{} {}", path(&r.path), r.service))
        .collect();
    routes.sort();
    routes
}

#[test]
fn the_guides_environment_makes_its_five_services_and_their_routes() {
    let config = load_env(GUIDE).unwrap();
    for (service, expected) in [
        (
            "main-backend",
            &["http://localhost:8080 10", "http://localhost:8081 10"][..],
        ),
        (
            "write-service",
            &["http://localhost:8001 10", "http://localhost:8011 10"],
        ),
        (
            "courier-service",
            &["http://localhost:8002 8", "http://localhost:8012 8"],
        ),
        ("admin-service", &["http://localhost:8003 5"]),
        ("ocr-service", &["http://localhost:8004 6"]),
    ] {
        assert_eq!(instances(&config, service), expected);
    }
    assert_eq!(
        routes(&config),
        [
            "/api/v1/admin/* admin-service",
            "/api/v1/auth/* main-backend",
            "/api/v1/courier/* courier-service",
            "/api/v1/letters/write/* write-service",
            "/api/v1/ocr/* ocr-service",
            "/api/v1/users/* main-backend",
        ]
    );
    let all_adaptive = |spec: &crate::model::ServiceSpec| spec.algorithm == Algorithm::Adaptive;
    assert!(config.desired.services.iter().all(all_adaptive));
    assert!(
        config
            .desired
            .services
            .iter()
            .all(|spec| spec.health_check.is_some() && spec.breakers.instance.is_some())
    );
    assert_eq!(config.environment.as_deref(), Some("production"));
    assert_eq!(
        setting(&config, "services.ocr-service.instances[0].weight"),
        "6 # environment variable OCR_SERVICE_WEIGHT"
    );
}

#[test]
fn every_variable_of_the_guide_has_its_effect() {
    let config = load_env(GUIDE).unwrap();
    assert_eq!(config.notices, []);
    for (path, expected) in [
        (
            "integration.circuit_breaker.url",
            "\"http://localhost:8080\" # environment variable CB_BACKEND_URL",
        ),
        (
            "integration.circuit_breaker.check_interval",
            "\"10s\" # environment variable CB_CHECK_INTERVAL",
        ),
        (
            "integration.metrics.url",
            "\"http://localhost:8080\" # environment variable METRICS_BACKEND_URL",
        ),
        (
            "integration.metrics.interval",
            "\"30s\" # environment variable METRICS_COLLECTION_INTERVAL",
        ),
        (
            "metrics.enabled",
            "true # environment variable LB_METRICS_ENABLED",
        ),
        (
            "integration.circuit_breaker.enabled",
            "true # environment variable LB_CIRCUIT_BREAKER_ENABLED",
        ),
    ] {
        assert_eq!(setting(&config, path), expected);
    }
    let spec = &config.desired.integration;
    let breaker = spec.breaker.as_ref().unwrap();
    assert_eq!(breaker.url.to_string(), "http://localhost:8080");
    assert_eq!(breaker.check_interval.as_secs(), 10);
    assert!(breaker.events_path.is_some());
    assert_eq!(spec.metrics.as_ref().unwrap().interval.as_secs(), 30);

    let with = |name, value| {
        let mut env = GUIDE.to_vec();
        env.push((name, value));
        load_env(&env).unwrap().desired.integration
    };
    let off = with("LB_METRICS_ENABLED", "false");
    assert!(!off.serve_metrics && off.metrics.is_none() && off.breaker.is_some());
    let off = with("LB_CIRCUIT_BREAKER_ENABLED", "false");
    assert!(off.breaker.is_none() && off.metrics.is_some());
}

#[test]
fn hosts_and_weight_lie_over_a_service_of_the_file() {
    let file = r#"
[services.web]
algorithm = "round_robin"
instances = [{ endpoint = "10.0.0.1:1", weight = 3 }, "10.0.0.2:1"]
[services.api]
instances = ["10.0.0.3:1", { endpoint = "10.0.0.4:1", weight = 2 }]
[[routes]]
path = "/web"
service = "web"
[[routes]]
path = "/api"
service = "api"
"#;
    let env = [
        ("WEB_HOSTS", " http://10.0.0.9:1 , http://10.0.0.8:1/ ,"),
        ("API_WEIGHT", "7"),
    ];
    let config = load_all(file, &env, &Overrides::default()).unwrap();
    assert_eq!(
        instances(&config, "web"),
        ["http://10.0.0.9:1 1", "http://10.0.0.8:1 1"]
    );
    assert_eq!(instances(&config, "api"), ["10.0.0.3:1 7", "10.0.0.4:1 7"]);
    assert_eq!(routes(&config), ["/api api", "/web web"]);
}

#[test]
fn a_service_that_the_environment_makes_gets_its_route_unless_the_file_says_otherwise() {
    let env = [
        ("SHOP_CART_HOSTS", "http://10.0.0.9:1"),
        ("OCR_SERVICE_HOSTS", "http://10.0.0.8:1"),
    ];
    let with = |file: &str| routes(&load_all(file, &env, &Overrides::default()).unwrap());
    assert_eq!(
        with(""),
        ["/api/v1/ocr/* ocr-service", "/shop-cart/* shop-cart"]
    );
    // A route of its own in the file.
    let own = "[[routes]]\npath = \"/cart\"\nservice = \"shop-cart\"";
    assert_eq!(with(own), ["/api/v1/ocr/* ocr-service", "/cart shop-cart"]);
    // The path goes elsewhere.
    let taken = "[[routes]]\npath = \"/api/v1/ocr/*\"\nservice = \"shop-cart\"";
    assert_eq!(with(taken), ["/api/v1/ocr/* shop-cart"]);
    // The same path on one host takes nothing from the others.
    let host = "[[routes]]\nhost = \"a.b\"\npath = \"/api/v1/ocr/*\"\nservice = \"shop-cart\"";
    assert_eq!(
        with(host),
        ["/api/v1/ocr/* ocr-service", "/api/v1/ocr/* shop-cart"]
    );
    // Neither does it at one destination.
    let at =
        "[[routes]]\ndestination = \"10.0.0.7\"\npath = \"/api/v1/ocr/*\"\nservice = \"shop-cart\"";
    assert_eq!(
        with(at),
        ["/api/v1/ocr/* ocr-service", "/api/v1/ocr/* shop-cart"]
    );
    // A service that the file has, but leads nowhere, stays so.
    let service = "[services.shop-cart]\ninstances = []";
    assert_eq!(with(service), ["/api/v1/ocr/* ocr-service"]);
}

#[test]
fn what_only_looks_like_ours_is_no_fault() {
    let config = load_env(&[
        ("ALLOWED_HOSTS", "example.org,example.com"),
        ("CORS_HOSTS", "https://example.org"),
        ("FONT_WEIGHT", "bold"),
        ("Lower_HOSTS", "http://10.0.0.1:1"),
        ("_HOSTS", "http://10.0.0.1:1"),
        ("LB_SERVICE_HOST", "10.0.0.1"),
        ("LB_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("LB_WORKER", "3"),
        ("PORT", ""),
        ("LB_CONFIG", "/etc/lb.toml"),
        ("LB_API", "http://10.0.0.1:7700"),
    ])
    .unwrap();
    assert_eq!(config.desired.services, []);
    assert_eq!(
        setting(&config, "gateway.listen"),
        "[\"0.0.0.0:8000\"] # default"
    );
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "environment variable LB_WORKER: is not known and ignored; did you mean LB_WORKERS?",
            "environment variable ALLOWED_HOSTS: is no list of http URLs, so it makes no service",
            "environment variable CORS_HOSTS: is no list of http URLs, so it makes no service",
        ]
    );
}

#[test]
fn a_bad_value_of_ours_is_one_fault_that_names_the_variable() {
    for (env, expected) in [
        (
            &[("PORT", "http")][..],
            "environment variable PORT: gateway.listen[0]: expected an IP address and a port from \
             1 to 65535, or a port alone for 0.0.0.0, such as \"0.0.0.0:8000\"; found \"http\"",
        ),
        (
            &[("LB_HEALTH_CHECK_ENABLED", "maybe")],
            "environment variable LB_HEALTH_CHECK_ENABLED: defaults.health_check.enabled: \
             expected true or false, such as true; found \"maybe\"",
        ),
        (
            &[(
                "MAIN_BACKEND_HOSTS",
                "http://localhost:8080,https://localhost:8081",
            )],
            "environment variable MAIN_BACKEND_HOSTS: \
             services.main-backend.instances[1].endpoint: expected an endpoint: http://HOST, \
             http://HOST:PORT or HOST:PORT, such as \"http://10.0.0.2:8080\"; found \
             \"https://localhost:8081\" (only http is spoken to instances)",
        ),
        (
            &[
                ("WEB_HOSTS", "http://10.0.0.1:1,http://10.0.0.2:1"),
                ("WEB_WEIGHT", "heavy"),
            ],
            "environment variable WEB_WEIGHT: services.web.instances[0].weight: expected a \
             number from 0 to 65535, such as 10; found \"heavy\"",
        ),
    ] {
        assert_eq!(faults(load_env(env)), [expected]);
    }
}

#[test]
fn health_checks_can_be_switched_off_for_all_services_but_those_that_insist() {
    let file = r#"
[services.web]
instances = ["10.0.0.1:1"]
health_check = { path = "/health" }
[services.api]
instances = ["10.0.0.1:1"]
health_check = { enabled = true }
"#;
    let env = [("LB_HEALTH_CHECK_ENABLED", "false")];
    let config = load_all(file, &env, &Overrides::default()).unwrap();
    let checked: Vec<_> = config
        .desired
        .services
        .iter()
        .map(|s| s.health_check.is_some())
        .collect();
    assert_eq!(checked, [true, false]);
}

#[test]
fn the_file_is_the_flags_else_the_variables() {
    let env = variables(&[("LB_CONFIG", "/a")]);
    let file = |flag: Option<&str>, env| {
        let flags = Overrides {
            config: flag.map(PathBuf::from),
            ..Overrides::default()
        };
        Sources::new(flags, env).file
    };
    assert_eq!(file(Some("/b"), env.clone()), Some(PathBuf::from("/b")));
    assert_eq!(file(None, env), Some(PathBuf::from("/a")));
    assert_eq!(file(None, variables(&[("LB_CONFIG", "")])), None);
}
