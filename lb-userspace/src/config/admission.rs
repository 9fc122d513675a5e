//! What may enter a service, and what must wait.

use std::num::NonZeroU32;

use super::{forms::Number, origin::Sourced, reader::Section};
use crate::model::LimitSpec;

/// Requests at once; 0 is no limit.
const REQUESTS: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 100,
};

/// The most requests at once, each setting with its source.
#[derive(Clone, Debug)]
pub(super) struct LimitSettings {
    service: Sourced<u32>,
    instance: Sourced<u32>,
}

impl LimitSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            service: Sourced::unset(0),
            instance: Sourced::unset(0),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            service: t.value("max_requests", &REQUESTS, &self.service),
            instance: t.value("instance_max_requests", &REQUESTS, &self.instance),
        }
    }

    pub(super) fn build(&self) -> LimitSpec {
        LimitSpec {
            service: NonZeroU32::new(self.service.value),
            instance: NonZeroU32::new(self.instance.value),
        }
    }
}

/// The limit of one instance. Zero lifts the one that the service has for all.
pub(super) fn read_own(t: &mut Section<'_, '_>) -> Option<u32> {
    let unset = Sourced::unset(None);
    let own = t.optional("max_requests", &REQUESTS, &unset, "the service's");
    own.value
}
