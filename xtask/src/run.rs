//! `cargo xtask run -- <arguments of lb>`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::step;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of `lb`
    #[arg(last = true)]
    lb: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Err(error) = build::objects() {
        // L7 needs no program in the kernel, and the daemon explains itself when an L4 service is asked for.
        step::note(&format!(
            "going on without the programs for the kernel: {error:#}"
        ));
    }
    let lb = build::daemon(Profile::Fast)?;
    let status = Command::new(lb).args(&arguments.lb).status()?;
    if !status.success() {
        bail!("lb ended with {status}");
    }
    Ok(())
}
