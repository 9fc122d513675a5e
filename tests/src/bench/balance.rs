//! Every scenario of the simulator under every algorithm.

use anyhow::Result;
use lb_userspace::model::Algorithm;

use crate::simulator::{catalogue, report::Study};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only scenarios whose name contains this.
    pub scenario: String,
    /// Runs of each scenario, with seeds from 1.
    pub seeds: u64,
}

/// Runs scenario after scenario and prints each as soon as it is done.
///
/// # Errors
/// When a scenario's settings are not what a configuration may hold.
#[expect(clippy::print_stdout, reason = "what a benchmark is for")]
pub fn run(plan: &Plan, json: bool) -> Result<()> {
    let seeds: Vec<u64> = (1..=plan.seeds).collect();
    for scenario in catalogue::all() {
        if !scenario.name.contains(&plan.scenario) {
            continue;
        }
        let study = Study::run(scenario, &Algorithm::ALL, &seeds)?;
        if json {
            println!("{}", study.json());
        } else {
            println!("{}", study.table());
        }
    }
    Ok(())
}
