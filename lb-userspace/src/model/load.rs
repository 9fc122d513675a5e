//! What a whole service has in flight.
//!
//! A bound on one instance's share of a service's load needs the service's load at every pick.
//! Adding up the instances would touch a thousand cache lines; one counter for all workers would
//! travel between cores with each request. So each worker counts on a line of its own, and whoever
//! asks adds up as many numbers as there are workers.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Connections;

/// Requests in flight of a service. It is shared by all its instances and lives as long as the
/// service, whatever becomes of an instance with requests in flight.
#[derive(Debug)]
pub struct ServiceLoad {
    workers: Box<[Count]>,
    /// Connections of the proxy to all instances together.
    pub connections: Connections,
}

/// What one worker has begun and not ended.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU32);

impl ServiceLoad {
    /// Nothing in flight; `workers` is the number of threads that will count, at least 1.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1)).map(|_| Count::default()).collect(),
            connections: Connections::new(workers),
        }
    }

    /// The number of threads that count.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Requests in flight, all workers. While others begin and end requests it may be off by those.
    #[must_use]
    pub fn total(&self) -> u64 {
        let counts = self.workers.iter();
        counts
            .map(|count| u64::from(count.0.load(Ordering::Relaxed)))
            .sum()
    }

    pub(super) fn begin(&self, worker: usize) {
        self.count(worker).fetch_add(1, Ordering::Relaxed);
    }

    /// Ends what was begun with the same `worker`, on whatever thread.
    pub(super) fn end(&self, worker: usize) {
        self.count(worker).fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, worker: usize) -> &AtomicU32 {
        &self.workers[worker % self.workers.len()].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_a_worker_too_many_is_counted_too() {
        let load = ServiceLoad::new(2);
        for worker in [0, 1, 1, 7] {
            load.begin(worker);
        }
        assert_eq!((load.workers(), load.total()), (2, 4));
        for worker in [7, 0, 1] {
            load.end(worker);
        }
        assert_eq!(load.total(), 1);
    }
}
