//! Circuit breakers as they were asked for.

use std::time::Duration;

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSpec {
    /// Failures in a row that open it, at least 1; 0 leaves the run out of account.
    pub failures: u16,
    /// Share of failures in the window that opens it, in percent, 1 to 100.
    pub ratio: u8,
    /// The window, in whole seconds, 1 s to 60 s.
    pub window: Duration,
    /// Requests in the window below which the share says nothing, at least 1.
    pub min_requests: u32,
    /// How long it stays open the first time.
    pub open: Duration,
    /// The longest that it stays open, however often its probes fail.
    pub max_open: Duration,
    /// Probes under way at one time while it is half-open, 1 to 255.
    pub probes: u8,
    /// Probes that must succeed to close it, 1 to 255.
    pub successes: u8,
}

impl Default for BreakerSpec {
    /// An instance's. Seven in a row are linkerd's default. The open time is short because a probe
    /// costs one request: who is down for long is for health checks and ejection to say, the
    /// breaker is there for the seconds until they do.
    fn default() -> Self {
        Self {
            failures: 7,
            ratio: 50,
            window: Duration::from_secs(10),
            min_requests: 20,
            open: Duration::from_secs(2),
            max_open: Duration::from_secs(60),
            probes: 1,
            successes: 2,
        }
    }
}

impl BreakerSpec {
    /// A service's when nobody says anything. It goes by the share alone: one client's bad requests
    /// easily make a run, and the price of opening is everybody's. Several probes at a time, because
    /// they go to different instances.
    #[must_use]
    pub const fn of_service() -> Self {
        Self {
            failures: 0,
            ratio: 50,
            window: Duration::from_secs(10),
            min_requests: 50,
            open: Duration::from_secs(2),
            max_open: Duration::from_secs(60),
            probes: 3,
            successes: 5,
        }
    }
}

/// What becomes of a request when the breakers of all instances that could take it are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AllOpen {
    /// It is refused, and told when the first probe is due.
    #[default]
    Refuse,
    /// It goes to one of them, by weight.
    Pass,
}

impl AllOpen {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Pass];

    /// The name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Pass => "pass",
        }
    }
}

/// The breakers of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakersSpec {
    /// The breaker of each instance; `None` when they are off.
    pub instance: Option<BreakerSpec>,
    /// The breaker of the service as a whole; `None` when it is off.
    pub service: Option<BreakerSpec>,
    /// When those of all instances are open.
    pub all_open: AllOpen,
    /// How many of the instances breakers may leave out at once, in percent, 1 to 100; ejected ones
    /// count. One may always be out, and so may all that serve nothing at all.
    pub max_out: u8,
}

impl Default for BreakersSpec {
    /// No breakers. Half of the instances, as for ejections: with more gone the rest has to do more
    /// than twice its work, and what fails more than half of a service is hardly its instances.
    fn default() -> Self {
        Self {
            instance: None,
            service: None,
            all_open: AllOpen::default(),
            max_out: 50,
        }
    }
}
