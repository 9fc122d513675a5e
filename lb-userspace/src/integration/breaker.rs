//! The circuit-breaker backend: what it says of services is followed, what their instances did is
//! reported to it.
//!
//! Each service is asked about once an interval. `OPEN` has all its requests refused until a later
//! answer says otherwise; `HALF_OPEN` lets probes pass and goes by what becomes of them, so that a
//! backend that waits for news of the service gets some, and one that waits for ever does not hold
//! the service back for ever (see `resilience::breaker::heard`). No answer, or one that cannot be
//! understood, says nothing against a service: what was said before is believed for two more of
//! them and forgotten with the third. Should this task not run any more, what it has set expires by
//! itself.
//!
//! Reports are differences of what the instances count anyway. What cannot be reported waits, the
//! oldest of it gives way, and what gives way is counted. A report whose answer did not come is
//! repeated: the backend may count an outcome twice, but does not miss one for that.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    changed,
    http::{Client, HttpError},
    report::{Integrations, Word},
};
use crate::{
    model::{BreakerBackendSpec, BreakerState, Clock, Instance, InstanceId, ServiceName},
    registry::{Registry, Snapshot},
    resilience::breaker,
};

/// Services that are asked about at one time.
const AT_ONCE: usize = 8;

/// Most events of one report.
const MOST_EVENTS: usize = 500;

/// How long the last reports may take when lb ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Follows the configuration, until `stopped`.
pub(super) async fn follow(
    registry: Arc<Registry>,
    clock: Clock,
    integrations: Arc<Integrations>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut poller = Poller::new(Arc::clone(&registry), clock, integrations);
    loop {
        let spec = registry.snapshot().integration.breaker.clone();
        let again = {
            let changed = changed(&registry, &spec, |all| &all.breaker, &mut stopped);
            match &spec {
                Some(spec) => {
                    let client = poller.begin(spec);
                    tokio::select! {
                        again = changed => again,
                        () = poller.run(&client, spec) => false,
                    }
                }
                None => {
                    poller.forget();
                    changed.await
                }
            }
        };
        if !again {
            if let Some(spec) = &spec {
                let client = poller.begin(spec);
                let _ = tokio::time::timeout(LAST_WORDS, poller.report_rest(&client, spec)).await;
            }
            return;
        }
    }
}

/// An event, as the backend reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Event {
    instance: String,
    event: &'static str,
    count: u64,
    /// Unix seconds.
    timestamp: u64,
}

/// What the backend answers.
#[derive(Debug, Deserialize)]
struct Status {
    state: String,
}

/// What an instance had counted when it was last looked at.
#[derive(Debug)]
struct Tally {
    instance: Arc<Instance>,
    successes: u64,
    failures: u64,
}

/// What became of a service in a round.
#[derive(Debug)]
struct Heard {
    service: ServiceName,
    word: Result<BreakerState, String>,
    /// Events that were reported, and why not more.
    reported: (usize, Result<(), String>),
}

/// What is kept from round to round.
#[derive(Debug)]
struct Poller {
    registry: Arc<Registry>,
    clock: Clock,
    integrations: Arc<Integrations>,
    words: HashMap<ServiceName, Word>,
    /// `None` while nothing is reported: then the next look is the beginning.
    tallies: Option<HashMap<InstanceId, Tally>>,
    waiting: HashMap<ServiceName, VecDeque<Event>>,
}

impl Poller {
    fn new(registry: Arc<Registry>, clock: Clock, integrations: Arc<Integrations>) -> Self {
        Self {
            registry,
            clock,
            integrations,
            words: HashMap::new(),
            tallies: None,
            waiting: HashMap::new(),
        }
    }

    /// Makes a client for `spec`.
    fn begin(&mut self, spec: &BreakerBackendSpec) -> Arc<Client> {
        let url = Some(spec.url.to_string());
        let report = &self.integrations.breaker;
        report.polls.set_url(url.clone());
        report
            .events
            .set_url(url.filter(|_| spec.events_path.is_some()));
        Arc::new(Client::new(&spec.url, spec.timeout))
    }

    /// Takes back what was set, and drops what was to be reported: nobody is asked any more.
    fn forget(&mut self) {
        let snapshot = self.registry.snapshot();
        let services: Vec<ServiceName> = self.words.keys().cloned().collect();
        for service in &services {
            self.take_back(&snapshot, service);
        }
        self.words.clear();
        self.stop_reporting();
        let report = &self.integrations.breaker;
        report.polls.set_url(None);
        report.events.set_url(None);
        report.retain(|_| false);
    }

    fn stop_reporting(&mut self) {
        self.tallies = None;
        for (_, events) in self.waiting.drain() {
            drop_events(&self.integrations, events);
        }
        self.integrations.breaker.events.waits(0);
    }

    /// Asks and reports, once an interval.
    async fn run(&mut self, client: &Arc<Client>, spec: &BreakerBackendSpec) {
        let mut ticks = interval(spec.check_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.round(client, spec).await;
        }
    }

    /// Asks about every service, a few at a time, and acts on each answer as it comes.
    async fn round(&mut self, client: &Arc<Client>, spec: &BreakerBackendSpec) {
        let snapshot = self.registry.snapshot();
        self.look(&snapshot, spec);
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for service in &snapshot.services {
            let service = service.name().clone();
            let events = self.waiting.get(&service).cloned().unwrap_or_default();
            let (client, at_once) = (Arc::clone(client), Arc::clone(&at_once));
            let status = spec.status_path.replace("{service}", service.as_str());
            let path = spec.events_path.as_ref();
            let path = path.map(|path| path.replace("{service}", service.as_str()));
            asked.spawn(async move {
                // It is never closed.
                let _place = at_once.acquire_owned().await;
                let word = ask(&client, &status).await.map_err(|e| e.to_string());
                let reported = match path {
                    Some(path) => report(&client, &path, &events).await,
                    None => (0, Ok(())),
                };
                Heard {
                    service,
                    word,
                    reported,
                }
            });
        }
        let (mut polls, mut reports) = (Ok(()), Ok(()));
        while let Some(heard) = asked.join_next().await {
            let Ok(heard) = heard else {
                continue;
            };
            polls = polls.and(heard.word.as_ref().map(|_| ()).map_err(Clone::clone));
            reports = reports.and(heard.reported.1.clone());
            self.reported(&heard.service, &heard.reported);
            self.heard(spec, &heard.service, &heard.word);
        }
        let report = &self.integrations.breaker;
        report.polls.works(&polls);
        if spec.events_path.is_some() {
            report.events.works(&reports);
        }
    }

    /// Acts on an answer, or on there being none.
    fn heard(
        &mut self,
        spec: &BreakerBackendSpec,
        service: &ServiceName,
        answer: &Result<BreakerState, String>,
    ) {
        let report = &self.integrations.breaker;
        report
            .polls
            .ends(&answer.as_ref().map(|_| ()).map_err(Clone::clone));
        let snapshot = self.registry.snapshot();
        let Some(known) = snapshot.service(service.as_str()) else {
            return;
        };
        let word = self.words.entry(service.clone()).or_default();
        match *answer {
            Ok(state) => {
                let (guard, now) = (&known.guard, self.clock.now());
                breaker::heard(guard, word.state, state, spec.holds(), now);
                if word.state != Some(state)
                    && (word.state.is_some() || state != BreakerState::Closed)
                {
                    let state = state.as_str();
                    tracing::info!(%service, state, "the circuit-breaker backend has spoken");
                }
                *word = Word {
                    state: Some(state),
                    heard: Some(SystemTime::now()),
                    missed: 0,
                };
                // The registry, and through it the kernel, follow at once.
                self.registry.breakers().notify_one();
            }
            Err(_) => {
                word.missed = word.missed.saturating_add(1);
                if word.missed >= BreakerBackendSpec::MISSES {
                    self.take_back(&snapshot, service);
                }
            }
        }
        let word = self.words.get(service).cloned().unwrap_or_default();
        self.integrations.breaker.set_word(service, word);
    }

    /// What was said of a service holds no more.
    fn take_back(&mut self, snapshot: &Snapshot, service: &ServiceName) {
        let Some(word) = self.words.get_mut(service) else {
            return;
        };
        let before = word.state.take();
        if matches!(before, None | Some(BreakerState::Closed)) {
            return;
        }
        tracing::info!(%service, "what the circuit-breaker backend has said holds no more");
        if let Some(known) = snapshot.service(service.as_str()) {
            let (closed, now) = (BreakerState::Closed, self.clock.now());
            breaker::heard(&known.guard, before, closed, Duration::ZERO, now);
            self.registry.breakers().notify_one();
        }
    }

    /// Notes what instances have counted since the last look.
    fn look(&mut self, snapshot: &Snapshot, spec: &BreakerBackendSpec) {
        let services: Vec<&ServiceName> = snapshot.services.iter().map(|s| s.name()).collect();
        let gone = |service: &ServiceName| services.binary_search(&service).is_err();
        self.words.retain(|service, _| !gone(service));
        self.integrations.breaker.retain(|service| !gone(service));
        if spec.events_path.is_none() {
            self.stop_reporting();
            return;
        }
        let first = self.tallies.is_none();
        let mut before = self.tallies.take().unwrap_or_default();
        let mut tallies = HashMap::new();
        for service in &snapshot.services {
            for member in service.members.iter() {
                let (id, instance) = (member.instance.id, &member.instance);
                let tally = before.remove(&id).unwrap_or_else(|| {
                    let mut tally = Tally::new(instance);
                    if first {
                        // What was before is nobody's business.
                        tally.take();
                    }
                    tally
                });
                tallies.insert(id, tally);
            }
        }
        // Those that are gone have a last word.
        let mut all: Vec<&mut Tally> = tallies.values_mut().chain(before.values_mut()).collect();
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = timestamp.unwrap_or_default().as_secs();
        for tally in &mut all {
            let (successes, failures) = tally.take();
            let counts = [("success", successes), ("failure", failures)];
            for (event, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                let events = self.waiting.entry(tally.instance.service.clone());
                events.or_default().push_back(Event {
                    instance: tally.instance.endpoint.name().to_owned(),
                    event,
                    count,
                    timestamp,
                });
            }
        }
        self.tallies = Some(tallies);
        self.bound(spec, gone);
    }

    /// Gives up what there is no room or no service for.
    fn bound(&mut self, spec: &BreakerBackendSpec, gone: impl Fn(&ServiceName) -> bool) {
        let integrations = &self.integrations;
        self.waiting.retain(|service, events| {
            let excess = match gone(service) {
                true => events.len(),
                false => events.len().saturating_sub(spec.queue),
            };
            drop_events(integrations, events.drain(..excess));
            !events.is_empty()
        });
        self.count_waiting();
    }

    fn count_waiting(&self) {
        let events = self.waiting.values().flatten();
        let waiting = events.map(|event| event.count).sum();
        self.integrations.breaker.events.waits(waiting);
    }

    /// Removes what was reported.
    fn reported(&mut self, service: &ServiceName, (count, outcome): &(usize, Result<(), String>)) {
        let report = &self.integrations.breaker.events;
        if let Some(events) = self.waiting.get_mut(service) {
            let count = (*count).min(events.len());
            report.delivers(events.drain(..count).map(|event| event.count).sum());
        }
        if *count > 0 || outcome.is_err() {
            report.ends(outcome);
        }
        self.count_waiting();
    }

    /// Reports what has happened since the last round, and what still waits.
    async fn report_rest(&mut self, client: &Client, spec: &BreakerBackendSpec) {
        let Some(path) = &spec.events_path else {
            return;
        };
        let snapshot = self.registry.snapshot();
        self.look(&snapshot, spec);
        let services: Vec<ServiceName> = self.waiting.keys().cloned().collect();
        for service in services {
            let path = path.replace("{service}", service.as_str());
            let events = self.waiting.get(&service).cloned().unwrap_or_default();
            let done = report(client, &path, &events).await;
            self.reported(&service, &done);
        }
    }
}

impl Tally {
    fn new(instance: &Arc<Instance>) -> Self {
        Self {
            instance: Arc::clone(instance),
            successes: 0,
            failures: 0,
        }
    }

    /// Successes and failures since the last time.
    fn take(&mut self) -> (u64, u64) {
        let totals = self.instance.totals_of_all();
        let since = |now: u64, before: &mut u64| {
            // Counters that were reset begin anew.
            let new = if now < *before { now } else { now - *before };
            *before = now;
            new
        };
        (
            since(totals.successes, &mut self.successes),
            since(totals.failures, &mut self.failures),
        )
    }
}

fn drop_events(integrations: &Integrations, events: impl IntoIterator<Item = Event>) {
    let lost = events.into_iter().map(|event| event.count).sum();
    integrations.breaker.events.drops(lost);
}

/// Asks for the state of a service.
async fn ask(client: &Client, path: &str) -> Result<BreakerState, HttpError> {
    const EXPECTED: &str = "the state of a circuit breaker as JSON";
    let answer = client.get(path).await?;
    if answer.status != 200 {
        let found = answer.status.as_u16();
        let expected = "status 200";
        return Err(HttpError::Status { expected, found });
    }
    let body = answer.body.ok_or(HttpError::TooLong)?;
    let status: Status = serde_json::from_slice(&body).map_err(|error| HttpError::Content {
        expected: EXPECTED,
        found: format!("something else: {error}"),
    })?;
    let is = |state: &&BreakerState| {
        let name = status.state.replace('-', "_");
        name.eq_ignore_ascii_case(state.as_str())
    };
    let state = BreakerState::ALL.iter().find(is);
    state.copied().ok_or_else(|| HttpError::Content {
        expected: "one of the states CLOSED, OPEN and HALF_OPEN",
        found: format!("{:?}", shortened(&status.state)),
    })
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// Reports events, a batch at a time; how many were taken, and why not more.
async fn report(
    client: &Client,
    path: &str,
    events: &VecDeque<Event>,
) -> (usize, Result<(), String>) {
    let mut done = 0;
    while done < events.len() {
        let batch: Vec<&Event> = events.iter().skip(done).take(MOST_EVENTS).collect();
        let count = batch.len();
        let outcome = match serde_json::to_vec(&batch) {
            Ok(json) => post(client, path, json.into()).await,
            Err(error) => Err(error.to_string()),
        };
        if outcome.is_err() {
            return (done, outcome);
        }
        done += count;
    }
    (done, Ok(()))
}

async fn post(client: &Client, path: &str, json: Bytes) -> Result<(), String> {
    let answer = client.post(path, json).await.map_err(|e| e.to_string())?;
    if answer.status.is_success() {
        return Ok(());
    }
    let refused = HttpError::Status {
        expected: "a status of success",
        found: answer.status.as_u16(),
    };
    Err(refused.to_string())
}
