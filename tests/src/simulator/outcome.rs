//! What a run has shown.

use lb_userspace::model::Algorithm;

use super::scenario::Scenario;

/// Seconds in which an instance must get its share, wherever they begin.
pub const FAIR_WINDOW: usize = 30;

/// Everything that was counted in the runs of a scenario under an algorithm. Requests count by the
/// time of their arrival, those of the warm-up not at all.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The algorithm.
    pub algorithm: Algorithm,
    warmup: u64,
    seconds: f64,
    runs: u32,
    arrived: u64,
    failed: u64,
    /// Of requests that were served: second of arrival, latency in microseconds.
    served: Vec<(u16, u32)>,
    /// What was sent to each machine in each second, the warm-up included.
    sent: Vec<Vec<u32>>,
    machines: usize,
}

/// The figures that are held against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Mean latency in milliseconds, of what was served.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Share of the requests that failed, 0 to 1.
    pub errors: f64,
    /// Requests served a second.
    pub goodput: f64,
    /// Least and greatest share of an instance among the scenario's equals in any
    /// [`FAIR_WINDOW`], as a multiple of the fair one; nothing when there are fewer than two.
    pub shares: Option<(f64, f64)>,
    /// Share of all requests that the scenario's culprit got from two seconds after its beginning
    /// until it ends, 0 to 1.
    pub culprit: Option<f64>,
}

impl Figures {
    /// Nothing counted.
    #[must_use]
    pub fn new(scenario: &Scenario, algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            warmup: (scenario.warmup * 1e6) as u64,
            seconds: scenario.seconds - scenario.warmup,
            runs: 1,
            arrived: 0,
            failed: 0,
            served: Vec::new(),
            sent: Vec::new(),
            machines: scenario.instances.len(),
        }
    }

    pub(super) fn arrived(&mut self, now: u64) {
        self.arrived += u64::from(now >= self.warmup);
    }

    pub(super) fn served(&mut self, arrived: u64, now: u64) {
        if arrived >= self.warmup {
            let latency = u32::try_from(now - arrived).unwrap_or(u32::MAX);
            self.served.push(((arrived / 1_000_000) as u16, latency));
        }
    }

    pub(super) fn failed(&mut self, arrived: u64) {
        self.failed += u64::from(arrived >= self.warmup);
    }

    pub(super) fn sent(&mut self, now: u64, machine: usize) {
        let second = (now / 1_000_000) as usize;
        while self.sent.len() <= second {
            self.sent.push(vec![0; self.machines]);
        }
        self.sent[second][machine] += 1;
    }

    /// What was sent to a machine in a second.
    #[must_use]
    pub fn sent_to(&self, second: usize, machine: usize) -> u32 {
        self.sent.get(second).map_or(0, |sent| sent[machine])
    }

    /// The share of a machine in all that was sent from one second to before another, 0 to 1.
    #[must_use]
    pub fn share(&self, machine: usize, from: usize, to: usize) -> f64 {
        let window = self.sent.iter().take(to).skip(from);
        let (own, all) = window.fold((0u64, 0u64), |(own, all), sent| {
            let sum: u32 = sent.iter().sum();
            (own + u64::from(sent[machine]), all + u64::from(sum))
        });
        own as f64 / all.max(1) as f64
    }

    /// Adds another run of the same scenario under the same algorithm with another seed. Counts by
    /// the second stay those of the first run.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.runs += other.runs;
        self.arrived += other.arrived;
        self.failed += other.failed;
        self.served.extend(other.served);
        self
    }

    /// The 99th percentile of each second in milliseconds; nothing for one without requests.
    #[must_use]
    pub fn p99_by_second(&self) -> Vec<Option<f64>> {
        let mut seconds: Vec<Vec<u32>> = vec![Vec::new(); self.sent.len()];
        for (second, latency) in &self.served {
            if let Some(latencies) = seconds.get_mut(usize::from(*second)) {
                latencies.push(*latency);
            }
        }
        let p99 = |mut latencies: Vec<u32>| {
            latencies.sort_unstable();
            (!latencies.is_empty()).then(|| percentile(&latencies, 0.99))
        };
        seconds.into_iter().map(p99).collect()
    }

    /// The figures of `scenario`, which this must be of.
    #[must_use]
    pub fn summary(&self, scenario: &Scenario) -> Summary {
        let mut latencies: Vec<u32> = self.served.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        let sum: f64 = latencies.iter().copied().map(f64::from).sum();
        let served = latencies.len() as f64;
        let culprit = scenario.culprit.map(|(machine, from)| {
            let until = scenario.seconds as usize;
            self.share(machine, from.ceil() as usize + 2, until)
        });
        Summary {
            mean: sum / served.max(1.0) / 1000.0,
            p50: percentile(&latencies, 0.5),
            p99: percentile(&latencies, 0.99),
            p999: percentile(&latencies, 0.999),
            errors: self.failed as f64 / self.arrived.max(1) as f64,
            goodput: served / (self.seconds * f64::from(self.runs)),
            shares: self.fairness(scenario),
            culprit,
        }
    }

    /// Least and greatest share of any of the equals in any window.
    fn fairness(&self, scenario: &Scenario) -> Option<(f64, f64)> {
        let equals = &scenario.equals;
        let (from, to) = (scenario.warmup.ceil() as usize, scenario.seconds as usize);
        let seconds = self.sent.get(from..to.min(self.sent.len()))?;
        if equals.len() < 2 || seconds.len() < FAIR_WINDOW {
            return None;
        }
        let mut sums: Vec<u64> = vec![0; equals.len()];
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for (i, second) in seconds.iter().enumerate() {
            for (sum, machine) in sums.iter_mut().zip(equals) {
                *sum += u64::from(second[*machine]);
                if i >= FAIR_WINDOW {
                    *sum -= u64::from(seconds[i - FAIR_WINDOW][*machine]);
                }
            }
            let all: u64 = sums.iter().sum();
            if i + 1 >= FAIR_WINDOW && all > 0 {
                let fair = all as f64 / equals.len() as f64;
                for sum in &sums {
                    least = least.min(*sum as f64 / fair);
                    most = most.max(*sum as f64 / fair);
                }
            }
        }
        Some((least, most))
    }
}

/// In milliseconds; 0 of nothing.
fn percentile(sorted: &[u32], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(rank.min(last))
        .map_or(0.0, |micros| f64::from(*micros) / 1000.0)
}
