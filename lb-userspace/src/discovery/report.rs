//! How each source does, for people and machines.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::model::{InstanceSpec, ServiceName, SourceSpec, Timestamp};

/// What is known of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// How it does.
    pub state: SourceState,
    /// The instances that it has named last; `None` when it has not named any.
    pub instances: Option<Arc<[InstanceSpec]>>,
    /// When it was last asked successfully.
    pub good: Option<Timestamp>,
    /// When it was last asked.
    pub asked: Option<Timestamp>,
    /// When it will be asked again; only when it changes when `None`.
    pub next: Option<Timestamp>,
    /// What went wrong last; `None` when nothing did.
    pub problem: Option<String>,
    /// Looks that have succeeded.
    pub successes: u64,
    /// Looks that have failed.
    pub failures: u64,
    /// Looks in a row that have failed.
    pub failures_in_row: u32,
    /// How long the last good look took.
    pub took: Option<Duration>,
}

impl Default for SourceReport {
    fn default() -> Self {
        Self {
            state: SourceState::Waiting,
            instances: None,
            good: None,
            asked: None,
            next: None,
            problem: None,
            successes: 0,
            failures: 0,
            failures_in_row: 0,
            took: None,
        }
    }
}

/// How a source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It was not asked so far, or its first answer is not here yet.
    Waiting,
    /// Its last answer is what holds.
    Good,
    /// It fails, and what it has said before holds.
    Stale,
    /// It fails and has never said anything.
    Failing,
}

impl SourceState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Good, Self::Stale, Self::Failing];

    /// The name in API and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Good => "good",
            Self::Stale => "stale",
            Self::Failing => "failing",
        }
    }

    /// Whether somebody should look at it.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        matches!(self, Self::Stale | Self::Failing)
    }
}

/// Names a source.
pub(crate) type Key = (ServiceName, SourceSpec);

/// Reads how sources do, and wakes them. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Handle {
    sources: Arc<Mutex<BTreeMap<Key, SourceReport>>>,
    refusals: Arc<Mutex<BTreeMap<ServiceName, String>>>,
    wake: Arc<Notify>,
    /// Whether every source of the first configuration was asked.
    asked: watch::Sender<bool>,
}

impl Default for Handle {
    fn default() -> Self {
        Self {
            sources: Arc::default(),
            refusals: Arc::default(),
            wake: Arc::default(),
            asked: watch::Sender::new(false),
        }
    }
}

impl Handle {
    /// Every source by service.
    #[must_use]
    pub fn sources(&self) -> Vec<(ServiceName, SourceSpec, SourceReport)> {
        let sources = lock(&self.sources);
        let all = sources.iter();
        all.map(|((service, source), report)| (service.clone(), source.clone(), report.clone()))
            .collect()
    }

    /// Services whose instances were found and cannot be taken over, and why.
    #[must_use]
    pub fn refusals(&self) -> Vec<(ServiceName, String)> {
        let refusals = lock(&self.refusals);
        refusals
            .iter()
            .map(|(s, why)| (s.clone(), why.clone()))
            .collect()
    }

    /// Asks all sources now.
    pub fn refresh(&self) {
        self.wake.notify_waiters();
    }

    /// Returns when every source of the first configuration has answered or failed once, at the
    /// latest after `limit`; whether they have.
    pub async fn first_answers(&self, limit: Duration) -> bool {
        let mut asked = self.asked.subscribe();
        let all = asked.wait_for(|asked| *asked);
        matches!(tokio::time::timeout(limit, all).await, Ok(Ok(_)))
    }

    pub(super) fn all_asked(&self) {
        self.asked.send_replace(true);
    }

    pub(crate) async fn refreshed(&self) {
        self.wake.notified().await;
    }

    /// Writes the report of a source; one that is not there any more stays away.
    pub(crate) fn update(&self, key: &Key, write: impl FnOnce(&mut SourceReport)) {
        if let Some(report) = lock(&self.sources).get_mut(key) {
            write(report);
        }
    }

    pub(crate) fn add(&self, key: Key) {
        lock(&self.sources).entry(key).or_default();
    }

    pub(super) fn remove(&self, key: &Key) {
        lock(&self.sources).remove(key);
    }

    pub(crate) fn refused(&self, service: &ServiceName, why: Option<String>) {
        let mut refusals = lock(&self.refusals);
        match why {
            Some(why) => drop(refusals.insert(service.clone(), why)),
            None => drop(refusals.remove(service)),
        }
    }
}

/// No holder of these locks can leave half a value behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
