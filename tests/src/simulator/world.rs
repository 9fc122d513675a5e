//! The loop of events: requests come, proxies choose, machines work, the control plane looks on.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use anyhow::Result;
use lb_userspace::{
    balance::Tried,
    model::{Algorithm, Clock, Outcome, Timestamp},
};

use super::{
    chance::{Arrival, Stream},
    machine::{End, JobId, Machine, Manner},
    outcome::Figures,
    proxy::{Place, Proxy},
    scenario::{Effect, Happening, Scenario},
};

/// Instances that one request may be sent to, as in the HTTP proxy.
const TRIES: usize = 2;

/// How long an instance takes to answer 503, and to refuse a connection, in microseconds.
const FAILS_AFTER: u64 = 1000;
const REFUSES_AFTER: u64 = 200;

/// The daemon's clock begins here, because a time of 0 means "never" in places.
const EPOCH: u64 = 1_000_000;

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A job in a slot is done, if the machine's version is still this one.
    Done {
        machine: usize,
        job: JobId,
        version: u32,
    },
    /// A request fails at its instance.
    Failed {
        job: JobId,
        serial: u64,
        refused: bool,
    },
    /// The control plane's second.
    Tick,
}

/// A request on its way.
#[derive(Debug)]
struct Job {
    serial: u64,
    arrival: Arrival,
    arrived: u64,
    /// Nothing when its client has its answer and only the machine still works on it.
    place: Option<Place>,
    tried: Tried,
    tries: usize,
}

/// A run of a scenario.
#[derive(Debug)]
pub struct World<'a> {
    scenario: &'a Scenario,
    clock: Clock,
    now: u64,
    proxies: Vec<Proxy>,
    machines: Vec<Machine>,
    present: Vec<bool>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    jobs: Vec<Option<Job>>,
    free: Vec<JobId>,
    /// Requests without an answer.
    open: usize,
    deadlines: VecDeque<(u64, JobId, u64)>,
    ends: Vec<End>,
    figures: Figures,
}

/// Runs `scenario` under `algorithm`; everything that chance decides follows from `seed`.
///
/// # Errors
/// When the scenario's settings are not what a configuration may hold.
pub fn run(scenario: &Scenario, algorithm: Algorithm, seed: u64) -> Result<Figures> {
    World::new(scenario, algorithm, seed)?.run(seed)
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, algorithm: Algorithm, seed: u64) -> Result<Self> {
        let clock = Clock::manual(Timestamp(EPOCH));
        let proxies: Result<Vec<Proxy>> = (1..=scenario.proxies as u64)
            .map(|proxy| {
                let seed = seed.wrapping_mul(1009).wrapping_add(proxy);
                Proxy::new(scenario, algorithm, seed, clock.clone())
            })
            .collect();
        Ok(Self {
            clock,
            now: 0,
            proxies: proxies?,
            machines: scenario
                .instances
                .iter()
                .copied()
                .map(Machine::new)
                .collect(),
            present: scenario.instances.iter().map(|s| s.present).collect(),
            events: BinaryHeap::new(),
            count: 0,
            jobs: Vec::new(),
            free: Vec::new(),
            open: 0,
            deadlines: VecDeque::new(),
            ends: Vec::new(),
            figures: Figures::new(scenario, algorithm),
            scenario,
        })
    }

    fn run(mut self, seed: u64) -> Result<Figures> {
        let scenario = self.scenario;
        let end = micros(scenario.seconds);
        let mut stream = Stream::new(seed, scenario.work, scenario.proxies, scenario.keys);
        let mut happenings = scenario.happenings.iter().peekable();
        self.push(1_000_000, Event::Tick);
        let mut arrival = stream.next(scenario.rate(0.0));
        let mut next = arrival.gap;
        loop {
            let due = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let deadline = self.next_deadline();
            let happens = happenings.peek().map_or(u64::MAX, |h| micros(h.at));
            let first = due.min(deadline).min(happens).min(next);
            if next == u64::MAX && self.open == 0 {
                break;
            }
            self.go_to(first);
            if first == happens {
                if let Some(happening) = happenings.next() {
                    self.happen(happening)?;
                }
            } else if first == due {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.handle(event)?;
                }
            } else if first == deadline {
                self.expire();
            } else {
                self.arrive(arrival);
                arrival = stream.next(scenario.rate(self.now as f64 / 1e6));
                next += arrival.gap;
                if next >= end {
                    next = u64::MAX;
                }
            }
        }
        Ok(self.figures)
    }

    fn next_deadline(&mut self) -> u64 {
        while let Some((at, id, serial)) = self.deadlines.front() {
            if self.is_open(*id, *serial) {
                return *at;
            }
            self.deadlines.pop_front();
        }
        u64::MAX
    }

    fn is_open(&self, id: JobId, serial: u64) -> bool {
        let job = self.jobs[id].as_ref();
        job.is_some_and(|job| job.serial == serial && job.place.is_some())
    }

    fn go_to(&mut self, at: u64) {
        self.clock.advance(Duration::from_micros(at - self.now));
        self.now = at;
    }

    fn push(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Done {
                machine,
                job,
                version,
            } => {
                let end = End {
                    job,
                    at: self.now,
                    version,
                };
                if self.machines[machine].finish(end, &mut self.ends) {
                    self.conclude(job, Outcome::Success);
                    self.free(job);
                }
                self.schedule(machine);
            }
            Event::Failed {
                job,
                serial,
                refused,
            } => {
                if self.is_open(job, serial) {
                    self.fail(job, refused);
                }
            }
            Event::Tick => {
                let manners: Vec<Manner> = self.machines.iter().map(|m| m.manner).collect();
                for proxy in &mut self.proxies {
                    proxy.tick(&manners)?;
                }
                self.push(self.now + 1_000_000, Event::Tick);
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: &Happening) -> Result<()> {
        let machine = happening.instance;
        match happening.effect {
            Effect::Speed(factor) => {
                let speed = self.scenario.instances[machine].speed * factor;
                self.machines[machine].set_speed(self.now, speed, &mut self.ends);
                self.schedule(machine);
            }
            Effect::Manner(manner) => {
                self.machines[machine].manner = manner;
                if manner == Manner::Refuses {
                    for job in self.machines[machine].lose_all() {
                        // A connection that breaks: the request may have been acted upon.
                        self.conclude(job, Outcome::Failure);
                        self.free(job);
                    }
                }
            }
            Effect::Join | Effect::Leave => {
                self.present[machine] = matches!(happening.effect, Effect::Join);
                for proxy in &mut self.proxies {
                    proxy.configure(&self.present)?;
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.count += 1;
        let job = Job {
            serial: self.count,
            arrival,
            arrived: self.now,
            place: None,
            tried: Tried::default(),
            tries: 0,
        };
        let serial = job.serial;
        self.open += 1;
        self.figures.arrived(self.now);
        let id = match self.free.pop() {
            Some(id) => {
                self.jobs[id] = Some(job);
                id
            }
            None => {
                self.jobs.push(Some(job));
                self.jobs.len() - 1
            }
        };
        self.deadlines
            .push_back((self.now + micros(self.scenario.timeout), id, serial));
        self.send(id);
    }

    /// Has a proxy choose, and gives the request to the machine that it has chosen.
    fn send(&mut self, id: JobId) {
        let Some(job) = &mut self.jobs[id] else {
            return;
        };
        job.tries += 1;
        let proxy = &self.proxies[job.arrival.proxy];
        let picked = [true, false].into_iter().find_map(|only_well| {
            job.tried.set_only_well(only_well);
            proxy.pick(job.arrival.key, &job.tried)
        });
        let Some((machine, place)) = picked else {
            self.figures.failed(job.arrived);
            self.open -= 1;
            self.free(id);
            return;
        };
        job.place = Some(place);
        self.figures.sent(self.now, machine);
        let (serial, luck, work) = (job.serial, job.arrival.luck, job.arrival.work);
        let fails = match self.machines[machine].manner {
            Manner::Serves => false,
            Manner::Fails(share) => luck < share,
            Manner::Refuses => true,
        };
        let refused = self.machines[machine].manner == Manner::Refuses;
        let ends = &mut self.ends;
        if fails || !self.machines[machine].take(self.now, id, work, ends) {
            let after = if refused { REFUSES_AFTER } else { FAILS_AFTER };
            self.push(
                self.now + after,
                Event::Failed {
                    job: id,
                    serial,
                    refused,
                },
            );
        }
        self.schedule(machine);
    }

    /// A request has failed at its instance: it goes to another one when it was not acted upon.
    fn fail(&mut self, id: JobId, refused: bool) {
        let Some(job) = &mut self.jobs[id] else {
            return;
        };
        if refused
            && job.tries < TRIES
            && let Some(place) = job.place.take()
        {
            let instance = self.proxies[job.arrival.proxy].end(place, Outcome::Refused);
            job.tried.insert(instance);
            self.send(id);
        } else {
            let refused = if refused {
                Outcome::Refused
            } else {
                Outcome::Failure
            };
            self.conclude(id, refused);
            self.free(id);
        }
    }

    /// Gives up the request whose time is over; the machine does not know and works on.
    fn expire(&mut self) {
        if let Some((_, id, _)) = self.deadlines.pop_front() {
            self.conclude(id, Outcome::Failure);
        }
    }

    /// Tells client and daemon how a request has ended.
    fn conclude(&mut self, id: JobId, outcome: Outcome) {
        if let Some(job) = &mut self.jobs[id]
            && let Some(place) = job.place.take()
        {
            self.proxies[job.arrival.proxy].end(place, outcome);
            self.open -= 1;
            match outcome {
                Outcome::Success => self.figures.served(job.arrived, self.now),
                Outcome::Failure | Outcome::Refused => self.figures.failed(job.arrived),
            }
        }
    }

    fn free(&mut self, id: JobId) {
        if self.jobs[id].take().is_some() {
            self.free.push(id);
        }
    }

    fn schedule(&mut self, machine: usize) {
        let mut ends = std::mem::take(&mut self.ends);
        for End { job, at, version } in ends.drain(..) {
            self.push(
                at,
                Event::Done {
                    machine,
                    job,
                    version,
                },
            );
        }
        self.ends = ends;
    }
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}
