//! A modelled instance: so many requests at a time, a queue before them, a speed that changes.
//!
//! A job has work left; a slot does as much of it in a microsecond as the speed says. When the
//! speed changes, what the jobs in the slots have left is worked out and their ends are set anew,
//! so a speed of 0 is an instance that hangs and goes on later.

use std::collections::VecDeque;

/// How an instance answers what it gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    /// Serves it.
    Serves,
    /// Answers 503 to this share of it, 0 to 1, after a millisecond, and serves the rest.
    Fails(f64),
    /// Refuses connections.
    Refuses,
}

/// An instance as a scenario describes it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Requests that it works on at a time, at least 1.
    pub slots: usize,
    /// Requests that wait at most; what comes on top is answered 503 at once.
    pub queue: usize,
    /// Configured weight.
    pub weight: u16,
    /// Work done in a unit of time by each slot.
    pub speed: f64,
    /// Whether it is there from the start.
    pub present: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            slots: 4,
            queue: 1000,
            weight: 10,
            speed: 1.0,
            present: true,
        }
    }
}

/// A job's place in the world's list.
pub type JobId = usize;

/// A job in a slot.
#[derive(Clone, Copy, Debug)]
struct Running {
    job: JobId,
    left: f64,
    since: u64,
}

/// The end of a job, if the speed stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Which job.
    pub job: JobId,
    /// When, in microseconds.
    pub at: u64,
    /// The state of the machine that this holds for; another one by then makes it void.
    pub version: u32,
}

/// An instance at work.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    speed: f64,
    /// How it answers.
    pub manner: Manner,
    running: Vec<Running>,
    waiting: VecDeque<(JobId, f64)>,
    version: u32,
}

impl Machine {
    /// An idle one.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self {
            speed: spec.speed,
            manner: Manner::Serves,
            running: Vec::with_capacity(spec.slots),
            waiting: VecDeque::new(),
            version: 0,
            spec,
        }
    }

    /// Takes a job with so much work; false when the queue is full. Its end is among what comes
    /// next in `ends` when it starts at once.
    pub fn take(&mut self, now: u64, job: JobId, work: f64, ends: &mut Vec<End>) -> bool {
        if self.running.len() < self.spec.slots {
            self.start(now, job, work, ends);
            return true;
        }
        let fits = self.waiting.len() < self.spec.queue;
        if fits {
            self.waiting.push_back((job, work));
        }
        fits
    }

    /// Ends a job if `end` still holds, and starts the next one.
    pub fn finish(&mut self, end: End, ends: &mut Vec<End>) -> bool {
        if end.version != self.version {
            return false;
        }
        let Some(slot) = self.running.iter().position(|r| r.job == end.job) else {
            return false;
        };
        self.running.swap_remove(slot);
        if let Some((job, work)) = self.waiting.pop_front() {
            self.start(end.at, job, work, ends);
        }
        true
    }

    /// Changes the speed, 0 or more, and says anew when the jobs in the slots end.
    pub fn set_speed(&mut self, now: u64, speed: f64, ends: &mut Vec<End>) {
        self.version += 1;
        for running in &mut self.running {
            running.left -= (now - running.since) as f64 * self.speed;
            running.since = now;
        }
        self.speed = speed;
        for running in &self.running {
            ends.extend(self.end(running));
        }
    }

    /// Loses everything that it has, as a process that is killed.
    pub fn lose_all(&mut self) -> Vec<JobId> {
        self.version += 1;
        let running = self.running.drain(..).map(|running| running.job);
        let waiting = self.waiting.drain(..).map(|(job, _)| job);
        running.chain(waiting).collect()
    }

    fn start(&mut self, now: u64, job: JobId, work: f64, ends: &mut Vec<End>) {
        let running = Running {
            job,
            left: work,
            since: now,
        };
        ends.extend(self.end(&running));
        self.running.push(running);
    }

    fn end(&self, running: &Running) -> Option<End> {
        (self.speed > 0.0).then(|| End {
            job: running.job,
            at: running.since + (running.left.max(0.0) / self.speed).ceil() as u64,
            version: self.version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(job: JobId, at: u64, version: u32) -> End {
        End { job, at, version }
    }

    #[test]
    fn jobs_wait_for_a_slot_and_the_queue_is_bounded() {
        let spec = Spec {
            slots: 1,
            queue: 1,
            ..Spec::default()
        };
        let (mut machine, mut ends) = (Machine::new(spec), Vec::new());
        assert!(machine.take(0, 1, 100.0, &mut ends));
        assert!(machine.take(10, 2, 100.0, &mut ends));
        assert!(!machine.take(10, 3, 100.0, &mut ends));
        assert_eq!(ends, [end(1, 100, 0)]);
        assert!(machine.finish(ends[0], &mut ends));
        assert_eq!(ends[1], end(2, 200, 0));
    }

    #[test]
    fn a_change_of_speed_holds_for_what_is_left() {
        let (mut machine, mut ends) = (Machine::new(Spec::default()), Vec::new());
        machine.take(0, 1, 100.0, &mut ends);
        machine.set_speed(50, 0.5, &mut ends);
        machine.set_speed(70, 0.0, &mut ends);
        machine.set_speed(1000, 2.0, &mut ends);
        // 50 of work in the first 50, 10 in the next 20, none until 1000, 40 at twice the speed.
        assert_eq!(ends, [end(1, 100, 0), end(1, 150, 1), end(1, 1020, 3)]);
        assert!(!machine.finish(ends[0], &mut Vec::new()));
        assert!(machine.finish(ends[2], &mut Vec::new()));
    }
}
