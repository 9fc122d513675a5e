//! What may enter and what must wait, as clients and instances see it.

use std::{num::NonZeroU32, sync::atomic::AtomicU32};

use super::*;
use crate::model::LimitSpec;

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
