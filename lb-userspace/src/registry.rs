//! The only writer of state.
//!
//! Whoever wants something changed sends a [`Change`]; the registry applies it whole or not at
//! all, builds the next [`Snapshot`] beside the old one and publishes it with one pointer swap.
//! Readers hold whatever snapshot they took for as long as they like. What was measured lives in
//! the instances, which every snapshot shares, so that nothing is lost on the way.

mod acl;
mod admit;
mod candidates;
mod change;
mod check;
mod discovery;
mod ejection;
mod feed;
mod ids;
mod limits;
mod outage;
mod service;
mod snapshot;
mod state;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::{
    affinity::Store,
    model::{Alarm, SessionSpec, clock::unix_seconds},
};

pub use crate::model::{fingerprint, identity};
pub use admit::{Around, Chosen};
pub use candidates::Candidate;
pub use change::{Applied, Change, Desired, EjectionEnd, Event, RecoveryStep, RegistryError};
pub use feed::{Batch, Entry, Feed, Happening};
pub use ids::{IdError, KnownId};
pub use limits::{Limiters, RateLimits};
pub use outage::Outage;
pub use snapshot::{FailOpen, InstanceStatus, Pins, Service, Snapshot};

/// Holds the state, applies changes, publishes snapshots.
#[derive(Debug)]
pub struct Registry {
    state: Mutex<state::State>,
    published: ArcSwap<Snapshot>,
    sessions: Arc<Store>,
    revision: watch::Sender<u64>,
    breakers: Arc<Notify>,
    alarm: Arc<Alarm>,
    feed: Feed,
}

impl Registry {
    /// An empty registry. `workers` is the number of L7 threads that count requests; `known` are
    /// the ids that the kernel's maps hold from an earlier run, which the same instances get again.
    #[must_use]
    pub fn new(workers: usize, known: impl IntoIterator<Item = KnownId>) -> Self {
        let alarm = Arc::<Alarm>::default();
        Self {
            state: Mutex::new(state::State::new(workers, known, Arc::clone(&alarm))),
            published: ArcSwap::from_pointee(Snapshot::default()),
            sessions: Arc::new(Store::new(SessionSpec::default().capacity)),
            revision: watch::Sender::new(0),
            breakers: Arc::default(),
            alarm,
            feed: Feed::new(SystemTime::now()),
        }
    }

    /// The number of L7 threads that count requests.
    #[must_use]
    pub fn workers(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.workers()
    }

    /// The sessions that are remembered. Like the counters of instances they are no part of a
    /// snapshot but shared by all of them: workers write them with every request.
    #[must_use]
    pub const fn sessions(&self) -> &Arc<Store> {
        &self.sessions
    }

    /// The current snapshot. Workers keep an [`arc_swap::Cache`] over [`Registry::published`]
    /// instead, which costs one relaxed load a request.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// The place where snapshots appear.
    #[must_use]
    pub const fn published(&self) -> &ArcSwap<Snapshot> {
        &self.published
    }

    /// Tells when a new snapshot is there; the value is its revision.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Whom to notify of a transition of an instance's circuit breaker, so that what the registry
    /// knows of it follows.
    #[must_use]
    pub fn breakers(&self) -> Arc<Notify> {
        Arc::clone(&self.breakers)
    }

    /// What instances ring when they have failed too often in a row.
    #[must_use]
    pub const fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// What has happened, for whoever wants to be told.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// What `change` would change; nothing does.
    ///
    /// # Errors
    /// As [`Registry::apply`].
    pub fn preview(&self, change: Change) -> Result<Vec<Event>, RegistryError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone().apply(change)
    }

    /// Applies `change` whole, or not at all. A change that changes nothing publishes nothing.
    ///
    /// # Errors
    /// When the change names what does not exist or contradicts itself; nothing has changed then.
    pub fn apply(&self, change: Change) -> Result<Applied, RegistryError> {
        // A panic while the lock was held cannot have left half a change: the state is replaced
        // only after the change has been worked out.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.published.load();
        let mut next = state.clone();
        let mut events = next.apply(change)?;
        next.settle();
        if events.is_empty() {
            return Ok(Applied {
                revision: before.revision,
                events,
            });
        }
        let snapshot = next.snapshot(&before);
        events.extend(ejection::fail_open_changes(&before, &snapshot));
        let revision = snapshot.revision;
        *state = next;
        self.sessions
            .set_capacity(snapshot.gateway.sessions.capacity);
        if events.contains(&Event::Reset) {
            self.sessions.clear(unix_seconds());
        }
        self.published.store(Arc::new(snapshot));
        self.revision.send_replace(revision);
        // What they waited for may look different now.
        for service in &before.services {
            service.admission.queue().look_again();
        }
        for event in &events {
            event.log(revision);
        }
        // Under the lock still, so that happenings are in the order of revisions.
        let happened = events.iter().cloned();
        self.feed
            .publish_all(happened.map(|event| Happening::State { revision, event }));
        Ok(Applied { revision, events })
    }
}

#[cfg(test)]
mod tests;
