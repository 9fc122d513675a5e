//! Circuit breakers: instances that fail, and the requests that find out when they do not any more.

use std::sync::{
    Mutex,
    atomic::{AtomicU16, AtomicUsize},
    mpsc,
};

use super::*;
use crate::model::{AllOpen, BreakerSpec, BreakerState, GateState};

/// An instance that answers with the status of the moment and counts what it is asked.
struct Fickle {
    stub: Stub,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Fickle {
    fn new(status: u16) -> Self {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::default());
        let (now, counter) = (Arc::clone(&status), Arc::clone(&asked));
        let stub = Stub::answering(move |_| {
            AtomicUsize::fetch_add(&counter, 1, Ordering::Relaxed);
            let status = now.load(Ordering::Relaxed);
            format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")
        });
        Self {
            stub,
            status,
            asked,
        }
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

const OPEN: Duration = Duration::from_millis(300);

/// Rules that open after three in a row.
fn rules() -> BreakerSpec {
    BreakerSpec {
        failures: 3,
        open: OPEN,
        max_open: Duration::from_secs(10),
        ..BreakerSpec::default()
    }
}

fn desired(instances: &[SocketAddr], rules: BreakerSpec) -> Desired {
    let mut desired = everything_to(instances);
    desired.services[0].breakers.instance = Some(rules);
    desired
}

impl Gateway {
    fn gate(&self, at: usize) -> GateState {
        self.instance(at).gate.state()
    }

    fn kind(&self, at: usize) -> BreakerState {
        // The gateway's clock is the machine's.
        self.gate(at).kind(Clock::real().now())
    }

    fn wait_for(&self, state: BreakerState) {
        eventually(state.as_str(), || self.kind(0) == state);
    }
}

#[test]
fn a_failing_instance_is_left_alone_until_a_probe_finds_it_well() {
    let (bad, good) = (Fickle::new(500), Fickle::new(200));
    let instances = [bad.stub.address, good.stub.address];
    let gateway = Gateway::of(desired(&instances, rules()));
    let mut client = gateway.connect();
    while gateway.kind(0) == BreakerState::Closed {
        client.get("/");
    }
    assert_eq!(bad.asked(), 3);
    // Whatever happens next happens before the first probe, or the test is too slow to tell.
    let GateState::Open { until, trips: 1 } = gateway.gate(0) else {
        panic!("{:?}", gateway.gate(0));
    };
    for _ in 0..50 {
        let status = client.get("/").status();
        let in_time = Clock::real().now() < until;
        assert!(!in_time || (status == 200 && bad.asked() == 3), "{status}");
    }
    gateway.wait_for(BreakerState::HalfOpen);
    // It fails its probe, and the wait is twice as long.
    while matches!(gateway.gate(0), GateState::Open { trips: 1, .. }) {
        client.get("/");
    }
    assert_eq!(bad.asked(), 4);
    bad.says(200);
    gateway.wait_for(BreakerState::HalfOpen);
    while gateway.kind(0) != BreakerState::Closed {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(bad.asked(), 6);
    let gate = &gateway.instance(0).gate;
    let counts = BreakerState::ALL.map(|state| gate.transitions(state));
    assert_eq!(counts, [1, 2, 2]);
}

#[test]
fn when_all_are_open_the_answer_says_so_and_when_to_come_again() {
    let bad = Fickle::new(503);
    let rules = BreakerSpec {
        open: Duration::from_secs(7),
        ..rules()
    };
    let mut gateway = Gateway::of(desired(&[bad.stub.address], rules));
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").reason(), None);
    }
    let answer = client.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (503, Some("breaker_open"))
    );
    let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!((5..=7).contains(&wait), "{wait}");
    assert_eq!(gateway.answers(Reason::BreakerOpen), 1);
    assert_eq!(bad.asked(), 3);
    // Unless it is to be asked all the same.
    gateway.reload(|desired| desired.services[0].breakers.all_open = AllOpen::Pass);
    let mut client = gateway.connect();
    bad.says(201);
    assert_eq!(client.get("/").status(), 201);
    assert_eq!(gateway.kind(0), BreakerState::Open);
    // Off means off, from the next request on.
    gateway.reload(|desired| {
        desired.services[0].breakers.instance = None;
        desired.services[0].breakers.all_open = AllOpen::Refuse;
    });
    crate::health::breakers::follow(&gateway.registry, Clock::real().now());
    assert_eq!(client.get("/").status(), 201);
    assert_eq!(gateway.kind(0), BreakerState::Closed);
}

/// An instance whose answers wait for a word each: it tells of every request and is told what to
/// answer.
struct Patient {
    stub: Stub,
    asked: mpsc::Receiver<()>,
    answers: mpsc::Sender<u16>,
}

impl Patient {
    fn new() -> Self {
        let (tell, asked) = mpsc::channel();
        let (answers, answer) = mpsc::channel();
        let (tell, answer) = (Mutex::new(tell), Mutex::new(answer));
        let stub = Stub::new(move |mut peer| {
            while peer.request().is_some() {
                let _ = tell.lock().unwrap().send(());
                let Ok(status) = answer.lock().unwrap().recv() else {
                    break;
                };
                let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
                let _ = peer.try_send(answer);
            }
        });
        Self {
            stub,
            asked,
            answers,
        }
    }

    /// One request after another that fails, until the breaker is open.
    fn trip(&self, gateway: &Gateway) {
        while gateway.kind(0) == BreakerState::Closed {
            self.answers.send(500).unwrap();
            gateway.get("/");
            self.asked.recv_timeout(PATIENCE).unwrap();
        }
    }
}

#[test]
fn many_clients_of_many_workers_make_one_probe() {
    let patient = Patient::new();
    let rules = BreakerSpec {
        successes: 1,
        ..rules()
    };
    let gateway = Gateway::with(desired(&[patient.stub.address], rules), 2, None);
    patient.trip(&gateway);
    gateway.wait_for(BreakerState::HalfOpen);
    let statuses = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let answer = gateway.get("/");
                let found = (answer.status(), answer.reason().map(str::to_owned));
                statuses.lock().unwrap().push(found);
            });
        }
        eventually("nineteen are refused", || {
            statuses.lock().unwrap().len() == 19
        });
        patient.asked.recv_timeout(PATIENCE).unwrap();
        assert!(patient.asked.try_recv().is_err(), "a second probe");
        assert_eq!(gateway.instance(0).in_flight(), 1);
        patient.answers.send(200).unwrap();
    });
    let mut statuses = statuses.into_inner().unwrap();
    assert_eq!(statuses.pop(), Some((200, None)));
    let refused = (503, Some("breaker_open".to_owned()));
    assert!(statuses.iter().all(|found| *found == refused));
    assert_eq!(gateway.kind(0), BreakerState::Closed);
}

#[test]
fn a_probe_whose_client_goes_away_gives_its_permit_back() {
    let patient = Patient::new();
    let gateway = Gateway::of(desired(&[patient.stub.address], rules()));
    patient.trip(&gateway);
    gateway.wait_for(BreakerState::HalfOpen);
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        patient.asked.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(
            gateway.gate(0),
            GateState::HalfOpen { free: 0, .. }
        ));
        assert_eq!(gateway.get("/").reason(), Some("breaker_open"));
        drop(client);
        eventually("the permit is back", || {
            matches!(
                gateway.gate(0),
                GateState::HalfOpen {
                    free: 1,
                    passed: 0,
                    ..
                }
            )
        });
        // The instance need not know; its thread goes on.
        patient.answers.send(200).unwrap();
    }
}

#[test]
fn throttled_requests_open_it_by_their_share_only() {
    let fickle = Fickle::new(429);
    let rules = BreakerSpec {
        min_requests: 10,
        ..rules()
    };
    let gateway = Gateway::of(desired(&[fickle.stub.address], rules));
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(gateway.kind(0), BreakerState::Closed);
        assert_eq!(client.get("/").status(), 429);
    }
    assert_eq!(gateway.kind(0), BreakerState::Open);
}

#[test]
fn answers_below_500_and_clients_that_give_up_count_for_nothing() {
    let patient = Patient::new();
    let gateway = Gateway::of(desired(&[patient.stub.address], rules()));
    for status in [404, 200, 499, 302] {
        patient.answers.send(status).unwrap();
        assert_eq!(gateway.get("/").status(), status);
        patient.asked.recv_timeout(PATIENCE).unwrap();
    }
    for _ in 0..5 {
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        patient.asked.recv_timeout(PATIENCE).unwrap();
        drop(client);
        eventually("nobody waits", || gateway.instance(0).in_flight() == 0);
        patient.answers.send(500).unwrap();
    }
    assert!(gateway.instance(0).gate.is_quiet());
}

/// A service breaker that opens when half of ten requests fail.
fn service_rules() -> BreakerSpec {
    BreakerSpec {
        min_requests: 10,
        open: Duration::from_millis(600),
        max_open: Duration::from_secs(10),
        probes: 2,
        successes: 3,
        ..BreakerSpec::of_service()
    }
}

/// A gateway whose service has a breaker, and its instances none.
fn guarded(instances: &[SocketAddr]) -> Gateway {
    let mut desired = everything_to(instances);
    desired.services[0].breakers.service = Some(service_rules());
    // Every second request of a test may need one.
    desired.services[0].retry.budget = 100;
    Gateway::of(desired)
}

impl Gateway {
    fn guard(&self) -> Arc<crate::model::ServiceGuard> {
        Arc::clone(&self.registry.snapshot().services[0].guard)
    }
}

#[test]
fn a_service_that_fails_too_often_sheds_until_its_probes_succeed() {
    // Being told to come later is no success to a client of the service.
    [502, 429].into_iter().for_each(sheds_after);
}

fn sheds_after(failure: u16) {
    let fickle = Fickle::new(200);
    let gateway = guarded(&[fickle.stub.address]);
    let mut client = gateway.connect();
    let open = || !gateway.guard().gate.is_closed();
    (0..6).for_each(|_| assert_eq!(client.get("/").status(), 200));
    fickle.says(failure);
    while !open() {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.reason()), (failure, None));
    }
    // The tenth request is the first at which there are enough, the twelfth the one that is half.
    assert_eq!(fickle.asked(), 12);
    let answer = client.get("/");
    let found = (answer.status(), answer.reason());
    assert_eq!(found, (503, Some("service_breaker_open")));
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(gateway.answers(Reason::ServiceBreakerOpen), 1);
    fickle.says(200);
    let end = Instant::now() + PATIENCE;
    while open() {
        assert!(Instant::now() < end);
        let answer = client.get("/");
        assert!(matches!(answer.status(), 200 | 503));
    }
    assert_eq!(fickle.asked(), 12 + 3);
    assert_eq!(client.get("/").status(), 200);
}

#[test]
fn what_lb_refuses_and_what_a_retry_has_saved_is_no_failure_of_the_service() {
    let good = Fickle::new(200);
    let gateway = guarded(&[unused_address(), good.stub.address]);
    let mut client = gateway.connect();
    (0..40).for_each(|_| assert_eq!(client.get("/").status(), 200));
    assert!(gateway.guard().gate.is_quiet());
    let gateway = guarded(&[]);
    for _ in 0..40 {
        assert_eq!(gateway.get("/").reason(), Some("no_instance"));
    }
    assert!(gateway.guard().gate.is_quiet());
    let gateway = guarded(&[unused_address()]);
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").reason(), Some("connect_failed"));
    }
    assert_eq!(client.get("/").reason(), Some("service_breaker_open"));
}

#[test]
fn advice_makes_a_service_probe_and_what_the_probes_find_counts_more() {
    let fickle = Fickle::new(200);
    let gateway = guarded(&[fickle.stub.address]);
    let (guard, clock) = (gateway.guard(), Clock::real());
    let bad = || crate::resilience::breaker::advise(&guard, Some(PATIENCE), clock.now());
    assert!(bad().is_some_and(|step| step.is_transition()));
    let mut client = gateway.connect();
    eventually("closed", || {
        gateway.get("/");
        guard.gate.is_closed()
    });
    assert_eq!(fickle.asked(), 3);
    // Said again it is no news.
    assert_eq!(bad(), None);
    assert_eq!(client.get("/").status(), 200);
    assert!(guard.gate.is_closed());
}
