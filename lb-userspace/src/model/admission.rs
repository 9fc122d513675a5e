//! What may enter a service, and what must wait, as it was asked for.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{ArrivalsSpec, MostConnections};

/// The most requests at once, and the most connections.
///
/// A request counts from the moment that an instance is chosen for it to the end of its answer; a
/// tunnel counts until it is closed. A connection counts as long as it is open, in use or not. All workers count
/// together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSpec {
    /// Of all instances of the service together; `None` when there is no limit.
    pub service: Option<NonZeroU32>,
    /// Of each instance that has no limit of its own; `None` when there is no limit.
    pub instance: Option<NonZeroU32>,
    /// Connections to all instances of the service together; `None` when there is no limit. The
    /// proxy's and the kernel's are counted apart.
    pub connections: Option<NonZeroU32>,
    /// Connections to each instance that has no limit of its own; `None` when there is no limit.
    pub instance_connections: Option<NonZeroU32>,
    /// How fast connections may begin, of VIPs.
    pub arrivals: ArrivalsSpec,
}

/// A limit of a service's requests at once that follows what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencySpec {
    /// The limit never falls below this, at least 1.
    pub min: u32,
    /// The limit never rises above this.
    pub max: u32,
    /// How much above the latency without queueing is no sign of overload, in percent of it.
    pub tolerance: u8,
}

impl Default for ConcurrencySpec {
    /// Between 10 and 1000; a quarter more latency is tolerated (Envoy's buffer).
    fn default() -> Self {
        Self {
            min: 10,
            max: 1000,
            tolerance: 25,
        }
    }
}

/// The queue before a service whose instances are full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// The most that may wait, at least 1.
    pub size: u32,
    /// The longest wait.
    pub timeout: Duration,
    /// The wait that is acceptable for longer than [`QueueSpec::interval`].
    pub target: Duration,
    /// How long everybody has to wait for more than the target until the queue counts as standing.
    pub interval: Duration,
    /// The field of a request that tells its [`Priority`], in lower case; no field does when
    /// `None`.
    pub priority_header: Option<String>,
}

/// How many priorities there are.
pub const PRIORITIES: usize = 8;

/// How urgent a request is: 0 comes first, 7 last (the urgency of RFC 9218, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// 3, as RFC 9218 says.
    pub const DEFAULT: Self = Self(3);

    /// The priority of that number; `None` above 7.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < PRIORITIES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number as a position.
    #[must_use]
    pub const fn lane(self) -> usize {
        self.0 as usize
    }

    /// What a field says: a number alone, or the urgency `u` of a `Priority` field.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digit = |text: &[u8]| match text {
            [digit] => Self::new(digit.wrapping_sub(b'0')),
            _ => None,
        };
        let mut parts = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        digit(text.trim_ascii()).or_else(|| parts.find_map(|part| digit(part.strip_prefix(b"u=")?)))
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// No limit of requests at once. See [`super::Member::most`].
pub const UNLIMITED: u32 = u32::MAX;

/// Counts one more in `counter`, unless that would be more than `most`; exact, however many threads
/// do so at once. Whether the caller may go on.
///
/// Adding first and taking it back when it was too much would let a request that is refused keep
/// another one out for a moment, although there is room for it.
#[must_use]
pub fn claim(counter: &AtomicU32, most: u32) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    // The counter guards no other memory. Whoever waits for it to fall orders that with a fence.
    let claimed = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    claimed.is_ok()
}

impl LimitSpec {
    /// The most requests at once of an instance whose own limit is `own` (0 for none) and that has `share`
    /// percent of its weight; [`UNLIMITED`] when there is none. An instance that recovers, or
    /// warms up, may be asked as much less at once as it is asked less: its limit is the share of
    /// it, rounded up.
    #[must_use]
    pub fn of_instance(&self, own: Option<u32>, share: u8) -> u32 {
        let Some(limit) = own.map_or(self.instance, NonZeroU32::new) else {
            return UNLIMITED;
        };
        let scaled = (u64::from(limit.get()) * u64::from(share)).div_ceil(100);
        // At most the limit itself, which is a u32.
        u32::try_from(scaled).unwrap_or(UNLIMITED).max(1)
    }

    /// The most connections to an instance whose own limit is `own` (0 for none), and to the
    /// service. What recovers has the whole of it: connections cost an instance no work, and how
    /// many there may be is a matter of its files and memory.
    #[must_use]
    pub fn connections(&self, own: Option<u32>) -> MostConnections {
        let number = |limit: Option<NonZeroU32>| limit.map_or(UNLIMITED, NonZeroU32::get);
        MostConnections {
            instance: number(own.map_or(self.instance_connections, NonZeroU32::new)),
            service: number(self.connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_its_own_limit_or_that_of_all() {
        let of = |limit: Option<u32>, own: Option<u32>, share| {
            let spec = LimitSpec {
                instance: limit.and_then(NonZeroU32::new),
                ..LimitSpec::default()
            };
            spec.of_instance(own, share)
        };
        assert_eq!(of(None, None, 100), UNLIMITED);
        assert_eq!(of(None, None, 10), UNLIMITED);
        assert_eq!(of(Some(8), None, 100), 8);
        assert_eq!(of(Some(8), Some(50), 100), 50);
        assert_eq!(of(Some(8), Some(0), 100), UNLIMITED);
        assert_eq!(of(Some(u32::MAX - 1), None, 100), u32::MAX - 1);
    }

    #[test]
    fn connections_are_limited_by_what_is_nearest() {
        let spec = LimitSpec {
            connections: NonZeroU32::new(9),
            instance_connections: NonZeroU32::new(4),
            ..LimitSpec::default()
        };
        let numbers = |spec: LimitSpec, own| {
            let most = spec.connections(own);
            (most.instance, most.service)
        };
        assert_eq!(numbers(spec, None), (4, 9));
        assert_eq!(numbers(spec, Some(7)), (7, 9));
        assert_eq!(numbers(spec, Some(0)), (UNLIMITED, 9));
        assert!(!LimitSpec::default().connections(None).is_limited());
    }

    #[test]
    fn priorities_are_numbers_or_urgencies() {
        let read = |text: &str| Priority::parse(text.as_bytes()).map(Priority::number);
        for (text, number) in [
            ("0", 0),
            (" 7 ", 7),
            ("u=2", 2),
            ("i, u=5", 5),
            ("u=1,i", 1),
        ] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in ["", "8", "-1", "10", "u=8", "i", "u=", "high"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn an_instance_that_recovers_has_its_share_of_the_limit_and_never_nothing() {
        let spec = LimitSpec {
            instance: NonZeroU32::new(25),
            ..LimitSpec::default()
        };
        assert_eq!(spec.of_instance(None, 10), 3);
        assert_eq!(spec.of_instance(None, 50), 13);
        assert_eq!(spec.of_instance(None, 0), 1);
        assert_eq!(spec.of_instance(Some(1), 10), 1);
    }
}
