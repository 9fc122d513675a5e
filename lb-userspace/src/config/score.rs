//! What health scores are made of.

use std::time::Duration;

use super::{
    forms::{Share, WholeSeconds},
    origin::Sourced,
    reader::Section,
};
use crate::model::{ScoreSpec, history::LONGEST_WINDOW};

const WINDOW: WholeSeconds = WholeSeconds {
    min: 2,
    max: LONGEST_WINDOW,
    example: "30s",
};

/// The settings of a score, each with its source.
#[derive(Clone, Debug)]
pub(super) struct ScoreSettings {
    success: Sourced<u32>,
    latency: Sourced<u32>,
    load: Sourced<u32>,
    trend: Sourced<u32>,
    window: Sourced<Duration>,
}

impl ScoreSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = ScoreSpec::default();
        Self {
            success: Sourced::unset(model.success),
            latency: Sourced::unset(model.latency),
            load: Sourced::unset(model.load),
            trend: Sourced::unset(model.trend),
            window: Sourced::unset(model.window),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        let read = Self {
            success: t.value("success", &Share, &self.success),
            latency: t.value("latency", &Share, &self.latency),
            load: t.value("load", &Share, &self.load),
            trend: t.value("trend", &Share, &self.trend),
            window: t.value("window", &WINDOW, &self.window),
        };
        let parts = [&read.success, &read.latency, &read.load, &read.trend];
        if parts.iter().all(|part| part.value == 0) {
            let place = t.itself();
            let expected = "one of success, latency, load and trend above 0";
            t.reader()
                .contradiction(&place, "0 for all of them", expected);
        }
        read
    }

    /// What the model holds.
    pub(super) fn build(&self) -> ScoreSpec {
        ScoreSpec {
            success: self.success.value,
            latency: self.latency.value,
            load: self.load.value,
            trend: self.trend.value,
            window: self.window.value,
        }
    }
}
