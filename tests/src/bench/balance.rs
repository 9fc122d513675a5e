//! Every scenario of the simulator under every algorithm, and what a choice costs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lb_userspace::model::Algorithm;
use serde_json::{Value, json};

use super::pick;
use crate::simulator::{
    catalogue, plot,
    report::{Study, overview},
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only scenarios whose name contains this.
    pub scenario: String,
    /// Runs of each scenario, with seeds from 1.
    pub seeds: u64,
    /// Rounds of measuring what a choice costs; 0 leaves it out.
    pub rounds: u32,
    /// Print one JSON object a scenario instead of tables.
    pub json: bool,
    /// A folder for results and plots.
    pub out: Option<PathBuf>,
}

/// Runs scenario after scenario and prints each as soon as it is done.
///
/// # Errors
/// When a scenario's settings are not what a configuration may hold, or a file cannot be written.
#[expect(clippy::print_stdout, reason = "what a benchmark is for")]
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let seeds: Vec<u64> = (1..=plan.seeds).collect();
    let mut studies = Vec::new();
    for scenario in catalogue::all() {
        if !scenario.name.contains(&plan.scenario) {
            continue;
        }
        let study = Study::run(scenario, &Algorithm::ALL, &seeds)?;
        if plan.json {
            println!("{}", study.json());
        } else {
            println!("{}", study.table());
        }
        studies.push(study);
    }
    if !plan.json {
        println!("{}", overview(&studies));
    }
    if let Some(folder) = &plan.out {
        write(folder, &studies)?;
    }
    if plan.rounds > 0 {
        let comparisons = pick::run(plan.rounds, progress)?;
        for comparison in &comparisons {
            if plan.json {
                println!("{}", comparison.json());
            } else {
                println!("\n{}", comparison.table());
            }
        }
        if !plan.json {
            println!("\n{}", pick::growth(&comparisons));
        }
    }
    Ok(())
}

/// Writes `results.json`, `overview.svg`, and a plot for each scenario in which something happens.
fn write(folder: &Path, studies: &[Study]) -> Result<()> {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let all: Vec<Value> = studies.iter().map(Study::json).collect();
    put("results.json", &format!("{:#}\n", json!(all)))?;
    put("overview.svg", &plot::overview(studies))?;
    for study in studies {
        if let Some(svg) = plot::timeline(study) {
            let name = study.scenario.name.replace([' ', ','], "-");
            put(&format!("{}.svg", name.replace("--", "-")), &svg)?;
        }
    }
    Ok(())
}
