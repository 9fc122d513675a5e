//! What a health score is made of.

use std::time::Duration;

/// Weights of the parts of a health score, and the window that it looks at.
///
/// Weights are in millionths and count in relation to each other: only their shares of the sum
/// matter, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreSpec {
    /// Of the success rate.
    pub success: u32,
    /// Of the latency against the service's median.
    pub latency: u32,
    /// Of the load against the service's average.
    pub load: u32,
    /// Of the trend of errors.
    pub trend: u32,
    /// The window in whole seconds, 2 s to 1 h. Up to a minute it is exact to the second; a longer
    /// one is counted in minutes, the running one included.
    pub window: Duration,
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self {
            success: 400_000,
            latency: 300_000,
            load: 200_000,
            trend: 100_000,
            window: Duration::from_secs(10),
        }
    }
}
