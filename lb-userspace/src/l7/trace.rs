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

mod context;
mod record;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc, time::SystemTime};

use hyper::{
    HeaderMap, Request,
    header::{HeaderName, HeaderValue},
};

pub(super) use self::{
    context::{Ids, Parent},
    record::SpanQueue,
};
pub use self::{
    context::{SpanId, TraceId},
    record::{Closed, SpanRecord, Spans, TryEnd, TryRecord},
};
use super::{headers::Peer, upload::Upload, worker::Worker};
use crate::model::{Instance, Timestamp, TraceTrust, TracingSpec};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The one flag of `traceparent` that means something here: the trace is sampled.
const SAMPLED: u8 = 1;

/// Longest `tracestate` that is recorded, in bytes: what a tracer has to propagate at least.
const MOST_STATE: usize = 512;

/// Longest id of somebody else's form that is believed, in bytes.
const MOST_NAME: usize = 128;

/// The whole of a sample.
const WHOLE: u64 = 1_000_000;

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
