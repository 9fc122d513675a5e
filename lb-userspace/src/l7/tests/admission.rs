//! What may enter and what must wait, as clients and instances see it.

use std::{num::NonZeroU32, sync::atomic::AtomicU32};

use super::*;
use crate::model::{LimitSpec, Priority, QueueSpec};

/// An instance that keeps its requests until it is told to answer, and counts how many it has.
struct Slow {
    stub: Stub,
    state: Arc<SlowState>,
}

#[derive(Default)]
struct SlowState {
    busy: AtomicU32,
    most: AtomicU32,
    may_answer: AtomicU32,
}

impl Slow {
    fn new() -> Self {
        let state = Arc::new(SlowState::default());
        let kept = Arc::clone(&state);
        let stub = Stub::answering(move |_| {
            let busy = kept.busy.fetch_add(1, Ordering::SeqCst) + 1;
            kept.most.fetch_max(busy, Ordering::SeqCst);
            let take = |n: u32| n.checked_sub(1);
            let free = &kept.may_answer;
            eventually("leave to answer", || {
                free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                    .is_ok()
            });
            kept.busy.fetch_sub(1, Ordering::SeqCst);
            ok("done")
        });
        Self { stub, state }
    }

    fn busy(&self) -> u32 {
        self.state.busy.load(Ordering::SeqCst)
    }

    fn most(&self) -> u32 {
        self.state.most.load(Ordering::SeqCst)
    }

    fn answer(&self, count: u32) {
        self.state.may_answer.fetch_add(count, Ordering::SeqCst);
    }
}

fn limits(service: u32, instance: u32) -> LimitSpec {
    LimitSpec {
        service: NonZeroU32::new(service),
        instance: NonZeroU32::new(instance),
        ..LimitSpec::default()
    }
}

fn limited(instances: &[SocketAddr], limits: LimitSpec) -> Desired {
    let mut desired = everything_to(instances);
    desired.services[0].limits = limits;
    desired
}

/// A client whose request is on its way.
fn asking(gateway: &Gateway, path: &str) -> Peer {
    let mut client = gateway.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

fn inside(gateway: &Gateway) -> u32 {
    gateway.registry.snapshot().services[0].admission.inside()
}

#[test]
fn a_full_instance_gets_nothing_more_and_the_next_one_does() {
    let (small, other) = (Slow::new(), Slow::new());
    let mut desired = limited(&[small.stub.address, other.stub.address], limits(0, 3));
    desired.services[0].instances[0].max_requests = Some(1);
    let gateway = Gateway::of(desired);
    let mut clients: Vec<_> = (0..4).map(|_| asking(&gateway, "/")).collect();
    eventually("four requests", || small.busy() + other.busy() == 4);
    assert_eq!((small.busy(), other.busy()), (1, 3));
    let refused = gateway.get("/");
    let expected = (503, Some("at_capacity"));
    assert_eq!((refused.status(), refused.reason()), expected);
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(gateway.answers(Reason::AtCapacity), 1);
    small.answer(9);
    other.answer(9);
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(gateway.get("/").status(), 200);
    eventually("nobody inside", || inside(&gateway) == 0);
    assert_eq!(gateway.instance(0).in_flight(), 0);
    assert_eq!(gateway.instance(1).in_flight(), 0);
}

#[test]
fn the_limit_of_a_service_holds_for_all_of_its_instances() {
    let slow = [Slow::new(), Slow::new()];
    let desired = limited(&[slow[0].stub.address, slow[1].stub.address], limits(3, 0));
    let mut gateway = Gateway::of(desired);
    let mut clients: Vec<_> = (0..3).map(|_| asking(&gateway, "/")).collect();
    eventually("three requests", || slow[0].busy() + slow[1].busy() == 3);
    assert_eq!(gateway.get("/").reason(), Some("at_capacity"));
    // A reload that raises the limit finds those that are inside.
    gateway.reload(|desired| desired.services[0].limits = limits(4, 0));
    clients.push(asking(&gateway, "/"));
    eventually("four requests", || slow[0].busy() + slow[1].busy() == 4);
    assert_eq!(gateway.get("/").reason(), Some("at_capacity"));
    slow.iter().for_each(|slow| slow.answer(9));
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("nobody inside", || inside(&gateway) == 0);
}

#[test]
fn limits_are_exact_with_several_workers() {
    let slow = Slow::new();
    slow.answer(10_000);
    let desired = limited(&[slow.stub.address], limits(0, 2));
    let gateway = Gateway::with(desired, 3, None);
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..40 {
                    let answer = client.get("/");
                    if answer.status() == 200 {
                        served.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(answer.reason(), Some("at_capacity"));
                    }
                }
            });
        }
    });
    assert!(slow.most() <= 2, "{}", slow.most());
    let refused = gateway.answers(Reason::AtCapacity);
    assert_eq!(u64::from(served.into_inner()) + refused, 480);
    eventually("nobody in flight", || gateway.instance(0).in_flight() == 0);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let slow = Slow::new();
    let gateway = Gateway::of(limited(&[slow.stub.address], limits(1, 1)));
    let client = asking(&gateway, "/");
    eventually("the request", || slow.busy() == 1);
    drop(client);
    eventually("its end", || gateway.instance(0).in_flight() == 0);
    eventually("nobody inside", || inside(&gateway) == 0);
    slow.answer(9);
    assert_eq!(gateway.get("/").status(), 200);
}

fn queue(size: u32, timeout: Duration) -> QueueSpec {
    QueueSpec {
        size,
        timeout,
        target: PATIENCE,
        interval: PATIENCE,
        priority_header: Some("x-priority".to_owned()),
    }
}

fn queued(instances: &[SocketAddr], limits: LimitSpec, queue: QueueSpec) -> Desired {
    let mut desired = limited(instances, limits);
    desired.services[0].queue = Some(queue);
    desired
}

fn waiting(gateway: &Gateway) -> u32 {
    let snapshot = gateway.registry.snapshot();
    snapshot.services[0].admission.queue().waiting()
}

/// An instance that answers with the path, one request at a time and each when it is told to.
fn in_turn() -> (Stub, Arc<AtomicU32>) {
    let leave = Arc::new(AtomicU32::new(0));
    let kept = Arc::clone(&leave);
    let stub = Stub::answering(move |request| {
        let take = |n: u32| n.checked_sub(1);
        eventually("leave to answer", || {
            kept.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .is_ok()
        });
        ok(request.start.split(' ').nth(1).unwrap())
    });
    (stub, leave)
}

#[test]
fn who_finds_no_room_waits_for_it_in_order_of_urgency_and_arrival() {
    let (stub, leave) = in_turn();
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spec = queue(10, PATIENCE);
    let mut gateway = Gateway::with(queued(&[stub.address], limits(0, 1), spec), 3, None);
    let low = Priority::new(6).unwrap();
    gateway.reload(|desired| {
        let path = PathPattern::Exact("/low".to_owned());
        desired.routes.push(RouteSpec {
            priority: low,
            ..RouteSpec::new(path, ServiceName::new("web").unwrap())
        });
    });
    let mut clients = Vec::new();
    for (at, (path, field)) in [
        ("/first", ""),
        ("/low", ""),
        ("/second", ""),
        ("/urgent", "X-Priority: 0\r\n"),
        ("/third", "X-Priority: nonsense\r\n"),
        ("/lowest", "X-Priority: 7\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
        let served = Arc::clone(&served);
        clients.push(thread::spawn(move || {
            let answer = client.answer();
            served.lock().unwrap().push(answer.text().to_owned());
        }));
        eventually("the next in line", || {
            gateway.instance(0).in_flight() == 1 && waiting(&gateway) == at as u32
        });
    }
    for count in 1..=6 {
        leave.fetch_add(1, Ordering::SeqCst);
        eventually("the next answer", || served.lock().unwrap().len() == count);
    }
    clients.into_iter().for_each(|c| c.join().unwrap());
    let expected = ["/first", "/urgent", "/second", "/third", "/low", "/lowest"];
    assert_eq!(*served.lock().unwrap(), expected);
    eventually("nobody inside", || {
        inside(&gateway) + waiting(&gateway) == 0
    });
}

#[test]
fn a_wait_ends_with_a_reason() {
    let slow = Slow::new();
    let limit = Duration::from_millis(50);
    let desired = queued(&[slow.stub.address], limits(0, 1), queue(1, limit));
    let mut gateway = Gateway::with(desired, 2, None);
    let mut first = asking(&gateway, "/");
    eventually("the first", || slow.busy() == 1);
    let started = Instant::now();
    let answer = gateway.get("/");
    let expected = (503, Some("queue_timeout"));
    assert_eq!((answer.status(), answer.reason()), expected);
    assert!(started.elapsed() >= limit);
    // The request's own time is over before.
    gateway.reload(|desired| {
        desired.services[0].queue = Some(queue(1, PATIENCE));
        desired.services[0].timeouts.request = limit;
    });
    assert_eq!(gateway.get("/").reason(), Some("queue_timeout"));
    // Another service has more time for its requests, so one of them waits on.
    gateway.reload(|desired| desired.services[0].timeouts.request = PATIENCE);
    let mut second = asking(&gateway, "/");
    eventually("the second", || waiting(&gateway) == 1);
    assert_eq!(gateway.get("/").reason(), Some("queue_full"));
    // A client that leaves makes room for another one.
    drop(second);
    eventually("room", || waiting(&gateway) == 0);
    second = asking(&gateway, "/");
    eventually("the second again", || waiting(&gateway) == 1);
    // Without the service there is nothing to wait for.
    gateway.reload(|desired| {
        desired.services.clear();
        desired.routes.clear();
    });
    assert_eq!(second.answer().reason(), Some("no_instance"));
    slow.answer(9);
    assert_eq!(first.answer().status(), 200);
}

#[test]
fn a_reload_that_makes_room_lets_those_in_who_wait() {
    let (slow, other) = (Slow::new(), Stub::saying("other"));
    let desired = queued(&[slow.stub.address], limits(0, 1), queue(9, PATIENCE));
    let mut gateway = Gateway::with(desired, 2, None);
    let mut clients: Vec<_> = (0..4).map(|_| asking(&gateway, "/")).collect();
    eventually("three in line", || waiting(&gateway) == 3);
    gateway.reload(|desired| desired.services[0].limits = limits(0, 2));
    eventually("one more", || slow.busy() == 2 && waiting(&gateway) == 2);
    gateway.reload(|desired| {
        let endpoint = Endpoint::from_address(other.address);
        desired.services[0]
            .instances
            .push(InstanceSpec::new(endpoint, 1));
    });
    eventually("all of them", || waiting(&gateway) == 0);
    slow.answer(9);
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("nobody inside", || inside(&gateway) == 0);
}

#[test]
fn a_busy_queue_serves_everybody_and_exceeds_nothing() {
    let slow = Slow::new();
    slow.answer(10_000);
    let desired = queued(&[slow.stub.address], limits(3, 2), queue(100, PATIENCE));
    let gateway = Gateway::with(desired, 3, None);
    thread::scope(|scope| {
        for at in 0..12 {
            let gateway = &gateway;
            scope.spawn(move || {
                for round in 0..40 {
                    if (at + round) % 8 == 0 {
                        // Some do not wait for the answer.
                        drop(asking(gateway, "/"));
                    }
                    assert_eq!(gateway.get("/").status(), 200);
                    assert!(gateway.instance(0).in_flight() <= 2);
                }
            });
        }
    });
    eventually("nobody inside", || {
        inside(&gateway) + waiting(&gateway) == 0
    });
    assert_eq!(gateway.instance(0).in_flight(), 0);
}
