//! The circuit breaker of a whole service: its state, and what it has seen.
//!
//! What instances count are tries; a service's breaker goes by what clients got in the end, so it
//! counts for itself. Every worker has a window of its own, as everywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Gate, GateState, Timestamp,
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
    /// Until when somebody else has it that all requests are refused, in microseconds; 0 is nobody.
    refused: AtomicU64,
}

impl ServiceGuard {
    /// A closed one, for so many threads that count.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            gate: Gate::default(),
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            advised: AtomicU64::default(),
            refused: AtomicU64::default(),
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

    /// Whether somebody may have it that requests are refused; when not, nobody has. For the way
    /// of every request.
    #[must_use]
    pub fn may_be_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) != 0
    }

    /// Until when all requests are refused because somebody else says so; `None` when they are not.
    /// What an operator holds closed is not refused.
    #[must_use]
    pub fn refused(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp(self.refused.load(Ordering::Relaxed));
        (until > now && self.gate.state() != GateState::HeldClosed).then_some(until)
    }

    /// Has all requests refused until then, or not any more.
    pub fn refuse(&self, until: Option<Timestamp>) {
        let until = until.map_or(0, |until| until.0);
        self.refused.store(until, Ordering::Relaxed);
    }

    /// As if nothing had ever happened.
    pub fn reset(&self) {
        self.shards.iter().for_each(|shard| shard.0.reset());
        self.advised.store(0, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
        self.gate.reset();
    }
}

impl AsRef<Gate> for ServiceGuard {
    fn as_ref(&self) -> &Gate {
        &self.gate
    }
}
