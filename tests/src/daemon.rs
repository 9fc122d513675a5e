//! The daemon in a namespace, and the API and CLI through which it is asked.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cleanup::{self, Folder};
use crate::client::http;
use crate::process::Process;
use crate::topology::Host;
use crate::{artifact, command};

/// Where the management API listens, in the balancer's namespace.
pub const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);

/// Below which the API's resources are.
const BASE: &str = "/api/v1/loadbalancer";

/// Where the kernel keeps what is pinned.
pub(crate) const BPF: &str = "/sys/fs/bpf";

/// What names of folders for pins begin with; the name of the namespace follows.
pub(crate) const PINS: &str = "lb-test-";

/// What a daemon may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything that root may.
    All,
    /// What the systemd unit of the examples has, and nothing else.
    Unit,
    /// Nothing that concerns BPF or interfaces, as in a container without further ado.
    NoKernel,
}

/// A daemon with its configuration; killed when dropped, and what it has pinned is removed.
#[derive(Debug)]
pub struct Daemon {
    // Dropped in this order: the process, then what it has used.
    process: Option<Process>,
    pins: Folder,
    folder: Folder,
    host: Host,
    rights: Rights,
    /// Another program than the one of this workspace.
    program: Option<PathBuf>,
}

impl Daemon {
    /// Writes the configuration and starts the daemon on a host.
    ///
    /// `@PINS@` in it stands for a folder that the daemon can have for itself, for
    /// `datapath.pin_path`.
    ///
    /// # Errors
    /// When the daemon does not come up; the message has its log.
    pub fn start(host: &Host, configuration: &str) -> Result<Self> {
        Self::start_with(host, configuration, Rights::All)
    }

    /// The same with fewer rights.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(host: &Host, configuration: &str, rights: Rights) -> Result<Self> {
        mount_bpf()?;
        let folder = Folder::temporary("lb-daemon-")?;
        let pins = Path::new(BPF).join(format!("{PINS}{}", host.namespace.name()));
        let pins = Folder::at(pins);
        let mut daemon = Self {
            host: host.clone(),
            folder,
            pins,
            process: None,
            rights,
            program: None,
        };
        daemon.configure(configuration)?;
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Replaces the configuration file; the daemon reads it at the next reload or start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        let text = configuration.replace("@PINS@", &self.pins.path().to_string_lossy());
        fs::write(self.file(), text).context("cannot write the configuration")
    }

    /// The configuration file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("lb.toml")
    }

    /// Where the daemon pins what outlives it: what `@PINS@` stands for.
    #[must_use]
    pub fn pins(&self) -> &Path {
        self.pins.path()
    }

    /// Starts the daemon, after it was stopped or killed, and waits until its API answers.
    ///
    /// # Errors
    /// When it does not come up within ten seconds.
    pub fn start_again(&mut self) -> Result<()> {
        let mut process = self.launch()?;
        let ready = cleanup::within(Duration::from_secs(10), || {
            process.ended().is_some() || self.get("/health").is_ok()
        });
        if !ready || process.ended().is_some() {
            bail!("the daemon did not come up:\n{}", process.log());
        }
        self.process = Some(process);
        Ok(())
    }

    /// Starts the daemon and kills it after a while, wherever it is by then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in_vain(&mut self, after: Duration) -> Result<()> {
        let mut process = self.launch()?;
        std::thread::sleep(after);
        process.kill()
    }

    /// Starts the daemon and kills it as soon as something is so, which is looked at all the time. It is shown what
    /// the daemon has logged.
    ///
    /// # Errors
    /// When it cannot be started, or that has not come within ten seconds.
    pub fn start_until(&mut self, mut is_so: impl FnMut(&str) -> bool) -> Result<()> {
        let mut process = self.launch()?;
        let begun = Instant::now();
        while !is_so(&process.log()) {
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("it has not come to that:\n{}", process.log());
            }
        }
        process.kill()
    }

    /// Says which `lb` starts from now on; without one it is this workspace's.
    pub fn use_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    fn launch(&self) -> Result<Process> {
        let lb = match &self.program {
            Some(program) => program.clone(),
            None => artifact::program_path("lb")?,
        };
        let lb = lb.to_string_lossy();
        let mut command = match self.rights {
            Rights::All => self.host.namespace.command(&lb),
            Rights::Unit => {
                let mut command = self.host.namespace.command("setpriv");
                // The last two are CAP_PERFMON and CAP_BPF, whose names older versions do not know.
                let kept = "-all,+net_bind_service,+net_admin,+cap_38,+cap_39";
                command.arg(format!("--bounding-set={kept}"));
                command.args(["--inh-caps=-all", "--no-new-privs", &lb]);
                command
            }
            Rights::NoKernel => {
                let mut command = self.host.namespace.command("setpriv");
                // The last one is CAP_BPF, whose name older versions do not know.
                command.args(["--bounding-set=-sys_admin,-net_admin,-cap_39", &lb]);
                command
            }
        };
        command
            .args(["run", "--config"])
            .arg(self.file())
            .env_remove("RUST_LOG");
        Process::start("lb", &mut command)
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// When it was killed or stopped.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .context("expected a running daemon, found none")
    }

    /// Ends the daemon as a crash would.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Asks the daemon to end, and waits until it has.
    ///
    /// # Errors
    /// When it has not ended in time, or not well.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        let process = self.process()?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(limit);
        let log = process.log();
        self.process = None;
        ensure!(
            status.is_some_and(|status| status.success()),
            "expected the daemon to end well within {limit:?}, found {status:?}:\n{log}"
        );
        Ok(())
    }

    /// What the daemon has written.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// `GET` of a resource below the API's base; the answer's `data`.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "")
    }

    /// `POST` without a body.
    ///
    /// # Errors
    /// As [`Daemon::get`].
    pub fn post(&self, path: &str) -> Result<Value> {
        self.call(Method::POST, path, "")
    }

    /// `POST` of an order to the daemon itself, such as `reload`.
    ///
    /// # Errors
    /// As [`Daemon::get`].
    pub fn post_admin(&self, order: &str) -> Result<Value> {
        self.at(
            Method::POST,
            &format!("/api/v1/admin/loadbalancer/{order}"),
            "",
        )
    }

    /// `PUT` of JSON.
    ///
    /// # Errors
    /// As [`Daemon::get`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::PUT, path, &body.to_string())
    }

    /// Any request with a body of JSON.
    ///
    /// # Errors
    /// As [`Daemon::get`].
    pub fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        self.call(method, path, &body.to_string())
    }

    fn call(&self, method: Method, path: &str, body: &str) -> Result<Value> {
        self.at(method, &format!("{BASE}{path}"), body)
    }

    fn at(&self, method: Method, whole: &str, body: &str) -> Result<Value> {
        let answer = http::request(&self.host.namespace, API, method, whole, body)?;
        ensure!(
            answer.status.is_success(),
            "{whole}: {} {}",
            answer.status,
            answer.text()
        );
        let mut value: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("expected JSON from {whole}, found {}", answer.text()))?;
        Ok(value["data"].take())
    }

    /// Runs a subcommand of `lb` in the daemon's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let lb = artifact::program_path("lb")?;
        let mut command: Command = self.host.namespace.command(&lb.to_string_lossy());
        command::output(command.args(arguments))
    }

    /// Waits until the API says what is expected of it.
    ///
    /// # Errors
    /// When it does not in time; the message has the last answer.
    pub fn wait_for(
        &self,
        path: &str,
        limit: Duration,
        expected: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Ok(Value::Null);
        let met = cleanup::within(limit, || {
            last = self.get(path);
            last.as_ref().is_ok_and(&expected)
        });
        ensure!(
            met,
            "not within {limit:?} at {path}: {}\n{}",
            shortened(&last),
            self.log()
        );
        last
    }
}

impl Drop for Daemon {
    /// Whatever a test was about: at its end every packet is accounted for.
    ///
    /// # Panics
    /// When received = forwarded + passed + dropped does not hold, or nobody says so of a packet path that was
    /// configured.
    fn drop(&mut self) {
        if self.process.is_none() || std::thread::panicking() {
            return;
        }
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let has_path = text.contains("interfaces");
        let mut packets = Value::Null;
        // More than once: one that is under way is received and nothing more.
        let adds_up = cleanup::within(Duration::from_secs(2), || {
            packets = match self.get("/datapath") {
                Ok(mut datapath) => datapath["packets"].take(),
                // An API that lets nobody in, or is not there.
                Err(_) if !has_path => return true,
                Err(error) => Value::String(format!("{error:#}")),
            };
            let count = |name: &str| packets[name].as_u64();
            let sent = ["forwarded", "passed", "dropped"].map(count);
            let sent: Option<u64> = sent.into_iter().sum();
            sent.is_some() && count("received") == sent
        });
        assert!(
            adds_up,
            "expected received = forwarded + passed + dropped, found {packets}"
        );
    }
}

/// The beginning of an answer, for a message.
fn shortened(answer: &Result<Value>) -> String {
    let text = match answer {
        Ok(value) => value.to_string(),
        Err(error) => format!("{error:#}"),
    };
    text.chars().take(2000).collect()
}

/// Mounts the BPF file system where that is not done by the machine itself.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount_bpf() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPF))
    {
        return Ok(());
    }
    command::output(Command::new("mount").args(["-t", "bpf", "bpf", BPF])).map(drop)
}
