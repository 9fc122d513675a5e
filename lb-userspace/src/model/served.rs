//! What the clients of a service have seen: how many requests, how they ended, how long they took.
//!
//! Counters of instances say what instances did; a request that was tried twice counts there twice,
//! and one that lb refused not at all. These count what was asked of the service and what came of
//! it, once each. Every worker has its own, so that no cache line travels.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::measure::{LATENCY_BOUNDS_US, LatencyHistogram};

labelled! {
    /// How a request ended, as its client saw it.
    Class {
        /// The connection became a tunnel.
        Informational: "1xx";
        /// It was served.
        Success: "2xx";
        /// The client has to look elsewhere, or has it already.
        Redirection: "3xx";
        /// The request was at fault.
        ClientError: "4xx";
        /// An instance or lb was.
        ServerError: "5xx";
        /// The client left before there was an answer.
        ClientGone: "client_gone";
    }
}

impl Class {
    /// That of an answer with this status.
    #[must_use]
    pub const fn of(status: u16) -> Self {
        match status {
            0..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// Counters of what a service's clients have seen.
#[derive(Debug)]
pub struct Served(Box<[Shard]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    classes: [AtomicU64; Class::ALL.len()],
    durations: LatencyHistogram,
    cut: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// What the counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounts {
    /// Requests by [`Class`].
    pub classes: [u64; Class::ALL.len()],
    /// Times from a request's head to the end of its answer, by [`LATENCY_BOUNDS_US`], not
    /// cumulative; the last bucket takes the rest. Requests whose client left are not among them.
    pub durations: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of these times in µs.
    pub duration_us: u64,
    /// Answers that ended before their end.
    pub cut: u64,
    /// Bytes of requests' bodies.
    pub received: u64,
    /// Bytes of answers' bodies.
    pub sent: u64,
}

impl Served {
    /// Counters at zero for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Shard::default()).collect())
    }

    fn shard(&self, worker: usize) -> &Shard {
        &self.0[worker % self.0.len()]
    }

    /// Counts a request that has ended: how, how long after its head, and whether its client got
    /// all of the answer.
    pub fn ended(&self, worker: usize, class: Class, took: Duration, complete: bool) {
        let shard = self.shard(worker);
        shard.classes[class as usize].fetch_add(1, Relaxed);
        if class != Class::ClientGone {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            shard.durations.record(us);
        }
        if !complete {
            shard.cut.fetch_add(1, Relaxed);
        }
    }

    /// Counts bytes of a request's body.
    pub fn received(&self, worker: usize, bytes: usize) {
        self.shard(worker).received.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts bytes of an answer's body.
    pub fn sent(&self, worker: usize, bytes: usize) {
        self.shard(worker).sent.fetch_add(bytes as u64, Relaxed);
    }

    /// What was counted by all workers.
    #[must_use]
    pub fn read(&self) -> ServedCounts {
        let mut sum = ServedCounts::default();
        for shard in &self.0 {
            for (sum, one) in sum.classes.iter_mut().zip(&shard.classes) {
                *sum += one.load(Relaxed);
            }
            let (durations, us) = shard.durations.read();
            for (sum, one) in sum.durations.iter_mut().zip(durations) {
                *sum += one;
            }
            sum.duration_us += us;
            sum.cut += shard.cut.load(Relaxed);
            sum.received += shard.received.load(Relaxed);
            sum.sent += shard.sent.load(Relaxed);
        }
        sum
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for shard in &self.0 {
            shard.durations.reset();
            let rest = [&shard.cut, &shard.received, &shard.sent];
            for counter in shard.classes.iter().chain(rest) {
                counter.store(0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_class_of_its_first_digit() {
        let classes =
            [101, 200, 299, 304, 404, 499, 500, 599].map(|status| Class::of(status).label());
        assert_eq!(
            classes,
            ["1xx", "2xx", "2xx", "3xx", "4xx", "4xx", "5xx", "5xx"]
        );
    }

    #[test]
    fn all_workers_are_added_up_and_forgotten() {
        let served = Served::new(2);
        served.ended(0, Class::Success, Duration::from_millis(3), true);
        served.ended(1, Class::Success, Duration::from_millis(7), false);
        served.ended(1, Class::ClientGone, Duration::from_secs(9), true);
        served.received(0, 10);
        served.sent(1, 1000);
        let counts = served.read();
        assert_eq!(counts.classes, [0, 2, 0, 0, 0, 1]);
        assert_eq!(counts.durations.iter().sum::<u64>(), 2);
        assert_eq!(counts.duration_us, 10_000);
        assert_eq!((counts.cut, counts.received, counts.sent), (1, 10, 1000));
        served.reset();
        assert_eq!(served.read(), ServedCounts::default());
    }
}
