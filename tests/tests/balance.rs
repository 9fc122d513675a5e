//! Balancing in the simulator, with fixed seeds: what was reached once stays reached.
//!
//! The scenarios are those of `cargo xtask bench balance`, cut short, because these tests run in
//! debug builds too.

use anyhow::{Result, ensure};
use lb_tests::simulator::{catalogue, report::Study, scenario::Scenario, world};
use lb_userspace::model::Algorithm;

/// The same with all that is after this second left out.
fn short(mut scenario: Scenario, seconds: f64) -> Scenario {
    scenario.seconds = seconds;
    scenario
}

#[test]
fn a_run_can_be_repeated() -> Result<()> {
    let scenario = short(catalogue::slow(), 8.0);
    let run = |seed| -> Result<_> {
        let figures = world::run(&scenario, Algorithm::Adaptive, seed)?;
        Ok(figures.summary(&scenario))
    };
    ensure!(run(1)? == run(1)? && run(1)? != run(2)?);
    Ok(())
}

#[test]
fn queues_are_as_long_as_theory_says() -> Result<()> {
    // One slot, Poisson arrivals, exponential work: the mean time is s / (1 - load), and times
    // are exponential, so that the 99th percentile is ln 100 times the mean.
    let mut scenario = Scenario::alike("M/M/1", 1, 0.5);
    scenario.instances[0].slots = 1;
    scenario.seconds = 605.0;
    let figures = world::run(&scenario, Algorithm::RoundRobin, 1)?;
    let summary = figures.summary(&scenario);
    ensure!((summary.mean / 10.0 - 1.0).abs() < 0.05, "{summary:?}");
    let p99 = 10.0 * 100.0f64.ln();
    ensure!((summary.p99 / p99 - 1.0).abs() < 0.05, "{summary:?}");
    Ok(())
}

#[test]
fn a_slow_instance_does_not_set_the_pace() -> Result<()> {
    let scenario = short(catalogue::slow(), 25.0);
    let algorithms = [
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::Adaptive,
    ];
    let study = Study::run(scenario, &algorithms, &[1])?;
    let p99: Vec<f64> = study.summaries().iter().map(|(_, s)| s.p99).collect();
    ensure!(p99[1] * 10.0 < p99[0] && p99[2] < p99[1], "{p99:?}");
    Ok(())
}
