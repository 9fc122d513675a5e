//! The command line against a served API: real sockets, real exit codes.

mod events;
mod tls;

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use super::*;
use crate::{
    api::{
        self, Reload, ReloadFailure, Reloaded,
        tests::{A, B, World},
    },
    model::{Algorithm, Health, Outcome},
};

/// An API on a socket, served beside the test.
struct Lb {
    world: World,
    address: SocketAddr,
    runtime: Runtime,
    stop: watch::Sender<bool>,
}

/// What a command did.
struct Done {
    code: u8,
    out: String,
    errors: String,
}

impl Done {
    fn ok(self) -> String {
        assert_eq!(self.code, OK, "{}{}", self.out, self.errors);
        assert_eq!(self.errors, "");
        self.out
    }

    fn failed(self, code: u8) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.errors);
        assert_eq!(self.out, "");
        self.errors
    }
}

impl Lb {
    fn new() -> Self {
        Self::serving(World::new())
    }

    fn serving(world: World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(api::serve(listener, world.state.clone(), stopped));
        Self {
            world,
            address,
            runtime,
            stop,
        }
    }

    fn run(&self, args: &str) -> Done {
        command(&format!("lb --api http://{} {args}", self.address))
    }

    fn json(&self, args: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(&format!("--json {args}")).ok()).unwrap()
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

const NO_DAEMON: Run = |_| anyhow::bail!("this test starts no daemon");

fn command(line: &str) -> Done {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = run(line.split_whitespace(), NO_DAEMON, &mut out, &mut errors);
    Done {
        code,
        out: String::from_utf8(out).unwrap(),
        errors: String::from_utf8(errors).unwrap(),
    }
}

/// The cells of the line that begins with `first`.
fn cells(table: &str, first: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.contains(first));
    let line = line.unwrap_or_else(|| panic!("{first} is not in\n{table}"));
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn settings_are_shown_and_what_was_set_is_reset() {
    let lb = Lb::new();
    let flags = Overrides {
        workers: Some("2".to_owned()),
        ..Default::default()
    };
    let sources = crate::config::Sources::new(flags, std::collections::BTreeMap::new());
    let config = crate::config::load(&sources).unwrap();
    lb.world.state.configured(&config.settings);
    let text = lb.run("config show").ok();
    assert!(
        text.lines().any(|line| line == "gateway.workers = 2"),
        "{text}"
    );
    let text = lb.run("config show --origin").ok();
    let line = text
        .lines()
        .find(|line| line.starts_with("gateway.workers"));
    assert!(line.unwrap().ends_with("# flag --workers"), "{text}");

    lb.run("algorithm set main-backend round_robin").ok();
    let text = lb.run("reset").ok();
    assert!(
        text.contains("3 instances") && text.contains("adaptive"),
        "{text}"
    );
    let debug: serde_json::Value = serde_json::from_str(&lb.run("debug").ok()).unwrap();
    assert_eq!(debug["services"][0]["algorithm"], "adaptive");
}

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
fn completions_know_the_grammar() {
    let lb = Lb::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lb.run(&format!("completions {shell}")).ok();
        for word in ["instances", "explain", "--json"] {
            let word = word.trim_start_matches('-');
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    lb.run("completions tcsh").failed(USAGE);
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
    let error = lb.run("explain nothing").failed(FAILED);
    assert!(error.contains("a path such as"), "{error}");
}

#[test]
fn instances_are_listed_drained_and_enabled() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    lb.world.serve(&b, Outcome::Success, 3, 5);
    lb.world.serve(&b, Outcome::Failure, 1, 5);
    let list = lb.run("instances list").ok();
    assert_eq!(list.lines().count(), 4, "{list}");
    let expected = [
        "main-backend",
        B,
        "enabled",
        "unknown",
        "30/30",
        "1.00",
        "0",
        "4",
        "75 %",
        "5.00 ms",
        "0",
    ];
    assert_eq!(cells(&list, B), expected);
    let list = lb.run("instances list ocr-service").ok();
    assert_eq!(list.lines().count(), 2, "{list}");

    let held = b.begin(Algorithm::Adaptive, 0, &lb.world.clock);
    let text = lb.run(&format!("instances drain main-backend {B}")).ok();
    assert!(
        text.contains("draining: 1 requests, 0 connections left"),
        "{text}"
    );
    assert_eq!(cells(&lb.run("instances list").ok(), B)[2], "draining");
    let errors = lb.run("instances drain main-backend 127.0.0.1:8081 --wait 600ms");
    assert_eq!(errors.code, FAILED);
    assert!(
        errors.errors.contains("1 requests, 0 connections left"),
        "{}",
        errors.errors
    );
    drop(held);
    let text = lb
        .run(&format!("instances drain main-backend {B} --wait"))
        .ok();
    assert!(text.ends_with("is drained\n"), "{text}");
    let text = lb.run(&format!("instance show main-backend {B}")).ok();
    assert!(text.contains("drained        yes"), "{text}");
    assert!(text.contains("weight         0 of 30 configured"), "{text}");

    lb.world.health(&b, Health::Unhealthy, "connection refused");
    let text = lb.run(&format!("instances enable main-backend {B}/")).ok();
    assert!(text.contains("but unhealthy: connection refused"), "{text}");
    let text = lb.run(&format!("instances disable main-backend {A}")).ok();
    assert!(text.contains(A), "{text}");
    let shown = lb.json(&format!("instances show main-backend {A}"));
    assert_eq!(shown["admin"], "disabled");
    assert_eq!(shown["weight"], 10);
}

#[test]
fn a_wait_sees_the_last_request_go() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    let held = b.begin(Algorithm::Adaptive, 0, &lb.world.clock);
    lb.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(held);
    });
    let text = lb
        .run(&format!("instances drain main-backend {B} --wait 20s"))
        .ok();
    assert!(
        text.contains("is draining\n") && text.ends_with("is drained\n"),
        "{text}"
    );
}

#[test]
fn algorithms_are_shown_and_set() {
    let lb = Lb::new();
    let list = lb.run("algorithm list").ok();
    assert_eq!(list.lines().count(), 8, "{list}");
    assert_eq!(cells(&list, "consistent_hash")[2], "ocr-service");
    for algorithm in Algorithm::ALL.iter().rev() {
        lb.run(&format!("algorithm set main-backend {algorithm}"))
            .ok();
        let snapshot = lb.world.registry.snapshot();
        assert_eq!(
            snapshot.service("main-backend").unwrap().spec.algorithm,
            *algorithm
        );
    }
    let text = lb.run("algorithm get main-backend").ok();
    assert!(text.contains("algorithm   round_robin\n"), "{text}");
    assert!(text.contains("EVIDENCE"), "{text}");
    let keys = |rest: &str| lb.run(&format!("algorithm keys main-backend {rest}"));
    // One of two, under an algorithm that ignores weights.
    let text = keys("--without http://127.0.0.1:8080").ok();
    assert!(text.contains("have to") && text.contains("50 %"), "{text}");
    assert!(keys("--without nobody:1").failed(FAILED).contains("nobody"));
    let text = lb.run("algorithm reset main-backend").ok();
    assert!(text.contains("of main-backend is forgotten"), "{text}");
    let text = lb.run("algorithm set main-backend round_robin").ok();
    assert!(text.contains("already"), "{text}");
    let errors = lb.run("algorithm set main-backend fastest").failed(FAILED);
    assert!(errors.contains("least_response_time"), "{errors}");
    assert!(errors.contains("/algorithm: expected one of"), "{errors}");
    let errors = lb.run("algorithm set nothing adaptive").failed(FAILED);
    assert!(
        errors.contains("services are: main-backend, ocr-service"),
        "{errors}"
    );
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
    let text = lb.run("stats").ok();
    assert_eq!(cells(&text, "all")[1], "20");
    assert_eq!(lb.json("stats ocr-service")["requests"]["total"], 0);
}

#[test]
fn configuration_and_metrics_can_be_read() {
    let lb = Lb::new();
    let text = lb.run("services").ok();
    let row = [
        "ocr-service",
        "consistent_hash",
        "1/1",
        "off",
        "-",
        "udp/192.0.2.1:53",
    ];
    assert_eq!(cells(&text, "ocr-service"), row);
    let text = lb.run("routes").ok();
    assert_eq!(
        cells(&text, "/exact"),
        ["*.example.org", "/exact", "main-backend"]
    );
    let text = lb.run("vips").ok();
    assert_eq!(
        cells(&text, "udp"),
        ["udp/192.0.2.1:53", "ocr-service", "l2dsr"]
    );
    let text = lb.run("limits").ok();
    assert_eq!(
        cells(&text, "main-backend"),
        ["main-backend", "0", "-", "-", "10", "0", "50"]
    );
    let row = ["gateway", "client", "100", "1m", "20", "0"];
    assert_eq!(cells(&text, "gateway"), row);
    let text = lb.run("metrics").ok();
    assert!(text.contains("\nlb_revision 1\n"), "{text}");
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
        "60",
        "5.9 KiB",
        "0",
        "0 B",
        "3",
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
fn reloads_tell_what_happened() {
    let done: Reload = Arc::new(|| {
        Box::pin(async {
            Ok(Reloaded {
                revision: 2,
                changes: vec!["routes changed".to_owned()],
                needs_restart: vec!["gateway.workers".to_owned()],
                ..Reloaded::default()
            })
        })
    });
    let lb = Lb::serving(World::with_reload(done));
    let text = lb.run("reload").ok();
    let expected = "reloaded, revision 2\n  routes changed\n\
                    ! gateway.workers has changed and waits for a restart\n";
    assert_eq!(text, expected);

    let failed: Reload = Arc::new(|| {
        let fault = api::Fault {
            origin: None,
            pointer: "gateway.listen".to_owned(),
            expected: "an address".to_owned(),
            found: "\"x\"".to_owned(),
        };
        Box::pin(async move {
            Err(ReloadFailure {
                message: "1 fault".to_owned(),
                faults: vec![fault],
            })
        })
    });
    let lb = Lb::serving(World::with_reload(failed));
    let errors = lb.run("reload").failed(FAILED);
    assert!(errors.contains("nothing has changed"), "{errors}");
    assert!(
        errors.contains("gateway.listen: expected an address, found \"x\""),
        "{errors}"
    );
}

#[test]
fn errors_say_what_to_do_next() {
    // A port that was free a moment ago.
    let free = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let errors = command(&format!("lb --api {free} status")).failed(FAILED);
    assert!(
        errors.contains("lb run") && errors.contains("--api"),
        "{errors}"
    );

    let lb = Lb::new();
    let errors = lb
        .run("instances show main-backend 127.0.0.1:9")
        .failed(FAILED);
    assert!(errors.contains(A) && errors.contains(B), "{errors}");
    let errors = command(&format!("lb --api http://{}/other status", lb.address)).failed(FAILED);
    assert!(errors.contains("/other"), "{errors}");

    for (line, code) in [
        ("lb", USAGE),
        ("lb fly", USAGE),
        ("lb instances drain main-backend", USAGE),
        ("lb --api ftp://x status", USAGE),
        ("lb --api unix:x status", USAGE),
        ("lb --api https://x --cert c.pem status", USAGE),
        ("lb --help", OK),
        ("lb --version", OK),
        ("lb instances --help", OK),
    ] {
        assert_eq!(command(line).code, code, "{line}");
    }
    assert!(command("lb --help").ok().contains("Exit codes"));
}

#[test]
fn what_is_not_lb_is_told_so() {
    use std::io::{Read as _, Write as _};
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..4 {
        let errors = command(&format!("lb --api {address} services")).failed(FAILED);
        assert!(errors.contains("something else"), "{errors}");
    }
    server.join().unwrap();
}

#[test]
fn the_grammar_is_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lb = Lb::new();
    let api = format!("http://{}", lb.address);
    let mut errors = Vec::new();
    let code = run(
        ["lb", "--api", &api, "services"],
        NO_DAEMON,
        &mut Gone,
        &mut errors,
    );
    assert_eq!((code, errors.len()), (OK, 0));
}

#[test]
fn check_reports_every_fault_or_sums_up() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write(
        "good.toml",
        "[gateway]\nlisten = [\"127.0.0.1:8000\"]\n\n[services.web]\n\
         instances = [\"http://127.0.0.1:8081\"]\n",
    );
    let text = command(&format!("lb check --config {good}")).ok();
    assert!(text.contains("1 service with 1 instance"), "{text}");
    let text = command(&format!("lb check --config {good} --effective")).ok();
    assert!(text.contains("gateway.listen"), "{text}");
    let bad = write(
        "bad.toml",
        "[gateway]\nlisten = [\"nowhere\"]\nlissen = 1\n",
    );
    let errors = command(&format!("lb check --config {bad}")).failed(FAILED);
    assert!(
        errors.contains("nowhere") && errors.contains("lissen"),
        "{errors}"
    );
}

#[test]
fn the_daemon_and_the_kernel_are_reached_without_the_api() {
    let refused = command("lb run --listen 127.0.0.1:0");
    assert_eq!(refused.code, FAILED);
    assert_eq!(refused.errors, "lb: this test starts no daemon\n");
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("pins");
    let detached = command(&format!("lb datapath detach --pin-path {}", pins.display()));
    assert_eq!(detached.ok(), "nothing was attached\n");
}

#[test]
fn recoveries_are_listed_and_forced() {
    let lb = Lb::new();
    let list = lb.run("recovery list").ok();
    assert!(
        list.starts_with("every instance has its whole weight"),
        "{list}"
    );
    let b = lb.world.instance("main-backend", 1);
    lb.world.health(&b, Health::Unhealthy, "connection refused");
    lb.world.health(&b, Health::Healthy, "connected");
    lb.world.recover();
    let list = lb.run("recovery list").ok();
    let expected = [
        "main-backend",
        B,
        "healthy",
        "climbing",
        "10 %",
        "3/30",
        "30 s",
        "0",
    ];
    assert_eq!(cells(&list, B), expected);
    assert_eq!(
        cells(&lb.run("instances list").ok(), B)[3],
        "recovering 10 %"
    );
    let text = lb.run(&format!("instances show main-backend {B}")).ok();
    assert!(
        text.contains("recovering 10 %, relapses so far: 0"),
        "{text}"
    );
    let text = lb.run(&format!("recovery force main-backend {B}")).ok();
    assert!(text.ends_with("has its whole weight\n"), "{text}");
    assert_eq!(
        lb.json("recovery list")["recoveries"],
        serde_json::json!([])
    );
}

#[test]
fn breakers_are_listed_held_and_reset() {
    let lb = Lb::new();
    let cells_of = |lb: &Lb, what: &str, name: &str| cells(&lb.run(what).ok(), name);
    let closed = ["main-backend", B, "closed", "0/0", "-", "0"];
    assert_eq!(cells_of(&lb, "breakers list main-backend", B), closed);
    let text = lb.run(&format!("breakers open main-backend {B}")).ok();
    assert!(text.contains("is held open"), "{text}");
    let held = ["main-backend", B, "held open", "-", "-", "1"];
    assert_eq!(cells_of(&lb, "breaker list", B), held);
    assert_eq!(cells_of(&lb, "instances list", B)[3], "breaker held open");
    let text = lb.run(&format!("instances show main-backend {B}")).ok();
    assert!(text.contains("circuit breaker"), "{text}");
    lb.run(&format!("breakers reset main-backend {B}")).ok();
    assert_eq!(cells_of(&lb, "breakers list", B)[2], "closed");
    let text = lb.run("breakers close main-backend").ok();
    assert!(
        text.contains("service main-backend is held closed"),
        "{text}"
    );
    assert_eq!(cells_of(&lb, "breakers list", "(all)")[2], "held closed");
    let errors = lb.run("breakers open nobody").failed(FAILED);
    assert!(errors.contains("nobody"), "{errors}");
}
