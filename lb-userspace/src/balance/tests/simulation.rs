//! Algorithms against queues in virtual time: Poisson arrivals, one first-come-first-served queue
//! an instance, exponential service times, everything from one seed.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;
use crate::{
    model::InFlight,
    resilience::score::{WINDOW, recent_success},
};

/// How an instance behaves.
#[derive(Clone, Copy)]
struct Behaviour {
    /// Mean service time in microseconds.
    service_us: f64,
    /// Fails everything, after 1 ms.
    fails: bool,
}

struct Simulation {
    behaviours: Vec<Behaviour>,
    members: Vec<Member>,
    clock: Clock,
    random: Random,
    /// When each queue will be empty.
    free_at: Vec<u64>,
    finished: BinaryHeap<Reverse<(u64, usize)>>,
    running: Vec<Option<(InFlight, Outcome)>>,
    latencies: Vec<u64>,
}

impl Simulation {
    fn new(behaviours: Vec<Behaviour>, seed: u64) -> Self {
        let members = members(&vec![16; behaviours.len()]);
        Self {
            free_at: vec![0; members.len()],
            clock: Clock::manual(Timestamp(1)),
            random: Random::new(seed),
            finished: BinaryHeap::new(),
            running: Vec::new(),
            latencies: Vec::new(),
            behaviours,
            members,
        }
    }

    fn exponential(&self, mean: f64) -> u64 {
        let uniform = (self.random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - uniform).ln() * mean) as u64
    }

    /// Sends `count` requests, one every `gap_us` on average; how many each instance got.
    fn run(&mut self, balancer: &dyn Balancer, count: usize, gap_us: f64) -> Vec<u32> {
        let mut shares = vec![0; self.members.len()];
        let tried = Tried::default();
        let mut second = 0;
        for key in 0..count {
            let arrival = self.clock.now().0 + self.exponential(gap_us);
            self.finish_until(arrival);
            self.clock
                .advance(Duration::from_micros(arrival - self.clock.now().0));
            if self.clock.now().seconds() > second {
                second = self.clock.now().seconds();
                self.measure();
            }
            let choice = Choice {
                key: key as u64,
                worker: 0,
                now: self.clock.now(),
                random: &self.random,
                tried: &tried,
            };
            let position = balancer.pick(&self.members, &choice).unwrap();
            shares[position] += 1;
            self.send(position);
        }
        shares
    }

    fn send(&mut self, position: usize) {
        let Behaviour { service_us, fails } = self.behaviours[position];
        let now = self.clock.now().0;
        let (done, outcome) = if fails {
            (now + 1000, Outcome::Failure)
        } else {
            let start = self.free_at[position].max(now);
            self.free_at[position] = start + self.exponential(service_us);
            (self.free_at[position], Outcome::Success)
        };
        let instance = &self.members[position].instance;
        let request = instance.begin(Algorithm::RoundRobin, 0, &self.clock);
        self.finished.push(Reverse((done, self.running.len())));
        self.running.push(Some((request, outcome)));
    }

    fn finish_until(&mut self, time: u64) {
        while let Some(Reverse((done, request))) = self.finished.peek().copied() {
            if done > time {
                break;
            }
            self.finished.pop();
            self.clock
                .advance(Duration::from_micros(done - self.clock.now().0));
            if let Some((mut request, outcome)) = self.running[request].take() {
                self.latencies
                    .push(request.judge(outcome).as_micros() as u64);
            }
        }
    }

    /// What the control plane does once a second.
    fn measure(&self) {
        for member in &self.members {
            let second = |skip| member.instance.window(self.clock.now(), skip, 1);
            let success = recent_success((0..WINDOW).map(second));
            member.instance.measured.set_success(success);
        }
    }

    fn percentile(&mut self, percent: usize) -> u64 {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * percent / 100]
    }
}

const MS: f64 = 1000.0;

fn alike(count: usize, service_us: f64) -> Vec<Behaviour> {
    vec![
        Behaviour {
            service_us,
            fails: false
        };
        count
    ]
}

/// Requests in `seconds` at `load` of the capacity of `behaviours`, and the gap between two.
fn arrivals(behaviours: &[Behaviour], load: f64, seconds: f64) -> (usize, f64) {
    let rate: f64 = behaviours.iter().map(|b| load / b.service_us).sum();
    ((seconds * 1e6 * rate) as usize, 1.0 / rate)
}

#[test]
fn equal_instances_get_equal_shares_under_every_algorithm() {
    for algorithm in Algorithm::ALL {
        // A slow answer is remembered for seconds, so latency decides between equals too.
        let band = match algorithm {
            Algorithm::LeastResponseTime | Algorithm::Adaptive => 0.65..1.5,
            _ => 0.9..1.1,
        };
        for n in [3, 20] {
            let behaviours = alike(n, 5.0 * MS);
            let (count, gap) = arrivals(&behaviours, 0.6, 30.0);
            let mut simulation = Simulation::new(behaviours, 11);
            let balancer = build(algorithm, &simulation.members, 1);
            let shares = simulation.run(&*balancer, count, gap);
            for share in &shares {
                let fair = f64::from(*share) * n as f64 / count as f64;
                assert!(band.contains(&fair), "{algorithm} of {n}: {shares:?}");
            }
        }
    }
}

#[test]
fn a_slow_instance_does_not_set_the_pace_of_algorithms_that_measure() {
    let mut behaviours = alike(6, 5.0 * MS);
    behaviours[0].service_us = 50.0 * MS;
    let (count, gap) = arrivals(&behaviours, 0.6, 30.0);
    let p99 = |algorithm: Algorithm| {
        let mut simulation = Simulation::new(behaviours.clone(), 5);
        let balancer = build(algorithm, &simulation.members, 1);
        let shares = simulation.run(&*balancer, count, gap);
        assert!(shares[0] > 0, "{algorithm}: the slow one is starved");
        simulation.percentile(99)
    };
    let blind = p99(Algorithm::RoundRobin);
    for algorithm in [
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::Adaptive,
    ] {
        let measured = p99(algorithm);
        assert!(
            measured * 10 < blind,
            "{algorithm}: {measured} µs of {blind} µs"
        );
    }
}

#[test]
fn a_failing_instance_attracts_nobody() {
    for algorithm in [Algorithm::LeastResponseTime, Algorithm::Adaptive] {
        let mut behaviours = alike(3, 20.0 * MS);
        let (count, gap) = arrivals(&behaviours, 0.5, 10.0);
        let mut simulation = Simulation::new(behaviours.clone(), 3);
        let balancer = build(algorithm, &simulation.members, 1);
        simulation.run(&*balancer, count, gap);
        behaviours[0].fails = true;
        simulation.behaviours = behaviours;
        // Time to notice: the second in which it begins tells half, the next one all.
        simulation.run(&*balancer, count / 2, gap);
        let shares = simulation.run(&*balancer, count, gap);
        assert!(
            shares[0] as usize * 100 <= count,
            "{algorithm}: {shares:?} of {count}"
        );
    }
}

/// The quick one of six, which gets most of the requests, stops for two seconds.
#[test]
fn a_stall_is_noticed_by_what_piles_up() {
    let into_the_stall = |algorithm: Algorithm| {
        let mut behaviours = alike(6, 50.0 * MS);
        behaviours[0].service_us = 1.0 * MS;
        let (count, gap) = arrivals(&behaviours, 0.3, 10.0);
        let mut simulation = Simulation::new(behaviours, 9);
        let balancer = build(algorithm, &simulation.members, 1);
        simulation.run(&*balancer, count, gap);
        simulation.free_at[0] = simulation.clock.now().0 + 2_000_000;
        simulation.run(&*balancer, count / 10, gap)[0]
    };
    let by_latency = into_the_stall(Algorithm::LeastResponseTime);
    let by_both = into_the_stall(Algorithm::Adaptive);
    assert!(by_both * 2 < by_latency, "{by_both} of {by_latency}");
}
