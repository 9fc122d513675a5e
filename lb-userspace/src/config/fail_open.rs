//! When services fail open.

use super::{
    forms::{Share, Switch},
    origin::Sourced,
    reader::Section,
};
use crate::model::FailOpenSpec;

/// The settings of failing open, each with its source.
#[derive(Clone, Debug)]
pub(super) struct FailOpenSettings {
    enabled: Sourced<bool>,
    threshold: Sourced<u32>,
}

impl FailOpenSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            enabled: Sourced::unset(true),
            threshold: Sourced::unset(FailOpenSpec::default().threshold),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: t.value("enabled", &Switch, &self.enabled),
            threshold: t.value("threshold", &Share, &self.threshold),
        }
    }

    /// When the service fails open, or `None` when it never does.
    pub(super) fn build(&self) -> Option<FailOpenSpec> {
        self.enabled.value.then_some(FailOpenSpec {
            threshold: self.threshold.value,
        })
    }
}
