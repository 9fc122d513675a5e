//! What may enter a service, and what must wait.

use std::num::NonZeroU32;

use super::{forms::Number, origin::Sourced, reader::Section};
use crate::model::LimitSpec;

/// Requests at once, or connections; 0 is no limit.
const LIMIT: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 100,
};

/// The most requests at once and the most connections, each setting with its source.
#[derive(Clone, Debug)]
pub(super) struct LimitSettings {
    service: Sourced<u32>,
    instance: Sourced<u32>,
    connections: Sourced<u32>,
    instance_connections: Sourced<u32>,
}

impl LimitSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            service: Sourced::unset(0),
            instance: Sourced::unset(0),
            connections: Sourced::unset(0),
            instance_connections: Sourced::unset(0),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            service: t.value("max_requests", &LIMIT, &self.service),
            instance: t.value("instance_max_requests", &LIMIT, &self.instance),
            connections: t.value("max_connections", &LIMIT, &self.connections),
            instance_connections: t.value(
                "instance_max_connections",
                &LIMIT,
                &self.instance_connections,
            ),
        }
    }

    pub(super) fn build(&self) -> LimitSpec {
        LimitSpec {
            service: NonZeroU32::new(self.service.value),
            instance: NonZeroU32::new(self.instance.value),
            connections: NonZeroU32::new(self.connections.value),
            instance_connections: NonZeroU32::new(self.instance_connections.value),
        }
    }
}

/// The limits of one instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnLimits {
    /// Requests at once; as the service says when `None`.
    pub(super) requests: Option<u32>,
    /// Connections; as the service says when `None`.
    pub(super) connections: Option<u32>,
}

/// The limits of one instance. Zero lifts the one that the service has for all.
pub(super) fn read_own(t: &mut Section<'_, '_>) -> OwnLimits {
    let unset = Sourced::unset(None);
    let mut own = |name| t.optional(name, &LIMIT, &unset, "the service's").value;
    OwnLimits {
        requests: own("max_requests"),
        connections: own("max_connections"),
    }
}
