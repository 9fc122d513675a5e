//! Who has answered how often, and what went wrong.

use std::collections::BTreeMap;
use std::fmt;

/// Failures after which a client gives up; each may have cost it its whole patience.
const HOPELESS: usize = 5;

/// Answers by instance, and failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    answers: BTreeMap<String, u64>,
    failures: Vec<String>,
}

impl Tally {
    /// Counts an answer.
    pub fn answered(&mut self, instance: &str) {
        *self.answers.entry(instance.to_owned()).or_default() += 1;
    }

    /// Notes a failure.
    pub fn failed(&mut self, what: impl fmt::Display) {
        self.failures.push(what.to_string());
    }

    /// Whether so much went wrong that going on would only take time.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.failures.len() >= HOPELESS
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: Self) {
        for (instance, count) in other.answers {
            *self.answers.entry(instance).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

    /// Answers of one instance.
    #[must_use]
    pub fn of(&self, instance: &str) -> u64 {
        self.answers.get(instance).copied().unwrap_or_default()
    }

    /// Answers of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answers.values().sum()
    }

    /// How many instances have answered.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.answers.len()
    }

    /// The share of one instance, 0 to 1.
    #[must_use]
    pub fn share(&self, instance: &str) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a test are small")]
        let share = self.of(instance) as f64 / self.total().max(1) as f64;
        share
    }

    /// Whether of the connections that there were before, those of one instance have failed, and no other.
    #[must_use]
    pub fn has_lost(&self, before: &Self, instance: &str) -> bool {
        let mut others = before.answers.keys().filter(|name| *name != instance);
        self.failures.len() as u64 == before.of(instance)
            && others.all(|name| self.of(name) == before.of(name))
    }

    /// What went wrong, in order.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

/// `i1 120, i2 61, i3 59; 0 failed`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (instance, count)) in self.answers.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{instance} {count}")?;
        }
        let none = if self.answers.is_empty() {
            "no answers"
        } else {
            ""
        };
        write!(f, "{none}; {} failed", self.failures.len())?;
        match self.failures.first() {
            Some(first) => write!(f, " (first: {first})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_failures_add_up() {
        let mut one = Tally::default();
        one.answered("i1");
        one.failed("refused");
        let mut other = Tally::default();
        other.answered("i1");
        other.answered("i2");
        one.merge(other);
        assert_eq!(
            (one.of("i1"), one.of("i2"), one.of("i3"), one.total()),
            (2, 1, 0, 3)
        );
        assert!((one.share("i1") - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(one.to_string(), "i1 2, i2 1; 1 failed (first: refused)");
    }
}
