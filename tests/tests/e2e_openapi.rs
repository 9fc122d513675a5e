//! The management API from outside: its document, its page in a browser, and a fuzzer that reads
//! the document.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::browser::Browser;
use lb_tests::client::{curl::curl, http};
use lb_tests::daemon::{API, Daemon};
use lb_tests::instance::Instance;
use lb_tests::topology::Topology;
use lb_tests::{artifact, command};

/// Services and names as the document's examples have them, so that these lead somewhere.
const CONFIGURATION: &str = "
[gateway]
listen = [\"0.0.0.0:8000\"]
[datapath]
mode = \"off\"
pin_path = \"@PINS@\"
[services.main-backend]
algorithm = \"consistent_hash\"
instances = [\"http://localhost:8080\", \"http://localhost:8081\"]
[services.main-backend.affinity]
enabled = true
[services.main-backend.breaker.service]
enabled = true
[services.write-service]
instances = [\"http://localhost:8080\"]
[[routes]]
path = \"/api/v1/auth/*\"
service = \"main-backend\"
[[routes]]
path = \"/write/*\"
service = \"write-service\"
";

/// Longest time that the fuzzer may look for more.
const FUZZING: &str = "60";

/// A daemon that is there for one test, and its instances.
fn start(topology: &Topology) -> Result<(Daemon, [Instance; 2])> {
    let host = &topology.balancer;
    let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let instances = [
        Instance::start_http(host, "a", at(8080))?,
        Instance::start_http(host, "b", at(8081))?,
    ];
    Ok((Daemon::start(host, CONFIGURATION)?, instances))
}

#[test]
#[ignore = "needs root"]
fn the_document_is_served_on_the_gateway_and_on_the_apis_own_listener() -> Result<()> {
    let topology = Topology::new(0)?;
    let (_daemon, _instances) = start(&topology)?;
    let host = &topology.balancer.namespace;
    let url = |port, path| format!("http://127.0.0.1:{port}/api/v1/{path}");
    let own = curl(host, &[&url(7700, "openapi.json")])?;
    let shared = curl(host, &[&url(8000, "loadbalancer/openapi.json")])?;
    ensure!(own.status == 200 && own.body == shared.body, "{shared:?}");
    ensure!(own.body.starts_with("{\"openapi\":\"3.1.0\""), "{own:?}");
    // Below /api/v1 the gateway's paths are the services'.
    let routed = curl(host, &[&url(8000, "openapi.json")])?;
    ensure!(routed.status == 404, "{routed:?}");
    ensure!(!routed.body.contains("\"openapi\""), "{routed:?}");
    Ok(())
}

#[test]
#[ignore = "needs root, and Chromium"]
fn the_page_lists_every_operation_and_sends_requests() -> Result<()> {
    let topology = Topology::new(0)?;
    let (_daemon, _instances) = start(&topology)?;
    let host = &topology.balancer.namespace;
    let document = http::request(host, API, hyper::Method::GET, "/api/v1/openapi.json", "")?;
    let document: serde_json::Value = serde_json::from_slice(&document.body)?;
    let paths = document["paths"].as_object().context("no paths")?;
    let operations: usize = paths
        .values()
        .filter_map(|item| Some(item.as_object()?.len()))
        .sum();
    ensure!(operations > 40, "{operations}");

    let mut browser = Browser::open(host, &format!("http://{API}/api/v1/docs"))?;
    browser.wait_for(&format!(
        "document.querySelectorAll('.operation').length === {operations}"
    ))?;
    let listed = browser.evaluate("document.body.innerText")?;
    let listed = listed.as_str().context("no text")?;
    for path in paths.keys() {
        ensure!(listed.contains(path.as_str()), "{path} is not in the page");
    }

    // Try it: the health of the gateway, and a path with the name of an instance in it.
    for (operation, found) in [
        ("getGatewayHealth", "\"status\": \"healthy\""),
        ("drainInstance", "\"admin\": \"draining\""),
    ] {
        browser.evaluate(&format!("location.hash = '{operation}'"))?;
        browser.wait_for(&format!(
            "document.querySelector('#{operation} form button') !== null"
        ))?;
        browser.evaluate(&format!(
            "document.querySelector('#{operation} form button').click()"
        ))?;
        browser.wait_for(&format!(
            "document.querySelector('#{operation} .status')?.innerText.startsWith('200') === true"
        ))?;
        let answer = browser.evaluate(&format!(
            "document.querySelector('#{operation} .answer pre').innerText"
        ))?;
        let answer = answer.as_str().context("no answer")?;
        ensure!(answer.contains(found), "{operation}: {answer}");
    }

    // What is not part of the program cannot be part of the page.
    let foreign = browser.evaluate(
        "fetch('http://127.0.0.1:8080/').then(() => 'answered', (error) => error.name)",
    )?;
    ensure!(foreign == "TypeError", "{foreign}");
    let complaints = browser.complaints().join("\n");
    ensure!(
        browser
            .complaints()
            .iter()
            .all(|complaint| complaint.contains("http://127.0.0.1:8080/")),
        "{complaints}"
    );
    if let Some(file) = std::env::var_os("LB_PICTURE") {
        use std::io::Write as _;
        let picture = browser.picture()?;
        std::fs::File::create(file)?.write_all(picture.as_bytes())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, and schemathesis, which `cargo xtask test` gets"]
#[expect(clippy::print_stdout, reason = "a test that did nothing has to say so")]
fn a_fuzzer_that_reads_the_document_finds_no_fault() -> Result<()> {
    let Some(schemathesis) = artifact::tool("schemathesis/bin/schemathesis")? else {
        // Whoever got as far as this was told why by `cargo xtask test`.
        println!("SKIPPED: schemathesis is not there; `cargo xtask test` gets it");
        ensure!(
            std::env::var_os("CI").is_none(),
            "schemathesis is not there"
        );
        return Ok(());
    };
    let topology = Topology::new(0)?;
    let (mut daemon, _instances) = start(&topology)?;
    let folder = tempfile::tempdir()?;
    let mut run = topology
        .balancer
        .namespace
        .command(&schemathesis.to_string_lossy());
    run.current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{API}/api/v1/openapi.json"))
        .args(["--checks", "all", "--continue-on-failure", "--no-color"])
        // What a duration or a filter of the log looks like is more than a schema can say, so not
        // all that fits the schema is taken. Everything else holds.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // The same cases every time.
        .arg("--generation-deterministic")
        // A stream of events never ends.
        .args(["--exclude-operation-id", "followEvents"])
        .args(["--max-examples", "10", "--max-time", FUZZING])
        .args(["--request-timeout", "10"]);
    let report = command::output(&mut run).with_context(|| daemon.log())?;
    ensure!(report.contains("Tested"), "{report}");
    let log = daemon.log();
    ensure!(!log.contains("panicked"), "{log}");
    daemon.stop(Duration::from_secs(20))
}
