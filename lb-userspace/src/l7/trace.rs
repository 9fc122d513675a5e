//! Traces on the way of a request: W3C Trace Context in and out, and spans for whoever collects
//! them.
//!
//! A request that comes with a valid `traceparent` belongs to that trace, whatever lb does with it;
//! one that comes without, or with one that is not believed, begins a trace when lb takes part in
//! traces ([`Tracing`]). Whether a trace is sampled is its beginner's decision: a parent's flag is
//! kept, a trace that begins here is sampled by its id, so that every lb decides alike.
//!
//! A request has one span, and one below it for each try; what an instance is told as its parent is
//! the span of the try. When the request is over, all of it is one [`SpanRecord`] in a bounded queue
//! of the worker; no text is made here and nobody is woken. What does not fit is lost and counted.
//! While tracing is off all of this is a branch.

use std::{
    cell::RefCell,
    fmt,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Method, Request,
    header::{HeaderName, HeaderValue},
};

use super::{access::Ending, headers::Peer, upload::Upload, worker::Worker};
use crate::{
    balance::Random,
    model::{Algorithm, Instance, Reason, ServiceName, Timestamp, TraceTrust, TracingSpec},
};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The one flag of `traceparent` that means something here: the trace is sampled.
const SAMPLED: u8 = 1;

/// Flags that are passed on: sampled, and that the id is random (Trace Context level 2).
const KNOWN_FLAGS: u8 = 0b11;

/// Longest `tracestate` that is recorded, in bytes: what a tracer has to propagate at least.
const MOST_STATE: usize = 512;

/// Longest id of somebody else's form that is believed, in bytes.
const MOST_NAME: usize = 128;

/// The whole of a sample.
const WHOLE: u64 = 1_000_000;

/// Records of requests that a worker's queue holds.
const CAPACITY: usize = 4096;

/// Id of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Id of a span.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

macro_rules! hexadecimal {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

hexadecimal!(TraceId, SpanId);

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    span: SpanId,
    flags: u8,
}

impl Parent {
    /// The parent that a request names, if it names one validly (W3C Trace Context, 3.2): version,
    /// trace id, parent id and flags. Later versions may add fields after those.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let (value, None) = (values.next()?.as_bytes(), values.next()) else {
            return None;
        };
        let mut parts = value.split(|byte| *byte == b'-');
        let (version, trace) = (bytes::<1>(parts.next()?)?, bytes(parts.next()?)?);
        let (span, flags) = (bytes(parts.next()?)?, bytes::<1>(parts.next()?)?);
        let more = parts.next().is_some();
        let version = version[0];
        let bad = version == 0xff || (version == 0 && more) || trace == [0; 16] || span == [0; 8];
        (!bad).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags: flags[0] & KNOWN_FLAGS,
        })
    }
}

/// Bytes from lower-case hexadecimal digits: no others are allowed there.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What the configuration says of traces, compiled.
#[derive(Debug)]
pub(super) struct Tracing {
    /// Whether lb takes part in traces.
    pub(super) on: bool,
    trust: TraceTrust,
    id_header: Option<HeaderName>,
    sample: u32,
    record: bool,
}

impl Tracing {
    pub(super) fn new(spec: &TracingSpec) -> Self {
        let name = spec.id_header.as_ref();
        Self {
            on: spec.enabled,
            trust: spec.trust,
            // The configuration takes names of fields only.
            id_header: name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()),
            sample: spec.sample,
            record: spec.record,
        }
    }

    /// Whether what this peer says of traces is believed.
    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        match self.trust {
            TraceTrust::All => true,
            TraceTrust::Proxies => peer.is_trusted(),
            TraceTrust::None => false,
        }
    }

    /// The id that a request has of another form than W3C's, if that can be an id.
    pub(super) fn name(&self, headers: &HeaderMap) -> Option<Box<str>> {
        let value = headers.get(self.id_header.as_ref()?)?.to_str().ok()?;
        let fits = (1..=MOST_NAME).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| value.into())
    }

    /// Removes from a request what its client may not say.
    pub(super) fn strip(&self, headers: &mut HeaderMap, peer: &Peer) {
        if self.trust == TraceTrust::All || self.trusts(peer) {
            return;
        }
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
        if let Some(name) = &self.id_header {
            headers.remove(name);
        }
    }

    /// Tells the instance the id that the access log has.
    pub(super) fn tell(&self, headers: &mut HeaderMap, id: &impl fmt::Display) {
        if let Some(name) = &self.id_header
            && let Ok(value) = HeaderValue::try_from(id.to_string())
        {
            headers.insert(name, value);
        }
    }

    /// Whether a trace of that id that begins here is sampled: by its last 56 bits, which are the
    /// random ones of every id (Trace Context level 2).
    fn samples(&self, trace: TraceId) -> bool {
        let mut last = [0; 8];
        last[1..].copy_from_slice(&trace.0[9..]);
        let share = u64::from(self.sample.min(WHOLE as u32));
        // (1 - share) of 2^56, without a loss: both factors are small.
        let least = u128::from(WHOLE - share) << 56;
        u128::from(u64::from_be_bytes(last)) * u128::from(WHOLE) >= least && share > 0
    }
}

/// Ids of a worker. Their seed is the system's: the worker's own generator begins alike after each
/// start, and a trace id must not come twice.
#[derive(Debug)]
pub(super) struct Ids(Random);

impl Ids {
    pub(super) fn new() -> Self {
        Self(Random::new(RandomState::new().hash_one(0)))
    }

    /// Random bits.
    pub(super) fn bits(&self) -> u64 {
        self.0.bits()
    }

    fn trace(&self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.bits().to_be_bytes());
        // Never zero, which is no id.
        id[8..].copy_from_slice(&(self.bits() | 1).to_be_bytes());
        TraceId(id)
    }

    fn span(&self) -> SpanId {
        SpanId((self.bits() | 1).to_be_bytes())
    }
}

/// The trace of a request that lb takes part in.
#[derive(Debug)]
pub(super) struct Traced {
    worker: Rc<Worker>,
    pub(super) trace: TraceId,
    parent: Option<SpanId>,
    span: SpanId,
    flags: u8,
    state: Option<Box<str>>,
    /// Whether the request is recorded.
    pub(super) records: bool,
    began: Timestamp,
    tries: RefCell<Vec<Try>>,
}

/// A try as it is recorded.
#[derive(Debug)]
struct Try {
    span: SpanId,
    instance: Arc<Instance>,
    began: Timestamp,
    ended: Option<Timestamp>,
    end: TryEnd,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// With an answer of this status.
    Answered(u16),
    /// Without one.
    Failed(Reason),
    /// Nobody wanted its answer any more: its client has left, or another try was faster.
    Cancelled,
}

impl Traced {
    /// The trace of a request: its `parent`'s, or a new one.
    pub(super) fn new(
        worker: &Rc<Worker>,
        tracing: &Tracing,
        parent: Option<Parent>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Rc<Self> {
        let ids = &worker.ids;
        let (trace, flags) = match parent {
            Some(parent) => (parent.trace, parent.flags),
            None => {
                let trace = ids.trace();
                (trace, u8::from(tracing.samples(trace)) * SAMPLED)
            }
        };
        let records = tracing.record && flags & SAMPLED != 0;
        let state = || parent.and_then(|_| state(headers));
        Rc::new(Self {
            worker: Rc::clone(worker),
            trace,
            parent: parent.map(|parent| parent.span),
            span: ids.span(),
            flags,
            state: if records { state() } else { None },
            records,
            began: now,
            tries: RefCell::default(),
        })
    }

    /// Puts the trace into a request; the span of a try takes the place of the request's later.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() {
            // It belongs to another trace.
            headers.remove(&TRACESTATE);
        }
        self.put_span(headers, self.span);
    }

    fn put_span(&self, headers: &mut HeaderMap, span: SpanId) {
        let text = format!("00-{}-{span}-{:02x}", self.trace, self.flags);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(&TRACEPARENT, value);
        }
    }

    /// Begins a try of `request` on `instance`.
    pub(super) fn tries(
        self: &Rc<Self>,
        request: Option<&mut Request<Upload>>,
        instance: &Arc<Instance>,
    ) -> Trying {
        let span = self.worker.ids.span();
        if let Some(request) = request {
            self.put_span(request.headers_mut(), span);
        }
        let mut tries = self.tries.borrow_mut();
        if self.records {
            tries.push(Try {
                span,
                instance: Arc::clone(instance),
                began: self.worker.clock.now(),
                ended: None,
                end: TryEnd::Cancelled,
            });
        }
        Trying {
            at: tries.len(),
            traced: Rc::clone(self),
        }
    }

    /// Makes a record of the request, which is over, and leaves it in the worker's queue.
    pub(super) fn close(&self, closed: Closed) {
        let now = self.worker.clock.now();
        let since = |time: Timestamp| time - self.began;
        let tries = self.tries.take().into_iter().map(|one| TryRecord {
            span: one.span,
            began: since(one.began),
            ended: since(one.ended.unwrap_or(now)),
            instance: one.instance,
            end: one.end,
        });
        let record = SpanRecord {
            trace: self.trace,
            span: self.span,
            parent: self.parent,
            flags: self.flags,
            state: self.state.clone(),
            ended: SystemTime::now(),
            duration: since(now),
            tries: tries.collect(),
            closed,
        };
        self.worker.spans.leave(record);
    }
}

/// The `tracestate` of a request in one piece.
fn state(headers: &HeaderMap) -> Option<Box<str>> {
    let values = headers.get_all(&TRACESTATE).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let state = values.join(",");
    (1..=MOST_STATE)
        .contains(&state.len())
        .then(|| state.into())
}

/// A try that goes on; dropping it without a word means that nobody wants its answer.
#[derive(Debug)]
pub(super) struct Trying {
    traced: Rc<Traced>,
    /// Its place among the tries, from 1; of no meaning when nothing is recorded.
    at: usize,
}

impl Trying {
    /// The try has ended like this.
    pub(super) fn ends(self, end: TryEnd) {
        self.note(end);
    }

    fn note(&self, end: TryEnd) {
        let now = self.traced.worker.clock.now();
        let mut tries = self.traced.tries.borrow_mut();
        let own = self.at.checked_sub(1).and_then(|at| tries.get_mut(at));
        if let Some(own) = own.filter(|own| own.ended.is_none()) {
            own.ended = Some(now);
            own.end = end;
        }
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.note(TryEnd::Cancelled);
    }
}

/// What is known of a request when it is over.
#[derive(Debug)]
pub struct Closed {
    /// Its method.
    pub method: Method,
    /// Its path without query.
    pub path: Box<str>,
    /// The host that it is for, with its port.
    pub host: Option<Box<str>>,
    /// The client's address.
    pub client: IpAddr,
    /// The path of its route.
    pub route: Option<Box<str>>,
    /// The service that its route leads to.
    pub service: Option<ServiceName>,
    /// How that chooses its instances.
    pub algorithm: Option<Algorithm>,
    /// How it ended.
    pub ending: Ending,
    /// Whether the client was given the whole answer.
    pub complete: bool,
}

/// A request and its tries, recorded.
#[derive(Debug)]
pub struct SpanRecord {
    /// The trace.
    pub trace: TraceId,
    /// The request's span.
    pub span: SpanId,
    /// The span that the client has named.
    pub parent: Option<SpanId>,
    /// Flags of the trace.
    pub flags: u8,
    /// What came as `tracestate`.
    pub state: Option<Box<str>>,
    /// When it was over.
    pub ended: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Its tries.
    pub tries: Vec<TryRecord>,
    /// What became of it.
    pub closed: Closed,
}

impl SpanRecord {
    /// How many spans it is.
    #[must_use]
    pub fn spans(&self) -> u64 {
        1 + self.tries.len() as u64
    }
}

/// A try, recorded.
#[derive(Debug)]
pub struct TryRecord {
    /// Its span.
    pub span: SpanId,
    /// When it began, from the beginning of the request.
    pub began: Duration,
    /// When it ended: at the head of the answer.
    pub ended: Duration,
    /// The instance.
    pub instance: Arc<Instance>,
    /// How it ended.
    pub end: TryEnd,
}

/// Where a worker leaves its records.
#[derive(Debug)]
pub(super) struct SpanQueue {
    queue: mpsc::SyncSender<Box<SpanRecord>>,
    lost: Arc<AtomicU64>,
}

impl SpanQueue {
    /// Leaves a record, or counts it as lost.
    fn leave(&self, record: SpanRecord) {
        let spans = record.spans();
        if self.queue.try_send(Box::new(record)).is_err() {
            self.lost.fetch_add(spans, Relaxed);
        }
    }
}

/// Where the records of all workers are found.
#[derive(Debug)]
pub struct Spans {
    receivers: Vec<mpsc::Receiver<Box<SpanRecord>>>,
    lost: Arc<AtomicU64>,
}

impl Spans {
    /// Those of no worker.
    #[must_use]
    pub fn none() -> Self {
        Self {
            receivers: Vec::new(),
            lost: Arc::default(),
        }
    }

    /// A queue for one more worker.
    pub(super) fn queue(&mut self) -> SpanQueue {
        let (queue, receiver) = mpsc::sync_channel(CAPACITY);
        self.receivers.push(receiver);
        SpanQueue {
            queue,
            lost: Arc::clone(&self.lost),
        }
    }

    /// The next record that waits, if any.
    pub fn take(&mut self) -> Option<SpanRecord> {
        let mut receivers = self.receivers.iter();
        let record = receivers.find_map(|receiver| receiver.try_recv().ok());
        record.map(|record| *record)
    }

    /// Spans that were lost since the last time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parent(values: &[&str]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        Parent::of(&headers)
    }

    #[test]
    fn only_a_valid_traceparent_is_one() {
        let good = format!("00-{ID}-00f067aa0ba902b7-01");
        let found = parent(&[&good]).unwrap();
        assert_eq!(found.trace.to_string(), ID);
        assert_eq!(found.span.to_string(), "00f067aa0ba902b7");
        assert_eq!(found.flags, SAMPLED);
        let later = format!("cc-{ID}-00f067aa0ba902b7-fe-what-comes");
        assert_eq!(parent(&[&later]).unwrap().flags, 0b10);
        for bad in [
            "",
            "00",
            &format!("ff-{ID}-00f067aa0ba902b7-01"),
            &format!("00-{ID}-00f067aa0ba902b7-01-more"),
            &format!("00-{ID}-0000000000000000-01"),
            &format!("00-{ID}-00f067aa0ba902b7"),
            &format!("00-{ID}-00f067aa0ba902b7-1"),
            &format!("0-{ID}-00f067aa0ba902b7-01"),
            &format!("00-{ID}0-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
        ] {
            assert_eq!(parent(&[bad]), None, "{bad}");
        }
        assert_eq!(parent(&[]), None);
        assert_eq!(parent(&[&good, &good]), None);
    }

    #[test]
    fn traces_are_sampled_by_their_id_alone() {
        let ids = Ids(Random::new(7));
        for (sample, least, most) in [
            (0, 0, 0),
            (1, 0, 2),
            (250_000, 2300, 2700),
            (1_000_000, 10_000, 10_000),
        ] {
            let tracing = Tracing::new(&TracingSpec {
                sample,
                ..TracingSpec::default()
            });
            let taken = (0..10_000).filter(|_| tracing.samples(ids.trace())).count();
            assert!((least..=most).contains(&taken), "{sample}: {taken}");
        }
        // The bounds of the id, exactly.
        let half = Tracing::new(&TracingSpec {
            sample: 500_000,
            ..TracingSpec::default()
        });
        let of = |last: u64| {
            let mut id = [0xff; 16];
            id[8..].copy_from_slice(&last.to_be_bytes());
            TraceId(id)
        };
        assert!(half.samples(of(1 << 55)) && !half.samples(of((1 << 55) - 1)));
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted() {
        let record = || SpanRecord {
            trace: TraceId([1; 16]),
            span: SpanId([2; 8]),
            parent: None,
            flags: SAMPLED,
            state: None,
            ended: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            tries: Vec::new(),
            closed: Closed {
                method: Method::GET,
                path: "/".into(),
                host: None,
                client: [127, 0, 0, 1].into(),
                route: None,
                service: None,
                algorithm: None,
                ending: Ending::Answered(200),
                complete: true,
            },
        };
        let mut spans = Spans::none();
        let (first, second) = (spans.queue(), spans.queue());
        for _ in 0..CAPACITY + 3 {
            first.leave(record());
        }
        second.leave(record());
        let mut count = 0;
        while spans.take().is_some() {
            count += 1;
        }
        assert_eq!((count, spans.lost(), spans.lost()), (CAPACITY + 1, 3, 0));
    }

    #[test]
    fn an_id_of_another_form_is_a_short_word() {
        let tracing = Tracing::new(&TracingSpec::default());
        let name = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-trace-id", value.parse().unwrap());
            tracing.name(&headers)
        };
        assert_eq!(name("gw-1-00000a").as_deref(), Some("gw-1-00000a"));
        for bad in ["", "two words", &"x".repeat(MOST_NAME + 1)] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
