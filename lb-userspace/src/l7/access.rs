//! What the access log is told of each request.
//!
//! An [`Entry`] is opened when a request arrives and accompanies it to the end of its answer;
//! dropping it says what became of the request, whatever the way, so that every request has one
//! record: also one whose client left while it waited. The same entry holds the request's trace, if
//! lb takes part in traces ([`super::trace`]). When there is neither log nor tracing, nothing is
//! noted but how the request ends, for the counters of its service ([`super::tally`]).
//!
//! A record goes into a bounded queue and is forgotten here: no text is made, no file is written,
//! and nobody is woken on the request path. When the queue is full, the record is lost and counted.
//! Where only a sample is logged, requests that went wrong are logged all the same.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{HeaderMap, Method, Request, header};

use super::{
    connection::Client,
    router::Target,
    tally::Tally,
    trace::{Closed, Ids, Parent, TraceId, Traced, Tracing},
    worker::{View, Worker},
};
use crate::{
    balance::Random,
    model::{Algorithm, Instance, Reason, ServiceName, Timestamp},
};

/// Longest path in a record, in bytes; the rest is cut, or paths of 64 KiB could fill the queue
/// with hundreds of megabytes.
pub const MOST_PATH: usize = 1024;

/// The whole of a sample, see [`AccessLog::new`].
pub const WHOLE: u32 = 1_000_000;

/// The status of a request whose client was gone before it had an answer. No status of HTTP says
/// that; this one is what nginx logs.
const CLIENT_GONE: u16 = 499;

/// What became of a request.
#[derive(Debug)]
pub struct Record {
    /// When its answer was complete, or when it was clear that none would be.
    pub ended: SystemTime,
    /// Time from its head to that.
    pub duration: Duration,
    /// Its method.
    pub method: Method,
    /// Its path without query, cut at [`MOST_PATH`].
    pub path: Box<str>,
    /// The client: the peer, or what a trusted proxy says.
    pub client: IpAddr,
    /// Where its connection has arrived.
    pub destination: Option<SocketAddr>,
    /// What joins the record with those of others.
    pub trace: Trace,
    /// The service that its route leads to.
    pub service: Option<ServiceName>,
    /// The instance that was asked last.
    pub instance: Option<Asked>,
    /// How many instances were asked.
    pub attempts: u8,
    /// How it ended.
    pub ending: Ending,
    /// Whether the client was given the whole answer.
    pub complete: bool,
}

/// An instance and its figures at the end of a request.
#[derive(Debug)]
pub struct Asked {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its health score, 0 to 1.
    pub score: f32,
    /// Requests in flight, this one not included, and open connections of VIPs.
    pub connections: u64,
    /// Its recent success rate, 0 to 1.
    pub success_rate: f32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this status of an instance, or of lb in the name of HTTP alone.
    Answered(u16),
    /// With an answer of lb's own.
    Refused(Reason),
    /// Without an answer, as nobody was there any more to get one.
    ClientGone,
}

impl Ending {
    /// The status in the log.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Answered(status) => status,
            Self::Refused(reason) => reason.status(),
            Self::ClientGone => CLIENT_GONE,
        }
    }
}

/// What joins the record of a request with what others record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// The id of the trace that the request belongs to.
    Of(TraceId),
    /// An id that it came with, of somebody else's form.
    Named(Box<str>),
    /// One of lb's own, when it came with none: Unix seconds and 24 random bits.
    Made(u64, u32),
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Of(trace) => trace.fmt(f),
            Self::Named(name) => f.write_str(name),
            Self::Made(seconds, bits) => write!(f, "gw-{seconds}-{bits:06x}"),
        }
    }
}

impl Trace {
    /// The id of a request that came with these headers, as far as they are believed.
    fn of(tracing: &Tracing, trusted: bool, headers: &HeaderMap, ids: &Ids) -> Self {
        let parent = || Parent::of(headers).map(|parent| Self::Of(parent.trace));
        let name = || tracing.name(headers).map(Self::Named);
        let given = trusted.then(|| parent().or_else(name)).flatten();
        given.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let bits = (ids.bits() >> 40) as u32;
            Self::Made(since.unwrap_or_default().as_secs(), bits)
        })
    }
}

/// Where records go.
#[derive(Debug)]
pub struct AccessLog {
    queue: mpsc::SyncSender<Record>,
    lost: Arc<AtomicU64>,
    sample: u32,
}

impl AccessLog {
    /// A log of `sample` in a [`WHOLE`] of the requests, with room for `capacity` records; what
    /// reads them; and the number of records that were lost, to which the reader adds its own
    /// losses.
    #[must_use]
    pub fn new(capacity: usize, sample: u32) -> (Self, mpsc::Receiver<Record>, Arc<AtomicU64>) {
        let (queue, records) = mpsc::sync_channel(capacity);
        let lost = Arc::new(AtomicU64::new(0));
        let log = Self {
            queue,
            lost: Arc::clone(&lost),
            sample,
        };
        (log, records, lost)
    }

    /// The number of records that were lost.
    pub(super) const fn lost(&self) -> &Arc<AtomicU64> {
        &self.lost
    }

    fn takes(&self, random: &Random) -> bool {
        self.sample >= WHOLE || random.below(WHOLE as usize) < self.sample as usize
    }
}

/// A request on its way to its end. See the module.
#[derive(Debug)]
pub(super) struct Entry {
    /// What is counted; `None` as long as no service is known, and after the end.
    counted: Option<Counted>,
    /// The record in the making; `None` when nobody wants one.
    open: Option<Box<Open>>,
    started: Timestamp,
    /// When it was over, if that is known already.
    over: Option<Timestamp>,
}

/// What a service's counters are told.
#[derive(Debug)]
struct Counted {
    tally: Rc<Tally>,
    worker: Rc<Worker>,
    ending: Ending,
    complete: bool,
}

#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    started: Timestamp,
    method: Method,
    path: Box<str>,
    client: IpAddr,
    destination: Option<SocketAddr>,
    trace: Trace,
    /// Whether it is in the sample of the log.
    sampled: bool,
    traced: Option<Rc<Traced>>,
    host: Option<Box<str>>,
    route: Option<Box<str>>,
    service: Option<ServiceName>,
    algorithm: Option<Algorithm>,
    instance: Option<Arc<Instance>>,
    attempts: u8,
    ending: Ending,
    complete: bool,
}

impl Entry {
    /// Opens the record of a request that has arrived at `now` and is as the client sent it.
    pub(super) fn new<B>(
        client: &Client,
        request: &Request<B>,
        view: &View,
        now: Timestamp,
    ) -> Self {
        let wanted = client.worker.access.is_some() || view.tracing.on;
        Self {
            counted: None,
            open: wanted.then(|| Box::new(Open::new(client, request, view, now))),
            started: now,
            over: None,
        }
    }

    /// Hands the record on to whoever sees the end of the request.
    pub(super) const fn take(&mut self) -> Self {
        Self {
            counted: self.counted.take(),
            open: self.open.take(),
            started: self.started,
            over: self.over,
        }
    }

    /// The request is none that the log is for.
    pub(super) fn forget(&mut self) {
        self.counted = None;
        self.open = None;
    }

    /// The trace of the request, if lb takes part in it.
    pub(super) fn traced(&self) -> Option<Rc<Traced>> {
        self.open.as_ref()?.traced.clone()
    }

    /// Tells the instance what the request belongs to.
    pub(super) fn mark(&self, tracing: &Tracing, headers: &mut HeaderMap) {
        if let Some(open) = &self.open {
            tracing.tell(headers, &open.trace);
            if let Some(traced) = &open.traced {
                traced.put(headers);
            }
        }
    }

    /// The request is for this service, by this route.
    pub(super) fn routed(&mut self, worker: &Rc<Worker>, view: &View, target: &Target) {
        self.counted = Some(Counted {
            tally: Rc::clone(&view.tallies[target.service]),
            worker: Rc::clone(worker),
            ending: Ending::ClientGone,
            complete: true,
        });
        let service = &view.snapshot.services[target.service];
        let route = &view.snapshot.routes[target.route];
        if let Some(open) = &mut self.open {
            open.service = Some(service.name().clone());
            if open.records() {
                open.algorithm = Some(service.spec.algorithm);
                open.route = Some(route.path.to_string().into());
            }
        }
    }

    /// The request is sent to this instance.
    pub(super) fn asks(&mut self, instance: &Arc<Instance>) {
        if let Some(open) = &mut self.open {
            open.instance = Some(Arc::clone(instance));
            open.attempts = open.attempts.saturating_add(1);
        }
    }

    /// The client gets this; [`Entry::cut`] may say later that it did not get all of it.
    pub(super) fn ends(&mut self, ending: Ending) {
        if let Some(counted) = &mut self.counted {
            counted.ending = ending;
        }
        if let Some(open) = &mut self.open {
            open.ending = ending;
        }
    }

    /// This many bytes of the answer's body were passed on.
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(counted) = &self.counted {
            counted.tally.sent(bytes);
        }
    }

    /// It is over at this moment: whoever has just read the clock saves the entry doing so.
    pub(super) const fn over(&mut self, now: Timestamp) {
        self.over = Some(now);
    }

    /// The answer has ended before its end.
    pub(super) fn cut(&mut self) {
        if let Some(counted) = &mut self.counted {
            counted.complete = false;
        }
        if let Some(open) = &mut self.open {
            open.complete = false;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            let over = self.over.unwrap_or_else(|| counted.worker.clock.now());
            let took = over - self.started;
            counted.tally.ended(counted.ending, took, counted.complete);
        }
        let Some(open) = self.open.take() else {
            return;
        };
        let worker = Rc::clone(&open.worker);
        if let Some(traced) = open.traced.as_ref().filter(|traced| traced.records) {
            traced.close(open.closed());
        }
        if let Some(log) = &worker.access
            && (open.sampled || open.went_wrong())
            && log.queue.try_send(open.close()).is_err()
        {
            log.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Open {
    fn new<B>(client: &Client, request: &Request<B>, view: &View, now: Timestamp) -> Self {
        let (worker, headers, tracing) = (&client.worker, request.headers(), &view.tracing);
        let trusted = tracing.trusts(&client.peer);
        let traced = tracing.on.then(|| {
            let parent = trusted.then(|| Parent::of(headers)).flatten();
            Traced::new(worker, tracing, parent, headers, now)
        });
        let trace = match &traced {
            Some(traced) => Trace::Of(traced.trace),
            None => Trace::of(tracing, trusted, headers, &worker.ids),
        };
        let records = traced.as_ref().is_some_and(|traced| traced.records);
        let host = || headers.get(header::HOST)?.to_str().ok();
        let proxies = &view.snapshot.gateway.trusted_proxies;
        Self {
            worker: Rc::clone(worker),
            started: now,
            method: request.method().clone(),
            path: cut(request.uri().path()).into(),
            client: client.peer.client(headers, proxies),
            destination: client.destination,
            trace,
            sampled: worker
                .access
                .as_ref()
                .is_some_and(|log| log.takes(&worker.random)),
            traced,
            host: if records {
                host().map(|host| cut(host).into())
            } else {
                None
            },
            route: None,
            service: None,
            algorithm: None,
            instance: None,
            attempts: 0,
            ending: Ending::ClientGone,
            complete: true,
        }
    }

    fn records(&self) -> bool {
        self.traced.as_ref().is_some_and(|traced| traced.records)
    }

    /// Whether the client did not get what it should for a reason that is not its own.
    const fn went_wrong(&self) -> bool {
        self.ending.status() >= 500 || !self.complete || matches!(self.ending, Ending::ClientGone)
    }

    /// What its span says.
    fn closed(&self) -> Closed {
        Closed {
            method: self.method.clone(),
            path: self.path.clone(),
            host: self.host.clone(),
            client: self.client,
            route: self.route.clone(),
            service: self.service.clone(),
            algorithm: self.algorithm,
            ending: self.ending,
            complete: self.complete,
        }
    }

    fn close(self) -> Record {
        Record {
            ended: SystemTime::now(),
            duration: self.worker.clock.now() - self.started,
            method: self.method,
            path: self.path,
            client: self.client,
            destination: self.destination,
            trace: self.trace,
            service: self.service,
            instance: self.instance.map(|instance| Asked {
                score: instance.measured.score(),
                connections: instance.busy_with(),
                success_rate: instance.measured.success(),
                instance,
            }),
            attempts: self.attempts,
            ending: self.ending,
            complete: self.complete,
        }
    }
}

/// At most [`MOST_PATH`] bytes of a path.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MOST_PATH)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_of_lbs_own_has_the_guides_form() {
        assert_eq!(
            Trace::Made(1_705_315_800, 0xab_c123).to_string(),
            "gw-1705315800-abc123"
        );
        assert_eq!(Trace::Made(1, 7).to_string(), "gw-1-000007");
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        assert_eq!(cut("/a"), "/a");
        let long = format!("/{}", "é".repeat(MOST_PATH));
        assert_eq!(cut(&long).len(), MOST_PATH - 1);
    }

    #[test]
    fn a_sample_is_that_share_of_the_requests() {
        let random = Random::new(7);
        for (sample, least, most) in [(0, 0, 0), (WHOLE / 4, 2300, 2700), (WHOLE, 10_000, 10_000)] {
            let (log, _records, _lost) = AccessLog::new(1, sample);
            let taken = (0..10_000).filter(|_| log.takes(&random)).count();
            assert!((least..=most).contains(&taken), "{sample}: {taken}");
        }
    }
}
