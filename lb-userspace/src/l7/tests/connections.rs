//! Limits of connections, as clients and instances see them.

use std::{
    num::NonZeroU32,
    sync::{Mutex, atomic::AtomicU32},
};

use super::*;
use crate::model::{LimitSpec, QueueSpec, RetrySpec};

fn limits(service: u32, instance: u32) -> LimitSpec {
    LimitSpec {
        connections: NonZeroU32::new(service),
        instance_connections: NonZeroU32::new(instance),
        ..LimitSpec::default()
    }
}

fn limited(instances: &[SocketAddr], limits: LimitSpec) -> Desired {
    let mut desired = everything_to(instances);
    desired.services[0].limits = limits;
    desired.services[0].retry = RetrySpec {
        max: 0,
        ..RetrySpec::default()
    };
    desired
}

fn queue() -> QueueSpec {
    QueueSpec {
        size: 100,
        timeout: PATIENCE,
        target: PATIENCE,
        interval: PATIENCE,
        priority_header: None,
    }
}

/// Connections that are open and idle, of an instance and of its service.
fn counts(gateway: &Gateway, at: usize) -> [u32; 4] {
    let instance = gateway.instance(at);
    let (own, all) = (&instance.connections, &instance.load.connections);
    [own.open(), own.idle(), all.open(), all.idle()]
}

/// An instance that answers `/slow` when it is told to, and everything else at once.
fn slow() -> (Stub, Arc<AtomicU32>) {
    let leave = Arc::new(AtomicU32::new(0));
    let kept = Arc::clone(&leave);
    let stub = Stub::answering(move |request| {
        if request.start.contains("/slow") {
            let take = |n: u32| n.checked_sub(1);
            eventually("leave to answer", || {
                kept.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                    .is_ok()
            });
        }
        ok("done")
    });
    (stub, leave)
}

/// A client whose request is on its way.
fn asking(gateway: &Gateway, path: &str) -> Peer {
    let mut client = gateway.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn there_is_no_connection_too_many_and_a_kept_one_may_be_used() {
    let (stub, leave) = slow();
    let gateway = Gateway::of(limited(&[stub.address], limits(0, 1)));
    let mut first = asking(&gateway, "/slow");
    eventually("a connection", || {
        gateway.instance(0).connections.open() == 1
    });
    let refused = gateway.get("/");
    let expected = (503, Some("connection_limit"));
    assert_eq!((refused.status(), refused.reason()), expected);
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(gateway.answers(Reason::ConnectionLimit), 1);
    leave.store(1, Ordering::SeqCst);
    assert_eq!(first.answer().status(), 200);
    for _ in 0..5 {
        assert_eq!(gateway.get("/").status(), 200);
    }
    eventually("it is kept", || counts(&gateway, 0) == [1, 1, 1, 1]);
}

#[test]
fn the_next_instance_is_asked_when_there_may_be_no_more_to_one() {
    let ((a, a_leave), (b, b_leave)) = (slow(), slow());
    let mut desired = limited(&[a.address, b.address], LimitSpec::default());
    desired.services[0].instances[0].max_connections = Some(1);
    let gateway = Gateway::of(desired);
    // One to each of them.
    let mut held = [(); 2].map(|()| asking(&gateway, "/slow"));
    eventually("a connection to each", || {
        let open = |at| gateway.instance(at).connections.open();
        open(0) == 1 && open(1) == 1
    });
    for _ in 0..6 {
        assert_eq!(gateway.get("/").status(), 200);
    }
    assert_eq!((gateway.totals(0), gateway.totals(1)), ((0, 0), (6, 0)));
    a_leave.store(1, Ordering::SeqCst);
    b_leave.store(1, Ordering::SeqCst);
    for client in &mut held {
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn a_worker_without_a_connection_gets_one_that_another_keeps() {
    let (stub, _) = slow();
    let gateway = Gateway::with(limited(&[stub.address], limits(0, 1)), 4, None);
    // Connections of clients are spread over the workers, which keep connections for themselves.
    for _ in 0..40 {
        assert_eq!(gateway.get("/").status(), 200);
        assert!(gateway.instance(0).connections.open() <= 1);
    }
    assert_eq!(gateway.answers(Reason::ConnectionLimit), 0);
}

#[test]
fn an_instance_gets_one_that_is_kept_to_another_of_its_service() {
    let stubs = [slow().0, slow().0, slow().0];
    let addresses = stubs.each_ref().map(|stub| stub.address);
    for workers in [1, 3] {
        let gateway = Gateway::with(limited(&addresses, limits(1, 0)), workers, None);
        for _ in 0..30 {
            assert_eq!(gateway.get("/").status(), 200);
            assert!(gateway.instance(0).load.connections.open() <= 1);
        }
        let totals = [0, 1, 2].map(|at| gateway.totals(at));
        assert_eq!(totals.iter().map(|total| total.0).sum::<u64>(), 30);
        // Each worker takes turns of its own.
        let even = workers > 1 || totals.iter().all(|total| total.0 == 10);
        assert!(even && totals.iter().all(|total| total.0 > 0 && total.1 == 0));
    }
}

#[test]
fn a_busy_queue_serves_everybody_and_no_limit_is_exceeded() {
    let stubs = [slow().0, slow().0];
    let addresses = stubs.each_ref().map(|stub| stub.address);
    let mut desired = limited(&addresses, limits(3, 2));
    desired.services[0].queue = Some(queue());
    let gateway = Gateway::with(desired, 3, None);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for at in 0..10 {
            let (gateway, failures) = (&gateway, &failures);
            scope.spawn(move || {
                for round in 0..40 {
                    if (at + round) % 8 == 0 {
                        // Some do not wait for the answer.
                        drop(asking(gateway, "/"));
                    }
                    let answer = gateway.get("/");
                    if answer.status() != 200 {
                        failures.lock().unwrap().push(answer);
                    }
                    for at in 0..2 {
                        let [own, _, all, _] = counts(gateway, at);
                        assert!(own <= 2 && all <= 3, "{own} {all}");
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert_eq!(failures.len(), 0, "{:?}", failures.first());
    let snapshot = gateway.registry.snapshot();
    let admission = &snapshot.services[0].admission;
    eventually("nobody inside", || {
        admission.inside() + admission.queue().waiting() == 0
    });
    eventually("all are idle", || {
        let [_, _, open, idle] = counts(&gateway, 0);
        open == idle
    });
    drop(gateway);
    let load = &snapshot.services[0].members[0].instance.load;
    assert_eq!((load.connections.open(), load.connections.idle()), (0, 0));
}

#[test]
fn a_tunnel_counts_until_it_is_closed() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let stub = Stub::new(move |mut peer| {
        let upgrades = |request: &Message| request.field("upgrade").is_some();
        while let Some(request) = peer.request() {
            let answer = if upgrades(&request) {
                switch
            } else {
                &ok("done")
            };
            peer.send(answer);
            if upgrades(&request) {
                let _ = peer.line();
                return;
            }
        }
    });
    let gateway = Gateway::of(limited(&[stub.address], limits(0, 1)));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 101);
    eventually("a tunnel", || counts(&gateway, 0) == [1, 0, 1, 0]);
    assert_eq!(gateway.get("/").reason(), Some("connection_limit"));
    drop(client);
    eventually("its end", || counts(&gateway, 0) == [0; 4]);
    assert_eq!(gateway.get("/").status(), 200);
}

#[test]
fn whatever_ends_a_connection_it_counts_no_more() {
    let (stub, leave) = slow();
    // One that closes without an answer, and one that nobody listens for.
    let rude = Stub::new(|mut peer| drop(peer.request()));
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for address in [rude.address, nobody] {
        let gateway = Gateway::of(limited(&[address], limits(0, 1)));
        for _ in 0..3 {
            assert_eq!(gateway.get("/").status(), 502);
            eventually("nothing is left", || counts(&gateway, 0) == [0; 4]);
        }
    }
    let gateway = Gateway::of(limited(&[stub.address], limits(0, 1)));
    let given_up = asking(&gateway, "/slow");
    eventually("a connection", || {
        gateway.instance(0).connections.open() == 1
    });
    drop(given_up);
    eventually("its end", || counts(&gateway, 0) == [0; 4]);
    leave.store(9, Ordering::SeqCst);
    assert_eq!(gateway.get("/").status(), 200);
}

#[test]
fn a_lower_limit_closes_nothing_and_a_higher_one_lets_those_in_who_wait() {
    let (stub, leave) = slow();
    let mut desired = limited(&[stub.address], limits(0, 3));
    desired.services[0].queue = Some(queue());
    let mut gateway = Gateway::with(desired, 2, None);
    let mut clients: Vec<_> = (0..3).map(|_| asking(&gateway, "/slow")).collect();
    eventually("three", || gateway.instance(0).connections.open() == 3);
    gateway.reload(|desired| desired.services[0].limits = limits(0, 1));
    clients.push(asking(&gateway, "/slow"));
    let snapshot = gateway.registry.snapshot();
    let queue = snapshot.services[0].admission.queue();
    eventually("one waits", || queue.waiting() == 1);
    gateway.reload(|desired| desired.services[0].limits = limits(4, 4));
    eventually("four", || gateway.instance(0).connections.open() == 4);
    assert_eq!(queue.waiting(), 0);
    leave.store(9, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
}
