//! `lb-bench`: what `cargo xtask bench` runs once everything is built.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to people"
)]

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lb_tests::bench::{balance, beside, l4, l7, report::Comparison, sessions};

/// Measures lb against its peers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    plane: Plane,
}

#[derive(Debug, Subcommand)]
enum Plane {
    /// Packets in the program and on the wire, beside nftables, and what changes cost; needs root
    L4 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Only this part; may be repeated
        #[arg(long = "part", value_enum)]
        parts: Vec<l4::Part>,
        /// Write results.json and l4.svg into this folder
        #[arg(long)]
        out: Option<PathBuf>,
        /// Print one JSON object a comparison instead of tables
        #[arg(long)]
        json: bool,
    },
    /// CPU microseconds per request, against haproxy and nginx on the same instances
    L7 {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 6)]
        rounds: u32,
        /// The daemon to measure; the one beside this program when it is not given
        #[arg(long)]
        lb: Option<PathBuf>,
        /// Print one JSON object a comparison instead of tables
        #[arg(long)]
        json: bool,
    },
    /// How long answers take beside backends that are well, ill and gone; needs root
    Beside {
        /// Rounds over which medians are taken
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Print one JSON object a comparison instead of tables
        #[arg(long)]
        json: bool,
    },
    /// What affinity adds to a request, and what a million sessions take
    Sessions {
        /// Rounds of which the best counts
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Algorithms against modelled instances in virtual time, and nanoseconds per choice
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
        out: Option<PathBuf>,
        /// Print one JSON object a scenario or comparison instead of tables
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<()> {
    let mut progress = |step: &str| eprintln!("{step}");
    let (comparisons, json) = match Arguments::parse().plane {
        Plane::L4 {
            rounds,
            parts,
            out,
            json,
        } => {
            let plan = l4::Plan {
                rounds: rounds.max(1),
                parts,
                json,
                out,
            };
            return l4::run(&plan, &mut progress);
        }
        Plane::L7 { rounds, lb, json } => {
            let lb = match lb {
                Some(lb) => lb,
                None => sibling("lb")?,
            };
            (l7::run(&lb, rounds.max(1), &mut progress)?, json)
        }
        Plane::Beside { rounds, json } => (beside::run(rounds.max(1), &mut progress)?, json),
        Plane::Sessions { rounds } => return sessions::run(rounds.max(1)),
        Plane::Balance {
            scenario,
            seeds,
            rounds,
            out,
            json,
        } => {
            let plan = balance::Plan {
                scenario,
                seeds: seeds.max(1),
                rounds,
                json,
                out,
            };
            return balance::run(&plan, &mut progress);
        }
    };
    print(&comparisons, json);
    Ok(())
}

fn print(comparisons: &[Comparison], json: bool) {
    for comparison in comparisons {
        if json {
            println!("{}", comparison.json());
        } else {
            println!("\n{}", comparison.table());
        }
    }
}

fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own
        .parent()
        .context("this program lies in no folder")?
        .join(name))
}
