//! Measured values of an instance: moving averages, histograms, kernel counters.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::{Learned, Timestamp};

/// Upper bounds of the latency histogram in microseconds; a last bucket takes the rest.
pub const LATENCY_BOUNDS_US: [u64; 16] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// A moving average of latencies that follows a rise at once and a fall slowly.
///
/// Peak EWMA as Finagle and linkerd compute it: a sample `x` above the decayed value `v` replaces
/// it; otherwise `v ← v(1-α) + xα` with `α = 1 - exp(-Δt/τ)`. Read at `T`, the value has decayed
/// by `exp(-(T-t)/τ)`, so an instance that nobody asks is forgiven with time.
///
/// Value and time share one 64-bit word (value in µs, time in ms), so readers never see a torn
/// pair. Two writers at once may lose one sample of the two; the average does not need it.
#[derive(Debug, Default)]
pub struct PeakEwma(AtomicU64);

impl PeakEwma {
    /// Time constant of the decay, linkerd's default.
    pub const TAU: Duration = Duration::from_secs(10);

    const PER_MS: f64 = 1.0 / Self::TAU.as_millis() as f64;

    /// The average at `now`; `None` before the first sample.
    #[must_use]
    pub fn get(&self, now: Timestamp) -> Option<Duration> {
        self.micros(now)
            .map(|micros| Duration::from_micros(micros as u64))
    }

    /// The average at `now` in microseconds, for those who ask at each request.
    #[must_use]
    pub fn micros(&self, now: Timestamp) -> Option<f64> {
        let (value, time) = Self::unpack(self.0.load(Ordering::Relaxed))?;
        Some(Self::decayed(value, time, now))
    }

    /// The average as the last sample left it, without the decay since: for comparing instances
    /// that are sampled at times of their own. `None` before the first sample.
    #[must_use]
    pub fn at_last_sample(&self) -> Option<Duration> {
        let (value, _) = Self::unpack(self.0.load(Ordering::Relaxed))?;
        Some(Duration::from_micros(u64::from(value)))
    }

    /// As [`Self::at_last_sample`]; `None` when that sample is older than `within`.
    #[must_use]
    pub fn sampled(&self, now: Timestamp, within: Duration) -> Option<Duration> {
        let (value, time) = Self::unpack(self.0.load(Ordering::Relaxed))?;
        let elapsed = (((now.0 / 1000) as u32).wrapping_sub(time) as i32).max(0);
        (u128::from(elapsed as u32) <= within.as_millis())
            .then(|| Duration::from_micros(u64::from(value)))
    }

    /// Adds a sample.
    pub fn add(&self, now: Timestamp, sample: Duration) {
        let x = sample.as_micros().min(u128::from(u32::MAX - 1)) as f64;
        let value = match Self::unpack(self.0.load(Ordering::Relaxed)) {
            None => x,
            Some((value, time)) => {
                let decayed = Self::decayed(value, time, now);
                if x >= decayed {
                    x
                } else {
                    let keep = Self::factor(time, now);
                    f64::from(value) * keep + x * (1.0 - keep)
                }
            }
        };
        // One is added so that a word of zero means "no sample".
        let word =
            ((value as u64 + 1).min(u64::from(u32::MAX)) << 32) | ((now.0 / 1000) & 0xffff_ffff);
        self.0.store(word, Ordering::Relaxed);
    }

    /// Adds a lower bound: it raises the average when it is above it, and else says nothing.
    pub fn add_at_least(&self, now: Timestamp, bound: Duration) {
        if self.get(now).is_none_or(|known| bound > known) {
            self.add(now, bound);
        }
    }

    /// Forgets every sample.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    const fn unpack(word: u64) -> Option<(u32, u32)> {
        match (word >> 32) as u32 {
            0 => None,
            value => Some((value - 1, word as u32)),
        }
    }

    fn factor(time_ms: u32, now: Timestamp) -> f64 {
        let elapsed = (now.0 / 1000) as u32;
        // A racing writer may have stored a slightly later time: that is no time at all.
        let elapsed = (elapsed.wrapping_sub(time_ms) as i32).max(0);
        let x = f64::from(elapsed) * Self::PER_MS;
        // Of an instance that is asked all the time: the error is below x²/2.
        if x < 0.01 { 1.0 - x } else { (-x).exp() }
    }

    fn decayed(value: u32, time_ms: u32, now: Timestamp) -> f64 {
        f64::from(value) * Self::factor(time_ms, now)
    }
}

/// Counts of latencies by [`LATENCY_BOUNDS_US`].
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl LatencyHistogram {
    /// Counts one latency.
    pub fn record(&self, latency_us: u64) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(latency_us, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for counter in self.buckets.iter().chain([&self.sum_us]) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The count in each bucket (not cumulative), the last one unbounded, and the sum in µs.
    #[must_use]
    pub fn read(&self) -> ([u64; LATENCY_BOUNDS_US.len() + 1], u64) {
        let counts = std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed));
        (counts, self.sum_us.load(Ordering::Relaxed))
    }
}

/// What the kernel has counted for an instance, as last read from the maps.
#[derive(Debug, Default)]
pub struct KernelTraffic {
    /// Packets from clients.
    pub packets_in: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Packets from instances, where they come back through lb.
    pub packets_out: AtomicU64,
    /// Bytes from instances, where they come back through lb.
    pub bytes_out: AtomicU64,
    /// Connections begun.
    pub connections: AtomicU64,
    /// Packets of its connections, in either direction, that were not forwarded; a relay sees none.
    pub dropped: AtomicU64,
    /// Connections open now, of those that are remembered.
    pub live: AtomicU64,
    /// Whether there may be connections that are not remembered.
    pub owns: AtomicBool,
    /// Whether a relay has counted all that, not the kernel. Its connections are in flight, too.
    pub relayed: AtomicBool,
}

/// How many health checks an instance has passed and failed since it was added.
#[derive(Debug, Default)]
pub struct CheckCounts {
    /// Checks that found what was expected.
    pub passed: AtomicU64,
    /// Checks that found anything else.
    pub failed: AtomicU64,
}

impl CheckCounts {
    /// Forgets all of them.
    pub fn reset(&self) {
        self.passed.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
    }

    /// Counts one check.
    pub fn count(&self, passed: bool) {
        let counter = if passed { &self.passed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the control plane derives from measurements once a second.
///
/// The success rate stands in front, where picks find it (see [`super::Instance`]).
#[derive(Debug)]
#[repr(C)]
pub struct Measured {
    /// Success rate of late, 0 to 1, as bits of an `f32`.
    success: AtomicU32,
    /// Health score, 0 to 1, as bits of an `f32`.
    score: AtomicU32,
    /// What the algorithm's measurements make of the weight.
    pub learned: Learned,
    /// What the instance's own reports make of the weight.
    pub reported: Learned,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            score: AtomicU32::new(1.0f32.to_bits()),
            success: AtomicU32::new(1.0f32.to_bits()),
            learned: Learned::default(),
            reported: Learned::default(),
        }
    }
}

impl Measured {
    /// The health score, 0 to 1; 1 before anything was measured.
    #[must_use]
    pub fn score(&self) -> f32 {
        f32::from_bits(self.score.load(Ordering::Relaxed))
    }

    /// Sets the health score; kept within 0 to 1.
    pub fn set_score(&self, score: f32) {
        self.score
            .store(score.clamp(0.0, 1.0).to_bits(), Ordering::Relaxed);
    }

    /// The share of requests of the last seconds that succeeded, 0 to 1; 1 without requests.
    #[must_use]
    pub fn success(&self) -> f32 {
        f32::from_bits(self.success.load(Ordering::Relaxed))
    }

    /// Forgets what was learned of the weight.
    pub fn forget(&self) {
        self.learned.reset();
        self.reported.reset();
    }

    /// Sets the recent success rate; kept within 0 to 1.
    pub fn set_success(&self, rate: f32) {
        self.success
            .store(rate.clamp(0.0, 1.0).to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_peak_at_once_and_forgets_it_with_tau() {
        let ewma = PeakEwma::default();
        let start = Timestamp(1_000_000);
        assert_eq!(ewma.get(start), None);
        ewma.add(start, Duration::from_millis(10));
        assert_eq!(ewma.get(start), Some(Duration::from_millis(10)));
        ewma.add(start, Duration::from_millis(100));
        assert_eq!(ewma.get(start), Some(Duration::from_millis(100)));
        let later = ewma.get(start + PeakEwma::TAU).unwrap();
        assert_eq!(ewma.at_last_sample(), Some(Duration::from_millis(100)));
        assert!((36..=37).contains(&later.as_millis()), "{later:?}");
        ewma.add(start + PeakEwma::TAU, Duration::ZERO);
        let fallen = ewma.get(start + PeakEwma::TAU).unwrap();
        assert!((36..=37).contains(&fallen.as_millis()), "{fallen:?}");
    }

    #[test]
    fn a_lower_bound_raises_only() {
        let ewma = PeakEwma::default();
        let now = Timestamp(1_000_000);
        ewma.add_at_least(now, Duration::from_millis(10));
        assert_eq!(ewma.get(now), Some(Duration::from_millis(10)));
        ewma.add_at_least(now, Duration::from_millis(1));
        assert_eq!(ewma.get(now), Some(Duration::from_millis(10)));
        ewma.add_at_least(now, Duration::from_millis(20));
        assert_eq!(ewma.get(now), Some(Duration::from_millis(20)));
    }

    #[test]
    fn histogram_puts_bounds_into_their_own_bucket() {
        let histogram = LatencyHistogram::default();
        for us in [0, 250, 251, 30_000_000, 30_000_001] {
            histogram.record(us);
        }
        let (counts, sum) = histogram.read();
        assert_eq!((counts[0], counts[1], counts[15], counts[16]), (2, 1, 1, 1));
        assert_eq!(sum, 60_000_502);
    }
}
