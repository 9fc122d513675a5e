//! CPU time per proxied request, next to haproxy and nginx on the same instances.
//!
//! The proxy under test has core 0 for itself. The instances (nginx, two ports) and the client
//! (h2load, 64 keep-alive connections) share core 1. All proxies run with one worker, keep-alive
//! on both sides, and round robin over both instances; the one that is not being measured sleeps.
//! lb runs three times: as it is by default, with everything off that can be switched off, and with
//! everything on that looks at each request.
//!
//! What is compared is the proxy's on-CPU time, user and kernel, over the requests that it
//! answered: unlike requests per second it does not depend on how fast client and instances are.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    cpu,
    report::{Comparison, Series},
};

const INSTANCES: [u16; 2] = [18_101, 18_102];
const PROXY_CORE: &str = "0";
const OTHER_CORE: &str = "1";
const CONNECTIONS: u32 = 64;

/// A measurement is made in so many parts, between which the proxies take turns: how fast the machine
/// is changes from second to second, and so it changes for all of them alike.
const PARTS: u32 = 10;

/// What is asked for: name, path, and requests a measurement.
const CASES: [(&str, &str, u32); 2] = [("128 B", "/128", 60_000), ("16 KiB", "/16k", 40_000)];

/// A process that ends with its guard.
#[derive(Debug)]
struct Process {
    child: Child,
}

impl Process {
    fn start(core: &str, program: &Path, arguments: &[&str], log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", core])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx ends its workers on SIGTERM only; `kill` is how std can send it.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

/// A proxy under test.
#[derive(Debug)]
struct Proxy {
    name: &'static str,
    port: u16,
    process: Process,
}

/// Measures `rounds` rounds of each case. `lb` is the daemon's binary; `progress` is told what
/// runs.
///
/// # Errors
/// When a program is missing, a proxy does not come up, or a request fails.
pub fn run(lb: &Path, rounds: u32, progress: &mut dyn FnMut(&str)) -> Result<Vec<Comparison>> {
    let folder = tempfile::tempdir()?;
    let _instances = start_instances(folder.path())?;
    // haproxy is the yardstick, so it comes first.
    let mut proxies = vec![start_haproxy(folder.path())?, start_nginx(folder.path())?];
    for variant in (0..).zip(VARIANTS) {
        proxies.push(start_lb(lb, folder.path(), variant)?);
    }
    let mut comparisons = Vec::new();
    for (case, path, requests) in CASES {
        let mut series: Vec<Series> = proxies
            .iter()
            .map(|proxy| Series {
                name: proxy.name.to_owned(),
                values: Vec::new(),
            })
            .collect();
        for proxy in &proxies {
            measure(proxy, path, requests / 4)?;
        }
        for round in 1..=rounds {
            let costs = take_turns(&proxies, path, requests)?;
            for ((proxy, cost), series) in proxies.iter().zip(costs).zip(&mut series) {
                series.values.push(cost);
                let name = proxy.name;
                progress(&format!(
                    "{case}, round {round}/{rounds}: {name} {cost:.2} µs/request"
                ));
            }
        }
        let (unit, what) = ("CPU µs per request", format!("answer of {case}"));
        let features = VARIANTS.map(|(name, ..)| name);
        let of_lb = series.iter().filter(|one| features.contains(&&*one.name));
        let mut features: Vec<Series> = of_lb.cloned().collect();
        features.swap(0, 1);
        comparisons.push(Comparison {
            title: format!("proxied request, {what}, {CONNECTIONS} connections"),
            unit,
            series,
        });
        comparisons.push(Comparison {
            title: format!("what lb's features cost, {what}"),
            unit,
            series: features,
        });
    }
    Ok(comparisons)
}

/// CPU microseconds per request of each proxy, over [`PARTS`] parts.
fn take_turns(proxies: &[Proxy], path: &str, requests: u32) -> Result<Vec<f64>> {
    let mut costs = vec![0.0; proxies.len()];
    for part in 0..PARTS {
        for step in 0..proxies.len() {
            // Each part begins with another proxy, so that none always runs first.
            let position = (step + part as usize) % proxies.len();
            costs[position] += measure(&proxies[position], path, requests / PARTS)?;
        }
    }
    Ok(costs.iter().map(|sum| sum / f64::from(PARTS)).collect())
}

/// CPU microseconds per request.
fn measure(proxy: &Proxy, path: &str, requests: u32) -> Result<f64> {
    let before = cpu::time(proxy.process.child.id())?;
    let url = format!("http://127.0.0.1:{}{path}", proxy.port);
    let output = Command::new("taskset")
        .args(["-c", OTHER_CORE, "h2load", "--h1", "-t", "1"])
        .args([
            "-c",
            &CONNECTIONS.to_string(),
            "-n",
            &requests.to_string(),
            // A session for those that look for one.
            "-H",
            "x-session-id: 7f3b",
            &url,
        ])
        .output()
        .context("cannot start h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wanted = format!("status codes: {requests} 2xx");
    ensure!(
        text.contains(&wanted),
        "{}: expected {requests} answers 2xx, found:\n{text}",
        proxy.name
    );
    let spent = cpu::time(proxy.process.child.id())?.saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e6 / f64::from(requests))
}

fn start_instances(folder: &Path) -> Result<Process> {
    let root = folder.join("www");
    fs::create_dir(&root)?;
    fs::write(root.join("128"), "x".repeat(128))?;
    fs::write(root.join("16k"), "x".repeat(16 * 1024))?;
    let mut servers = String::new();
    for port in INSTANCES {
        writeln!(
            servers,
            "server {{ listen 127.0.0.1:{port} reuseport; root {}; }}",
            root.display()
        )?;
    }
    let http = format!("keepalive_requests 1000000; open_file_cache max=10; {servers}");
    let process = start_nginx_with(folder, "instances", OTHER_CORE, &http)?;
    for port in INSTANCES {
        wait_for(port, "the instances")?;
    }
    Ok(process)
}

fn start_nginx(folder: &Path) -> Result<Proxy> {
    let port = 18_111;
    let [a, b] = INSTANCES;
    let http = format!(
        "keepalive_requests 1000000; \
         upstream u {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; keepalive 128; \
         keepalive_requests 1000000; }} \
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
    );
    let process = start_nginx_with(folder, "nginx", PROXY_CORE, &http)?;
    wait_for(port, "nginx")?;
    Ok(Proxy {
        name: "nginx",
        port,
        process,
    })
}

fn start_nginx_with(folder: &Path, name: &str, core: &str, http: &str) -> Result<Process> {
    let own = folder.join(name);
    fs::create_dir(&own)?;
    let config = own.join("nginx.conf");
    let own_path = own.display();
    fs::write(
        &config,
        format!(
            "daemon off; worker_processes 1; pid {own_path}/pid; error_log {own_path}/error.log;\n\
             user root; events {{ worker_connections 4096; }}\n\
             http {{ access_log off; sendfile on; tcp_nodelay on; \
             client_body_temp_path {own_path}/b; proxy_temp_path {own_path}/p; \
             fastcgi_temp_path {own_path}/f; uwsgi_temp_path {own_path}/u; \
             scgi_temp_path {own_path}/s; {http} }}\n"
        ),
    )?;
    let arguments = ["-c", config.to_str().context("the path is not UTF-8")?];
    Process::start(core, &find("nginx")?, &arguments, &own.join("log"))
}

fn start_haproxy(folder: &Path) -> Result<Proxy> {
    let port = 18_112;
    let [a, b] = INSTANCES;
    let config = folder.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n option forwardfor\n \
             http-reuse always\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             listen l\n bind 127.0.0.1:{port}\n balance roundrobin\n server a 127.0.0.1:{a}\n \
             server b 127.0.0.1:{b}\n"
        ),
    )?;
    let arguments = [
        "-db",
        "-f",
        config.to_str().context("the path is not UTF-8")?,
    ];
    let log = folder.join("haproxy.log");
    let process = Process::start(PROXY_CORE, &find("haproxy")?, &arguments, &log)?;
    wait_for(port, "haproxy")?;
    Ok(Proxy {
        name: "haproxy",
        port,
        process,
    })
}

/// lb as it is configured by default, without anything that can be switched off, and with
/// everything switched on.
const VARIANTS: [(&str, &str, &str); 3] = [
    ("lb", "", ""),
    ("lb, all off", "", ALL_OFF),
    ("lb, all on", ALL_ON_GATEWAY, ALL_ON),
];

const ALL_OFF: &str = r#"
[services.web]
recovery = { enabled = false }
breaker = { enabled = false }
outlier = { enabled = false }
fail_open = { enabled = false }
retry = { max = 0 }
"#;

const ALL_ON_GATEWAY: &str = r#"
rate_limit = { requests = 1000000, key = "client" }
"#;

/// Limits that are asked at each request and never reached.
const ALL_ON: &str = r#"
[services.web]
rate_limit = { requests = 1000000 }
breaker = { service = { enabled = true } }
limits = { max_requests = 100000, instance_max_requests = 100000 }
load_reports = { enabled = true }
outlier = { latency_factor = 100 }
slow_start = { enabled = true }
affinity = { enabled = true }
queue = { size = 1000 }
hedge = { enabled = true }
concurrency = { enabled = true, min = 1000 }
timeouts = { try = "20s", total = "60s" }
"#;

fn start_lb(
    lb: &Path,
    folder: &Path,
    (position, variant): (u16, (&'static str, &str, &str)),
) -> Result<Proxy> {
    let (name, gateway, service) = variant;
    let (port, api) = (18_113 + 2 * position, 18_114 + 2 * position);
    let [a, b] = INSTANCES;
    let config = folder.join(format!("lb-{position}.toml"));
    let service = if service.is_empty() {
        "[services.web]"
    } else {
        service
    };
    fs::write(
        &config,
        format!(
            "[gateway]\nlisten = [\"127.0.0.1:{port}\"]\nworkers = 1\n{gateway}\
             [api]\nlisten = \"127.0.0.1:{api}\"\n\
             {service}\nalgorithm = \"round_robin\"\n\
             instances = [\"http://127.0.0.1:{a}\", \"http://127.0.0.1:{b}\"]\n\
             health_check = {{ path = \"/128\" }}\n\
             [[routes]]\npath = \"/*\"\nservice = \"web\"\n"
        ),
    )?;
    let arguments = [
        "run",
        "--config",
        config.to_str().context("the path is not UTF-8")?,
    ];
    let log = folder.join(format!("lb-{position}.log"));
    let process = Process::start(PROXY_CORE, lb, &arguments, &log)?;
    wait_for(port, name).with_context(|| fs::read_to_string(log).unwrap_or_default())?;
    Ok(Proxy {
        name,
        port,
        process,
    })
}

/// Where Debian puts daemons is not in every user's PATH.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    match folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
    {
        Some(file) => Ok(file),
        None => bail!("expected {program} to be installed; on Debian: apt-get install {program}"),
    }
}

fn wait_for(port: u16, what: &str) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    bail!("expected {what} to listen on {address} within 10 s")
}
