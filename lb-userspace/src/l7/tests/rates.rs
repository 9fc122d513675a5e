//! Rate limits as clients see them.

use super::*;
use crate::model::{RateKey, RateLimitSpec};

const HOUR: Duration = Duration::from_secs(3600);

fn rate(requests: u32, key: RateKey) -> RateLimitSpec {
    RateLimitSpec {
        requests,
        per: HOUR,
        burst: requests,
        key,
        max_keys: 1024,
    }
}

/// The statuses of `count` requests, each with the given fields, on a connection of their own.
fn statuses(gateway: &Gateway, count: usize, fields: &str) -> Vec<u16> {
    let mut client = gateway.connect();
    (0..count)
        .map(|_| {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            client.answer().status()
        })
        .collect()
}

fn passed(gateway: &Gateway, count: usize, fields: &str) -> usize {
    let statuses = statuses(gateway, count, fields);
    statuses.iter().filter(|status| **status == 200).count()
}

#[test]
fn a_budget_is_one_for_all_connections_and_workers_and_survives_a_reload() {
    let stub = Stub::saying("hello");
    let mut desired = everything_to(&[stub.address]);
    desired.services[0].rate_limits = vec![rate(30, RateKey::All)];
    let mut gateway = Gateway::with(desired, 3, None);
    let served: usize = thread::scope(|scope| {
        let ask = || scope.spawn(|| passed(&gateway, 10, ""));
        let clients: Vec<_> = (0..6).map(|_| ask()).collect();
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    assert_eq!(served, 30);
    assert_eq!(gateway.answers(Reason::RateLimited), 30);
    let answer = gateway.get("/");
    assert_eq!(
        (answer.status(), answer.reason()),
        (429, Some("rate_limited"))
    );
    let wait: u32 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!((100..=120).contains(&wait), "{wait}");
    let policy = answer.field("ratelimit-policy");
    assert_eq!(policy, Some("\"service\";q=30;w=3600"));
    let limit = answer.field("ratelimit").unwrap();
    assert!(limit.starts_with("\"service\";r=0;t="), "{limit}");
    // What else is configured does not matter; another limit has another budget.
    gateway.reload(|desired| desired.services[0].timeouts.connect = HOUR);
    assert_eq!(gateway.get("/").status(), 429);
    gateway.reload(|desired| desired.services[0].rate_limits[0].requests = 31);
    assert_eq!(gateway.get("/").status(), 200);
}

#[test]
fn clients_are_told_apart_by_address_or_header() {
    let stub = Stub::saying("hello");
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    desired.routes[0].rate_limits = vec![rate(2, RateKey::Client)];
    let mut gateway = Gateway::of(desired);
    for (client, expected) in [
        ("192.0.2.1", 2),
        ("192.0.2.1", 0),
        ("192.0.2.2", 2),
        ("2001:db8:0:1::1", 2),
        // The same 64 bits.
        ("2001:db8:0:1:ffff::1", 0),
        ("2001:db8:0:2::1", 2),
        ("::ffff:192.0.2.2", 0),
    ] {
        let fields = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(passed(&gateway, 4, &fields), expected, "{client}");
    }
    let by_user = rate(3, RateKey::Header("x-user".to_owned()));
    gateway.reload(|desired| desired.routes[0].rate_limits = vec![by_user]);
    assert_eq!(passed(&gateway, 5, "X-User: a\r\n"), 3);
    assert_eq!(passed(&gateway, 5, "X-User: b\r\n"), 3);
    // Those who do not say who they are share their address's.
    assert_eq!(passed(&gateway, 5, ""), 3);
}

#[test]
fn a_client_above_its_rate_uses_up_nobody_elses_budget() {
    let stub = Stub::saying("hello");
    let mut desired = everything_to(&[stub.address]);
    desired.gateway.rate_limits = vec![rate(10, RateKey::All)];
    desired.services[0].rate_limits = vec![rate(4, RateKey::Header("x-user".to_owned()))];
    let gateway = Gateway::of(desired);
    assert_eq!(passed(&gateway, 50, "X-User: greedy\r\n"), 4);
    assert_eq!(passed(&gateway, 50, "X-User: modest\r\n"), 4);
    assert_eq!(passed(&gateway, 50, "X-User: late\r\n"), 2);
}

#[test]
fn the_gateways_limit_holds_where_no_route_leads() {
    let stub = Stub::saying("hello");
    let mut desired = everything_to(&[stub.address]);
    desired.routes[0].path = PathPattern::Exact("/here".to_owned());
    desired.gateway.rate_limits = vec![rate(3, RateKey::All)];
    let gateway = Gateway::of(desired);
    let ask = |path| gateway.get(path).status();
    assert_eq!([ask("/"), ask("/here"), ask("/")], [404, 200, 404]);
    assert_eq!([ask("/"), ask("/here")], [429, 429]);
    let policy = gateway.get("/");
    assert_eq!(policy.reason(), Some("rate_limited"));
    assert_eq!(gateway.answers(Reason::RateLimited), 1);
}
