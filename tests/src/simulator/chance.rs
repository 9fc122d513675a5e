//! Chance: how much work a request is, and when the next one comes.

use fastrand::Rng;

/// How much work a request is, in milliseconds of one slot at full speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Always the same.
    Constant(f64),
    /// Memoryless, with this mean.
    Exponential(f64),
    /// Logarithms are normal with deviation `sigma`; `mean` is that of the work itself.
    Lognormal {
        /// Mean work.
        mean: f64,
        /// Deviation of the logarithm.
        sigma: f64,
    },
    /// Two kinds, each memoryless.
    Bimodal {
        /// Mean of the common kind.
        short: f64,
        /// Mean of the rare kind.
        long: f64,
        /// How much of all is of the rare kind, 0 to 1.
        share: f64,
    },
    /// Pareto's law cut off at both ends: heavy, but with a mean that a run can find.
    Heavy {
        /// The least.
        least: f64,
        /// The most.
        most: f64,
        /// Exponent of the tail; the smaller the heavier, not 1.
        alpha: f64,
    },
}

impl Work {
    /// The mean in milliseconds.
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::Lognormal { mean, .. } => mean,
            Self::Bimodal { short, long, share } => short * (1.0 - share) + long * share,
            Self::Heavy { least, most, alpha } => {
                let cut = 1.0 - (least / most).powf(alpha);
                let whole = least.powf(alpha) * alpha / (alpha - 1.0);
                whole * (least.powf(1.0 - alpha) - most.powf(1.0 - alpha)) / cut
            }
        }
    }

    /// Draws one.
    pub fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant(mean) => mean,
            Self::Exponential(mean) => exponential(rng, mean),
            Self::Lognormal { mean, sigma } => {
                mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp()
            }
            Self::Bimodal { short, long, share } => {
                let mean = if rng.f64() < share { long } else { short };
                exponential(rng, mean)
            }
            Self::Heavy { least, most, alpha } => {
                let cut = 1.0 - (least / most).powf(alpha);
                least * (1.0 - rng.f64() * cut).powf(-1.0 / alpha)
            }
        }
    }
}

/// Memoryless with this mean.
pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -(1.0 - rng.f64()).ln() * mean
}

/// Standard normal (Box and Muller, 1958).
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// A request as it arrives: all that chance decides about it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Microseconds since the one before.
    pub gap: u64,
    /// Work in microseconds at full speed.
    pub work: f64,
    /// Hash of its key.
    pub key: u64,
    /// Which proxy it comes to.
    pub proxy: usize,
    /// Its luck, 0 to 1: below an instance's rate of failures it fails.
    pub luck: f64,
}

/// The requests of a run, one after the other.
#[derive(Debug)]
pub struct Stream {
    rng: Rng,
    work: Work,
    proxies: usize,
    keys: u64,
}

impl Stream {
    /// Requests of so much work at so many proxies, with so many different keys.
    #[must_use]
    pub fn new(seed: u64, work: Work, proxies: usize, keys: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            work,
            proxies: proxies.max(1),
            keys: keys.max(1),
        }
    }

    /// The next one, when so many come a second (above 0) on average.
    pub fn next(&mut self, rate: f64) -> Arrival {
        Arrival {
            gap: exponential(&mut self.rng, 1e6 / rate) as u64,
            work: self.work.draw(&mut self.rng) * 1000.0,
            key: self.rng.u64(0..self.keys),
            proxy: self.rng.usize(0..self.proxies),
            luck: self.rng.f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_what_they_say() {
        for work in [
            Work::Constant(3.0),
            Work::Exponential(5.0),
            Work::Lognormal {
                mean: 5.0,
                sigma: 1.0,
            },
            Work::Bimodal {
                short: 2.0,
                long: 50.0,
                share: 0.1,
            },
            Work::Heavy {
                least: 1.0,
                most: 500.0,
                alpha: 1.3,
            },
        ] {
            let mut rng = Rng::with_seed(7);
            let count = 200_000;
            let sum: f64 = (0..count).map(|_| work.draw(&mut rng)).sum();
            let mean = sum / f64::from(count);
            assert!((mean / work.mean() - 1.0).abs() < 0.03, "{work:?}: {mean}");
        }
    }
}
