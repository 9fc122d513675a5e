//! What consistent hashing hashes, and how much of it one instance may take.

use serde_json::json;

use super::{
    forms::{Form, Refused, between},
    origin::Sourced,
    reader::Section,
    tree::Node,
    values::HASH_KEY,
};
use crate::model::{HashKey, service::DEFAULT_HASH_BOUND};

/// The settings of consistent hashing, each with its source.
#[derive(Clone, Debug)]
pub(super) struct HashSettings {
    pub(super) key: Sourced<HashKey>,
    pub(super) bound: Sourced<Option<u16>>,
}

impl HashSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            key: Sourced::unset(HashKey::default()),
            bound: Sourced::unset(Some(DEFAULT_HASH_BOUND)),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            key: t.value("hash_key", &HASH_KEY, &self.key),
            bound: t.value("hash_bound", &Bound, &self.bound),
        }
    }
}

/// A factor of an instance's share, held in percent, or none.
#[derive(Clone, Copy, Debug)]
struct Bound;

impl Form for Bound {
    type Value = Option<u16>;

    fn expected(&self) -> String {
        "a factor from 1.01 to 10 in hundredths, or 0 or \"off\" for no bound".to_owned()
    }

    fn example(&self) -> String {
        "1.25".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<Option<u16>, Refused> {
        if node.as_text().is_some_and(|text| text.trim() == "off") {
            return Ok(None);
        }
        let percent = node.as_number().ok_or_else(Refused::default)? * 100.0;
        let exact = (percent - percent.round()).abs() < 1e-6;
        match percent.round() {
            0.0 if exact => Ok(None),
            whole if exact && (101.0..=1000.0).contains(&whole) => Ok(Some(whole as u16)),
            // Bounds that add up to no more than what there is leave no room to move to.
            100.0 => Err(Refused::because("with 1 there is no room to move to")),
            _ => Err(Refused::default()),
        }
    }

    fn show(&self, value: &Option<u16>) -> String {
        value.map_or_else(
            || "0".to_owned(),
            |percent| (f64::from(percent) / 100.0).to_string(),
        )
    }

    fn schema(&self) -> serde_json::Value {
        json!({"anyOf": [{"const": 0}, {"const": "off"}, between(1.01, 10.0)]})
    }
}
