//! The API as its clients see it: whole requests through the whole router, over a registry whose
//! counters were moved by real guards.

mod acl;
mod admin;
mod breakers;
mod callers;
mod configuration;
mod conventions;
mod discovery;
mod document;
mod events;
mod explain;
mod flow;
mod flows;
mod forms;
mod integrations;
mod metrics;
mod performance;
mod refusals;
mod resources;
mod served;
mod sessions;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use lb_common::{Counter, Counters, Traffic};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config::Sources,
    health::comeback::Comebacks,
    l4::{self, AttachMode, Attachment, PathMode, Report, Reporter, VipReport},
    model::{
        AccessSpec, AdminState, Algorithm, Clock, ConcurrencySpec, Endpoint, Forwarding,
        GatewaySpec, GatewayVip, HashKey, Health, HealthCheckSpec, HostPattern, Instance,
        InstanceSpec, Outcome, PathPattern, Ports, Probe, Protocol, QueueSpec, RateKey,
        RateLimitSpec, Role, RouteSpec, ServiceName, ServiceSpec, Timestamp, VipSpec,
    },
    registry::{Change, Desired, Registry},
    runtime::{self, Keeper},
    telemetry::LogFilter,
};

pub(crate) const A: &str = "http://127.0.0.1:8080";
pub(crate) const B: &str = "http://127.0.0.1:8081";

/// What a file would say of [`desired`], as far as changes of it are concerned.
const FILE: &str = r#"
[gateway]
listen = []
[defaults]
health_check.enabled = false
[services.main-backend]
algorithm = "adaptive"
instances = [
    { endpoint = "http://127.0.0.1:8080", weight = 10 },
    { endpoint = "http://127.0.0.1:8081", weight = 30 },
]
[services.ocr-service]
algorithm = "consistent_hash"
hash_key = "header:x-user"
forwarding = "l2dsr"
instances = [{ endpoint = "127.0.0.1:8004", weight = 6 }]
[[routes]]
path = "/api/v1/auth/*"
service = "main-backend"
[[routes]]
host = "*.example.org"
path = "/exact"
service = "main-backend"
[[vips]]
address = "192.0.2.1"
port = 53
protocol = "udp"
service = "ocr-service"
[datapath]
interfaces = ["eth0"]
acl.rules = { "192.0.2.0/24" = "deny" }
"#;

/// An API over two services, and the hands to move what it measures.
pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Clock,
    pub(crate) state: ApiState,
    pub(crate) reporter: Reporter,
    /// Made once: it has a description of every endpoint in it.
    router: Router,
}

impl World {
    /// The API, as a service for one request.
    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }
}

/// An answer, read to its end.
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.body))
    }

    /// The data of a success.
    pub(crate) fn data(&self) -> Value {
        let mut json = self.json();
        assert_eq!(json["success"], true, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/json");
        let timestamp = json["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'), "{timestamp}");
        humantime::parse_rfc3339(timestamp).unwrap();
        json["data"].take()
    }

    /// The problem document of a refusal with `status`.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        assert_eq!(json["success"], false);
        assert_eq!(json["status"], status);
        assert_eq!(json["error"], json["detail"]);
        assert!(json["type"].as_str().unwrap().starts_with("urn:lb:"));
        assert!(!json["title"].as_str().unwrap().is_empty());
        json
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_reload(Arc::new(|_| Box::pin(async { Ok(Reloaded::default()) })))
    }

    pub(crate) fn with_reload(reload: Reload) -> Self {
        let access = AccessSpec {
            tokens: vec![access::tests::token("all", "secret", Role::Configure)],
            ..AccessSpec::default()
        };
        Self::made(Access::new(access.into(), Audit::to_log()), reload)
    }

    /// One that lets in whom `access` does.
    pub(crate) fn guarded(access: Arc<Access>) -> Self {
        let reload = || async { Ok(Reloaded::default()) };
        Self::made(access, Arc::new(move |_| Box::pin(reload())))
    }

    /// One that packets can be followed with, and the other end of that.
    pub(crate) fn followed(access: Arc<Access>) -> (Self, l4::Tape) {
        let (tape, recorder) = l4::ring();
        let reload = || async { Ok(Reloaded::default()) };
        let reload: Reload = Arc::new(move |_| Box::pin(reload()));
        let world = Self::made_over(access, reload, |handle| {
            let flows = l4::start_flows(recorder, handle.subscribe()).unwrap();
            handle.followed(flows)
        });
        (world, tape)
    }

    fn made(access: Arc<Access>, reload: Reload) -> Self {
        Self::made_over(access, reload, |handle| handle)
    }

    fn made_over(
        access: Arc<Access>,
        reload: Reload,
        path: impl FnOnce(l4::Handle) -> l4::Handle,
    ) -> Self {
        let registry = Arc::new(Registry::new(1, []));
        registry
            .apply(Change::Configure(Box::new(desired())))
            .unwrap();
        let clock = Clock::manual(Timestamp(100_500_000));
        let reporter = Reporter::new(report(&registry));
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("lb.toml");
        std::fs::write(&file, FILE).unwrap();
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        let loaded = runtime::load(&sources).unwrap();
        let keeper = Keeper::new(sources, loaded, Arc::clone(&registry));
        keeper.adopt();
        let state = ApiState::new(
            Arc::clone(&registry),
            clock.clone(),
            access,
            LogFilter::unattached("info"),
            path(reporter.handle()),
            reload,
            Arc::new(keeper),
        )
        .unwrap();
        Self {
            registry,
            clock,
            router: router(state.clone()),
            state,
            reporter,
        }
    }

    /// An API over what a configuration file says.
    pub(crate) fn of(file: &std::path::Path) -> Self {
        let sources = Sources {
            file: Some(file.to_owned()),
            ..Sources::default()
        };
        let loaded = runtime::load(&sources).unwrap();
        let access = loaded.config.daemon.api.access.clone();
        let access = Access::new(access.into(), Audit::to_log());
        let settings = loaded.config.settings.clone();
        let registry = Arc::new(Registry::new(1, []));
        let keeper = Arc::new(Keeper::new(sources, loaded, Arc::clone(&registry)));
        let clock = Clock::manual(Timestamp(100_500_000));
        keeper.start(clock.now()).unwrap();
        let reporter = Reporter::new(Report::default());
        let state = ApiState::new(
            Arc::clone(&registry),
            clock.clone(),
            access,
            LogFilter::unattached("info"),
            reporter.handle(),
            Arc::new(|_| Box::pin(async { Ok(Reloaded::default()) })),
            keeper,
        )
        .unwrap();
        state.configured(&settings);
        Self {
            registry,
            clock,
            router: router(state.clone()),
            state,
            reporter,
        }
    }

    pub(crate) fn instance(&self, service: &str, position: usize) -> Arc<Instance> {
        let snapshot = self.registry.snapshot();
        Arc::clone(&snapshot.service(service).unwrap().members[position].instance)
    }

    /// Requests to an instance that took `ms` each.
    pub(crate) fn serve(&self, instance: &Arc<Instance>, outcome: Outcome, count: u32, ms: u64) {
        for _ in 0..count {
            let mut request = instance.begin(Algorithm::Adaptive, 0, &self.clock);
            self.clock.advance(Duration::from_millis(ms));
            request.judge(outcome);
        }
    }

    /// Lets every recovery go as far as it is.
    pub(crate) fn recover(&self) {
        Comebacks::default().drive(&self.registry, self.clock.now());
    }

    /// Applies a change, whoever asked for it.
    pub(crate) fn apply(&self, change: Change) {
        self.registry.apply(change).unwrap();
    }

    /// Sets an instance's admin state.
    pub(crate) fn set_admin(&self, service: &str, instance: &str, state: AdminState) {
        self.apply(Change::Admin {
            service: name(service),
            instance: instance.to_owned(),
            state,
        });
    }

    /// Adds systems beside lb, one of each in a state of its own.
    pub(crate) fn integrate(&self) {
        let service = self.registry.snapshot().services[0].name().clone();
        let all = crate::integration::Integrations::exemplary(&service);
        self.state.set_integrations(Arc::new(all));
    }

    pub(crate) fn health(&self, instance: &Instance, health: Health, detail: &str) {
        let (id, detail) = (instance.id, detail.into());
        self.registry
            .apply(Change::Health { id, health, detail })
            .unwrap();
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str) -> Got {
        self.send(local(method, path, Body::empty())).await
    }

    /// The data of a successful `GET` below the API's prefix.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let path = format!("/api/v1/loadbalancer{path}");
        let got = self.ask(Method::GET, &path).await;
        assert_eq!(got.status, 200, "{path}: {}", got.body);
        got.data()
    }

    pub(crate) async fn post(&self, path: &str) -> Got {
        let path = format!("/api/v1/loadbalancer{path}");
        self.ask(Method::POST, &path).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Got {
        self.with_body(Method::PUT, path, body).await
    }

    pub(crate) async fn with_body(&self, method: Method, path: &str, body: &str) -> Got {
        let path = format!("/api/v1/loadbalancer{path}");
        let mut request = local(method, &path, Body::from(body.to_owned()));
        let json = "application/json".parse().unwrap();
        request.headers_mut().insert("content-type", json);
        self.send(request).await
    }
}

/// A request from a loopback peer.
pub(crate) fn local(method: Method, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:7700");
    with_peer(request.body(body).unwrap(), loopback())
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 40_000))
}

fn desired() -> Desired {
    let main = name("main-backend");
    let ocr = ServiceSpec {
        health_check: None,
        hash_key: HashKey::Header("x-user".to_owned()),
        algorithm: Algorithm::ConsistentHash,
        forwarding: Forwarding::L2Dsr,
        ..spec("ocr-service", &[("127.0.0.1:8004", 6)])
    };
    let mut sticky = spec("main-backend", &[(A, 10), (B, 30)]);
    sticky.affinity.enabled = true;
    sticky.concurrency = Some(ConcurrencySpec::default());
    sticky.queue = Some(QueueSpec {
        size: 50,
        timeout: Duration::from_secs(1),
        target: Duration::from_millis(20),
        interval: Duration::from_millis(100),
        priority_header: None,
    });
    Desired {
        services: vec![sticky, ocr],
        routes: vec![
            RouteSpec::new(PathPattern::Prefix("/api/v1/auth".to_owned()), main.clone()),
            RouteSpec {
                host: HostPattern::Suffix("example.org".to_owned()),
                ..RouteSpec::new(PathPattern::Exact("/exact".to_owned()), main)
            },
        ],
        vips: vec![VipSpec {
            address: [192, 0, 2, 1].into(),
            ports: Ports::One(53),
            protocol: Protocol::Udp,
            service: name("ocr-service"),
        }],
        gateway: GatewaySpec {
            rate_limits: vec![RateLimitSpec {
                requests: 100,
                per: Duration::from_secs(60),
                burst: 20,
                key: RateKey::Client,
                max_keys: 1024,
            }],
            ..GatewaySpec::default()
        },
        ..Desired::default()
    }
}

/// A packet path that has served a few packets.
fn report(registry: &Registry) -> Report {
    let snapshot = registry.snapshot();
    let mut counters = Counters::default();
    for (counter, count) in [
        (Counter::Received, 100),
        (Counter::Transmitted, 60),
        (Counter::PassedNotVip, 37),
        (Counter::DropTtl, 3),
        (Counter::ConnectionsOpened, 7),
    ] {
        counters.values[counter as usize] = count;
    }
    let mut dropped = Counters::default();
    dropped.values[Counter::DropTtl as usize] = 3;
    Report {
        // Never old: no worker is there to make another.
        at: Timestamp(u64::MAX),
        mode: Some(PathMode::Generic),
        reason: "the driver of eth0 has no native XDP".to_owned(),
        interfaces: vec![Attachment {
            interface: "eth0".to_owned(),
            mode: AttachMode::Generic,
        }],
        counters,
        vips: vec![VipReport {
            vip: snapshot.vips[0].clone(),
            id: 1,
            table: 1,
            generation: 2,
            traffic: Traffic {
                packets_in: 60,
                bytes_in: 6_000,
                connections: 7,
                dropped: 3,
                ..Traffic::default()
            },
            drops: dropped,
            live: Some(4),
            relayed: None,
        }],
        connections: l4::ConnectionReport {
            entries: 7,
            max: 1000,
            ..l4::ConnectionReport::default()
        },
        clients: l4::ClientReport { used: 5, max: 200 },
        tables_used: 1,
        tables_max: 63,
        ..Report::default()
    }
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn spec(service: &str, instances: &[(&str, u16)]) -> ServiceSpec {
    ServiceSpec {
        algorithm: Algorithm::Adaptive,
        health_check: Some(HealthCheckSpec {
            probe: Probe::Http {
                path: "/health".to_owned(),
                status: (200, 399),
                host: None,
            },
            ..HealthCheckSpec::default()
        }),
        recovery: Some(crate::model::RecoverySpec::default()),
        breakers: crate::model::BreakersSpec {
            instance: Some(crate::model::BreakerSpec::default()),
            ..crate::model::BreakersSpec::default()
        },
        instances: instances
            .iter()
            .map(|(endpoint, weight)| {
                InstanceSpec::new(Endpoint::parse(endpoint).unwrap(), *weight)
            })
            .collect(),
        ..ServiceSpec::new(name(service))
    }
}
