//! `lb decap` on a host.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::packet::hook::Hook;
use crate::process::Process;
use crate::topology::{Family, Host, INTERFACE};
use crate::{artifact, cleanup};

/// The far end of tunnels on a host; killed when dropped.
#[derive(Debug)]
pub struct Decap(Process);

impl Decap {
    /// Starts it, for tunnels from the balancer, with arguments of the test's.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(hook: Hook, host: &Host, balancer: &Host, arguments: &[&str]) -> Result<Self> {
        let lb = artifact::program_path("lb")?;
        let from = [Family::V4, Family::V6].map(|family| balancer.address(family).to_string());
        let mode = match hook {
            Hook::Xdp => "native",
            Hook::Tc => "tc",
        };
        let mut command = host.namespace.command(&lb.to_string_lossy());
        command
            .args(["decap", "--interface", INTERFACE, "--mode", mode])
            .args(["--from", &from.join(",")])
            .args(arguments);
        let mut process = Process::start("lb decap", &mut command)?;
        let ready = cleanup::within(Duration::from_secs(10), || {
            process.ended().is_some() || process.log().contains("unpacking")
        });
        ensure!(
            ready && process.ended().is_none(),
            "lb decap did not come up:\n{}",
            process.log()
        );
        Ok(Self(process))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// What was counted under a label, by its own account at the end; ends it.
    ///
    /// # Errors
    /// When it does not end as it should.
    pub fn stop(mut self) -> Result<Value> {
        self.0.signal(Signal::SIGTERM)?;
        let end = self.0.wait(Duration::from_secs(5));
        ensure!(
            end.is_some_and(|status| status.success()),
            "lb decap did not end as told:\n{}",
            self.0.log()
        );
        let log = self.0.log();
        let mut figures = serde_json::Map::new();
        for line in log.lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let label = words.next().context("no label")?;
            let count: u64 = words.next().context("no figure")?.parse()?;
            figures.insert(label.to_owned(), count.into());
        }
        Ok(Value::Object(figures))
    }
}
