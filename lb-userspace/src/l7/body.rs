//! The bodies that lb passes on, without a box around any that is on the hot path.

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
    pulse::{self, Pulse},
    worker::Worker,
};

/// Why a body ended before its end. The connection that it was for is then closed, which is how
/// HTTP/1.1 tells that a message is incomplete.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The peer that it came from broke off, or broke a rule of HTTP.
    #[error("expected the rest of a body: {0}")]
    Broken(#[from] hyper::Error),
    /// The management API failed to produce it.
    #[error("expected a body from the management API: {0}")]
    Management(#[from] axum::Error),
}

/// The body of a request on its way to an instance.
pub(super) struct Upload(Option<Passing>);

struct Passing {
    body: Incoming,
    worker: Rc<Worker>,
    pulse: Arc<Pulse>,
}

impl Upload {
    /// No body.
    pub(super) const NONE: Self = Self(None);

    /// A body as it comes from a client.
    pub(super) fn new(body: Incoming, worker: &Rc<Worker>, pulse: &Arc<Pulse>) -> Self {
        if body.is_end_stream() {
            pulse.set_upload(pulse::Upload::Over);
            return Self::NONE;
        }
        pulse.set_upload(pulse::Upload::Passing);
        Self(Some(Passing {
            body,
            worker: Rc::clone(worker),
            pulse: Arc::clone(pulse),
        }))
    }

    /// Whether there is no body.
    pub(super) const fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upload").field(&self.0.is_some()).finish()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(passing) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(&mut passing.body).poll_frame(cx) {
            Poll::Pending => {
                passing.pulse.set_upload(pulse::Upload::Waiting);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        match &frame {
            Some(Ok(_)) => {
                passing.pulse.set_upload(pulse::Upload::Passing);
                passing.pulse.uploaded(passing.worker.clock.now());
            }
            Some(Err(_)) => passing.pulse.set_upload(pulse::Upload::Broken),
            None => {}
        }
        Poll::Ready(frame.map(|frame| Ok(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|up| up.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let exact = || SizeHint::with_exact(0);
        self.0.as_ref().map_or_else(exact, |up| up.body.size_hint())
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if self.pulse.upload() != pulse::Upload::Broken {
            self.pulse.upload_over(self.worker.clock.now());
        }
    }
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
    Management(axum::body::Body),
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
                frame.map(|frame| Ok(frame?))
            }
            Self::Management(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| Ok(frame?))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Passing(passed) => passed.body.is_end_stream(),
            Self::Management(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Passing(passed) => passed.body.size_hint(),
            Self::Management(body) => body.size_hint(),
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
        if let Some(lease) = self.lease.take()
            && complete
        {
            Pool::give_back(&self.worker.pool, lease, now);
        }
        self.pulse.answered(now);
    }
}
