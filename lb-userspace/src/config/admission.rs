//! What may enter a service, and what must wait.

use std::num::NonZeroU32;

use super::{forms::Number, origin::Sourced, reader::Section};
use crate::model::{ArrivalRate, ArrivalsSpec, LimitSpec};

/// Requests at once, or connections; 0 is no limit.
const LIMIT: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 100,
};

/// New connections of a source, each second or at once; 0 is no limit.
const OF_SOURCE: Number<u32> = Number {
    min: 0,
    max: 10_000,
    example: 20,
};

const COOKIES_ABOVE: &str = "syn_cookies_above";

/// SYNs each second; 0 is always.
const COOKIES: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 5000,
};

/// Bits of an address that tell sources apart.
const fn prefix(min: u8, max: u8) -> Number<u8> {
    Number {
        min,
        max,
        example: max,
    }
}

/// The most requests at once and the most connections, each setting with its source.
#[derive(Clone, Debug)]
pub(super) struct LimitSettings {
    service: Sourced<u32>,
    instance: Sourced<u32>,
    connections: Sourced<u32>,
    instance_connections: Sourced<u32>,
    arrivals: Sourced<u32>,
    arrivals_burst: Sourced<u32>,
    source_arrivals: Sourced<u32>,
    source_arrivals_burst: Sourced<u32>,
    cookies: Sourced<Option<u32>>,
    /// Whether the table itself says it, not what holds for all.
    has_cookies: bool,
    prefix_v4: Sourced<u8>,
    prefix_v6: Sourced<u8>,
}

impl LimitSettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        Self {
            service: Sourced::unset(0),
            instance: Sourced::unset(0),
            connections: Sourced::unset(0),
            instance_connections: Sourced::unset(0),
            arrivals: Sourced::unset(0),
            arrivals_burst: Sourced::unset(0),
            source_arrivals: Sourced::unset(0),
            source_arrivals_burst: Sourced::unset(0),
            cookies: Sourced::unset(None),
            has_cookies: false,
            prefix_v4: Sourced::unset(ArrivalsSpec::default().prefix_v4),
            prefix_v6: Sourced::unset(ArrivalsSpec::default().prefix_v6),
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
            arrivals: t.value("new_connections", &LIMIT, &self.arrivals),
            arrivals_burst: t.value("new_connections_burst", &LIMIT, &self.arrivals_burst),
            source_arrivals: t.value("source_new_connections", &OF_SOURCE, &self.source_arrivals),
            source_arrivals_burst: t.value(
                "source_new_connections_burst",
                &OF_SOURCE,
                &self.source_arrivals_burst,
            ),
            has_cookies: t.has(COOKIES_ABOVE),
            cookies: t.optional(COOKIES_ABOVE, &COOKIES, &self.cookies, "never"),
            prefix_v4: t.value("source_prefix_v4", &prefix(8, 32), &self.prefix_v4),
            prefix_v6: t.value("source_prefix_v6", &prefix(16, 128), &self.prefix_v6),
        }
    }

    /// The setting by which SYNs are answered by cookies, where it was made in this very table: as a default
    /// it is for those services that can.
    pub(super) fn own_cookies(&self) -> Option<Sourced<u32>> {
        let above = self.cookies.value.filter(|_| self.has_cookies)?;
        Some(self.cookies.with(above))
    }

    pub(super) fn build(&self) -> LimitSpec {
        LimitSpec {
            service: NonZeroU32::new(self.service.value),
            instance: NonZeroU32::new(self.instance.value),
            connections: NonZeroU32::new(self.connections.value),
            instance_connections: NonZeroU32::new(self.instance_connections.value),
            arrivals: ArrivalsSpec {
                service: rate(self.arrivals.value, self.arrivals_burst.value),
                source: rate(self.source_arrivals.value, self.source_arrivals_burst.value),
                cookies_above: self.cookies.value,
                prefix_v4: self.prefix_v4.value,
                prefix_v6: self.prefix_v6.value,
            },
        }
    }
}

/// A rate; without a burst of its own as many may begin at once as in a second.
fn rate(per_second: u32, burst: u32) -> Option<ArrivalRate> {
    let per_second = NonZeroU32::new(per_second)?;
    let burst = NonZeroU32::new(burst).unwrap_or(per_second);
    Some(ArrivalRate { per_second, burst })
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
