//! The revisions of the configuration: what was in force, who has changed it, and how to get back.
//!
//! The present document is kept whole. Each revision holds what undoes it, so that fifty of them
//! take little more room than what has changed; a document of the past is made by undoing from
//! here on backwards.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{
    Document, Pointer, Stamp,
    document::{self, Difference, differences, undo, with_patch},
};

/// Revisions that are kept.
pub(super) const KEPT: usize = 50;

/// One change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Who has made it, when, and its number.
    pub stamp: Stamp,
    /// By what it came about, such as `reload`.
    pub cause: String,
    /// What changed, a phrase each.
    pub changes: Vec<String>,
    /// What leads back to the document before (RFC 7396, keyed).
    undo: Option<Value>,
}

/// The last revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The present document, keyed.
    document: Value,
    /// Where any of the documents has secrets.
    secrets: BTreeSet<Pointer>,
    /// From the oldest to the present one.
    revisions: VecDeque<Revision>,
}

impl Revision {
    /// What changed in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.changes.as_slice() {
            [] => self.cause.clone(),
            [only] => format!("{}: {only}", self.cause),
            [first, rest @ ..] => format!("{}: {first} and {} more", self.cause, rest.len()),
        }
    }
}

impl History {
    /// The number of the present revision; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        let last = self.revisions.back();
        last.map_or(0, |revision| revision.stamp.revision)
    }

    /// From the newest to the oldest.
    pub fn revisions(&self) -> impl Iterator<Item = &Revision> {
        self.revisions.iter().rev()
    }

    /// A revision by its number.
    #[must_use]
    pub fn revision(&self, number: u64) -> Option<&Revision> {
        self.revisions()
            .find(|revision| revision.stamp.revision == number)
    }

    /// The keyed document of a revision, secrets included.
    #[must_use]
    pub fn document(&self, number: u64) -> Option<Value> {
        self.revision(number)?;
        Some(self.back_to(number))
    }

    fn back_to(&self, number: u64) -> Value {
        let mut document = self.document.clone();
        let later = self.revisions();
        for revision in later.take_while(|later| later.stamp.revision > number) {
            if let Some(undo) = &revision.undo {
                with_patch(&mut document, undo.clone(), &mut Pointer::new());
            }
        }
        document
    }

    /// A document without its secrets.
    #[must_use]
    pub fn hide(&self, document: &Value) -> Value {
        document::hide(document, &self.secrets)
    }

    /// What a revision has changed, without secrets.
    #[must_use]
    pub fn changed(&self, number: u64) -> Option<Vec<Difference>> {
        self.revision(number)?;
        let before = self.back_to(number.saturating_sub(1));
        Some(self.differences(&before, &self.back_to(number)))
    }

    /// How two documents differ, without their secrets.
    #[must_use]
    pub fn differences(&self, before: &Value, after: &Value) -> Vec<Difference> {
        differences_without(before, after, &self.secrets)
    }

    /// Whether a document is the present one.
    pub(super) fn is_at(&self, document: &Document) -> bool {
        !self.revisions.is_empty() && self.document == document.whole
    }

    /// Adds a revision, which leads to `document`.
    pub(super) fn push(
        &mut self,
        document: &Document,
        stamp: Stamp,
        cause: &str,
        changes: Vec<String>,
    ) {
        let mut before = std::mem::replace(&mut self.document, document.whole.clone());
        if before.is_null() {
            // Before the first there was nothing.
            before = Value::Object(serde_json::Map::new());
        }
        self.secrets.extend(document.secrets.iter().cloned());
        self.revisions.push_back(Revision {
            undo: undo(&document.whole, &before),
            stamp,
            cause: cause.to_owned(),
            changes,
        });
        let more = self.revisions.len().saturating_sub(KEPT);
        self.revisions.drain(..more);
    }

    /// Whether the numbers rise; a state file could say otherwise.
    pub(super) fn is_sound(&self) -> bool {
        let numbers = self.revisions.iter().map(|one| one.stamp.revision);
        numbers.is_sorted_by(|one, next| one < next) && self.revisions.len() <= KEPT
    }
}

/// How two documents differ. Of secrets it shows that they do, and nothing of what they are.
pub(super) fn differences_without(
    before: &Value,
    after: &Value,
    secrets: &BTreeSet<Pointer>,
) -> Vec<Difference> {
    let hidden = [before, after].map(|document| document::hide(document, secrets));
    let mut found = differences(before, after);
    for difference in &mut found {
        let [before, after] = hidden.each_ref().map(|document| {
            let value = document::get(document, &difference.at)?;
            Some(document::natural(value, &mut difference.at.clone()))
        });
        (difference.before, difference.after) = (before, after);
    }
    found
}
