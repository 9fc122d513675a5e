//! Network namespaces.
//!
//! A thread that enters one stays in it, and so do its sockets; that makes clients out of plain
//! threads. Processes are started through `nsenter` with the network namespace alone: `ip netns
//! exec` would also give each its own `/sys`, without the BPF file system that a daemon's successor
//! must find again.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{cleanup, command};

const PREFIX: &str = "lb";

static SERIAL: AtomicU32 = AtomicU32::new(0);
static REAP: Once = Once::new();

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up. The name is the label with what makes it unique.
    ///
    /// # Errors
    /// When the process may not do that.
    pub fn new(label: &str) -> Result<Self> {
        REAP.call_once(|| cleanup::reap_stale(PREFIX));
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{label}", std::process::id());
        cleanup::add_namespace(&name);
        let namespace = Self { name };
        command::output(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        // Addresses are of use at once: nobody else has them.
        namespace.sysctl("ipv6/conf/all/accept_dad", "0")?;
        namespace.sysctl("ipv6/conf/default/accept_dad", "0")?;
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Name as iproute2 knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does lines of `ip` in this namespace.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]);
        let text = format!("{}\n", lines.join("\n"));
        command::with_input(&mut ip, &text).map(drop)
    }

    /// The MAC address of an interface.
    ///
    /// # Errors
    /// When there is no such interface, or it has none.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-json", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&command::output(&mut ip)?)?;
        let text = links[0]["address"].as_str().unwrap_or_default();
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .with_context(|| format!("expected the MAC address of {interface}, found {text:?}"))
    }

    /// Sets a value below `/proc/sys/net`.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot write {value} to {path} in {}", self.name))
    }

    /// A command that will run in this namespace; its process id is the program's own.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .args(["--", program]);
        command
    }

    /// Runs `work` on a thread in this namespace, to its end.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            let entered = scope.spawn(move || -> Result<T> {
                join(&path)?;
                Ok(work())
            });
            entered
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Starts `work` on a thread in this namespace.
    #[must_use]
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let path = self.path();
        thread::spawn(move || {
            join(&path)?;
            work()
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        cleanup::remove_namespace(&self.name);
    }
}

/// Moves the calling thread.
fn join(path: &PathBuf) -> Result<()> {
    let file = File::open(path).with_context(|| format!("no namespace at {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the namespace {}", path.display()))
}
