//! What the access log is told of each request.
//!
//! An [`Entry`] is opened when a request arrives and accompanies it to the end of its answer;
//! dropping it says what became of the request, whatever the way, so that every request has one
//! record: also one whose client left while it waited. When the log is off, or the request is not
//! in the sample, an entry is empty and costs a comparison.
//!
//! A record goes into a bounded queue and is forgotten here: no text is made, no file is written,
//! and nobody is woken on the request path. When the queue is full, the record is lost and counted.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{HeaderMap, Method, Request};

use super::{connection::Client, worker::Worker};
use crate::{
    balance::Random,
    model::{Instance, Reason, ServiceName, Timestamp},
    registry::Snapshot,
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
    /// Requests in flight, this one not included, and connections open in the kernel.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// The trace id of the request's `traceparent`: 32 hexadecimal digits.
    Given([u8; 32]),
    /// One of lb's own, when there is none: Unix seconds and 24 random bits.
    Made(u64, u32),
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(digits) => digits.iter().try_for_each(|digit| {
                use std::fmt::Write as _;
                f.write_char(char::from(*digit))
            }),
            Self::Made(seconds, bits) => write!(f, "gw-{seconds}-{bits:06x}"),
        }
    }
}

/// The trace id of a valid `traceparent` (W3C Trace Context, 3.2): version, trace id, parent id and
/// flags. Later versions may add fields after those.
fn given(headers: &HeaderMap) -> Option<[u8; 32]> {
    let mut values = headers.get_all("traceparent").iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else {
        return None;
    };
    let mut parts = value.split(|byte| *byte == b'-');
    let mut digits = |count: usize| {
        let part = parts.next()?;
        let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (part.len() == count && part.iter().all(lower_hex)).then_some(part)
    };
    let (version, trace, parent, _flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let nothing = |part: &[u8]| part.iter().all(|digit| *digit == b'0');
    let more = parts.next().is_some();
    if version == b"ff" || (version == b"00" && more) || nothing(trace) || nothing(parent) {
        return None;
    }
    trace.try_into().ok()
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

/// The record of a request in the making; empty when the request is not logged. See the module.
#[derive(Debug)]
pub(super) struct Entry(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    started: Timestamp,
    method: Method,
    path: Box<str>,
    client: IpAddr,
    trace: Trace,
    service: Option<ServiceName>,
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
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Self {
        let worker = &client.worker;
        match &worker.access {
            Some(log) if log.takes(&worker.random) => {
                let proxies = &snapshot.gateway.trusted_proxies;
                Self(Some(Box::new(Open {
                    worker: Rc::clone(worker),
                    started: now,
                    method: request.method().clone(),
                    path: cut(request.uri().path()).into(),
                    client: client.peer.client(request.headers(), proxies),
                    trace: trace(request.headers(), &worker.random),
                    service: None,
                    instance: None,
                    attempts: 0,
                    ending: Ending::ClientGone,
                    complete: true,
                })))
            }
            _ => Self(None),
        }
    }

    /// Hands the record on to whoever sees the end of the request.
    pub(super) const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// The request is none that the log is for.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// The request is for this service.
    pub(super) fn routed(&mut self, service: &ServiceName) {
        if let Some(open) = &mut self.0 {
            open.service = Some(service.clone());
        }
    }

    /// The request is sent to this instance.
    pub(super) fn asks(&mut self, instance: &Arc<Instance>) {
        if let Some(open) = &mut self.0 {
            open.instance = Some(Arc::clone(instance));
            open.attempts = open.attempts.saturating_add(1);
        }
    }

    /// The client gets this; [`Entry::cut`] may say later that it did not get all of it.
    pub(super) fn ends(&mut self, ending: Ending) {
        if let Some(open) = &mut self.0 {
            open.ending = ending;
        }
    }

    /// The answer has ended before its end.
    pub(super) fn cut(&mut self) {
        if let Some(open) = &mut self.0 {
            open.complete = false;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let worker = Rc::clone(&open.worker);
            if let Some(log) = &worker.access
                && log.queue.try_send(open.close()).is_err()
            {
                log.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Open {
    fn close(self) -> Record {
        let connections = |instance: &Instance| {
            u64::from(instance.in_flight()) + instance.kernel.live.load(Relaxed)
        };
        Record {
            ended: SystemTime::now(),
            duration: self.worker.clock.now() - self.started,
            method: self.method,
            path: self.path,
            client: self.client,
            trace: self.trace,
            service: self.service,
            instance: self.instance.map(|instance| Asked {
                score: instance.measured.score(),
                connections: connections(&instance),
                success_rate: instance.measured.success(),
                instance,
            }),
            attempts: self.attempts,
            ending: self.ending,
            complete: self.complete,
        }
    }
}

fn trace(headers: &HeaderMap, random: &Random) -> Trace {
    given(headers).map_or_else(
        || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let bits = (random.bits() >> 40) as u32;
            Trace::Made(since.unwrap_or_default().as_secs(), bits)
        },
        Trace::Given,
    )
}

/// At most [`MOST_PATH`] bytes of a path.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MOST_PATH)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_by(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        given(&headers).map(|id| Trace::Given(id).to_string())
    }

    #[test]
    fn only_a_valid_traceparent_gives_a_trace_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(given_by(&[&good]).as_deref(), Some(id));
        let later = format!("cc-{id}-00f067aa0ba902b7-01-what-comes");
        assert_eq!(given_by(&[&later]).as_deref(), Some(id));
        for bad in [
            "",
            "00",
            &format!("ff-{id}-00f067aa0ba902b7-01"),
            &format!("00-{id}-00f067aa0ba902b7-01-more"),
            &format!("00-{id}-0000000000000000-01"),
            &format!("00-{id}-00f067aa0ba902b7"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
        ] {
            assert_eq!(given_by(&[bad]), None, "{bad}");
        }
        assert_eq!(given_by(&[]), None);
        assert_eq!(given_by(&[&good, &good]), None);
    }

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
