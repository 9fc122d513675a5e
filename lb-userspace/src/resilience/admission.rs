//! Who is inside a service.
//!
//! An instance counts its own requests in flight. What a service has beyond that is counted here,
//! and lives as long as the service, whatever its settings: a reload that lowers a limit finds the
//! requests that are inside already.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::model::{UNLIMITED, claim};

/// The requests of a service as a whole.
#[derive(Debug, Default)]
pub struct Admission {
    inside: AtomicU32,
}

impl Admission {
    /// Takes a seat, unless `most` are taken; exact across all workers.
    #[must_use]
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<Seat> {
        if most == UNLIMITED {
            self.inside.fetch_add(1, Ordering::Relaxed);
        } else if !claim(&self.inside, most) {
            return None;
        }
        Some(Seat(Arc::clone(self)))
    }

    /// Seats that are taken: requests in flight while anything limits them.
    #[must_use]
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }
}

/// A request inside a service. Dropping it gives the seat back, whatever the way.
#[derive(Debug)]
pub struct Seat(Arc<Admission>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}
