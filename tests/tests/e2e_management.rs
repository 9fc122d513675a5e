//! The management API of a real daemon: unix sockets, TLS, events, and nothing secret anywhere.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::cleanup;
use lb_tests::client::curl::{Answer, curl};
use lb_tests::instance;
use lb_tests::process::Process;
use lb_tests::scene::{Configuration, Scene};
use lb_tests::topology::Family;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const PATIENCE: Duration = Duration::from_secs(30);

const STATS: &str = "/api/v1/loadbalancer/stats";
const RELOAD: &str = "/api/v1/admin/loadbalancer/reload";
const DRAIN: &str = "/api/v1/loadbalancer/instances/shop/10.77.0.11:8080/drain";
const ENABLE: &str = "/api/v1/loadbalancer/instances/shop/10.77.0.11:8080/enable";

fn configuration(lines: &str) -> Configuration {
    Configuration::new("[\"0.0.0.0:80\"]")
        .with(lines)
        .service_over(&[Family::V4], "shop", instance::HTTP, &[10, 10], "")
        .route("/shop", "shop")
}

/// curl in the balancer's namespace.
fn local(scene: &Scene, arguments: &[&str]) -> Result<Answer> {
    curl(&scene.topology.balancer.namespace, arguments)
}

fn expect(what: &str, answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{what}: {answer:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_unix_socket_serves_whom_its_file_lets_in() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("api.sock");
    let socket = path.to_str().context("a path in UTF-8")?;
    let audit = folder.path().join("audit.log");
    let lines = format!(
        "[api]\nlisten = [\"127.0.0.1:7700\", \"unix:{socket}\"]\nsocket_mode = \"0660\"\n\
         socket_owner = \":nogroup\"\nsocket_role = \"operate\"\n\
         [audit_log]\npath = {:?}",
        audit.display().to_string()
    );
    let mut scene = Scene::new(2, configuration(&lines).text())?;
    let found = fs::metadata(&path)?;
    ensure!(found.file_type().is_socket(), "{found:?}");
    ensure!(found.permissions().mode() & 0o777 == 0o660, "{found:?}");

    let ask = |scene: &Scene, arguments: &[&str]| {
        local(scene, &[&["--unix-socket", socket], arguments].concat())
    };
    let url = |path: &str| format!("http://localhost{path}");
    expect("stats", &ask(&scene, &[&url(STATS)])?, 200)?;
    let drained = ask(&scene, &["--request", "POST", &url(DRAIN)])?;
    expect("drain", &drained, 200)?;
    let refused = ask(&scene, &["--request", "POST", &url(RELOAD)])?;
    expect("reload", &refused, 403)?;
    ensure!(
        refused
            .body
            .contains("expected a caller with the role configure")
            && refused.body.contains("user root with operate"),
        "{refused:?}"
    );
    let forwarded = ask(&scene, &["--header", "X-Real-IP: 10.77.0.2", &url(STATS)])?;
    expect("passed on by a proxy", &forwarded, 401)?;
    let page = ask(&scene, &["--header", "Host: evil.example.org", &url(STATS)])?;
    expect("a page of another site", &page, 403)?;
    let at = format!("unix:{socket}");
    let status = scene.daemon.cli(&["--api", &at, "status"])?;
    ensure!(status.contains("shop"), "{status}");

    let written = || fs::read_to_string(&audit).is_ok_and(|log| log.lines().count() >= 4);
    ensure!(
        cleanup::within(PATIENCE, written),
        "too little in the audit log: {:?}",
        fs::read_to_string(&audit)
    );
    let log = fs::read_to_string(&audit)?;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        lines[0]["caller"] == "user root" && lines[0]["status"] == 200,
        "{log}"
    );
    ensure!(
        lines[0]["path"] == DRAIN && lines[1]["reason"] == "role-missing",
        "{log}"
    );
    // Moved away, and opened anew.
    fs::rename(&audit, folder.path().join("audit.1"))?;
    scene.daemon.process()?.signal(Signal::SIGUSR1)?;
    let enabled = || {
        let answer = ask(&scene, &["--request", "POST", &url(ENABLE)]);
        answer.is_ok_and(|answer| answer.status == 200) && audit.exists()
    };
    ensure!(
        cleanup::within(PATIENCE, enabled),
        "the audit log was not opened anew"
    );

    // What a killed daemon leaves behind hinders no other; what is stopped leaves nothing.
    scene.daemon.kill()?;
    ensure!(path.exists(), "who removed it?");
    scene.daemon.start_again()?;
    expect("after a crash", &ask(&scene, &[&url(STATS)])?, 200)?;
    scene.daemon.stop(PATIENCE)?;
    ensure!(!path.exists(), "the socket outlives its daemon");
    Ok(())
}

/// curl -N, reading events until it is dropped or lb ends.
fn events(scene: &Scene, arguments: &[&str]) -> Result<Process> {
    let mut curl = scene.topology.balancer.namespace.command("curl");
    curl.args([
        "--no-buffer",
        "--silent",
        "--show-error",
        "--max-time",
        "120",
    ]);
    let process = Process::start("curl", curl.args(arguments))?;
    let connected = cleanup::within(PATIENCE, || process.log().contains(": events of lb"));
    ensure!(connected, "no stream: {}", process.log());
    Ok(process)
}

fn wait_for(process: &Process, text: &str) -> Result<()> {
    let there = cleanup::within(PATIENCE, || process.log().contains(text));
    ensure!(there, "no {text:?} in\n{}", process.log());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn curl_reads_events_as_they_happen_and_until_lb_ends() -> Result<()> {
    let mut scene = Scene::new(2, configuration("").text())?;
    let base = "http://127.0.0.1:7700/api/v1/loadbalancer";
    let all = events(&scene, &[&format!("{base}/events")])?;
    // The gateway passes them on as they come, too.
    let beside = "http://127.0.0.1/api/v1/loadbalancer/events?service=shop&type=admin_changed";
    let mut some = events(&scene, &[beside])?;
    local(
        &scene,
        &[
            "--request",
            "POST",
            &format!("http://127.0.0.1:7700{DRAIN}"),
        ],
    )?;
    wait_for(&all, "event: admin_changed")?;
    wait_for(&some, "\"admin\":\"draining\"")?;
    scene.daemon.post_admin("reload")?;
    wait_for(&all, "event: reloaded")?;
    ensure!(!some.log().contains("reloaded"), "{}", some.log());
    let log = all.log();
    let lines: Vec<&str> = log.lines().collect();
    let drained = lines
        .iter()
        .position(|line| *line == "event: admin_changed");
    let seen = drained.and_then(|at| lines[at - 1].strip_prefix("id: "));
    let seen = seen.context("no id")?.to_owned();
    drop(all);
    // Where it was cut off it goes on.
    let again = events(
        &scene,
        &[
            "--header",
            &format!("Last-Event-ID: {seen}"),
            &format!("{base}/events"),
        ],
    )?;
    wait_for(&again, "event: reloaded")?;
    ensure!(!again.log().contains("admin_changed"), "{}", again.log());
    let since = scene.daemon.cli(&["events", "--type", "nonsense"]);
    ensure!(
        since.is_err_and(|error| error.to_string().contains("admin_changed")),
        "no list"
    );

    scene.daemon.stop(PATIENCE)?;
    let status = some.wait(PATIENCE);
    ensure!(
        status.is_some_and(|status| status.success()),
        "the stream does not end well: {status:?}"
    );
    Ok(())
}

/// Writes certificates: `ca.pem`, and `lb` and `ci` with their keys.
fn certificates(folder: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "an authority");
    fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, alternative) in [("lb", "127.0.0.1"), ("ci", "ci.example.org")] {
        let mut params = CertificateParams::new(vec![alternative.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn curl_shows_its_certificate_and_is_somebody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let scene = Scene::new(2, configuration("").text())?;
    let tls = format!(
        "[api]\nloopback_role = \"none\"\n[api.tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         [[api.tls.clients]]\nname = \"ci.example.org\"\nrole = \"operate\"",
        file("lb.pem"),
        file("lb.key"),
        file("ca.pem")
    );
    scene.daemon.configure(configuration(&tls).text())?;
    // TLS and roles change by a reload; from then on nobody is let in for being near.
    scene.daemon.post_admin("reload")?;
    let (ca, cert, key) = (file("ca.pem"), file("ci.pem"), file("ci.key"));
    let known = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let url = |path: &str| format!("https://127.0.0.1:7700{path}");
    let shown = |arguments: &[&str]| local(&scene, &[&known, arguments].concat());
    expect("stats", &shown(&[&url(STATS)])?, 200)?;
    expect("drain", &shown(&["--request", "POST", &url(DRAIN)])?, 200)?;
    let refused = shown(&["--request", "POST", &url(RELOAD)])?;
    expect("reload", &refused, 403)?;
    ensure!(
        refused
            .body
            .contains("certificate ci.example.org with operate"),
        "{refused:?}"
    );
    let origin = [
        "--request",
        "POST",
        "--header",
        "Origin: https://evil.example.org",
    ];
    expect(
        "a page",
        &shown(&[&origin[..], &[&url(ENABLE)]].concat())?,
        403,
    )?;
    let nobody = local(&scene, &["--cacert", &ca, &url(STATS)])?;
    expect("without a certificate", &nobody, 401)?;
    let health = local(&scene, &["--cacert", &ca, &url("/health")])?;
    expect("health", &health, 200)?;
    ensure!(
        local(&scene, &[&url("/health")]).is_err(),
        "a certificate that nobody vouches for"
    );
    ensure!(
        local(&scene, &["http://127.0.0.1:7700/health"]).is_err(),
        "plain HTTP is served"
    );
    let text = scene.daemon.cli(&[
        "--api",
        "https://127.0.0.1:7700",
        "--ca",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "status",
    ])?;
    ensure!(text.contains("shop"), "{text}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn no_answer_and_no_log_has_a_secret_in_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(folder.path().join("token"), "hush-file-token\n")?;
    // What base64 makes of "hush-hush-hush-hush-hush-hush-hu", 32 bytes.
    let cookie_key = "aHVzaC1odXNoLWh1c2gtaHVzaC1odXNoLWh1c2gtaHU=";
    let lines = format!(
        "[log]\nlevel = \"trace\"\nformat = \"json\"\n\
         [access_log]\nenabled = true\npath = {:?}\n[audit_log]\npath = {:?}\n\
         [sessions]\ncookie_keys = [{cookie_key:?}]\n\
         [api]\ntoken = \"hush-api-token\"\n\
         [[api.tokens]]\nname = \"watch\"\nrole = \"read\"\ntoken = \"hush-watch-token\"\n\
         [[api.tokens]]\nname = \"file\"\nrole = \"operate\"\ntoken_file = {:?}",
        file("access.log"),
        file("audit.log"),
        file("token")
    );
    let affinity =
        "affinity = { enabled = true, jwt_secret = \"hush-jwt-secret-hush-jwt-secret!\" }";
    let text = Configuration::new("[\"0.0.0.0:80\"]")
        .with(&lines)
        .service_over(&[Family::V4], "shop", instance::HTTP, &[10, 10], affinity)
        .route("/shop", "shop");
    let scene = Scene::new(2, text.text())?;
    let client = &scene.topology.client.namespace;
    let gateway = format!("http://{}", scene.topology.balancer.v4);
    let mut seen = String::new();
    let session = [
        "--header",
        "X-Session-ID: hush-session-id",
        "--header",
        "Authorization: Bearer hush-client-token",
    ];
    let used = curl(
        client,
        &[
            &session[..],
            &[&format!("{gateway}/shop/x?token=hush-query")],
        ]
        .concat(),
    )?;
    expect("a request", &used, 200)?;
    for token in [
        "hush-api-token",
        "hush-watch-token",
        "hush-file-token",
        "hush-wrong-token",
    ] {
        let header = format!("Authorization: Bearer {token}");
        for path in [
            "stats",
            "instances",
            "services",
            "routes",
            "vips",
            "config",
            "sessions",
            "algorithms",
            "breakers",
            "recovery",
            "limits",
            "datapath",
            "health",
            "performance",
            "nowhere",
            "sessions/hush-session-id",
            "explain?url=/shop/x",
            "config?token=hush-query",
        ] {
            let url = format!("{gateway}/api/v1/loadbalancer/{path}");
            seen += &curl(client, &["--include", "--header", &header, &url])?.body;
        }
        for (method, path, body) in [
            ("GET", "admin/loadbalancer/debug", ""),
            ("POST", "admin/loadbalancer/reload", ""),
            ("PUT", "admin/loadbalancer/log", "{\"level\": \"trace\"}"),
            ("DELETE", "loadbalancer/sessions/hush-other-session", ""),
            ("POST", "admin/loadbalancer/reload?token=hush-query", ""),
            ("POST", "admin/loadbalancer/reset", ""),
        ] {
            let url = format!("{gateway}/api/v1/{path}");
            let json = "Content-Type: application/json";
            let sent = [
                "--include",
                "--request",
                method,
                "--header",
                &header,
                "--header",
                json,
            ];
            seen += &curl(client, &[&sent[..], &["--data", body, &url]].concat())?.body;
        }
    }
    seen += &curl(client, &["--include", &format!("{gateway}/metrics")])?.body;
    let audited =
        || fs::read_to_string(file("audit.log")).is_ok_and(|log| log.lines().count() > 20);
    ensure!(cleanup::within(PATIENCE, audited), "no audit log");
    for log in ["access.log", "audit.log"] {
        seen += &fs::read_to_string(file(log))?;
    }
    seen += &scene.daemon.log();
    ensure!(seen.len() > 20_000, "only {} bytes were seen", seen.len());
    for secret in ["hush", cookie_key] {
        let at = seen.find(secret);
        ensure!(
            at.is_none(),
            "{secret} in …{}",
            around(&seen, at.unwrap_or_default())
        );
    }
    Ok(())
}

fn around(text: &str, at: usize) -> &str {
    let from = text.floor_char_boundary(at.saturating_sub(300));
    let to = text.floor_char_boundary(at + 100);
    &text[from..to]
}
