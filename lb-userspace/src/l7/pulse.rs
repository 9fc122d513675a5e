//! How long a client connection may wait for what it waits for.
//!
//! A timer a request would cost more than most of what lb does for the request. So a connection
//! has one timer, and every part of an exchange only notes here, with plain stores, by when the
//! connection is to be looked at next. The connection's task looks when its timer fires and sets
//! it anew; only a limit that ends sooner than the timer was set for costs a timer operation.
//!
//! One thread uses a pulse. It is made of atomics because hyper wants a connection that may be
//! upgraded to be `Send`; with relaxed order they are ordinary loads and stores.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::model::{GatewaySpec, Reason, TimeoutSpec, Timestamp};

/// How often a body in transit is looked at within its limit of silence: a silence is noticed
/// after 1 to 1.25 times the limit.
const LOOKS: u64 = 4;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The first byte of the next request.
    Idle,
    /// The rest of a request's head, or the first request of all.
    Head,
    /// The head of an instance's answer.
    Answer,
    /// Parts of a body, in either direction.
    Body,
}

/// Where the body of the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Upload {
    /// There is none, or all of it has been passed on.
    Over,
    /// The instance is to take more of it.
    Passing,
    /// The client is to send more of it.
    Waiting,
    /// The client broke it off, or it breaks a rule of HTTP.
    Broken,
}

/// Why lb stops waiting for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stop {
    /// Nothing stops.
    No,
    /// The limit of the request has passed.
    Request,
    /// The client has sent nothing for too long.
    Upload,
    /// The limit of the whole exchange has passed.
    Total,
    /// The instance has the request and has said nothing for too long. Another try may begin.
    Response,
    /// The limit of the try has passed. Another one may begin.
    Try,
    /// lb ends.
    Ending,
}

impl Stop {
    const ALL: [Self; 7] = [
        Self::No,
        Self::Request,
        Self::Upload,
        Self::Total,
        Self::Response,
        Self::Try,
        Self::Ending,
    ];

    /// Whether it ends a try only.
    const fn is_of_try(self) -> bool {
        matches!(self, Self::Response | Self::Try)
    }

    /// Whether the request may be tried again.
    pub(super) const fn lets_retry(self) -> bool {
        matches!(self, Self::No) || self.is_of_try()
    }
}

/// Why a connection is closed without an answer, or with none that an instance made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A request's head did not come, or not in time.
    Head,
    /// No further request came.
    KeepAlive,
    /// Neither side sent or took a part of a body.
    Silence,
    /// The limit of the whole exchange has passed within a body.
    Total,
    /// Nothing passed through a tunnel.
    Tunnel,
}

impl Closed {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Head,
        Self::KeepAlive,
        Self::Silence,
        Self::Total,
        Self::Tunnel,
    ];

    /// The stable name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Head => "header_timeout",
            Self::KeepAlive => "keepalive_timeout",
            Self::Silence => "idle",
            Self::Total => "total",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What the task of the connection is to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Poll the connection, whose exchange may find that it has expired, and look again at that
    /// time.
    Again(Timestamp),
    /// Close the connection.
    Close(Closed),
}

/// See the module. Times are in µs.
#[derive(Debug)]
pub(super) struct Pulse {
    phase: AtomicU8,
    upload: AtomicU8,
    stop: AtomicU8,
    /// The answer's body is over, the request's is not.
    answered: AtomicBool,
    /// The client does not take what is there to be sent.
    blocked: AtomicBool,
    /// Something of the head that is waited for has come.
    begun: AtomicBool,
    /// The first byte of a head has come, and nobody has noted when.
    fresh: AtomicBool,
    /// The request at hand is the connection's last.
    last: AtomicBool,
    /// When to look: not later than anything ends.
    due: AtomicU64,
    /// When the request came or its body last moved.
    since: AtomicU64,
    /// When the try at hand began.
    tried: AtomicU64,
    /// When the whole exchange must be over.
    whole: AtomicU64,
    limits: Limits,
    /// Longest silence within a body.
    silence: AtomicU64,
    /// From when on a request is the last.
    ages: u64,
    /// Requests that are left.
    left: AtomicU64,
    /// Grows with each part of a body and each piece that the client takes.
    progress: AtomicU32,
    /// `progress` at the last look, and looks since it moved.
    seen: AtomicU32,
    quiet: AtomicU8,
}

/// Limits of the connection, and of the request at hand.
#[derive(Debug)]
struct Limits {
    head: u64,
    keep_alive: u64,
    request: AtomicU64,
    upload: AtomicU64,
    response: AtomicU64,
    attempt: AtomicU64,
}

/// Longer than any limit, and safe to add to any time.
const NEVER: u64 = u64::MAX / 4;

/// The beginning of a try while there is none: before the first one, when the time to look has been
/// set with its limits in mind, and between two.
const BEFORE_TRY: u64 = NEVER;
const AFTER_TRY: u64 = NEVER + 1;

fn micros(duration: Duration) -> u64 {
    // In 64 bits: this is asked some times for each request.
    let seconds = duration.as_secs().min(NEVER / 1_000_000 - 1);
    seconds * 1_000_000 + u64::from(duration.subsec_micros())
}

fn maybe(limit: Option<Duration>) -> u64 {
    limit.map_or(NEVER, micros)
}

impl Pulse {
    /// The pulse of a connection that was just accepted.
    pub(super) fn new(now: Timestamp, gateway: &GatewaySpec) -> Self {
        let head = micros(gateway.header_timeout);
        let never = || AtomicU64::new(NEVER);
        Self {
            phase: AtomicU8::new(Phase::Head as u8),
            upload: AtomicU8::new(Upload::Over as u8),
            stop: AtomicU8::new(Stop::No as u8),
            answered: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            fresh: AtomicBool::new(false),
            last: AtomicBool::new(false),
            due: AtomicU64::new(now.0.saturating_add(head)),
            since: AtomicU64::new(now.0),
            tried: AtomicU64::new(now.0),
            whole: never(),
            limits: Limits {
                head,
                keep_alive: micros(gateway.keepalive_timeout),
                request: never(),
                upload: never(),
                response: never(),
                attempt: never(),
            },
            silence: AtomicU64::new(head),
            ages: now.0.saturating_add(maybe(gateway.max_connection_age)),
            left: AtomicU64::new(gateway.max_connection_requests.unwrap_or(u64::MAX)),
            progress: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            quiet: AtomicU8::new(0),
        }
    }

    /// The head of a request has come.
    pub(super) fn counts(&self, now: Timestamp) {
        let left = self.left.load(Relaxed).saturating_sub(1);
        self.left.store(left, Relaxed);
        if left == 0 || now.0 >= self.ages {
            self.last.store(true, Relaxed);
        }
    }

    /// Whether the connection is to be closed after the answer to the request at hand: it is old,
    /// or has had as many as it may.
    pub(super) fn is_last(&self) -> bool {
        self.last.load(Relaxed)
    }

    /// A request has arrived, to be answered within these limits.
    pub(super) fn arrived(&self, now: Timestamp, timeouts: &TimeoutSpec) {
        let limits = [
            (&self.limits.request, micros(timeouts.request)),
            (&self.limits.upload, micros(timeouts.upload)),
            (&self.limits.response, micros(timeouts.response)),
            (&self.limits.attempt, maybe(timeouts.attempt)),
        ];
        let total = maybe(timeouts.total);
        let mut first = total;
        for (to, limit) in limits {
            to.store(limit, Relaxed);
            first = first.min(limit);
        }
        self.waits_for_answer(now, first);
        self.whole.store(now.0.saturating_add(total), Relaxed);
    }

    /// A request has arrived that lb itself answers within `limit`.
    pub(super) fn arrived_here(&self, now: Timestamp, limit: Duration) {
        let limits = &self.limits;
        limits.request.store(micros(limit), Relaxed);
        for off in [&limits.upload, &limits.response, &limits.attempt] {
            off.store(NEVER, Relaxed);
        }
        self.waits_for_answer(now, micros(limit));
        self.whole.store(NEVER, Relaxed);
    }

    fn waits_for_answer(&self, now: Timestamp, first: u64) {
        self.phase.store(Phase::Answer as u8, Relaxed);
        self.stop.store(Stop::No as u8, Relaxed);
        self.answered.store(false, Relaxed);
        self.since.store(now.0, Relaxed);
        self.tried.store(BEFORE_TRY, Relaxed);
        self.due.store(now.0.saturating_add(first), Relaxed);
    }

    /// A try begins, and with it its limits.
    pub(super) fn tries(&self, now: Timestamp) {
        // What is to be looked at is not due sooner than before.
        let between = self.tried.load(Relaxed) == AFTER_TRY;
        self.tried.store(now.0, Relaxed);
        if between {
            self.due.store(self.ends().0, Relaxed);
        }
    }

    /// A try is over, and its limits with it: what follows it may be a wait.
    pub(super) fn resume(&self) {
        self.tried.store(AFTER_TRY, Relaxed);
        self.stop.store(Stop::No as u8, Relaxed);
        self.due.store(self.ends().0, Relaxed);
    }

    /// When the request must have its answer, whatever it is tried on.
    pub(super) fn deadline(&self) -> Timestamp {
        let request = self.since.load(Relaxed) + self.limits.request.load(Relaxed);
        Timestamp(request.min(self.whole.load(Relaxed)))
    }

    /// When waiting for an answer ends, and why then.
    fn ends(&self) -> (u64, Stop) {
        let limits = &self.limits;
        let (since, tried) = (self.since.load(Relaxed), self.tried.load(Relaxed));
        let upload = self.upload();
        let ends = if upload == Upload::Waiting {
            let silence = limits
                .upload
                .load(Relaxed)
                .min(limits.request.load(Relaxed));
            (since + silence, Stop::Upload)
        } else {
            (since + limits.request.load(Relaxed), Stop::Request)
        };
        let silent = if upload == Upload::Over {
            since.max(tried) + limits.response.load(Relaxed)
        } else {
            NEVER
        };
        let others = [
            (self.whole.load(Relaxed), Stop::Total),
            (silent, Stop::Response),
            (tried + limits.attempt.load(Relaxed), Stop::Try),
        ];
        // The first of those that come at the same time.
        let earlier = |a: (u64, Stop), b: (u64, Stop)| if b.0 < a.0 { b } else { a };
        others.into_iter().fold(ends, earlier)
    }

    /// The head of an answer has arrived, and a body of which no part may take longer than `idle`.
    pub(super) fn answering(&self, now: Timestamp, idle: Duration) {
        let idle = micros(idle);
        self.phase.store(Phase::Body as u8, Relaxed);
        self.silence.store(idle, Relaxed);
        self.quiet.store(0, Relaxed);
        let look = now.0.saturating_add(idle / LOOKS);
        self.due.store(look.min(self.whole.load(Relaxed)), Relaxed);
    }

    /// The answer has been handed to the client's side in full.
    pub(super) fn answered(&self, now: Timestamp) {
        if self.upload() == Upload::Over {
            self.waits_for_request(now);
        } else {
            self.answered.store(true, Relaxed);
        }
    }

    fn waits_for_request(&self, now: Timestamp) {
        self.phase.store(Phase::Idle as u8, Relaxed);
        self.begun.store(false, Relaxed);
        self.silence.store(self.limits.head, Relaxed);
        self.quiet.store(0, Relaxed);
        let due = now.0.saturating_add(self.limits.keep_alive);
        self.due.store(due, Relaxed);
    }

    /// Something has come from the client.
    pub(super) fn read(&self) {
        match self.phase() {
            Phase::Idle => {
                self.phase.store(Phase::Head as u8, Relaxed);
                self.begun.store(true, Relaxed);
                self.fresh.store(true, Relaxed);
            }
            Phase::Head => self.begun.store(true, Relaxed),
            Phase::Answer | Phase::Body => {}
        }
    }

    /// Whether the first part of a head has come since the last call, and not all of it: then its
    /// limit begins now.
    pub(super) fn has_begun(&self) -> bool {
        self.fresh.load(Relaxed) && {
            self.fresh.store(false, Relaxed);
            self.phase() == Phase::Head
        }
    }

    /// The limit of a head begins.
    pub(super) fn begins(&self, now: Timestamp) {
        let due = now.0.saturating_add(self.limits.head);
        self.due.store(due, Relaxed);
    }

    /// Whether a part of a head has come and the rest has not.
    pub(super) fn is_within_head(&self) -> bool {
        self.phase() == Phase::Head && self.begun.load(Relaxed)
    }

    /// Notes where the request's body is.
    pub(super) fn set_upload(&self, upload: Upload) {
        self.upload.store(upload as u8, Relaxed);
    }

    /// A part of the request's body has come. The limit for the answer starts anew: an upload may
    /// take long, a silence may not.
    pub(super) fn uploaded(&self, now: Timestamp) {
        self.progressed();
        if self.phase() == Phase::Answer {
            self.since.store(now.0, Relaxed);
            self.due.store(self.ends().0, Relaxed);
        }
    }

    /// The request's body is over.
    pub(super) fn upload_over(&self, now: Timestamp) {
        self.set_upload(Upload::Over);
        self.uploaded(now);
        if self.answered.load(Relaxed) {
            self.waits_for_request(now);
        }
    }

    /// Where the request's body is.
    pub(super) fn upload(&self) -> Upload {
        match self.upload.load(Relaxed) {
            0 => Upload::Over,
            1 => Upload::Passing,
            2 => Upload::Waiting,
            _ => Upload::Broken,
        }
    }

    /// Something has moved.
    pub(super) fn progressed(&self) {
        let progress = self.progress.load(Relaxed).wrapping_add(1);
        self.progress.store(progress, Relaxed);
    }

    /// The client takes what it is sent, or does not.
    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Relaxed);
    }

    /// Makes what waits for an answer give up, because lb ends.
    pub(super) fn end(&self) {
        self.stop.store(Stop::Ending as u8, Relaxed);
    }

    /// Whether what waits for an answer is to give up.
    pub(super) fn stop(&self) -> Stop {
        let stop = usize::from(self.stop.load(Relaxed));
        Stop::ALL.get(stop).copied().unwrap_or(Stop::Ending)
    }

    /// The reason that goes with [`Pulse::stop`], and whether the instance is to blame.
    pub(super) fn stopped(&self) -> (Reason, bool) {
        let waits = self.upload() == Upload::Waiting;
        match self.stop() {
            Stop::Ending => (Reason::ShuttingDown, false),
            Stop::Upload => (Reason::ClientTimeout, false),
            Stop::Total => (Reason::TotalTimeout, !waits),
            Stop::Response => (Reason::ResponseTimeout, true),
            Stop::Try => (Reason::TryTimeout, !waits),
            Stop::No | Stop::Request => (Reason::RequestTimeout, true),
        }
    }

    /// Whether the connection is between two requests.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Idle | Phase::Head)
    }

    /// When to look.
    pub(super) fn due(&self) -> Timestamp {
        Timestamp(self.due.load(Relaxed))
    }

    /// Looks.
    pub(super) fn look(&self, now: Timestamp) -> Look {
        match self.phase() {
            Phase::Body => return self.look_at_bodies(now),
            Phase::Idle | Phase::Head if self.blocked.load(Relaxed) => {
                return self.look_at_bodies(now);
            }
            Phase::Answer => return self.look_for_answer(now),
            Phase::Idle | Phase::Head => {}
        }
        let due = self.due();
        if now < due {
            return Look::Again(due);
        }
        Look::Close(if self.phase() == Phase::Idle {
            Closed::KeepAlive
        } else {
            Closed::Head
        })
    }

    fn look_for_answer(&self, now: Timestamp) -> Look {
        let (ends, stop) = self.ends();
        if now.0 < ends {
            self.due.store(ends, Relaxed);
            return Look::Again(Timestamp(ends));
        }
        if self.stop() != Stop::Ending {
            self.stop.store(stop as u8, Relaxed);
        }
        let again = Timestamp(now.0.saturating_add(self.limits.head));
        self.due.store(again.0, Relaxed);
        Look::Again(again)
    }

    fn look_at_bodies(&self, now: Timestamp) -> Look {
        let whole = self.whole.load(Relaxed);
        if self.phase() == Phase::Body && now.0 >= whole {
            return Look::Close(Closed::Total);
        }
        let progress = self.progress.load(Relaxed);
        let mut quiet = 0;
        if progress == self.seen.swap(progress, Relaxed) {
            quiet = self.quiet.load(Relaxed) + 1;
        }
        self.quiet.store(quiet, Relaxed);
        if u64::from(quiet) > LOOKS {
            return Look::Close(Closed::Silence);
        }
        let again = now.0.saturating_add(self.silence.load(Relaxed) / LOOKS);
        let again = if self.phase() == Phase::Body {
            again.min(whole)
        } else {
            again
        };
        self.due.store(again, Relaxed);
        Look::Again(Timestamp(again))
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Answer,
            _ => Phase::Body,
        }
    }
}

#[cfg(test)]
mod tests;
