//! Instances: what stands behind the balancer.
//!
//! [`serve()`] is the program `lb-test-instance`; [`Instance`] is the handle of one that runs in a
//! namespace. An instance says its name in every answer, so clients can count.

mod http;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

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
        let program = artifact::program_path("lb-test-instance")?;
        let mut command = host.namespace.command(&program.to_string_lossy());
        command.args(["--name", &host.name]);
        let own = [IpAddr::V4(host.v4), IpAddr::V6(host.v6)];
        for address in own.iter().chain(held) {
            command.args(["--udp", &SocketAddr::new(*address, UDP).to_string()]);
        }
        let mut process = Process::start(&host.name, &mut command)?;
        let ready = cleanup::within(Duration::from_secs(10), || {
            process.log().contains(serve::READY) || process.ended().is_some()
        });
        if !ready || process.ended().is_some() {
            bail!("instance {} did not come up: {}", host.name, process.log());
        }
        Ok(Self {
            name: host.name.clone(),
            process,
        })
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
