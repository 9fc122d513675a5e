//! Checks of real sockets on the loopback interface.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

use super::*;
use crate::{
    health,
    model::{BreakerSpec, Clock, GateState, Health, Probe},
};

/// An instance that answers each connection with the bytes it was told to, and counts.
struct Fake {
    address: String,
    answer: Mutex<Option<&'static str>>,
    connections: AtomicUsize,
    seen: Mutex<String>,
}

impl Fake {
    /// Answers with `answer` and closes; with `None` it says nothing and keeps the connection.
    async fn start(answer: Option<&'static str>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            answer: Mutex::new(answer),
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let served = Arc::clone(&fake);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                served.connections.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = *served.answer.lock().unwrap() else {
                    silent.push(stream);
                    continue;
                };
                let served = Arc::clone(&served);
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    *served.seen.lock().unwrap() = String::from_utf8_lossy(&head[..read]).into();
                    drop(stream.write_all(answer.as_bytes()).await);
                });
            }
        });
        fake
    }
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const SICK: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

fn quick(probe: Probe) -> HealthCheckSpec {
    HealthCheckSpec {
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(200),
        rise: 2,
        fall: 3,
        port: None,
    }
}

fn http() -> HealthCheckSpec {
    quick(Probe::Http {
        path: "/ready?full=1".to_owned(),
        status: (200, 399),
        host: None,
    })
}

/// Runs the checks until the first instance is `health`; its status then.
async fn wait_for(registry: &Arc<Registry>, health: Health) -> InstanceStatus {
    let (_stop, stopped) = watch::channel(false);
    let checks = tokio::spawn(health::run(Arc::clone(registry), Clock::real(), stopped));
    let found = settled(registry, health).await;
    checks.abort();
    found
}

async fn settled(registry: &Registry, health: Health) -> InstanceStatus {
    let mut revision = registry.subscribe();
    let settled = async {
        while status(registry, 0).health != health {
            revision.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled)
        .await
        .unwrap_or_else(|_| panic!("waited for {health:?}, found {:?}", status(registry, 0)));
    status(registry, 0)
}

/// The detail with which an instance at `address` is found ill by `check`.
async fn complaint(address: &str, check: HealthCheckSpec) -> String {
    let endpoints = [address.to_owned()];
    let service = service("web", Algorithm::RoundRobin, Some(check), &endpoints);
    let registry = registry(vec![service]);
    let status = wait_for(&registry, Health::Unhealthy).await;
    let snapshot = registry.snapshot();
    let member = &snapshot.services[0].members[0];
    assert_eq!(member.weight, 0);
    assert!(member.instance.checks.failed.load(Ordering::Relaxed) > 0);
    assert_eq!(member.instance.probe_latency.at_last_sample(), None);
    status.detail.to_string()
}

#[tokio::test]
async fn an_accepted_connection_passes_the_tcp_check() {
    let fake = Fake::start(None).await;
    let endpoints = [fake.address.clone()];
    let check = Some(quick(Probe::Tcp));
    let registry = registry(vec![service(
        "web",
        Algorithm::RoundRobin,
        check,
        &endpoints,
    )]);
    let status = wait_for(&registry, Health::Healthy).await;
    assert!(
        status.detail.starts_with("the check passed in"),
        "{}",
        status.detail
    );
    let instance = Arc::clone(&registry.snapshot().services[0].members[0].instance);
    assert!(instance.checks.passed.load(Ordering::Relaxed) > 0);
    assert!(instance.probe_latency.at_last_sample().is_some());
}

#[tokio::test]
async fn the_http_check_asks_what_it_was_told_to() {
    let fake = Fake::start(Some(OK)).await;
    let endpoints = [format!("http://{}", fake.address)];
    let registry = registry(vec![service(
        "web",
        Algorithm::RoundRobin,
        Some(http()),
        &endpoints,
    )]);
    wait_for(&registry, Health::Healthy).await;
    let seen = fake.seen.lock().unwrap().to_lowercase();
    assert!(seen.starts_with("get /ready?full=1 http/1.1\r\n"), "{seen}");
    assert!(
        seen.contains(&format!("host: {}\r\n", fake.address)),
        "{seen}"
    );
    assert!(seen.contains("user-agent: lb-health-check/"), "{seen}");
}

#[tokio::test]
async fn an_answer_may_say_what_the_instance_wants_to_weigh() {
    let fake = Fake::start(Some("HTTP/1.1 204 No Content\r\nX-LB-Weight: 40%\r\n\r\n")).await;
    let endpoints = [format!("http://{}", fake.address)];
    let service = service("web", Algorithm::Adaptive, Some(http()), &endpoints);
    let registry = registry(vec![service]);
    wait_for(&registry, Health::Healthy).await;
    let instance = Arc::clone(&registry.snapshot().services[0].members[0].instance);
    let wanted = instance.reports.wanted(Clock::real().now(), Duration::MAX);
    assert_eq!(wanted, Some(40));
}

#[tokio::test]
async fn a_port_and_a_host_of_its_own() {
    let fake = Fake::start(Some(OK)).await;
    let mut check = http();
    if let Probe::Http { host, .. } = &mut check.probe {
        *host = Some("health.example.org".to_owned());
    }
    check.port = fake
        .address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    // Nobody listens on the endpoint itself.
    let endpoints = ["127.0.0.1:1".to_owned()];
    let registry = registry(vec![service(
        "web",
        Algorithm::RoundRobin,
        Some(check),
        &endpoints,
    )]);
    wait_for(&registry, Health::Healthy).await;
    assert!(fake.seen.lock().unwrap().contains("health.example.org"));
}

#[tokio::test]
async fn a_refused_connection_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert_eq!(
        complaint(&address, quick(Probe::Tcp)).await,
        "connection refused"
    );
    assert_eq!(complaint(&address, http()).await, "connection refused");
}

#[tokio::test]
async fn another_status_is_told() {
    let fake = Fake::start(Some(SICK)).await;
    let complaint = complaint(&fake.address, http()).await;
    assert_eq!(complaint, "expected status 200-399, found 503");
}

#[tokio::test]
async fn silence_is_told() {
    let fake = Fake::start(None).await;
    let complaint = complaint(&fake.address, http()).await;
    assert_eq!(
        complaint,
        "expected an HTTP answer within 200ms, found none"
    );
}

#[tokio::test]
async fn a_connection_that_ends_early_is_told() {
    for beginning in ["", "HTTP/1.1 200 OK\r\ncontent-"] {
        let fake = Fake::start(Some(beginning)).await;
        let complaint = complaint(&fake.address, http()).await;
        assert_eq!(
            complaint, "expected an HTTP answer, found the connection closed",
            "after {beginning:?}"
        );
    }
}

#[tokio::test]
async fn something_else_than_http_is_told() {
    let fake = Fake::start(Some("SSH-2.0-OpenSSH_9.2p1\r\n")).await;
    let complaint = complaint(&fake.address, http()).await;
    assert!(
        complaint.starts_with("expected an HTTP answer, found something else: "),
        "{complaint}"
    );
}

#[tokio::test]
async fn health_falls_and_rises_with_the_answers() {
    let fake = Fake::start(Some(OK)).await;
    let endpoints = [fake.address.clone()];
    let mut service = service("web", Algorithm::RoundRobin, Some(http()), &endpoints);
    service.breakers.instance = Some(BreakerSpec::default());
    let registry = registry(vec![service]);
    let (stop, stopped) = watch::channel(false);
    let checks = tokio::spawn(health::run(Arc::clone(&registry), Clock::real(), stopped));
    settled(&registry, Health::Healthy).await;
    *fake.answer.lock().unwrap() = Some(SICK);
    settled(&registry, Health::Unhealthy).await;
    // What requests have met meanwhile is over when it is up again.
    let instance = Arc::clone(&registry.snapshot().services[0].members[0].instance);
    let until = Clock::real().now() + Duration::from_secs(1000);
    let open = |_| Some(GateState::Open { until, trips: 3 });
    instance.gate.update(open);
    instance.failures.go_on(Clock::real().now(), true);
    *fake.answer.lock().unwrap() = Some(OK);
    settled(&registry, Health::Healthy).await;
    assert!(instance.gate.is_closed());
    assert_eq!(instance.failures.length(), 0);
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(5), checks)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_reload_restarts_only_what_it_touches() {
    let (kept, changed) = (Fake::start(None).await, Fake::start(None).await);
    let slow = HealthCheckSpec {
        interval: Duration::from_secs(3600),
        ..quick(Probe::Tcp)
    };
    let services = |timeout: u64| {
        let check = HealthCheckSpec {
            timeout: Duration::from_secs(timeout),
            ..slow.clone()
        };
        let algorithm = Algorithm::RoundRobin;
        vec![
            service(
                "changed",
                algorithm,
                Some(check),
                std::slice::from_ref(&changed.address),
            ),
            service(
                "kept",
                algorithm,
                Some(slow.clone()),
                std::slice::from_ref(&kept.address),
            ),
        ]
    };
    let registry = registry(services(1));
    let (_stop, stopped) = watch::channel(false);
    let checks = tokio::spawn(health::run(Arc::clone(&registry), Clock::real(), stopped));
    let counts = || {
        let count = |fake: &Fake| fake.connections.load(Ordering::SeqCst);
        (count(&kept), count(&changed))
    };
    until(|| counts() == (1, 1)).await;
    configure(&registry, services(2));
    until(|| counts() == (1, 2)).await;
    settled(&registry, Health::Healthy).await;
    // Without checks there is nothing to ask, and what they said is forgotten.
    let mut unchecked = services(2);
    unchecked[0].health_check = None;
    configure(&registry, unchecked);
    assert_eq!(status(&registry, 0).health, Health::Unknown);
    configure(&registry, services(2));
    until(|| counts() == (1, 3)).await;
    checks.abort();
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met)
        .await
        .unwrap();
}
