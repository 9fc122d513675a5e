//! Slow start: how an instance that joins a running service gets its share.

use std::time::Duration;

/// How the share of an instance that joins grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStartSpec {
    /// From the first request to the whole share.
    pub window: Duration,
    /// Exponent's inverse in hundredths, 1 to 10,000: 100 grows linearly, more is faster early.
    pub aggression: u32,
    /// Share of its weight that an instance begins with, in percent, 1 to 100.
    pub min: u8,
}

impl Default for SlowStartSpec {
    /// Linear from 10 %, as Envoy; 30 s.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            aggression: 100,
            min: 10,
        }
    }
}
