//! Scenarios under every algorithm, as tables and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use lb_userspace::model::Algorithm;
use serde_json::{Value, json};

use super::{
    outcome::{Figures, Summary},
    scenario::Scenario,
    verdict::{Verdict, verdict},
    world,
};

/// A scenario under several algorithms.
#[derive(Debug)]
pub struct Study {
    /// What was run.
    pub scenario: Scenario,
    /// What came out, one for each algorithm.
    pub figures: Vec<Figures>,
}

impl Study {
    /// Runs a scenario under these algorithms with each of these seeds.
    ///
    /// # Errors
    /// When the scenario's settings are not what a configuration may hold.
    pub fn run(scenario: Scenario, algorithms: &[Algorithm], seeds: &[u64]) -> Result<Self> {
        let mut figures = Vec::new();
        for algorithm in algorithms {
            let mut all: Option<Figures> = None;
            for seed in seeds {
                let run = world::run(&scenario, *algorithm, *seed)?;
                all = Some(match all {
                    Some(before) => before.with(run),
                    None => run,
                });
            }
            figures.extend(all);
        }
        Ok(Self { scenario, figures })
    }

    /// The figures by algorithm.
    #[must_use]
    pub fn summaries(&self) -> Vec<(Algorithm, Summary)> {
        let summary = |f: &Figures| (f.algorithm, f.summary(&self.scenario));
        self.figures.iter().map(summary).collect()
    }

    /// How adaptive does next to the others; `None` when it was not run.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        verdict(&self.summaries())
    }

    /// As a table in Markdown, which reads well on a terminal, too.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "### {}\n\n{}.\n\n\
             | algorithm            |     mean |      p50 |      p99 |    p99.9 | errors % | goodput/s | shares      | culprit % |\n\
             |----------------------|---------:|---------:|---------:|---------:|---------:|----------:|-------------|----------:|\n",
            self.scenario.name, self.scenario.about
        );
        for (algorithm, s) in self.summaries() {
            let shares = s.shares.map_or_else(String::new, |(least, most)| {
                format!("{least:.2} – {most:.2}")
            });
            let culprit = s
                .culprit
                .map_or_else(String::new, |share| format!("{:.2}", share * 100.0));
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {:<20} | {:>8.2} | {:>8.2} | {:>8.1} | {:>8.1} | {:>8.3} | {:>9.0} | {shares:<11} | {culprit:>9} |",
                algorithm.as_str(),
                s.mean,
                s.p50,
                s.p99,
                s.p999,
                s.errors * 100.0,
                s.goodput,
            );
        }
        if let Some(v) = self.verdict() {
            let _ = writeln!(
                out,
                "\nadaptive: p99 {:.2} × {}, mean {:.2} × {}",
                v.p99, v.best_p99, v.mean, v.best_mean
            );
        }
        out
    }

    /// The same as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let algorithms: Vec<Value> = self
            .summaries()
            .into_iter()
            .map(|(algorithm, s)| {
                json!({
                    "algorithm": algorithm.as_str(),
                    "mean_ms": s.mean,
                    "p50_ms": s.p50,
                    "p99_ms": s.p99,
                    "p999_ms": s.p999,
                    "errors": s.errors,
                    "goodput_per_second": s.goodput,
                    "least_share": s.shares.map(|(least, _)| least),
                    "greatest_share": s.shares.map(|(_, most)| most),
                    "culprit_share": s.culprit,
                })
            })
            .collect();
        let adaptive = self.verdict().map(|v| {
            json!({
                "best_p99": v.best_p99.as_str(),
                "p99_ratio": v.p99,
                "best_mean": v.best_mean.as_str(),
                "mean_ratio": v.mean,
                "errors_above_lowest": v.errors,
            })
        });
        json!({
            "scenario": self.scenario.name,
            "about": self.scenario.about,
            "algorithms": algorithms,
            "adaptive": adaptive,
        })
    }
}

/// All scenarios in one table: mean and 99th percentile in milliseconds, the share of errors in
/// percent where there are any, and adaptive next to the best of the others.
#[must_use]
pub fn overview(studies: &[Study]) -> String {
    let mut out = String::from("| scenario |");
    for algorithm in Algorithm::ALL {
        // Writing to a string cannot fail.
        let _ = write!(out, " `{algorithm}` |");
    }
    out.push_str(" adaptive / best: mean, p99 |\n|---|");
    out.push_str(&"---|".repeat(Algorithm::ALL.len() + 1));
    for study in studies {
        let _ = write!(out, "\n| {} |", study.scenario.name);
        for (_, s) in study.summaries() {
            let _ = write!(out, " {} / {}", figure(s.mean), figure(s.p99));
            if s.errors >= 0.0005 {
                let _ = write!(out, ", {:.1} %", s.errors * 100.0);
            }
            out.push_str(" |");
        }
        if let Some(v) = study.verdict() {
            let _ = write!(out, " {:.2}, {:.2} |", v.mean, v.p99);
        }
    }
    out.push('\n');
    out
}

/// Three digits or so.
fn figure(ms: f64) -> String {
    if ms < 100.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}
