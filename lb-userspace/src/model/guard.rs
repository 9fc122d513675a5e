//! The circuit breaker of a whole service: its state, and what it has seen.
//!
//! What instances count are tries; a service's breaker goes by what clients got in the end, so it
//! counts for itself. Every worker has a window of its own, as everywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Gate, Timestamp,
    window::{Window, WindowSum},
};

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Window);

/// See the module. It lives as long as its service, whatever is configured.
#[derive(Debug)]
pub struct ServiceGuard {
    /// The state.
    pub gate: Gate,
    shards: Box<[Shard]>,
    /// Until when somebody else has said that the service does not work, in microseconds; 0 is
    /// nobody.
    advised: AtomicU64,
}

impl ServiceGuard {
    /// A closed one, for so many threads that count.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            gate: Gate::default(),
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            advised: AtomicU64::default(),
        }
    }

    /// Counts a request that is over.
    pub fn record(&self, worker: usize, now: Timestamp, failed: bool) {
        self.shards[worker % self.shards.len()]
            .0
            .record(now, failed, 0);
    }

    /// The sum of the last `seconds`, without latencies.
    #[must_use]
    pub fn window(&self, now: Timestamp, seconds: u64) -> WindowSum {
        let mut sum = WindowSum::default();
        for shard in &self.shards {
            sum += shard.0.sum(now, 0, seconds);
        }
        sum
    }

    /// Until when an advice to keep away from the service holds; `None` when none does.
    #[must_use]
    pub fn advised(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp(self.advised.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// Replaces the advice; says until when the one of before holds, if it still does.
    pub fn set_advised(&self, until: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let until = until.map_or(0, |until| until.0);
        let before = Timestamp(self.advised.swap(until, Ordering::Relaxed));
        (before > now).then_some(before)
    }

    /// As if nothing had ever happened.
    pub fn reset(&self) {
        self.shards.iter().for_each(|shard| shard.0.reset());
        self.advised.store(0, Ordering::Relaxed);
        self.gate.reset();
    }
}

impl AsRef<Gate> for ServiceGuard {
    fn as_ref(&self) -> &Gate {
        &self.gate
    }
}
