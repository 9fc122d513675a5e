//! Requests that are sent to a second instance because the first one takes long.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::model::{HedgeAfter, HedgeEnd, HedgeSpec, RetryCause};

const SLOW: Duration = Duration::from_millis(400);

impl Gateway {
    fn hedges(&self, end: HedgeEnd) -> u64 {
        let snapshot = self.registry.snapshot();
        snapshot.services[0].stats.retries.hedges(end)
    }
}

/// A proxy that hedges after a short time, whatever that costs.
fn hedging(instances: &[&Stub]) -> Gateway {
    let addresses: Vec<_> = instances.iter().map(|stub| stub.address).collect();
    let mut desired = everything_to(&addresses);
    desired.services[0].hedge = Some(HedgeSpec {
        after: HedgeAfter::Time(Duration::from_millis(20)),
        max_extra: 100,
    });
    Gateway::of(desired)
}

/// An instance that takes its time.
fn slow(answer: &'static str) -> Stub {
    Stub::answering(move |_| {
        thread::sleep(SLOW);
        ok(answer)
    })
}

#[test]
fn the_tail_is_cut_for_two_percent() {
    const REQUESTS: usize = 2000;
    let asked = Arc::new(AtomicUsize::new(0));
    let stubs: Vec<_> = (0..3)
        .map(|_| {
            let (asked, own) = (Arc::clone(&asked), AtomicUsize::new(0));
            Stub::answering(move |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                // Every fiftieth of its requests meets a pause.
                if own.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
                    thread::sleep(SLOW);
                }
                ok("x")
            })
        })
        .collect();
    let addresses: Vec<_> = stubs.iter().map(|stub| stub.address).collect();
    let mut desired = everything_to(&addresses);
    desired.services[0].hedge = Some(HedgeSpec::default());
    let gateway = Gateway::of(desired);
    let mut client = gateway.connect();
    let mut took: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(client.get("/").text(), "x");
            begun.elapsed()
        })
        .collect();
    took.sort();
    let p99 = took[REQUESTS * 99 / 100];
    assert!(p99 < SLOW / 2, "{p99:?}");
    let ends = || [HedgeEnd::Won, HedgeEnd::Lost].map(|end| gateway.hedges(end));
    // One that has lost may be over before its instance has heard of it.
    eventually("every hedge is counted", || {
        let extra = asked.load(Ordering::Relaxed) - REQUESTS;
        extra > 0 && extra as u64 <= ends().iter().sum::<u64>()
    });
    let [won, lost] = ends();
    assert!(won + lost <= REQUESTS as u64 * 2 / 100, "{won} {lost}");
    assert!(won > lost, "{won} {lost}");
}

#[test]
fn the_loser_is_over_at_once() {
    let closed = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&closed);
    let silent = Stub::new(move |mut peer| {
        peer.request();
        told.store(peer.is_closed(), Ordering::Relaxed);
    });
    let fine = Stub::saying("fine");
    let gateway = hedging(&[&silent, &fine]);
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(gateway.hedges(HedgeEnd::Won), 1);
    eventually("the loser is gone", || {
        closed.load(Ordering::Relaxed) && gateway.instance(0).in_flight() == 0
    });
    // Nobody knows how it would have done.
    assert_eq!((gateway.totals(0), gateway.totals(1)), ((0, 0), (2, 0)));
}

#[test]
fn what_has_effects_is_not_hedged() {
    let stub = slow("x");
    let other = slow("x");
    let gateway = hedging(&[&stub, &other]);
    let mut client = gateway.connect();
    for request in [
        "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    ] {
        assert_eq!(client.send(request).answer().text(), "x");
    }
    let all: u64 = HedgeEnd::ALL.iter().map(|end| gateway.hedges(*end)).sum();
    assert_eq!((all, gateway.totals(0).0 + gateway.totals(1).0), (0, 3));
}

#[test]
fn a_quick_failure_does_not_win() {
    let late = slow("late");
    let busy = Stub::answering(|_| "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned());
    let gateway = hedging(&[&late, &busy]);
    let mut client = gateway.connect();
    // Once from either: the second one is answered by a retry, which is not hedged.
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "late");
    }
    assert_eq!(gateway.hedges(HedgeEnd::Lost), 1);
    assert_eq!(gateway.retries(RetryCause::Status), 1);
}

#[test]
fn when_both_fail_a_third_one_is_tried() {
    let lost = || {
        Stub::new(|mut peer| {
            peer.request();
            thread::sleep(SLOW);
        })
    };
    let stubs = [lost(), lost(), Stub::saying("fine")];
    let gateway = hedging(&[&stubs[0], &stubs[1], &stubs[2]]);
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "fine");
    }
    assert!(gateway.hedges(HedgeEnd::Won) + gateway.hedges(HedgeEnd::Lost) >= 4);
}
