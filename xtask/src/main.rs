//! `cargo xtask`: lb's build, demo, test and bench commands.
//!
//! One file a task. Every task finds what it needs, installs what is missing when it may (as root,
//! with a network), says what it does in one line a step, and is quick when nothing has changed.
//! Where it may not install, it says exactly which command would.
#![expect(
    clippy::print_stdout,
    reason = "a build tool talks to the person who runs it"
)]

mod bench;
mod bpf;
mod btf;
mod build;
mod ci;
mod demo;
mod fetch;
mod imports;
mod links;
mod lint;
mod run;
mod step;
mod system;
mod test;
mod upgrade;
mod verifier;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs, shows, tests and measures lb.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the programs for the kernel and the daemon that carries them
    Build(build::Arguments),
    /// Build, then run `lb` with the given arguments: `cargo xtask run -- run --config my.toml`
    Run(run::Arguments),
    /// Show lb at work on real traffic in network namespaces (root)
    Demo(demo::Arguments),
    /// Run all tests: on the host, of packets in the kernel, end to end in namespaces
    Test(test::Arguments),
    /// Measure against a floor and against other balancers
    Bench(bench::Arguments),
    /// Change from another version of lb to this one and back under load, and lose nothing (root)
    Upgrade(upgrade::Arguments),
    /// Check formatting, lints, documentation and its links, dependencies and the direction of imports
    Lint(lint::Arguments),
    /// Everything that must hold before a change lands: `lint`, then `test`
    Ci,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Build(arguments) => build::run(&arguments),
        Task::Run(arguments) => run::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Upgrade(arguments) => upgrade::run(&arguments),
        Task::Lint(arguments) => lint::run(&arguments),
        Task::Ci => ci::run(),
    }
}
