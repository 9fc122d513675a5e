//! A request that an instance is busy with.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Algorithm, Clock, Instance, Outcome, Timestamp};

/// A request that an instance is busy with. Dropping it ends the request, whatever the way.
#[derive(Debug)]
pub struct InFlight {
    pub(super) instance: Arc<Instance>,
    pub(super) algorithm: Algorithm,
    pub(super) worker: usize,
    pub(super) clock: Clock,
    pub(super) started: Timestamp,
    /// Requests that were in flight already when it began.
    pub(super) behind: u32,
    pub(super) judged: bool,
}

impl InFlight {
    /// The instance.
    #[must_use]
    pub const fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// When the request began.
    #[must_use]
    pub const fn began(&self) -> Timestamp {
        self.started
    }

    /// Records the outcome, once: at the head of the answer, or when it is clear that none comes.
    /// The request stays in flight until the guard is dropped.
    ///
    /// The time that a failure took is a lower bound of what a success would have taken, no more:
    /// an instance that refuses everything at once must not look fast.
    pub fn judge(&mut self, outcome: Outcome) -> Duration {
        let now = self.clock.now();
        let latency = now - self.started;
        if !self.judged {
            self.judged = true;
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.instance
                .record(self.algorithm, self.worker, now, outcome, us);
            if outcome.is_failure() {
                let refused = outcome == Outcome::Refused;
                self.instance.failed(now, latency, self.behind, refused);
            } else {
                self.instance.succeeded(now, latency, self.behind);
            }
        }
        latency
    }
}

impl Drop for InFlight {
    /// A request that ends unjudged was given up by the client: no verdict on the instance, but
    /// the time that it has cost so far is a lower bound of its latency and must not be forgotten,
    /// or an instance that hangs would look idle.
    fn drop(&mut self) {
        self.instance.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.instance.load.end(self.worker);
        if !self.judged {
            let now = self.clock.now();
            let behind = self.behind;
            self.instance.took_at_least(now, now - self.started, behind);
        }
    }
}
