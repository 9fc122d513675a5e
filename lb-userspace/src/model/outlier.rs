//! Which instances stand out for the worse, how they are taken out, and what holds when too few
//! are left: what a service asks for.

use std::time::Duration;

/// What noticed that an instance stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detector {
    /// It failed several requests in a row.
    ConsecutiveFailures,
    /// It fails more requests than the others do.
    SuccessRate,
    /// Its answers take longer than the others' do.
    Latency,
}

impl Detector {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::ConsecutiveFailures, Self::SuccessRate, Self::Latency];

    /// The name in API, log and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

/// When instances of a service are ejected, for how long, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierSpec {
    /// Failures in a row that eject an instance, 0 to 1000; 0 is off.
    pub consecutive_failures: u32,
    /// Success rate over the window below which an instance is ejected when the others do better,
    /// in millionths, 0 to 1,000,000; 0 is off.
    pub success_rate: u32,
    /// Standard deviations by which a success rate must be below the mean of five instances or
    /// more, in hundredths; 0 is off.
    pub deviations: u32,
    /// Multiple of the other instances' median latency that ejects an instance, in hundredths; 0
    /// is off.
    pub latency_factor: u32,
    /// Requests within the window without which rates and latencies of an instance say nothing, at
    /// least 1.
    pub min_requests: u32,
    /// What rates and latencies are of: whole seconds, 1 to 60.
    pub window: Duration,
    /// How many of the service's instances may be ejected at once, in percent, 1 to 100. One may
    /// always be, as long as another one serves.
    pub max_ejected: u8,
    /// Length of the first ejection; the n-th takes n times as long.
    pub base_time: Duration,
    /// The longest ejection, but for a jitter of up to a tenth.
    pub max_time: Duration,
}

impl Default for OutlierSpec {
    /// Five failures in a row, 30 s for each time up to 5 min, 1.9 standard deviations and 100
    /// requests in 10 s are Envoy's. Half of the instances instead of its tenth, because most
    /// services have few, and nobody is ejected for what all do. Latency is off: slower hardware is
    /// a matter of weights.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate: 800_000,
            deviations: 190,
            latency_factor: 0,
            min_requests: 100,
            window: Duration::from_secs(10),
            max_ejected: 50,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
        }
    }
}

/// When a service's traffic goes to instances that should not have any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailOpenSpec {
    /// Share of the wanted instances that must be able to serve, in millionths, 0 to 1,000,000. At
    /// 0 only a service of which none is left fails open.
    pub threshold: u32,
}
