//! `cargo xtask bench`: the packet path against its floor, the proxy against its peers.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::build::{self, Profile};
use crate::{system, workspace};

#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    plane: Plane,
}

#[derive(Subcommand)]
enum Plane {
    /// Nanoseconds per packet by BPF_PROG_TEST_RUN, against a bare XDP_PASS (root)
    L4 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 9)]
        rounds: u32,
    },
    /// CPU microseconds per request, against haproxy and nginx on the same upstreams
    L7 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 6)]
        rounds: u32,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build::object()?;
    build::daemon(Profile::Release)?;
    build::package(Profile::Release, "lb-tests")?;
    let (plane, rounds) = match arguments.plane {
        Plane::L4 { rounds } => {
            if let Err(reason) = system::can_use_kernel() {
                bail!("expected to be allowed to load programs: {reason}; run it as root");
            }
            ("l4", rounds)
        }
        Plane::L7 { rounds } => {
            system::require(system::BENCH_TOOLS)?;
            ("l7", rounds)
        }
    };
    let status = Command::new(workspace::target().join("release/lb-bench"))
        .args([plane, "--rounds", &rounds.to_string()])
        .current_dir(workspace::root())
        .status()?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}
