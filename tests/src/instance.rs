//! Instances: what stands behind the balancer.
//!
//! [`serve()`] is the program `lb-test-instance`; [`Instance`] is the handle of one that runs in a
//! namespace. An instance says its name in every answer, so clients can count.

mod http;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub use serve::{Arguments, serve};

use crate::process::Process;
use crate::topology::Host;
use crate::{artifact, cleanup};

/// Port of HTTP.
pub const HTTP: u16 = 8080;
/// Port of TCP: the name in a line, then everything comes back.
pub const TCP: u16 = 7000;
/// Port of UDP: the name in a line, then the datagram that came.
pub const UDP: u16 = 7001;

/// The header that carries the name.
pub const NAME_HEADER: &str = "x-instance";

/// A running instance; killed when dropped.
#[derive(Debug)]
pub struct Instance {
    /// The name that it answers with.
    pub name: String,
    process: Process,
}

impl Instance {
    /// Starts an instance on a host, and waits until it listens. It answers on all addresses of the
    /// host; `held` are those that it also serves UDP on, because a reply must come from the
    /// address that was asked.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &Host, held: &[IpAddr]) -> Result<Self> {
        let own = [IpAddr::V4(host.v4), IpAddr::V6(host.v6)];
        let addresses = own.iter().chain(held);
        let arguments: Vec<String> = addresses
            .map(|address| format!("--udp={}", SocketAddr::new(*address, UDP)))
            .collect();
        Self::start_with(host, &host.name, &arguments)
    }

    /// Starts one for HTTP alone, on an address that others of the same host leave free.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_http(host: &Host, name: &str, http: SocketAddr) -> Result<Self> {
        let any = SocketAddr::new(http.ip(), 0);
        let arguments = [
            format!("--http={http}"),
            format!("--tcp={any}"),
            format!("--udp={any}"),
        ];
        Self::start_with(host, name, &arguments)
    }

    fn start_with(host: &Host, name: &str, arguments: &[String]) -> Result<Self> {
        let program = artifact::program_path("lb-test-instance")?;
        let mut command = host.namespace.command(&program.to_string_lossy());
        command.args(["--name", name]).args(arguments);
        let mut process = Process::start(name, &mut command)?;
        let ready = cleanup::within(Duration::from_secs(10), || {
            process.log().contains(serve::READY) || process.ended().is_some()
        });
        if !ready || process.ended().is_some() {
            bail!("instance {name} did not come up: {}", process.log());
        }
        Ok(Self {
            name: name.to_owned(),
            process,
        })
    }

    /// Stops it as a debugger or a swapping machine would: the kernel goes on to accept connections
    /// for it, and nobody answers.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Instance::pause`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Keeps it on one processor.
    ///
    /// # Errors
    /// When it is gone, or there is no such processor.
    pub fn stay_on(&self, processor: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(processor)?;
        Ok(sched_setaffinity(Pid::from_raw(self.process.pid()), &set)?)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid().unsigned_abs()
    }

    /// Kills it: its connections are reset, its ports refuse.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))
    }
}
