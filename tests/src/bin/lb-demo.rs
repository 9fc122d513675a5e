//! `lb-demo`: what `cargo xtask demo` runs once everything is built.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lb_tests::cleanup;
use lb_tests::demo::{ACTS, Report, World};

/// Shows lb at work on real traffic between network namespaces.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything up until Ctrl-C, and say how to play with it
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was as expected.
fn run(arguments: &Arguments) -> Result<bool> {
    cleanup::on_signal()?;
    println!("building a network of a client, a balancer and three instances …");
    let mut world = World::new()?;
    let mut report = Report::default();
    for act in ACTS {
        act.play(&mut world, &mut report);
    }
    report.summary();
    if !report.passed() {
        println!("\nthe daemon's log:\n{}", world.daemon.log());
    }
    if arguments.keep {
        println!("\nEverything is up until Ctrl-C.\n{}", world.commands()?);
        // The signal's handler takes everything down and ends the process.
        loop {
            std::thread::park();
        }
    }
    Ok(report.passed())
}
