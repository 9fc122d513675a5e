//! What is wrong with a configuration, all of it.

use std::fmt;

use super::{KeyPath, Origin};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which setting.
    pub path: KeyPath,
    /// Where it was found; for something that is missing, where it belongs.
    pub origin: Origin,
    /// What was expected there.
    pub expected: String,
    /// A value that would do.
    pub example: Option<String>,
    /// What was found, as it would be written in the file; `None` when it is missing. Never shows
    /// a secret.
    pub found: Option<String>,
    /// What else is known.
    pub note: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "expected {}", self.expected)?;
        if let Some(example) = &self.example {
            write!(f, ", such as {example}")?;
        }
        write!(f, "; found {}", self.found.as_deref().unwrap_or("nothing"))?;
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

/// Every fault of a configuration, at least one, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `Err` when there are any.
    pub(super) fn check(mut faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
        // One variable can set many values, one per instance for a weight: one mistake, one fault.
        faults.dedup_by(|b, a| {
            a.origin.is_untyped()
                && (&a.origin, &a.expected, &a.found) == (&b.origin, &b.expected, &b.found)
        });
        Err(Self(faults))
    }

    /// The same with other paths.
    pub(super) fn with_paths(mut self, path: impl Fn(&KeyPath) -> KeyPath) -> Self {
        for fault in &mut self.0 {
            fault.path = path(&fault.path);
        }
        self
    }

    /// The faults.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    /// The first one, and how many more there are.
    #[must_use]
    pub fn one_line(&self) -> String {
        let first = self.0.first().map(ToString::to_string).unwrap_or_default();
        match self.0.len() {
            0 | 1 => first,
            count => format!("{first}; and {} more", count - 1),
        }
    }

    /// How many there are, in words.
    #[must_use]
    pub fn headline(&self) -> String {
        match self.0.len() {
            1 => "1 fault in the configuration".to_owned(),
            count => format!("{count} faults in the configuration"),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.headline())?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
