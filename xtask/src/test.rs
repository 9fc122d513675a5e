//! `cargo xtask test`: every test there is.
//!
//! What needs no privileges is tested first, as by `cargo test`. The package `lb-tests` is for what
//! needs the kernel's help: its tests load programs and make namespaces. They carry `#[ignore]` or
//! pass over themselves where that is not possible, so that a plain `cargo test` works everywhere;
//! here they are run one after the other, because they measure real time on real sockets, and
//! neighbours would disturb them.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::{fetch, step, system, workspace};

/// The fuzzer of the management API.
const SCHEMATHESIS: &str = "4.32.5";

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let filter = arguments.filter.as_deref();
    if let Err(reason) = system::can_use_kernel() {
        on_the_host(&["--workspace"], filter)?;
        step::note(&format!(
            "SKIPPED: tests of packets in the kernel and end-to-end tests in namespaces ({reason}); \
             run `cargo xtask test` as root for them"
        ));
        return Ok(());
    }
    on_the_host(&["--workspace", "--exclude", "lb-tests"], filter)?;
    system::require(system::NETWORK_TOOLS)?;
    system::require(system::PEER_TOOLS)?;
    if let Err(error) = fetch::pip_install("schemathesis", SCHEMATHESIS) {
        step::note(&format!(
            "SKIPPED: fuzzing the management API by its OpenAPI document, because schemathesis \
             {SCHEMATHESIS} is not to be had: {error:#}"
        ));
    }
    build::with_harness(Profile::Fast)?;
    let mut kernel = workspace::cargo();
    kernel
        .args([
            "test",
            "--no-fail-fast",
            "--package",
            "lb-tests",
            "--profile",
            Profile::Fast.name(),
        ])
        .args(filter)
        .args(["--", "--include-ignored", "--test-threads", "1"]);
    step::loud("tests in the kernel and end to end", &mut kernel)
}

fn on_the_host(packages: &[&str], filter: Option<&str>) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet"]).args(packages).args(filter);
    step::loud("tests on the host", &mut cargo)
}
