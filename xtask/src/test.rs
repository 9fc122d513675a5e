//! `cargo xtask test`: every test there is.
//!
//! Tests that need the kernel's help (they load programs or make namespaces) carry `#[ignore]`
//! with that reason, so that a plain `cargo test` works everywhere. Here they are run explicitly,
//! one after the other: they measure real time on real sockets, and neighbours would disturb them.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::{step, system, workspace};

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let filter = arguments.filter.as_deref();
    let mut host = workspace::cargo();
    host.args(["test", "--workspace", "--quiet"]).args(filter);
    step::loud("tests on the host", &mut host)?;

    if let Err(reason) = system::can_use_kernel() {
        step::note(&format!(
            "SKIPPED: tests of packets in the kernel and end-to-end tests in namespaces ({reason}); \
             run `cargo xtask test` as root for them"
        ));
        return Ok(());
    }
    system::require(system::NETWORK_TOOLS)?;
    system::require(system::PEER_TOOLS)?;
    build::object()?;
    build::daemon(Profile::Fast)?;
    let mut kernel = workspace::cargo();
    kernel
        .args([
            "test",
            "--package",
            "lb-tests",
            "--profile",
            Profile::Fast.name(),
        ])
        .args(filter)
        .args(["--", "--ignored", "--test-threads", "1"]);
    step::loud("tests in the kernel and end to end", &mut kernel)
}
