//! The packet path: what a packet costs in the program, what it costs on the wire beside the kernel's
//! own balancer, and what the control plane costs.

mod change;
mod control;
mod packets;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::plot;
use super::report::Comparison;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Nanoseconds a packet in the program
    Packets,
    /// Processor time of packets and connections, and latency, beside nftables
    Wire,
    /// Tables, changes and memory
    Control,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds over which medians are taken.
    pub rounds: u32,
    /// Only these parts; all when there are none.
    pub parts: Vec<Part>,
    /// Print one JSON object a comparison instead of tables.
    pub json: bool,
    /// A folder for `results.json` and `l4.svg`.
    pub out: Option<PathBuf>,
}

/// Measures part after part and prints each as soon as it is done. `progress` is told what runs.
///
/// # Errors
/// When this process may not load programs, or there is none to load.
#[expect(clippy::print_stdout, reason = "what a benchmark is for")]
pub fn run(plan: &Plan, progress: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let mut all = Vec::new();
    let is_wanted = |part| plan.parts.is_empty() || plan.parts.contains(&part);
    for part in [Part::Packets, Part::Wire, Part::Control] {
        if !is_wanted(part) {
            continue;
        }
        let comparisons = match part {
            Part::Packets => packets::run(plan.rounds, progress)?,
            Part::Wire => wire::run(plan.rounds, progress)?,
            Part::Control => control::run(plan.rounds, progress)?,
        };
        for comparison in &comparisons {
            if plan.json {
                println!("{}", comparison.json());
            } else {
                println!("\n{}", comparison.table());
            }
        }
        if part == Part::Packets && !plan.json {
            println!("\n{}", packets::goals(&comparisons));
        }
        all.extend(comparisons);
    }
    match &plan.out {
        Some(folder) => write(folder, &all),
        None => Ok(()),
    }
}

fn write(folder: &Path, comparisons: &[Comparison]) -> Result<()> {
    let parsed: Result<Vec<Value>, _> = comparisons
        .iter()
        .map(|comparison| serde_json::from_str(&comparison.json()))
        .collect();
    let results = json!({ "machine": machine(), "comparisons": parsed? });
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (name, text) in [
        ("results.json", format!("{results:#}\n")),
        ("l4.svg", plot::bars("lb, the packet path", comparisons)),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What the figures are of.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let model = models.clone().next().unwrap_or("unknown");
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "processors": models.count(),
        "retpolines": read("/sys/devices/system/cpu/vulnerabilities/spectre_v2").trim(),
    })
}
