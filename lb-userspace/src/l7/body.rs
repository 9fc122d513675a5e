//! The bodies of answers that lb passes on, without a box around any that is on the hot path.

use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    access::Entry,
    admission::Stay,
    pool::{Lease, Pool},
    pulse::Pulse,
    worker::Worker,
};

/// Why a body ended before its end. The connection that it was for is then closed, which is how
/// HTTP/1.1 tells that a message is incomplete.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The peer that it came from broke off, or broke a rule of HTTP.
    #[error("expected the rest of a body: {0}")]
    Broken(#[from] hyper::Error),
    /// The try that it was for is over; another one has it.
    #[error("expected a body for this try, which is over")]
    Superseded,
    /// The management API failed to produce it.
    #[error("expected a body from the management API: {0}")]
    Management(#[from] axum::Error),
}

/// The body of an answer on its way to a client.
pub(super) enum Answer {
    /// None.
    Empty,
    /// A text of lb's own; `None` once it was handed out.
    Text(Option<Bytes>),
    /// What an instance sends.
    Passing(Passed),
    /// What the management API sends.
    Management(Told),
}

/// An answer of the management API in transit.
pub(super) struct Told {
    pub(super) body: axum::body::Body,
    pub(super) worker: Rc<Worker>,
    pub(super) pulse: Arc<Pulse>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.pulse.answered(self.worker.clock.now());
    }
}

/// An answer's body in transit, with what its end sets free.
pub(super) struct Passed {
    pub(super) body: Incoming,
    pub(super) worker: Rc<Worker>,
    pub(super) pulse: Arc<Pulse>,
    /// The connection that it comes from; goes back to the pool when the body is complete.
    pub(super) lease: Option<Lease>,
    /// Its end has been seen.
    pub(super) ended: bool,
    /// The request is in flight until its answer is passed on.
    pub(super) _stay: Stay,
    /// The record of the request, which ends with the answer.
    pub(super) entry: Entry,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Text(_) => "Text",
            Self::Passing(_) => "Passing",
            Self::Management(_) => "Management",
        })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match &mut *self {
            Self::Empty => None,
            Self::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Self::Passing(passed) => {
                let frame = ready!(Pin::new(&mut passed.body).poll_frame(cx));
                passed.pulse.progressed();
                passed.ended = frame.is_none();
                if let Some(Ok(frame)) = &frame {
                    passed.entry.sent(frame.data_ref().map_or(0, Bytes::len));
                }
                frame.map(|frame| Ok(frame?))
            }
            Self::Management(told) => {
                let frame = ready!(Pin::new(&mut told.body).poll_frame(cx));
                told.pulse.progressed();
                frame.map(|frame| Ok(frame?))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Passing(passed) => passed.body.is_end_stream(),
            Self::Management(told) => told.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Passing(passed) => passed.body.size_hint(),
            Self::Management(told) => told.body.size_hint(),
        }
    }
}

impl Drop for Passed {
    /// The body is over, or nobody wants the rest. A connection that still has some of it to
    /// deliver is closed instead of kept: whatever came next on it would be taken for an answer to
    /// somebody else's request.
    fn drop(&mut self) {
        let now = self.worker.clock.now();
        let complete = self.ended || self.body.is_end_stream();
        if !complete {
            self.entry.cut();
        }
        self.entry.over(now);
        if let Some(lease) = self.lease.take()
            && complete
        {
            Pool::give_back(&self.worker.pool, lease, now);
        }
        self.pulse.answered(now);
    }
}
