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

use crate::model::{Reason, Timestamp};

/// How often a body in transit is looked at within its limit of silence: a silence is noticed
/// after 1 to 1.25 times the limit.
const LOOKS: u64 = 4;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The head of the next request.
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

/// Why lb stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stop {
    /// Nothing stops.
    No,
    /// The limit has passed.
    Expired,
    /// lb ends.
    Ending,
}

/// What the task of the connection is to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Poll the connection, whose exchange may find that it has expired, and look again at that
    /// time.
    Again(Timestamp),
    /// Close the connection.
    Close,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pulse {
    phase: AtomicU8,
    upload: AtomicU8,
    stop: AtomicU8,
    /// The answer's body is over, the request's is not.
    answered: AtomicBool,
    /// The client does not take what is there to be sent.
    blocked: AtomicBool,
    /// When to look, in µs.
    due: AtomicU64,
    /// Limit of the phase, in µs.
    limit: AtomicU64,
    head_limit: u64,
    /// Grows with each part of a body and each piece that the client takes.
    progress: AtomicU32,
    /// `progress` at the last look, and looks since it moved.
    seen: AtomicU32,
    quiet: AtomicU8,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

impl Pulse {
    /// The pulse of a connection that was just accepted.
    pub(super) fn new(now: Timestamp, head_limit: Duration) -> Self {
        let head_limit = micros(head_limit);
        Self {
            phase: AtomicU8::new(Phase::Head as u8),
            upload: AtomicU8::new(Upload::Over as u8),
            stop: AtomicU8::new(Stop::No as u8),
            answered: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            due: AtomicU64::new(now.0.saturating_add(head_limit)),
            limit: AtomicU64::new(0),
            head_limit,
            progress: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            quiet: AtomicU8::new(0),
        }
    }

    /// A request has arrived; its answer's head is to come within `limit`.
    pub(super) fn arrived(&self, now: Timestamp, limit: Duration) {
        let limit = micros(limit);
        self.phase.store(Phase::Answer as u8, Relaxed);
        self.stop.store(Stop::No as u8, Relaxed);
        self.answered.store(false, Relaxed);
        self.limit.store(limit, Relaxed);
        self.due.store(now.0.saturating_add(limit), Relaxed);
    }

    /// The head of an answer has arrived, and a body of which no part may take longer than `idle`.
    pub(super) fn answering(&self, now: Timestamp, idle: Duration) {
        let idle = micros(idle);
        self.phase.store(Phase::Body as u8, Relaxed);
        self.limit.store(idle, Relaxed);
        self.quiet.store(0, Relaxed);
        self.due.store(now.0.saturating_add(idle / LOOKS), Relaxed);
    }

    /// The answer has been handed to the client's side in full.
    pub(super) fn answered(&self, now: Timestamp) {
        if self.upload() == Upload::Over {
            self.waits_for_head(now);
        } else {
            self.answered.store(true, Relaxed);
        }
    }

    fn waits_for_head(&self, now: Timestamp) {
        self.phase.store(Phase::Head as u8, Relaxed);
        self.limit.store(self.head_limit, Relaxed);
        self.quiet.store(0, Relaxed);
        self.due
            .store(now.0.saturating_add(self.head_limit), Relaxed);
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
            let limit = self.limit.load(Relaxed);
            self.due.store(now.0.saturating_add(limit), Relaxed);
        }
    }

    /// The request's body is over.
    pub(super) fn upload_over(&self, now: Timestamp) {
        self.uploaded(now);
        self.set_upload(Upload::Over);
        if self.answered.load(Relaxed) {
            self.waits_for_head(now);
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
        match self.stop.load(Relaxed) {
            0 => Stop::No,
            1 => Stop::Expired,
            _ => Stop::Ending,
        }
    }

    /// The reason that goes with [`Pulse::stop`], and whether the instance is to blame.
    pub(super) fn stopped(&self) -> (Reason, bool) {
        match (self.stop(), self.upload()) {
            (Stop::Ending, _) => (Reason::ShuttingDown, false),
            (_, Upload::Waiting) => (Reason::ClientTimeout, false),
            _ => (Reason::RequestTimeout, true),
        }
    }

    /// Whether the connection is between two requests.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.phase() == Phase::Head
    }

    /// When to look.
    pub(super) fn due(&self) -> Timestamp {
        Timestamp(self.due.load(Relaxed))
    }

    /// Looks.
    pub(super) fn look(&self, now: Timestamp) -> Look {
        let due = self.due();
        let phase = self.phase();
        if phase == Phase::Body || (phase == Phase::Head && self.blocked.load(Relaxed)) {
            return self.look_at_bodies(now);
        }
        if now < due {
            return Look::Again(due);
        }
        if phase == Phase::Head {
            return Look::Close;
        }
        self.stop.store(Stop::Expired as u8, Relaxed);
        let again = Timestamp(now.0.saturating_add(self.head_limit));
        self.due.store(again.0, Relaxed);
        Look::Again(again)
    }

    fn look_at_bodies(&self, now: Timestamp) -> Look {
        let progress = self.progress.load(Relaxed);
        let mut quiet = 0;
        if progress == self.seen.swap(progress, Relaxed) {
            quiet = self.quiet.load(Relaxed) + 1;
        }
        self.quiet.store(quiet, Relaxed);
        if u64::from(quiet) > LOOKS {
            return Look::Close;
        }
        let again = now.0.saturating_add(self.limit.load(Relaxed) / LOOKS);
        self.due.store(again, Relaxed);
        Look::Again(Timestamp(again))
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Head,
            1 => Phase::Answer,
            _ => Phase::Body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(30);
    const LIMIT: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Timestamp {
        Timestamp((seconds * 1e6) as u64)
    }

    #[test]
    fn a_head_must_come_within_its_limit() {
        let pulse = Pulse::new(at(5.0), HEAD);
        assert_eq!(pulse.look(at(34.9)), Look::Again(at(35.0)));
        assert_eq!(pulse.look(at(35.0)), Look::Close);
    }

    #[test]
    fn an_answer_must_come_within_its_limit_and_only_the_guilty_is_blamed() {
        let pulse = Pulse::new(at(0.0), HEAD);
        pulse.arrived(at(20.0), LIMIT);
        assert!(!pulse.is_idle());
        assert_eq!(pulse.look(at(29.0)), Look::Again(at(30.0)));
        assert_eq!(pulse.stop(), Stop::No);
        assert_eq!(pulse.look(at(30.0)), Look::Again(at(60.0)));
        assert_eq!(pulse.stop(), Stop::Expired);
        assert_eq!(pulse.stopped(), (Reason::RequestTimeout, true));
        pulse.set_upload(Upload::Waiting);
        assert_eq!(pulse.stopped(), (Reason::ClientTimeout, false));
        pulse.end();
        assert_eq!(pulse.stopped(), (Reason::ShuttingDown, false));
    }

    #[test]
    fn an_upload_that_moves_keeps_its_request_alive() {
        let pulse = Pulse::new(at(0.0), HEAD);
        pulse.arrived(at(0.0), LIMIT);
        pulse.set_upload(Upload::Waiting);
        pulse.uploaded(at(9.0));
        assert_eq!(pulse.look(at(10.0)), Look::Again(at(19.0)));
        pulse.upload_over(at(15.0));
        assert_eq!(pulse.look(at(24.0)), Look::Again(at(25.0)));
        assert_eq!(pulse.look(at(25.0)), Look::Again(at(55.0)));
    }

    #[test]
    fn a_silent_body_is_cut_and_a_slow_one_is_not() {
        let pulse = Pulse::new(at(0.0), HEAD);
        pulse.arrived(at(0.0), LIMIT);
        pulse.answering(at(1.0), LIMIT);
        let mut now = pulse.due();
        for _ in 0..100 {
            pulse.progressed();
            let Look::Again(next) = pulse.look(now) else {
                panic!("cut although it moved");
            };
            now = next;
        }
        let silent_since = now;
        while let Look::Again(next) = pulse.look(now) {
            now = next;
        }
        let silence = now - silent_since;
        assert!(
            silence >= LIMIT && silence <= LIMIT.mul_f64(1.25),
            "{silence:?}"
        );
    }

    #[test]
    fn a_client_that_still_drains_an_answer_is_not_idle() {
        let pulse = Pulse::new(at(0.0), HEAD);
        pulse.arrived(at(0.0), LIMIT);
        pulse.answering(at(1.0), LIMIT);
        pulse.answered(at(2.0));
        pulse.set_blocked(true);
        pulse.progressed();
        assert!(matches!(pulse.look(at(40.0)), Look::Again(_)));
        pulse.set_blocked(false);
        assert_eq!(pulse.look(pulse.due()), Look::Close);
    }

    #[test]
    fn an_upload_that_outlives_its_answer_is_watched() {
        let pulse = Pulse::new(at(0.0), HEAD);
        pulse.arrived(at(0.0), LIMIT);
        pulse.set_upload(Upload::Passing);
        pulse.answering(at(1.0), LIMIT);
        pulse.answered(at(2.0));
        assert!(!pulse.is_idle());
        pulse.upload_over(at(3.0));
        assert!(pulse.is_idle());
        assert_eq!(pulse.due(), at(33.0));
    }
}
