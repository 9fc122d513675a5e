//! What the access log is told: one record for each request, whatever became of it.

use std::sync::mpsc::Receiver;

use super::*;
use crate::l7::{AccessLog, Ending, Record, WHOLE};

fn logged(desired: Desired, capacity: usize) -> (Gateway, Receiver<Record>) {
    let (log, records, _lost) = AccessLog::new(capacity, WHOLE);
    (Gateway::logged(desired, 1, None, Some(log)), records)
}

fn next(records: &Receiver<Record>) -> Record {
    records.recv_timeout(PATIENCE).expect("a record")
}

#[test]
fn a_served_request_is_told_with_instance_and_trace() {
    let stub = Stub::answering(|request| ok(request.field("traceparent").unwrap_or("none")));
    let (gateway, records) = logged(everything_to(&[stub.address]), 8);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut client = gateway.connect();
    client.send(format!(
        "GET /a/b?secret=1 HTTP/1.1\r\nHost: a\r\nTraceparent: {trace}\r\n\r\n"
    ));
    // It reaches the instance as it came.
    assert_eq!(client.answer().text(), trace);
    let record = next(&records);
    assert_eq!(record.ending, Ending::Answered(200));
    assert_eq!((record.method.as_str(), &*record.path), ("GET", "/a/b"));
    assert_eq!(record.client, Ipv4Addr::LOCALHOST);
    assert_eq!(record.destination, Some(gateway.address));
    assert_eq!(record.service.unwrap().as_str(), "web");
    let asked = record.instance.unwrap();
    assert!(Arc::ptr_eq(&asked.instance, &gateway.instance(0)));
    assert_eq!((asked.connections, record.complete), (0, true));
    assert_eq!(record.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");

    // Without one, lb makes one for the log and gives the instance none.
    assert_eq!(client.get("/").text(), "none");
    let made = next(&records).trace.to_string();
    let parts: Vec<&str> = made.split('-').collect();
    assert!(
        parts[0] == "gw" && parts[1].parse::<u64>().is_ok(),
        "{made}"
    );
    assert!(
        parts[2].len() == 6 && u32::from_str_radix(parts[2], 16).is_ok(),
        "{made}"
    );
}

#[test]
fn answers_of_lbs_own_are_told_with_their_reason() {
    let nobody = unused_address();
    let mut desired = everything_to(&[nobody]);
    desired.routes[0].path = PathPattern::Prefix("/web".to_owned());
    let (gateway, records) = logged(desired, 8);
    assert_eq!(gateway.get("/other").status(), 404);
    let record = next(&records);
    assert_eq!(record.ending, Ending::Refused(Reason::NoRoute));
    assert!(record.service.is_none() && record.instance.is_none());
    assert_eq!(gateway.get("/web").status(), 502);
    let record = next(&records);
    assert_eq!(record.ending, Ending::Refused(Reason::ConnectFailed));
    // Which instance it was is what one wants to know.
    assert!(record.service.is_some() && record.instance.is_some());
}

#[test]
fn what_went_wrong_is_logged_whatever_the_sample() {
    let stub = Stub::answering(|request| {
        if request.start.contains("/fail") {
            "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_owned()
        } else {
            ok("x")
        }
    });
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].retry.max = 0;
    desired.routes[0].path = PathPattern::Prefix("/web".to_owned());
    let (log, records, _lost) = AccessLog::new(8, 0);
    let gateway = Gateway::logged(desired, 1, None, Some(log));
    let mut client = gateway.connect();
    for (path, status) in [("/web/a", 200), ("/nowhere", 404), ("/web/fail", 500)] {
        assert_eq!(client.get(path).status(), status);
    }
    let record = next(&records);
    assert_eq!(record.ending, Ending::Answered(500));
    assert!(records.try_recv().is_err());
}

#[test]
fn an_instance_is_told_the_id_of_the_log() {
    let stub = Stub::answering(|request| ok(request.field("x-trace-id").unwrap_or("none")));
    let (gateway, records) = logged(everything_to(&[stub.address]), 8);
    let mut client = gateway.connect();
    let told = client.get("/").text().to_owned();
    assert_eq!(told, next(&records).trace.to_string());
    assert!(told.starts_with("gw-"), "{told}");
    // One that it comes with stays, unless it cannot be one.
    for (sent, kept) in [("gw-1705315800-abc123", true), ("two words", false)] {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Trace-Id: {sent}\r\n\r\n"
        ));
        let told = client.answer().text().to_owned();
        assert_eq!(told == sent, kept, "{told}");
        assert_eq!(told, next(&records).trace.to_string());
    }
    // Without a log nobody asks for one.
    let silent = Gateway::to(&[&stub]);
    assert_eq!(silent.get("/").text(), "none");
}

#[test]
fn clients_that_leave_are_told_too() {
    let (asked, told) = std::sync::mpsc::channel();
    let stub = Stub::new(move |mut peer| {
        let _ = peer.request();
        asked.send(()).unwrap();
        let _ = peer.is_closed();
    });
    let (gateway, records) = logged(everything_to(&[stub.address]), 8);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    told.recv_timeout(PATIENCE).unwrap();
    drop(client);
    assert_eq!(next(&records).ending, Ending::ClientGone);
}

#[test]
fn an_answer_that_breaks_off_is_no_complete_one() {
    let stub = Stub::new(|mut peer| {
        let _ = peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    let (gateway, records) = logged(everything_to(&[stub.address]), 8);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    let record = next(&records);
    assert_eq!(
        (record.ending, record.complete),
        (Ending::Answered(200), false)
    );
}

#[test]
fn records_that_do_not_fit_are_counted_and_requests_served() {
    let stub = Stub::saying("x");
    let (gateway, records) = logged(everything_to(&[stub.address]), 2);
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").status(), 200);
    }
    let stats = gateway.proxy.as_ref().unwrap().stats();
    eventually("three records are lost", || stats.unlogged() == 3);
    assert_eq!(records.try_iter().count(), 2);
}
