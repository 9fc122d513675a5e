//! `cargo xtask bench`: the packet path against its floor, the proxy against its peers, the
//! balancing algorithms against each other.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::build::{self, Profile};
use crate::{step, system, workspace};

#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    plane: Plane,
}

#[derive(Subcommand)]
enum Plane {
    /// Packets in the program against a bare XDP_PASS and on the wire against nftables, and what
    /// changes cost (root)
    L4 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Only this part (packets, wire, control); may be repeated
        #[arg(long = "part")]
        parts: Vec<String>,
        /// Write results.json and l4.svg into this folder
        #[arg(long)]
        out: Option<String>,
    },
    /// CPU microseconds per request, against haproxy and nginx on the same upstreams
    L7 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 6)]
        rounds: u32,
    },
    /// How long answers take beside backends that are well, ill and gone (root)
    Beside {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 9)]
        rounds: u32,
    },
    /// What session affinity adds to a request, and what a million sessions take
    Sessions {
        /// Rounds of which the best counts
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Balancing algorithms against modelled instances in virtual time, and nanoseconds per choice
    Balance {
        /// Run only scenarios whose name contains this
        #[arg(long, default_value = "")]
        scenario: String,
        /// Runs of each scenario, each with a seed of its own
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// Rounds of measuring what a choice costs; 0 leaves it out
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Write results.json and plots into this folder
        #[arg(long)]
        out: Option<String>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.plane {
        Plane::L4 { rounds, parts, out } => l4(*rounds, parts, out.as_deref()),
        Plane::L7 { rounds } => {
            build::with_harness(Profile::Release)?;
            system::require(system::BENCH_TOOLS)?;
            bench("l7", &["--rounds", &rounds.to_string()])
        }
        Plane::Beside { rounds } => {
            build::with_harness(Profile::Release)?;
            if let Err(reason) = system::can_use_kernel() {
                bail!("expected to be allowed to make namespaces: {reason}; run it as root");
            }
            bench("beside", &["--rounds", &rounds.to_string()])
        }
        Plane::Sessions { rounds } => {
            build::packages(Profile::Release, &["lb-tests"])?;
            bench("sessions", &["--rounds", &rounds.to_string()])
        }
        Plane::Balance {
            scenario,
            seeds,
            rounds,
            out,
        } => {
            build::packages(Profile::Release, &["lb-tests"])?;
            let (seeds, rounds) = (seeds.to_string(), rounds.to_string());
            let mut options = vec![
                "--scenario",
                scenario,
                "--seeds",
                &seeds,
                "--rounds",
                &rounds,
            ];
            if let Some(folder) = out {
                options.extend(["--out", folder]);
            }
            bench("balance", &options)
        }
    }
}

fn l4(rounds: u32, parts: &[String], out: Option<&str>) -> Result<()> {
    build::with_harness(Profile::Release)?;
    if let Err(reason) = system::can_use_kernel() {
        bail!("expected to be allowed to load programs: {reason}; run it as root");
    }
    system::require(system::NETWORK_TOOLS)?;
    if let Err(error) = system::require(system::BALANCER_TOOLS) {
        step::note(&format!("LEFT OUT: nftables ({error:#})"));
    }
    let rounds = rounds.to_string();
    let mut options = vec!["--rounds", &rounds];
    for part in parts {
        options.extend(["--part", part]);
    }
    if let Some(folder) = out {
        options.extend(["--out", folder]);
    }
    bench("l4", &options)
}

fn bench(plane: &str, options: &[&str]) -> Result<()> {
    let status = Command::new(workspace::target().join("release/lb-bench"))
        .arg(plane)
        .args(options)
        .current_dir(workspace::root())
        .status()?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}
