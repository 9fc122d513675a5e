//! `cargo xtask demo`: lb at work on real traffic, in namespaces that it makes and removes.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::{step, system, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the namespaces and the daemon up, and say how to play with them
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Err(reason) = system::can_use_kernel() {
        bail!(
            "the demo makes network namespaces and loads an XDP program ({reason}); run it as root"
        );
    }
    system::require(system::NETWORK_TOOLS)?;
    build::with_harness(Profile::Fast)?;
    let mut demo = Command::new(workspace::target().join("fast/lb-demo"));
    if arguments.keep {
        demo.arg("--keep");
    }
    step::note("starting the demo");
    let status = demo.current_dir(workspace::root()).status()?;
    if !status.success() {
        bail!("the demo ended with {status}");
    }
    Ok(())
}
