//! Requests that are over, as spans, and the queues in which they wait for whoever collects them.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use hyper::Method;

use super::{SpanId, TraceId};
use crate::{
    l7::access::Ending,
    model::{Algorithm, Instance, Reason, ServiceName},
};

/// Records of requests that a worker's queue holds.
pub(super) const CAPACITY: usize = 4096;

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
pub(in crate::l7) struct SpanQueue {
    queue: mpsc::SyncSender<Box<SpanRecord>>,
    lost: Arc<AtomicU64>,
}

impl SpanQueue {
    /// Leaves a record, or counts it as lost.
    pub(super) fn leave(&self, record: SpanRecord) {
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
    pub(in crate::l7) fn queue(&mut self) -> SpanQueue {
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
