//! What is measured and decided, as it is shown.

use super::*;

#[test]
fn performance_is_shown_for_a_window() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    lb.world.serve(&b, Outcome::Success, 3, 5);
    lb.world.serve(&b, Outcome::Failure, 1, 5);
    let table = lb.run("performance main-backend --window 5m").ok();
    let row = cells(&table, B);
    assert_eq!((row[1].as_str(), row[4].as_str()), ("4", "25 %"), "{table}");
    assert_eq!(row[5], "5.00 ms", "{table}");
    let table = lb.run("performance").ok();
    assert_eq!(cells(&table, "all")[1], "4", "{table}");
    assert_eq!(lb.json("performance --window 1h")["window"], "1h");
    let error = lb.run("performance --window 2h").failed(FAILED);
    assert!(error.contains("from 1s to 1h"), "{error}");
}

#[test]
fn a_request_is_explained() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    lb.world.health(&b, Health::Unhealthy, "connection refused");
    let text = lb.run("explain /api/v1/auth/login -X POST").ok();
    assert!(text.contains("/api/v1/auth/*"), "{text}");
    let row = cells(&text, B);
    assert_eq!(row[1], "0 %", "{text}");
    assert!(text.contains("unhealthy: connection refused"), "{text}");
    assert!(text.contains(&format!("Instance   {A}\n")), "{text}");
    let json = lb.json("explain http://x.example.org/exact --client 10.0.0.9");
    assert_eq!(json["request"]["client"], "10.0.0.9");
    assert_eq!(json["service"], "main-backend");
    let text = lb
        .run("explain /api/v1/auth --destination 10.0.0.9:80")
        .ok();
    assert!(text.contains(&format!("Instance   {A}\n")), "{text}");
    let json = lb.json("explain /api/v1/auth --destination 10.0.0.9:80");
    assert_eq!(json["request"]["destination"], "10.0.0.9:80");
    let error = lb.run("explain nothing").failed(FAILED);
    assert!(error.contains("a path such as"), "{error}");
}

#[test]
fn status_and_stats_show_what_is_measured() {
    let lb = Lb::new();
    let a = lb.world.instance("main-backend", 0);
    lb.world.serve(&a, Outcome::Success, 20, 10);
    let _held = a.begin(Algorithm::Adaptive, 0, &lb.world.clock);
    let text = lb.run("status").ok();
    assert!(text.contains("is healthy, up 0s, revision 1"), "{text}");
    let row = [
        "main-backend",
        "healthy",
        "adaptive",
        "2/2",
        "2.1",
        "100 %",
        "10.0 ms",
        "1",
        "0",
    ];
    assert_eq!(cells(&text, "main-backend"), row);
    lb.world.health(&a, Health::Unhealthy, "refused");
    let text = lb.run("status").ok();
    assert!(
        text.contains("! service main-backend: 1 of 2 instances take traffic"),
        "{text}"
    );
    let json = lb.json("status");
    assert_eq!(json["health"]["status"], "degraded");
    assert_eq!(json["stats"]["requests"]["total"], 20);
    let text = lb.run("stats main-backend").ok();
    assert_eq!(
        cells(&text, A),
        [A, "0 %", "20", "100 %", "100 %", "0", "-"]
    );
    assert!(text.contains("connections  0 open, 0 so far"), "{text}");
    let packets = "0 in (0 B), 0 out (0 B), 0 dropped";
    assert!(text.contains(packets), "{text}");
    let text = lb.run("stats").ok();
    assert_eq!(cells(&text, "all")[1], "20");
    assert_eq!(lb.json("stats ocr-service")["requests"]["total"], 0);
}

#[test]
fn the_packet_path_is_shown() {
    let lb = Lb::new();
    let text = lb.run("datapath status").ok();
    for line in [
        "mode  generic: the driver of eth0 has no native XDP",
        "interfaces        eth0 (generic)",
        "packets           100 received = 60 forwarded + 37 passed + 3 dropped",
        "connection table  7 of 1000 (0.7 %)",
        "clients           5 of 200 (2.5 %)",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    let row = [
        "udp/192.0.2.1:53",
        "ocr-service",
        "7",
        "4",
        "60",
        "5.9 KiB",
        "0",
        "0 B",
        "3",
        "2",
    ];
    assert_eq!(cells(&text, "udp/"), row);
    let text = lb.run("datapath counters").ok();
    assert_eq!(text.lines().count(), 6, "{text}");
    assert_eq!(
        cells(&text, "ttl_expired"),
        ["22", "ttl_expired", "dropped", "3"]
    );
    let text = lb.run("datapath counters --all").ok();
    assert!(text.contains("no_route"), "{text}");
    assert_eq!(lb.json("datapath status")["packets"]["received"], 100);
}

#[test]
fn integrations_are_listed_with_what_is_wrong() {
    let lb = Lb::new();
    lb.world.integrate();
    let text = lb.run("integrations").ok();
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        let cells = found.unwrap_or_else(|| panic!("{text}")).split_whitespace();
        cells.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        line("circuit_breaker ")[1..5],
        ["working", "http://127.0.0.1:9", "1", "0"]
    );
    assert_eq!(line("metrics")[1], "failing");
    assert_eq!(line("metrics")[7], "7");
    assert!(
        text.contains("! metrics: expected a connection, found none"),
        "{text}"
    );
    assert_eq!(line("main-backend")[1], "open");
    let text = lb.run("status").ok();
    assert!(text.contains("integration metrics: expected"), "{text}");
}
