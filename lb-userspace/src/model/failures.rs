//! Failures in a row, and the bell that calls the control plane when there are too many.
//!
//! An instance that fails in a millisecond draws traffic for as long as nobody notices, so the
//! thread that sees the last failure of a run tells the control plane at once instead of waiting to
//! be asked. A success costs one relaxed load. A run is shared by all workers: five failures are
//! five failures, whoever saw them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::Timestamp;

/// A bell that many may ring and one listens to. Rung twice before it is heard, it is heard once.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: AtomicBool,
    listener: Mutex<Option<Waker>>,
}

impl Alarm {
    /// Rings. Takes a lock only when it was silent.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(listener) = listener.take() {
                listener.wake();
            }
        }
    }

    /// Ready once it has rung since it was last heard. Only the last who asked is woken.
    pub fn poll_rung(&self, cx: &Context<'_>) -> Poll<()> {
        // The listener first: who rings after the look finds it.
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        *listener = Some(cx.waker().clone());
        drop(listener);
        match self.rung.swap(false, Ordering::AcqRel) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// How many requests an instance has failed in a row. Small, because picks read the length: what
/// only failures need lies elsewhere.
#[derive(Debug, Default)]
pub struct FailureRun {
    length: AtomicU32,
    /// Length from which on every failure rings; 0 is never.
    limit: AtomicU32,
    beginning: Box<Beginning>,
}

#[derive(Debug, Default)]
struct Beginning {
    alarm: Arc<Alarm>,
    /// When the first failure of the run ended, in microseconds.
    since: AtomicU64,
    /// How many of the run's failures were refused connections.
    refused: AtomicU32,
}

impl FailureRun {
    /// A run that rings `alarm`.
    #[must_use]
    pub fn new(alarm: Arc<Alarm>) -> Self {
        Self {
            beginning: Box::new(Beginning {
                alarm,
                ..Beginning::default()
            }),
            ..Self::default()
        }
    }

    /// Sets how many failures in a row are too many; 0 is any number.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Failures since the last success.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length.load(Ordering::Relaxed)
    }

    /// When the run began, if there is one: nothing has succeeded since then.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        (self.length() > 0).then(|| Timestamp(self.beginning.since.load(Ordering::Relaxed)))
    }

    /// Whether there is a run and half of it at least are refused connections. What else there is
    /// are requests that were under way when whoever listened went away.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let refused = self.beginning.refused.load(Ordering::Relaxed);
        let length = self.length();
        length > 0 && refused.saturating_mul(2) >= length
    }

    /// Begins anew.
    pub fn end(&self) {
        // A store would take the cache line from the other workers at each success.
        if self.length.load(Ordering::Relaxed) != 0 {
            self.length.store(0, Ordering::Relaxed);
        }
    }

    /// One more, at `now`; whether it was a refused connection.
    pub fn go_on(&self, now: Timestamp, refused: bool) {
        let before = self.length.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.beginning.since.store(now.0, Ordering::Relaxed);
            let first = u32::from(refused);
            self.beginning.refused.store(first, Ordering::Relaxed);
        } else if refused {
            self.beginning.refused.fetch_add(1, Ordering::Relaxed);
        }
        let length = before.saturating_add(1);
        let limit = self.limit.load(Ordering::Relaxed);
        if limit > 0 && length >= limit {
            self.beginning.alarm.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_from_the_limit_on_and_is_heard_once() {
        let alarm = Arc::new(Alarm::default());
        let run = FailureRun::new(Arc::clone(&alarm));
        let heard = || {
            alarm
                .poll_rung(&Context::from_waker(Waker::noop()))
                .is_ready()
        };
        (1..10).for_each(|us| run.go_on(Timestamp(us), false));
        assert_eq!(run.since(), Some(Timestamp(1)));
        assert!(!heard(), "no limit");
        run.end();
        assert_eq!(run.since(), None);
        run.set_limit(3);
        run.go_on(Timestamp(20), false);
        run.go_on(Timestamp(20), false);
        assert!(!heard());
        run.end();
        run.go_on(Timestamp(20), false);
        run.go_on(Timestamp(20), false);
        assert!(!heard());
        run.go_on(Timestamp(20), false);
        run.go_on(Timestamp(20), false);
        assert_eq!(run.length(), 4);
        assert!(heard());
        assert!(!heard());
        run.go_on(Timestamp(20), false);
        assert!(heard());
    }

    #[test]
    fn a_run_is_a_refusal_when_half_of_it_are_refused_connections() {
        let run = FailureRun::default();
        assert!(!run.is_refusal());
        let mut goes = |refused| {
            run.go_on(Timestamp(1), refused);
            run.is_refusal()
        };
        // Two were under way when the instance died.
        let all = [false, false, true, true, false, true].map(&mut goes);
        assert_eq!(all, [false, false, false, true, false, true]);
        // A run knows nothing of the one before.
        run.end();
        assert!(!run.is_refusal());
        run.go_on(Timestamp(2), false);
        assert!(!run.is_refusal());
        run.end();
        run.go_on(Timestamp(3), true);
        assert!(run.is_refusal());
    }

    #[test]
    fn whoever_listens_is_woken() {
        struct Count(AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (alarm, count) = (Alarm::default(), Arc::new(Count(AtomicU32::new(0))));
        let waker = Waker::from(Arc::clone(&count));
        assert!(alarm.poll_rung(&Context::from_waker(&waker)).is_pending());
        alarm.ring();
        alarm.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(alarm.poll_rung(&Context::from_waker(&waker)).is_ready());
    }
}
