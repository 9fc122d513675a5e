//! What integrations are told about: to REST, command line and metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use crate::model::{BreakerState, ServiceName};

/// Reports of all integrations.
#[derive(Debug)]
pub struct Integrations {
    /// Questions to the circuit-breaker backend, and what it has answered.
    pub breaker: BreakerReport,
    /// Metrics that are pushed.
    pub metrics: Report,
    /// Traces that are exported.
    pub traces: Report,
}

impl Default for Integrations {
    fn default() -> Self {
        Self {
            breaker: BreakerReport {
                polls: Report::new("circuit_breaker"),
                events: Report::new("circuit_breaker_events"),
                words: Mutex::default(),
            },
            metrics: Report::new("metrics"),
            traces: Report::new("traces"),
        }
    }
}

impl Integrations {
    /// Reports of exchanges that went well, and a service whose breaker is open.
    #[cfg(test)]
    pub(crate) fn exemplary(service: &ServiceName) -> Self {
        let all = Self::default();
        for report in all.all() {
            report.set_url(Some("http://127.0.0.1:9".to_owned()));
            report.ends(&Ok(()));
            report.works(&Ok(()));
        }
        let word = Word {
            state: Some(BreakerState::Open),
            heard: Some(SystemTime::now()),
            missed: 1,
        };
        all.breaker.set_word(service, word);
        let error = Err("expected a connection, found none".to_owned());
        all.metrics.ends(&error);
        all.metrics.works(&error);
        all.metrics.drops(7);
        all
    }

    /// Each with its name.
    #[must_use]
    pub fn all(&self) -> [&Report; 4] {
        let breaker = &self.breaker;
        [&breaker.polls, &breaker.events, &self.metrics, &self.traces]
    }
}

/// The circuit-breaker backend.
#[derive(Debug)]
pub struct BreakerReport {
    /// Questions for states.
    pub polls: Report,
    /// Events that are reported.
    pub events: Report,
    words: Mutex<BTreeMap<ServiceName, Word>>,
}

/// What the circuit-breaker backend has said of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// What it has said last and what still holds; `None` when it has said nothing or what it said
    /// has expired.
    pub state: Option<BreakerState>,
    /// When it said so.
    pub heard: Option<SystemTime>,
    /// Polls since then that came to nothing.
    pub missed: u32,
}

impl BreakerReport {
    /// What was said of each service that is asked about.
    #[must_use]
    pub fn words(&self) -> BTreeMap<ServiceName, Word> {
        lock(&self.words).clone()
    }

    /// What was said of one.
    #[must_use]
    pub fn word(&self, service: &ServiceName) -> Option<Word> {
        lock(&self.words).get(service).cloned()
    }

    pub(super) fn set_word(&self, service: &ServiceName, word: Word) {
        lock(&self.words).insert(service.clone(), word);
    }

    /// Forgets services that are asked about no more.
    pub(super) fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        lock(&self.words).retain(|service, _| keep(service));
    }
}

/// How exchanges of one kind with one system fare.
#[derive(Debug)]
pub struct Report {
    /// Its name in API and metrics.
    pub name: &'static str,
    succeeded: AtomicU64,
    failed: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicU64,
    last: Mutex<Last>,
}

/// What was last.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// Where the system is; `None` while the integration is off.
    pub url: Option<String>,
    /// When an exchange last did what it should.
    pub success: Option<SystemTime>,
    /// When one last did not, and why.
    pub failure: Option<(SystemTime, String)>,
    /// Whether the latest did not.
    pub failing: bool,
}

impl Report {
    pub(super) const fn new(name: &'static str) -> Self {
        Self {
            name,
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            last: Mutex::new(Last {
                url: None,
                success: None,
                failure: None,
                failing: false,
            }),
        }
    }

    /// Exchanges that did what they should.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// Exchanges that did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// What the peer has taken: outcomes of requests, samples, spans.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// What was given up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// What waits.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// What was last.
    #[must_use]
    pub fn last(&self) -> Last {
        lock(&self.last).clone()
    }

    /// Notes where the system is from now on.
    pub(super) fn set_url(&self, url: Option<String>) {
        let mut last = lock(&self.last);
        if last.url != url {
            // What was said of another one is no news of this one.
            *last = Last {
                url,
                ..Last::default()
            };
        }
    }

    pub(super) fn delivers(&self, count: u64) {
        self.delivered.fetch_add(count, Relaxed);
    }

    pub(super) fn drops(&self, count: u64) {
        self.dropped.fetch_add(count, Relaxed);
    }

    pub(super) fn waits(&self, count: u64) {
        self.waiting.store(count, Relaxed);
    }

    /// Counts an exchange by how it ended.
    pub(super) fn ends(&self, outcome: &Result<(), String>) {
        let mut last = lock(&self.last);
        match outcome {
            Ok(()) => {
                self.succeeded.fetch_add(1, Relaxed);
                last.success = Some(SystemTime::now());
            }
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                last.failure = Some((SystemTime::now(), error.clone()));
            }
        }
    }

    /// Notes whether the integration works, after one or more exchanges. The log hears of a change
    /// only: a peer that is gone is one line, not one for each attempt.
    pub(super) fn works(&self, outcome: &Result<(), String>) {
        let mut last = lock(&self.last);
        let integration = self.name;
        let before = std::mem::replace(&mut last.failing, outcome.is_err());
        match outcome {
            Ok(()) if before => tracing::info!(integration, "the integration works again"),
            Err(error) if !before => {
                tracing::warn!(integration, %error, "the integration fails; traffic goes on");
            }
            _ => {}
        }
    }
}

/// Nobody leaves half a value behind while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
