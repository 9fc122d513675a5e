//! Starting: without privileges, and with what cannot work.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::client::curl::curl;
use lb_tests::instance::Instance;
use lb_tests::process::Process;
use lb_tests::topology::{Host, Topology};
use lb_tests::{artifact, cleanup, command};
use tempfile::TempDir;

/// The ordinary user; Debian calls it nobody.
const USER: &str = "65534";

/// A folder that everybody can read, with the daemon and a configuration.
fn public(configuration: &str) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let everybody = || fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody())?;
    let lb = folder.path().join("lb");
    fs::copy(artifact::program_path("lb")?, &lb)?;
    fs::set_permissions(&lb, everybody())?;
    let file = folder.path().join("lb.toml");
    fs::write(&file, configuration)?;
    fs::set_permissions(&file, everybody())?;
    Ok((folder, lb))
}

/// `lb` as the ordinary user.
fn unprivileged(host: &Host, lb: &Path) -> Command {
    let mut command = host.namespace.command("setpriv");
    command
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(lb)
        .env_remove("RUST_LOG");
    command
}

fn lb(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(artifact::program_path("lb")?);
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("LB_CONFIG");
    Ok(command.output()?)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const VIP: &str = "
[gateway]
listen = [\"0.0.0.0:8000\"]
[datapath]
interfaces = [\"eth0\"]
mode = \"MODE\"
pin_path = \"/sys/fs/bpf/lb-test-nobody\"
[services.web]
instances = [\"127.0.0.1:8080\"]
[[routes]]
path = \"/*\"
service = \"web\"
[[vips]]
address = \"10.77.0.100\"
port = 80
service = \"web\"
";

#[test]
#[ignore = "needs root"]
fn an_ordinary_user_gets_http_and_is_told_what_packets_need() -> Result<()> {
    let topology = Topology::new(0)?;
    let host = &topology.balancer;
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
    let _instance = Instance::start_http(host, "only", local)?;
    let (folder, program) = public(&VIP.replace("MODE", "auto"))?;
    let file = folder.path().join("lb.toml");
    let mut run = unprivileged(host, &program);
    let process = Process::start("lb", run.args(["run", "--config"]).arg(&file))?;
    let url = format!("http://{}:8000/", host.v4);
    let served = cleanup::within(Duration::from_secs(5), || {
        let mut client = topology.client.namespace.command("curl");
        command::output(client.args(["--silent", "--fail", "--max-time", "1", &url])).is_ok()
    });
    let log = process.log();
    ensure!(served, "{log}");
    let answer = curl(&topology.client.namespace, &[&url])?;
    ensure!(answer.body.trim() == "only", "{answer:?}");
    // What is missing, and what to do about it.
    for word in ["VIP", "root", "CAP_BPF", "CAP_NET_ADMIN"] {
        ensure!(log.contains(word), "the log does not say {word}: {log}");
    }
    let status = command::output(unprivileged(host, &program).arg("status"))?;
    ensure!(status.contains("CAP_BPF"), "{status}");
    let health = curl(
        &topology.client.namespace,
        &[&format!("http://{}:8000/health", host.v4)],
    )?;
    ensure!(
        health.status == 200 && health.body.contains("degraded"),
        "{health:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_ordinary_user_cannot_have_native_mode() -> Result<()> {
    let topology = Topology::new(0)?;
    let (folder, program) = public(&VIP.replace("MODE", "native"))?;
    let mut run = unprivileged(&topology.balancer, &program);
    let mut process = Process::start(
        "lb",
        run.args(["run", "--config"])
            .arg(folder.path().join("lb.toml")),
    )?;
    let status = process.wait(Duration::from_secs(5)).context("lb goes on")?;
    let log = process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("CAP_BPF") && log.contains("root"), "{log}");
    ensure!(
        !log.contains("panicked") && !log.contains("backtrace"),
        "{log}"
    );
    Ok(())
}

#[test]
#[ignore = "needs the daemon, which `cargo xtask test` builds"]
fn every_fault_of_a_configuration_is_listed() -> Result<()> {
    let (folder, _) = public(
        "colour = \"red\"\n[gateway]\nheader_timeout = \"30\"\nlisten = [\"0.0.0.0:80\", \"0.0.0.0:80\"]\n\
         [services.web]\nalgorithm = \"fastest\"\n\
         instances = [{ endpoint = \"10.0.0.1:80\", weight = 70000 }]\n\
         [[routes]]\npath = \"no-slash\"\nservice = \"shed\"\n\
         [[vips]]\naddress = \"10.0.0.100\"\nport = 80\nservice = \"web\"\n",
    )?;
    let file = folder.path().join("lb.toml").to_string_lossy().into_owned();
    for command in ["check", "run"] {
        let output = lb(&[command, "--config", &file])?;
        let text = told(&output);
        ensure!(
            output.status.code() == Some(1),
            "lb {command}: {}: {text}",
            output.status
        );
        for word in [
            "colour",
            "header_timeout",
            "gateway.listen",
            "fastest",
            "70000",
            "no-slash",
            "shed",
            "datapath.interfaces",
        ] {
            ensure!(
                text.contains(word),
                "lb {command} does not say {word}: {text}"
            );
        }
        ensure!(
            text.contains("lb.toml:3:"),
            "no line of header_timeout: {text}"
        );
    }
    let output = lb(&["check", "--config", "/does/not/exist.toml"])?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(
        told(&output).contains("/does/not/exist.toml"),
        "{}",
        told(&output)
    );
    Ok(())
}

#[test]
#[ignore = "needs the daemon, which `cargo xtask test` builds"]
fn wrong_usage_is_told_from_failure() -> Result<()> {
    for arguments in [
        &["run", "--colour", "red"][..],
        &["paint"],
        &["run", "--workers"],
        &["instances", "drain", "web"],
        &[],
    ] {
        let output = lb(arguments)?;
        let text = told(&output);
        ensure!(
            output.status.code() == Some(2),
            "{arguments:?}: {}: {text}",
            output.status
        );
        ensure!(
            text.contains("Usage") || text.contains("--help"),
            "{arguments:?}: {text}"
        );
    }
    // Values are the configuration's matter: the same words as for the file.
    let output = lb(&["run", "--workers", "many", "--listen", "nowhere"])?;
    let text = told(&output);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(
        text.contains("--workers") && text.contains("--listen"),
        "{text}"
    );
    // Nobody is there to ask.
    let output = lb(&["--api", "http://127.0.0.1:1", "status"])?;
    let text = told(&output);
    ensure!(
        output.status.code() == Some(1) && text.contains("127.0.0.1:1"),
        "{text}"
    );
    Ok(())
}

#[test]
#[ignore = "needs the daemon, which `cargo xtask test` builds"]
fn a_port_in_use_ends_the_start_with_its_name() -> Result<()> {
    let (folder, _) = public(
        "[services.web]\ninstances = [\"127.0.0.1:9\"]\n[[routes]]\npath = \"/*\"\nservice = \"web\"\n",
    )?;
    let file = folder.path().join("lb.toml").to_string_lossy().into_owned();
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let taken = holder.local_addr()?.to_string();
    for arguments in [
        ["--listen", taken.as_str(), "--api-listen", "off"],
        ["--listen", "127.0.0.1:9", "--api-listen", &taken],
    ] {
        let output = lb(&[&["run", "--config", &file][..], &arguments].concat())?;
        let text = told(&output);
        ensure!(
            output.status.code() == Some(1),
            "{arguments:?}: {}: {text}",
            output.status
        );
        ensure!(text.contains(&taken) && text.contains("in use"), "{text}");
    }
    Ok(())
}
