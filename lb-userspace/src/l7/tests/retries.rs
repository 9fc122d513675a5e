//! Requests that are sent once more, and requests that must not be.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::model::{RetryCause, RetryRefusal, RetrySpec};

const UNAVAILABLE: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

/// An instance that counts what it is asked and answers always the same.
fn counting(answer: impl Into<String>) -> (Stub, Arc<AtomicUsize>) {
    let (count, answer) = (Arc::new(AtomicUsize::new(0)), answer.into());
    let seen = Arc::clone(&count);
    let stub = Stub::answering(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        answer.clone()
    });
    (stub, count)
}

/// A proxy in front of `instances` whose retries do not wait for long.
fn retrying(instances: &[&Stub], change: impl FnOnce(&mut RetrySpec)) -> Gateway {
    let addresses: Vec<_> = instances.iter().map(|stub| stub.address).collect();
    let mut desired = everything_to(&addresses);
    let retry = &mut desired.services[0].retry;
    retry.backoff = Duration::from_millis(1);
    (retry.budget, retry.floor) = (100, 1000);
    change(retry);
    Gateway::of(desired)
}

impl Gateway {
    pub(super) fn retries(&self, cause: RetryCause) -> u64 {
        self.registry.snapshot().services[0]
            .stats
            .retries
            .count(cause)
    }

    fn refusals(&self, refusal: RetryRefusal) -> u64 {
        let snapshot = self.registry.snapshot();
        snapshot.services[0].stats.retries.refusals(refusal)
    }
}

#[test]
fn a_busy_instance_costs_no_get_and_every_post() {
    let (busy, fine) = (counting(UNAVAILABLE), counting(ok("fine")));
    let gateway = retrying(&[&busy.0, &fine.0], |_| {});
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(gateway.retries(RetryCause::Status), 5);
    assert_eq!(fine.1.load(Ordering::Relaxed), 10);
    let statuses: Vec<_> = (0..2)
        .map(|_| {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
            let answer = client.answer();
            // It is the instance's own word.
            assert_eq!(answer.reason(), None);
            answer.status()
        })
        .collect();
    assert!(statuses.contains(&503) && statuses.contains(&200));
    assert_eq!(gateway.refusals(RetryRefusal::Unsafe), 1);
    // Answers that were given up have been read to their end: one connection serves them all.
    assert_eq!(gateway.totals(0), (0, 6));
    eventually("nothing is in flight", || {
        gateway.instance(0).in_flight() + gateway.instance(1).in_flight() == 0
    });
}

#[test]
fn no_instance_sees_a_request_twice() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let stubs: Vec<_> = (0..4)
        .map(|number| {
            let seen = Arc::clone(&seen);
            Stub::answering(move |request| {
                seen.lock().unwrap().push((number, request.start.clone()));
                UNAVAILABLE.to_owned()
            })
        })
        .collect();
    let stubs: Vec<_> = stubs.iter().collect();
    let gateway = retrying(&stubs, |retry| retry.max = 4);
    let mut client = gateway.connect();
    for at in 0..20 {
        let answer = client.get(&format!("/{at}"));
        assert_eq!((answer.status(), answer.text()), (503, "busy"));
        assert_eq!(answer.reason(), None);
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    let total = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((total, seen.len()), (80, 80));
    assert_eq!(gateway.refusals(RetryRefusal::NoInstance), 20);
}

#[test]
fn an_outage_costs_a_fifth_more() {
    let stubs: Vec<_> = (0..3).map(|_| counting(UNAVAILABLE)).collect();
    let all: Vec<_> = stubs.iter().map(|stub| &stub.0).collect();
    let gateway = retrying(&all, |retry| (retry.budget, retry.floor) = (20, 0));
    let mut client = gateway.connect();
    for _ in 0..300 {
        assert_eq!(client.get("/").status(), 503);
    }
    let asked: usize = stubs
        .iter()
        .map(|(_, count)| count.load(Ordering::Relaxed))
        .sum();
    assert!((340..=360).contains(&asked), "{asked}");
    let denied = gateway.refusals(RetryRefusal::Budget);
    assert_eq!(gateway.retries(RetryCause::Status), asked as u64 - 300);
    assert!(denied >= 200, "{denied}");
}

#[test]
fn a_service_of_little_traffic_may_retry() {
    let (busy, fine) = (counting(UNAVAILABLE), counting(ok("fine")));
    let gateway = retrying(&[&busy.0, &fine.0], |retry| {
        (retry.budget, retry.floor) = (0, 2);
    });
    let answers: Vec<_> = (0..10).map(|_| gateway.get("/").status()).collect();
    let served = answers.iter().filter(|status| **status == 200).count();
    // Five were lucky, two were retried; a period of the floor may have ended in between.
    assert!((7..=9).contains(&served), "{answers:?}");
}

#[test]
fn who_asks_to_be_left_alone_gets_no_retries() {
    let resting = "HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 4\r\n\r\nbusy";
    let (first, second) = (counting(resting), counting(UNAVAILABLE));
    let gateway = retrying(&[&first.0, &second.0], |_| {});
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 503);
    }
    // Ten requests began there; the other ten did not come there after the second one, but for
    // one before it had said so.
    let at_first = first.1.load(Ordering::Relaxed);
    assert!((10..=11).contains(&at_first), "{at_first}");
    assert_eq!(second.1.load(Ordering::Relaxed), 20);
    assert!(gateway.refusals(RetryRefusal::NoInstance) >= 19);
}

#[test]
fn a_wait_that_would_outlast_the_request_is_not_begun() {
    let (busy, fine) = (counting(UNAVAILABLE), counting(ok("fine")));
    let addresses = [busy.0.address, fine.0.address];
    let mut desired = everything_to(&addresses);
    let service = &mut desired.services[0];
    service.timeouts.request = Duration::from_millis(200);
    // All but one in 50 million waits are longer than the request has.
    service.retry.backoff = Duration::from_secs(3600);
    service.retry.max_backoff = Duration::from_secs(3600 * 24 * 30);
    service.retry.factor = 1000;
    let gateway = Gateway::of(desired);
    let begun = Instant::now();
    let statuses = [gateway.get("/").status(), gateway.get("/").status()];
    assert!(
        statuses.contains(&503) && statuses.contains(&200),
        "{statuses:?}"
    );
    assert!(begun.elapsed() < Duration::from_millis(200));
    assert_eq!(gateway.refusals(RetryRefusal::Deadline), 1);
}

/// An instance that takes requests and says nothing to them.
fn swallowing() -> Stub {
    Stub::new(|mut peer| {
        peer.request();
    })
}

fn echo() -> Stub {
    Stub::answering(|request| {
        let trailer = request.field("trailer x-sum").unwrap_or("-");
        ok(&format!(
            "{} {trailer} {}",
            request.body.len(),
            request.text()
        ))
    })
}

#[test]
fn a_body_is_sent_again_as_it_was() {
    let stubs = [swallowing(), echo()];
    let gateway = retrying(&[&stubs[0], &stubs[1]], |_| {});
    let text: String = (0..10_000)
        .map(|at| char::from(b'a' + (at % 26) as u8))
        .collect();
    for _ in 0..4 {
        let mut client = gateway.connect();
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            text.len()
        ));
        for part in text.as_bytes().chunks(3000) {
            client.send(part);
            thread::sleep(Duration::from_millis(2));
        }
        assert!(client.answer().text() == format!("10000 - {text}"));
        client.send(
            "DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n",
        );
        client
            .send("3\r\nabc\r\n")
            .send("4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n");
        assert_eq!(client.answer().text(), "7 7 abcdefg");
    }
    assert_eq!(gateway.retries(RetryCause::ConnectionLost), 4);
}

#[test]
fn what_was_not_kept_is_not_sent_again() {
    let stubs = [swallowing(), swallowing()];
    let gateway = retrying(&[&stubs[0], &stubs[1]], |retry| retry.body_limit = 1000);
    let body = "x".repeat(1001);
    let lost = |request: String| {
        let answer = gateway.connect().send(request).answer();
        assert_eq!(
            (answer.status(), answer.reason()),
            (502, Some("connection_lost"))
        );
    };
    lost(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{body}"
    ));
    assert_eq!(gateway.refusals(RetryRefusal::Body), 1);
    lost(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n"
    ));
    assert_eq!(gateway.refusals(RetryRefusal::Body), 2);
    lost("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned());
    assert_eq!(gateway.refusals(RetryRefusal::Unsafe), 1);
    assert_eq!(gateway.retries(RetryCause::ConnectionLost), 0);
    lost("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned());
    assert_eq!(gateway.retries(RetryCause::ConnectionLost), 1);
}

#[test]
fn a_method_may_be_called_repeatable() {
    let stubs = [swallowing(), echo()];
    let gateway = retrying(&[&stubs[0], &stubs[1]], |retry| {
        retry.methods = retry.methods.with("POST");
    });
    for _ in 0..4 {
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy");
        assert_eq!(client.answer().text(), "2 - xy");
    }
}

#[test]
fn a_request_that_was_not_sent_may_wait_for_its_only_instance() {
    let address = unused_address();
    let mut desired = everything_to(&[address]);
    desired.services[0].retry.same_instance = true;
    desired.services[0].retry.backoff = Duration::from_secs(1);
    let gateway = Gateway::of(desired);
    let instance = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        let listener = TcpListener::bind(address).unwrap();
        let mut peer = Peer::new(listener.accept().unwrap().0);
        assert_eq!(peer.request().unwrap().text(), "x");
        peer.send(ok("fine"));
    });
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.answer().text(), "fine");
    instance.join().unwrap();
    assert_eq!(gateway.retries(RetryCause::ConnectFailed), 1);
}

#[test]
fn refused_connections_need_no_budget_while_somebody_is_well() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let of = |addresses: &[SocketAddr]| {
        let mut desired = everything_to(addresses);
        let retry = &mut desired.services[0].retry;
        (retry.budget, retry.floor) = (0, 0);
        Gateway::of(desired)
    };
    let nowhere = || unused_address();
    let (stub, count) = counting(ok("fine"));
    let gateway = of(&[nowhere(), nowhere(), stub.address]);
    let mut client = gateway.connect();
    for _ in 0..30 {
        assert_eq!(client.send(post).answer().text(), "fine");
    }
    assert_eq!(count.load(Ordering::Relaxed), 30);
    assert!(gateway.retries(RetryCause::ConnectFailed) >= 20);
    assert_eq!(gateway.refusals(RetryRefusal::Budget), 0);

    // Where all are dead, each is found dead once.
    let gateway = of(&[nowhere(), nowhere(), nowhere()]);
    let mut client = gateway.connect();
    for _ in 0..30 {
        assert_eq!(client.send(post).answer().status(), 502);
    }
    assert_eq!(gateway.retries(RetryCause::ConnectFailed), 2);
    assert_eq!(gateway.refusals(RetryRefusal::Budget), 29);
}

#[test]
fn instances_that_die_together_cost_no_get() {
    let dead = Arc::new(AtomicBool::new(false));
    let mortal = || {
        let dead = Arc::clone(&dead);
        Stub::new(move |mut peer| {
            while !dead.load(Ordering::Relaxed) && peer.request().is_some() {
                if dead.load(Ordering::Relaxed) || peer.try_send(ok("x")).is_err() {
                    break;
                }
            }
        })
    };
    let stubs = [mortal(), Stub::saying("x"), mortal()];
    let addresses: Vec<_> = stubs.iter().map(|stub| stub.address).collect();
    let gateway = Gateway::of(everything_to(&addresses));
    let mut clients: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    for at in 0..600 {
        if at == 540 {
            dead.store(true, Ordering::Relaxed);
        }
        assert_eq!(clients[at % 4].get("/").status(), 200, "{at}");
    }
    assert!(gateway.retries(RetryCause::ConnectionLost) >= 30);
}
