//! What a choice costs: picking an instance and the bookkeeping of one request.
//!
//! A request here is what it is to the balancing in the HTTP proxy: the clock is read, an instance
//! is picked, the request begins there, is judged and ends. As many requests are in flight as there
//! are instances, the oldest one ends before the next begins, and so every instance's counters are
//! touched in turn, as far from the caches as the number of instances makes them. What is counted is
//! time on a processor, which others that want it too do not make longer.

use std::{collections::VecDeque, hint::black_box, process};

use anyhow::{Context as _, Result};
use lb_userspace::{
    balance::{Choice, Random, Tried},
    model::{Algorithm, Clock, Outcome},
    registry::{Change, Registry},
};

use super::{
    cpu,
    report::{Comparison, Series, Spread},
};
use crate::simulator::{machine::Spec, proxy, scenario::Scenario};

/// Numbers of instances.
pub const SIZES: [usize; 3] = [3, 100, 1000];

/// Requests in a measurement.
const REQUESTS: u32 = 400_000;

/// Measures each algorithm at each of [`SIZES`], `rounds` times.
///
/// # Errors
/// When the registry refuses a service.
pub fn run(rounds: u32, progress: &mut dyn FnMut(&str)) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for size in SIZES {
        let mut subjects = Vec::new();
        for algorithm in Algorithm::ALL {
            subjects.push(Subject::new(algorithm, size)?);
        }
        let mut series: Vec<Series> = Algorithm::ALL
            .iter()
            .map(|algorithm| Series {
                name: algorithm.to_string(),
                values: Vec::new(),
            })
            .collect();
        for round in 0..rounds as usize {
            for step in 0..subjects.len() {
                // Each round begins with another one, so that none always runs first.
                let position = (step + round) % subjects.len();
                let nanoseconds = subjects[position].measure()?;
                if round > 0 || rounds == 1 {
                    series[position].values.push(nanoseconds);
                }
            }
        }
        progress(&format!("picking among {size}: {rounds} rounds"));
        comparisons.push(Comparison {
            title: format!("pick, begin, judge and end among {size} instances"),
            unit: "ns per request",
            series,
        });
    }
    Ok(comparisons)
}

/// How the cost of each algorithm grows from the smallest number of instances to the largest.
#[must_use]
pub fn growth(comparisons: &[Comparison]) -> String {
    let (Some(small), Some(large)) = (comparisons.first(), comparisons.last()) else {
        return String::new();
    };
    let median = |series: &Series| Spread::of(&series.values).median;
    let lines = small.series.iter().zip(&large.series).map(|(few, many)| {
        let (few, many, name) = (median(few), median(many), &few.name);
        format!(
            "  {name:<26} {few:>6.0} → {many:>6.0} ns, × {:.2}\n",
            many / few
        )
    });
    let (from, to) = (SIZES[0], SIZES[SIZES.len() - 1]);
    let title = format!("growth from {from} instances to {to} (× {})\n", to / from);
    std::iter::once(title).chain(lines).collect()
}

/// A service at work.
struct Subject {
    registry: Registry,
    clock: Clock,
    random: Random,
    size: usize,
}

impl Subject {
    fn new(algorithm: Algorithm, size: usize) -> Result<Self> {
        let mut scenario = Scenario::alike("cost", size, 0.5);
        scenario.instances = vec![Spec::default(); size];
        let desired = proxy::configuration(&scenario, algorithm)?;
        let registry = Registry::new(1, []);
        registry.apply(Change::Configure(Box::new(desired)))?;
        Ok(Self {
            registry,
            clock: Clock::real(),
            random: Random::new(size as u64),
            size,
        })
    }

    /// Nanoseconds on a processor per request.
    fn measure(&mut self) -> Result<f64> {
        let snapshot = self.registry.snapshot();
        let service = snapshot.services.first().context("no service")?;
        let tried = Tried::default();
        let mut open = VecDeque::with_capacity(self.size + 1);
        let mut begin = None;
        for request in 0..REQUESTS + self.size as u32 {
            if begin.is_none() && open.len() == self.size {
                begin = Some(cpu::time(process::id())?);
            }
            let choice = Choice {
                key: u64::from(request).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                worker: 0,
                now: self.clock.now(),
                random: &self.random,
                tried: &tried,
            };
            let position = service.balancer.pick(&service.members, &choice);
            let member = &service.members[position.context("no instance")?];
            let algorithm = service.spec.algorithm;
            let guard = member
                .instance
                .try_begin(member.most, algorithm, 0, &self.clock);
            open.push_back(guard.context("no place")?);
            if open.len() > self.size
                && let Some(mut oldest) = open.pop_front()
            {
                black_box(oldest.judge(Outcome::Success));
            }
        }
        let begin = begin.context("nothing measured")?;
        let spent = cpu::time(process::id())?.saturating_sub(begin);
        Ok(spent.as_nanos() as f64 / f64::from(REQUESTS))
    }
}
