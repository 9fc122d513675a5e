//! What was expected and what was found, told as it happens and again at the end.

use std::fmt;
use std::time::Instant;

/// The findings of a run.
#[derive(Debug)]
pub struct Report {
    acts: Vec<Findings>,
    start: Instant,
}

#[derive(Debug)]
struct Findings {
    title: &'static str,
    met: u32,
    missed: Vec<String>,
    start: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            acts: Vec::new(),
            start: Instant::now(),
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the report is for the person who runs the demo"
)]
impl Report {
    /// Begins an act.
    pub fn act(&mut self, title: &'static str) {
        println!("\n{}. {title}", self.acts.len() + 1);
        self.acts.push(Findings {
            title,
            met: 0,
            missed: Vec::new(),
            start: Instant::now(),
        });
    }

    /// Notes whether an expectation was met, and what was found.
    pub fn expect(&mut self, expectation: &str, met: bool, found: impl fmt::Display) {
        let word = if met { "ok    " } else { "FAILED" };
        println!("   {word} {expectation}: {found}");
        if let Some(act) = self.acts.last_mut() {
            if met {
                act.met += 1;
            } else {
                act.missed.push(format!("{expectation}: {found}"));
            }
        }
    }

    /// Whether something was expected, and all of it was met.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.acts
            .iter()
            .all(|act| act.missed.is_empty() && act.met > 0)
            && !self.acts.is_empty()
    }

    /// Expectations that were not met.
    #[must_use]
    pub fn missed(&self) -> Vec<&str> {
        self.acts
            .iter()
            .flat_map(|act| act.missed.iter().map(String::as_str))
            .collect()
    }

    /// Tells the whole once more, one line an act.
    pub fn summary(&self) {
        println!("\nReport");
        // Acts follow each other, so each ends where the next begins.
        let starts = self.acts.iter().skip(1).map(|act| act.start);
        let ends = starts.chain([Instant::now()]);
        for (act, end) in self.acts.iter().zip(ends) {
            let seconds = (end - act.start).as_secs_f64();
            let word = if act.missed.is_empty() {
                "ok    "
            } else {
                "FAILED"
            };
            let all = act.met as usize + act.missed.len();
            println!(
                "   {word} {:<52} {}/{all} in {seconds:.1} s",
                act.title, act.met
            );
        }
        let seconds = self.start.elapsed().as_secs_f64();
        match self.missed().as_slice() {
            [] => println!("   everything was as expected, in {seconds:.1} s"),
            missed => println!(
                "   {} expectations were not met:\n{}",
                missed.len(),
                missed.join("\n")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_passes_when_all_was_met_and_something_was() {
        let mut report = Report::default();
        assert!(!report.passed());
        report.act("first");
        assert!(!report.passed());
        report.expect("one", true, 1);
        assert!(report.passed());
        report.expect("two", false, 3);
        assert!(!report.passed());
        assert_eq!(report.missed(), ["two: 3"]);
    }
}
