//! Who is inside a service, and who waits.
//!
//! An instance counts its own requests in flight. What a service has beyond that is counted here,
//! and lives as long as the service, whatever its settings: a reload that lowers a limit finds the
//! requests that are inside already.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{concurrency::Concurrency, queue::Queue};
use crate::model::{Clock, ConcurrencySpec, Timestamp, UNLIMITED, claim};

/// The requests of a service as a whole.
#[derive(Debug, Default)]
pub struct Admission {
    inside: AtomicU32,
    queue: Arc<Queue>,
    concurrency: Concurrency,
}

impl Admission {
    /// Takes a seat, unless `most` are taken; exact across all workers.
    #[must_use]
    pub fn enter(self: &Arc<Self>, most: u32, clock: &Clock) -> Option<Seat> {
        if most == UNLIMITED {
            self.inside.fetch_add(1, Ordering::Relaxed);
        } else if !claim(&self.inside, most) {
            return None;
        }
        Some(Seat {
            admission: Arc::clone(self),
            clock: clock.clone(),
            quiet: false,
        })
    }

    /// Seats that are taken: requests in flight while anything limits them.
    #[must_use]
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// The limit that follows what the service can do.
    #[must_use]
    pub const fn concurrency(&self) -> &Concurrency {
        &self.concurrency
    }

    /// An answer has come after `latency`, which says something about what the service can do.
    pub fn answered(&self, spec: &ConcurrencySpec, now: Timestamp, latency: Duration, waits: bool) {
        let inside = self.inside();
        let grown = self.concurrency.sample(spec, now, latency, inside, waits);
        if grown > 0 && self.queue.waiting() > 0 {
            self.queue.free(grown, now);
        }
    }

    /// Those who wait for a place.
    #[must_use]
    pub const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

/// A request inside a service. Dropping it gives the seat back, whatever the way, and tells whoever
/// waits. What else was held, such as the place at an instance, has to be given back before.
#[derive(Debug)]
pub struct Seat {
    admission: Arc<Admission>,
    clock: Clock,
    quiet: bool,
}

impl Seat {
    /// Gives a seat back that was of no use, for there is no instance to go with it. Nobody is told:
    /// whoever waits could not use it either, and would take and return it for ever.
    pub fn unused(mut self) {
        self.quiet = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.admission.inside.fetch_sub(1, Ordering::Relaxed);
        if !self.quiet {
            self.admission.queue.released(&self.clock);
        }
    }
}
