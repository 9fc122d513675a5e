//! How fast new connections may begin, as it was asked for.

use std::num::NonZeroU32;

/// A rate of new connections, and how many may begin at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalRate {
    /// Connections in each second.
    pub per_second: NonZeroU32,
    /// Connections at once.
    pub burst: NonZeroU32,
}

/// Limits of new connections of a service's VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalsSpec {
    /// Of all sources together; `None` when there is no limit.
    pub service: Option<ArrivalRate>,
    /// Of each source; `None` when there is no limit.
    pub source: Option<ArrivalRate>,
    /// SYNs in a second above which TCP VIPs answer them by SYN cookies, 0: always; `None`: never. It has
    /// no effect where answers do not come back through lb.
    pub cookies_above: Option<u32>,
    /// Bits of an IPv4 address that tell sources apart.
    pub prefix_v4: u8,
    /// The same of an IPv6 address.
    pub prefix_v6: u8,
}

impl Default for ArrivalsSpec {
    /// No limits. A source is an IPv4 address, or what a site has of IPv6 for one of its links.
    fn default() -> Self {
        Self {
            service: None,
            source: None,
            cookies_above: None,
            prefix_v4: 32,
            prefix_v6: 64,
        }
    }
}

impl ArrivalsSpec {
    /// Whether anything is limited.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.service.is_some() || self.source.is_some()
    }
}
