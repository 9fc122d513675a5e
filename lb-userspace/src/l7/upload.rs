//! The body of a request on its way to an instance, and what is kept of it to be sent again.
//!
//! A body comes once. When its request may have to be sent again, what passes is copied aside, up
//! to a limit; a second try then sends the copy and goes on where it ends. Only requests that may
//! be repeated pay for that, and nothing is kept longer than until the answer has begun. Copying
//! is on purpose: a slice of what was read would keep the whole buffer of its connection.

use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
};

use super::{
    body::BodyError,
    pulse::{self, Pulse},
    tally::Tally,
    worker::Worker,
};

/// Most bytes that a worker keeps of all bodies together. Above that bodies are sent once.
const MOST_KEPT: usize = 32 * 1024 * 1024;

/// The body of a request on its way to an instance.
pub(super) struct Upload(State);

enum State {
    None,
    Passing(Passing),
    Kept(Replay),
}

/// A body as it comes from a client.
struct Passing {
    body: Incoming,
    worker: Rc<Worker>,
    pulse: Arc<Pulse>,
    tally: Rc<Tally>,
}

impl Upload {
    /// No body.
    pub(super) const NONE: Self = Self(State::None);

    /// A body as it comes from a client.
    pub(super) fn new(
        body: Incoming,
        worker: &Rc<Worker>,
        pulse: &Arc<Pulse>,
        tally: &Rc<Tally>,
    ) -> Self {
        if body.is_end_stream() {
            pulse.set_upload(pulse::Upload::Over);
            return Self::NONE;
        }
        pulse.set_upload(pulse::Upload::Passing);
        Self(State::Passing(Passing {
            body,
            worker: Rc::clone(worker),
            pulse: Arc::clone(pulse),
            tally: Rc::clone(tally),
        }))
    }

    /// Whether there is no body.
    pub(super) const fn is_none(&self) -> bool {
        matches!(self.0, State::None)
    }

    /// Has what passes kept, up to `limit` bytes; `None` when it is known to be more, or none at
    /// all.
    pub(super) fn keep(&mut self, limit: usize) -> Option<Kept> {
        if self.size_hint().lower() > limit as u64 {
            return None;
        }
        match std::mem::replace(&mut self.0, State::None) {
            State::Passing(passing) => {
                let tee = Tee {
                    worker: Rc::clone(&passing.worker),
                    passing: Some(passing),
                    copy: Vec::new(),
                    trailers: None,
                    limit,
                    incomplete: false,
                    turn: 0,
                };
                let kept = Kept(Rc::new(RefCell::new(tee)));
                self.0 = State::Kept(kept.beginning(0));
                Some(kept)
            }
            other => {
                self.0 = other;
                None
            }
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upload").field(&!self.is_none()).finish()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            State::None => Poll::Ready(None),
            State::Passing(passing) => passing.poll_frame(cx),
            State::Kept(replay) => replay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::None => true,
            State::Passing(passing) => passing.body.is_end_stream(),
            State::Kept(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::None => SizeHint::with_exact(0),
            State::Passing(passing) => passing.body.size_hint(),
            State::Kept(replay) => replay.size_hint(),
        }
    }
}

impl Passing {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                self.pulse.set_upload(pulse::Upload::Waiting);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        match &frame {
            Some(Ok(frame)) => {
                self.tally.received(frame.data_ref().map_or(0, Bytes::len));
                self.pulse.set_upload(pulse::Upload::Passing);
                self.pulse.uploaded(self.worker.clock.now());
            }
            Some(Err(_)) => self.pulse.set_upload(pulse::Upload::Broken),
            None => {}
        }
        Poll::Ready(frame.map(|frame| Ok(frame?)))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if self.pulse.upload() != pulse::Upload::Broken {
            self.pulse.upload_over(self.worker.clock.now());
        }
    }
}

/// A body that can be sent again, as long as it is kept whole.
#[derive(Clone, Debug)]
pub(super) struct Kept(Rc<RefCell<Tee>>);

/// What has passed of a body, and what is yet to come.
struct Tee {
    worker: Rc<Worker>,
    /// What is yet to come; `None` after its end.
    passing: Option<Passing>,
    copy: Vec<u8>,
    trailers: Option<HeaderMap>,
    limit: usize,
    /// Something has passed that is not in the copy.
    incomplete: bool,
    /// Which try the body is for: an earlier one, whose connection may not have noticed yet that
    /// it is over, must not take parts away.
    turn: u32,
}

/// One passage of a kept body.
struct Replay {
    kept: Kept,
    turn: u32,
    /// Bytes of the copy that have been passed on.
    at: usize,
    over: bool,
}

impl Kept {
    /// The body once more; `None` when not all of what has passed was kept.
    pub(super) fn again(&self) -> Option<Upload> {
        let mut tee = self.0.borrow_mut();
        if tee.incomplete {
            return None;
        }
        if let Some(passing) = &tee.passing {
            passing.pulse.set_upload(pulse::Upload::Passing);
        }
        tee.turn += 1;
        let turn = tee.turn;
        drop(tee);
        Some(Upload(State::Kept(self.beginning(turn))))
    }

    fn beginning(&self, turn: u32) -> Replay {
        Replay {
            kept: self.clone(),
            turn,
            at: 0,
            over: false,
        }
    }
}

impl Replay {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut tee = self.kept.0.borrow_mut();
        if tee.turn != self.turn {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if self.at < tee.copy.len() {
            let data = Bytes::copy_from_slice(&tee.copy[self.at..]);
            self.at = tee.copy.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = tee.trailers.clone().filter(|_| !self.over) {
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let Some(passing) = &mut tee.passing else {
            return Poll::Ready(None);
        };
        let frame = ready!(passing.poll_frame(cx));
        let ended = frame.is_none() || passing.body.is_end_stream();
        if let Some(Ok(frame)) = &frame {
            // When nobody else holds it, nobody will send it again.
            let wanted = Rc::strong_count(&self.kept.0) > 1;
            tee.keep(frame, wanted);
            self.over |= frame.is_trailers();
        }
        if ended {
            tee.passing = None;
        }
        self.at = tee.copy.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let tee = self.kept.0.borrow();
        tee.passing.is_none() && self.at >= tee.copy.len() && (self.over || tee.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let tee = self.kept.0.borrow();
        let copied = tee.copy.len().saturating_sub(self.at) as u64;
        let to_come = tee.passing.as_ref().map_or_else(
            || SizeHint::with_exact(0),
            |passing| passing.body.size_hint(),
        );
        let mut hint = SizeHint::new();
        if let Some(upper) = to_come.upper() {
            hint.set_upper(copied + upper);
        }
        hint.set_lower(copied + to_come.lower());
        hint
    }
}

impl Tee {
    /// Keeps a part, unless that is more than may be kept.
    fn keep(&mut self, frame: &Frame<Bytes>, wanted: bool) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref().filter(|_| !self.incomplete) else {
            return;
        };
        let kept = self.worker.kept_bytes.get();
        let fits = self.copy.len() + data.len() <= self.limit && kept + data.len() <= MOST_KEPT;
        if wanted && fits {
            self.copy.extend_from_slice(data);
            self.worker.kept_bytes.set(kept + data.len());
        } else {
            self.incomplete = true;
            self.forget();
        }
    }

    fn forget(&mut self) {
        let kept = self.worker.kept_bytes.get();
        self.worker.kept_bytes.set(kept - self.copy.len());
        self.copy = Vec::new();
    }
}

impl fmt::Debug for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tee")
            .field("copied", &self.copy.len())
            .field("incomplete", &self.incomplete)
            .finish_non_exhaustive()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.forget();
    }
}
