//! `adaptive`: by expected latency, and by load where latency is out of date.
//!
//! Among a few candidates those are *hot* that have far more requests in flight for their weight
//! than is usual in the service. Among the others the lowest cost of
//! [`super::least_response_time`] wins; when all are hot, the fewest requests in flight win.
//!
//! The rule is Prequal's (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should
//! balance", NSDI '24), which separates hot from cold at the 84th percentile (2^-0.25) of the
//! requests in flight and compares bare latencies among the cold. Prequal probes its servers for
//! the latency at their *present* load. A proxy has the latency of requests that are over, and
//! with it the bare rule does harm: in simulation, requests pile up behind the latency of a moment
//! ago, and at 90 % load the mean latency of twenty equal instances was fifty times that of
//! `least_response_time`. With requests in flight in the cost, as here, it is the same, and with
//! `2 × quantile + 1` as the border a hot instance is one that is in trouble rather than one that
//! is quick and therefore busy. What remains of the rule is what it is best at: an instance that
//! stalls is left alone as soon as its requests pile up, however good its latency was until then.
//!
//! Latency, failures and exploration are as in [`super::cost`]; the weight is the one without the
//! measured factor, as in [`super::least_response_time`].

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    Balancer, Choice,
    cost::{Candidates, Cost, Podium, Second, is_as_good_as_any},
    turns::Turns,
};
use crate::model::Member;

/// Which quantile of the requests in flight is the measure of what is usual.
const QUANTILE: f32 = 0.84;

/// How far one observation moves the estimated quantile, relative to it: about a hundred picks
/// bring it to a new level.
const STEP: f32 = 1.0 / 32.0;

#[derive(Debug)]
pub(super) struct Adaptive {
    turns: Turns,
    /// Mean weight of the members that have any.
    mean: f32,
    workers: Box<[Kept]>,
}

/// What a worker keeps from pick to pick. Only that worker writes it.
#[derive(Debug)]
#[repr(align(128))]
struct Kept {
    /// Its threshold, as bits of an `f32`.
    threshold: AtomicU32,
    second: Second,
}

/// An estimate of the quantile by stochastic approximation (Robbins and Monro, 1951): up by
/// `step × q` when an observation is above, down by `step × (1 - q)` when it is not, so that it
/// comes to rest where a share `q` lies below.
#[derive(Debug)]
struct Threshold(f32);

impl Adaptive {
    pub(super) fn new(members: &[Member], workers: usize) -> Self {
        let weights: Vec<u32> = members
            .iter()
            .map(|member| member.base)
            .filter(|weight| *weight > 0)
            .collect();
        let sum: f32 = weights.iter().map(|weight| *weight as f32).sum();
        Self {
            turns: Turns::new(members, workers, |member| member.base),
            mean: sum / weights.len().max(1) as f32,
            workers: (0..workers.max(1))
                .map(|_| Kept {
                    threshold: AtomicU32::new(1.0f32.to_bits()),
                    second: Second::new(),
                })
                .collect(),
        }
    }
}

impl Balancer for Adaptive {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        let kept = &self.workers[choice.worker % self.workers.len()];
        let candidates = Candidates::draw(&self.turns, members, choice, &kept.second)?;
        let bits = kept.threshold.load(Ordering::Relaxed);
        let mut threshold = Threshold(f32::from_bits(bits));
        let hot_above = 2.0 * threshold.0 + 1.0;
        let slowness = candidates.slowness(members, choice.now);
        let first = candidates.as_slice()[0];
        let idle = is_as_good_as_any(&members[first], slowness[0]);
        let mut podium = Podium::new();
        for (i, &position) in candidates.as_slice().iter().enumerate() {
            let member = &members[position];
            let weight = member.base.max(1) as f32;
            // Requests in flight for an average weight, times the own one.
            let load = member.instance.in_flight() as f32 * self.mean;
            threshold.observe(load, weight);
            let hot = load > hot_above * weight;
            let cost = if hot {
                Cost::new(f64::from(load), member)
            } else {
                Cost::of(member, slowness[i])
            };
            podium.add((hot, cost), position, is_better);
        }
        let bits = threshold.0.to_bits();
        kept.threshold.store(bits, Ordering::Relaxed);
        let (best, second) = podium.positions();
        kept.second.set(second);
        if idle { Some(first) } else { best }
    }
}

/// Hot comes after cold.
fn is_better((hot, cost): &(bool, Cost), (least_hot, least): &(bool, Cost)) -> bool {
    (!hot && *least_hot) || (hot == least_hot && cost.is_below(least))
}

impl Threshold {
    /// Takes an observation of `load / weight` into account.
    fn observe(&mut self, load: f32, weight: f32) {
        let step = self.0.max(1.0) * STEP;
        self.0 = if load > self.0 * weight {
            self.0 + step * QUANTILE
        } else {
            (self.0 - step * (1.0 - QUANTILE)).max(0.0)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Random;

    #[test]
    fn the_threshold_finds_the_quantile() {
        let (mut threshold, random) = (Threshold(1.0), Random::new(7));
        let mut sum = 0.0;
        for i in 0..20_000 {
            threshold.observe(random.below(100) as f32 * 3.0, 3.0);
            if i >= 10_000 {
                sum += threshold.0;
            }
        }
        let mean = sum / 10_000.0;
        assert!((75.0..92.0).contains(&mean), "{mean}");
    }
}
