//! The queue before a service whose instances are full.
//!
//! **Who is next.** The most urgent first, and of those who came first; every eighth place goes to
//! whoever has waited longest, so that urgent requests cannot starve the others. When the queue is
//! full, a more urgent newcomer takes the place of the youngest of the least urgent.
//!
//! **Who has waited too long.** A request whose deadline has passed is told so instead of getting a
//! place. And the queue is one of controlled delay (CoDel, Nichols and Jacobson 2012, RFC 8289, in
//! the form for servers of Maurer, *Fail at Scale*, 2015): when for an interval everybody who got
//! a place had waited for more than the target, the queue stands, and whoever has waited for twice
//! the target gives way. A queue absorbs bursts; one that stands only makes every answer late.
//!
//! **How a free place finds its waiter.** Workers share nothing else, so a place that comes free on
//! one has to wake a waiter on another, and must never be lost:
//!
//! - A waiter *announces* itself (`waiting` grows) before it looks for a place for the last time.
//!   Who gives a place back does so first and looks at `waiting` then. Between the two steps of
//!   each side lies a sequentially consistent fence, so at least one of the two sees the other
//!   (Dekker's argument). While nobody waits, giving back costs the fence and a relaxed load.
//! - A place given back while somebody waits is a *token*. A token calls the next in line. When
//!   nobody is in line at that moment, because all are just looking, it is kept, and the first who
//!   gets in line is called at once.
//! - Who is called tries to take a place like anybody else; places are not handed over, because an
//!   instance may be excluded by then. Who has to get in line again stands where it stood. Who leaves
//!   after it was called passes its token on.
//! - Newcomers get in line while anybody waits, so nobody is overtaken.
//!
//! The lines are behind one lock, which is held for some ten nanoseconds and only by those who wait
//! or find somebody waiting: order among all workers is what the queue is for.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering, fence},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::model::{Clock, PRIORITIES, Priority, QueueSpec, Reason, Timestamp, measure};

/// Of so many places, one goes to whoever has waited longest.
const FAIR: u32 = 8;

/// Who waits for a place in a service.
#[derive(Debug, Default)]
pub struct Queue {
    /// Those in line, and those who look for a place at this moment.
    waiting: AtomicU32,
    lines: Mutex<Lines>,
    /// How long those who got a place had waited.
    waits: measure::LatencyHistogram,
}

#[derive(Debug, Default)]
struct Lines {
    /// By ticket.
    lanes: [BTreeMap<u64, InLine>; PRIORITIES],
    /// Those who were called, or told to leave, and do not know it so far.
    called: BTreeMap<u64, Result<(), Reason>>,
    in_line: u32,
    /// Those in line and those who look for a place.
    waiting: u32,
    /// Places that came free and that nobody was called for.
    tokens: u32,
    /// Tickets given out.
    tickets: u64,
    /// Calls, to know whose turn the eighth is.
    calls: u32,
    delay: Delay,
    target: Duration,
    interval: Duration,
}

#[derive(Debug)]
struct InLine {
    since: Timestamp,
    deadline: Timestamp,
    waker: Waker,
}

/// Whether the queue stands.
#[derive(Debug, Default)]
struct Delay {
    /// End of the interval.
    end: Timestamp,
    /// The shortest wait in it.
    least: Duration,
    stands: bool,
}

impl Delay {
    /// Notes that somebody's turn has come after `waited`, and tells whether it has to give way.
    fn gives_way(
        &mut self,
        now: Timestamp,
        waited: Duration,
        target: Duration,
        i: Duration,
    ) -> bool {
        if now < self.end {
            self.least = self.least.min(waited);
        } else {
            // What was long ago says nothing about now.
            self.stands = self.least > target && now < self.end + i;
            self.end = now + i;
            self.least = waited;
        }
        self.stands && waited > target * 2
    }
}

impl Lines {
    /// Calls as many as there are tokens, and tells those whose time has passed. Who is to be woken
    /// is, once the lock is free.
    fn dispatch(&mut self, now: Timestamp) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.tokens > 0
            && let Some((ticket, next)) = self.next()
        {
            let waited = now - next.since;
            let delay = &mut self.delay;
            let verdict = if now >= next.deadline {
                Err(Reason::QueueTimeout)
            } else if delay.gives_way(now, waited, self.target, self.interval) {
                Err(Reason::QueueShed)
            } else {
                self.tokens -= 1;
                self.calls = self.calls.wrapping_add(1);
                Ok(())
            };
            self.call(ticket, verdict);
            woken.push(next.waker);
        }
        woken
    }

    /// Calls everybody in line.
    fn call_all(&mut self) -> Vec<Waker> {
        let lanes = self.lanes.each_mut().map(mem::take);
        let looking = self.waiting - self.in_line;
        self.in_line = 0;
        let mut woken = Vec::new();
        for (ticket, waiting) in lanes.into_iter().flatten() {
            self.called.insert(ticket, Ok(()));
            woken.push(waiting.waker);
        }
        // For those who are looking now and may have looked at what was before.
        self.add_tokens(looking);
        woken
    }

    fn next(&mut self) -> Option<(u64, InLine)> {
        let lane = if self.calls % FAIR == FAIR - 1 {
            let heads = self.lanes.iter().enumerate();
            let heads = heads.filter_map(|(at, lane)| Some((*lane.first_key_value()?.0, at)));
            heads.min()?.1
        } else {
            self.lanes.iter().position(|lane| !lane.is_empty())?
        };
        self.in_line -= 1;
        self.lanes[lane].pop_first()
    }

    fn call(&mut self, ticket: u64, verdict: Result<(), Reason>) {
        if verdict.is_err() {
            self.waiting -= 1;
        }
        self.called.insert(ticket, verdict);
    }

    /// Makes room for somebody more urgent than others.
    fn displace(&mut self, priority: Priority) -> Option<Waker> {
        let lanes = priority.lane() + 1..PRIORITIES;
        let lane = lanes.rev().find(|lane| !self.lanes[*lane].is_empty())?;
        let (ticket, youngest) = self.lanes[lane].pop_last()?;
        self.in_line -= 1;
        self.call(ticket, Err(Reason::QueueFull));
        Some(youngest.waker)
    }

    fn add_tokens(&mut self, count: u32) {
        self.tokens = self.tokens.saturating_add(count).min(self.waiting);
    }
}

impl Queue {
    /// Those who wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long those who got a place had waited.
    #[must_use]
    pub const fn waits(&self) -> &measure::LatencyHistogram {
        &self.waits
    }

    /// Gets a ticket.
    ///
    /// # Errors
    /// [`Reason::QueueFull`] when as many wait as may.
    pub fn join(
        self: &Arc<Self>,
        spec: &QueueSpec,
        priority: Priority,
        deadline: Timestamp,
        clock: &Clock,
    ) -> Result<Waiter, Reason> {
        let since = clock.now();
        let mut lines = self.lock();
        (lines.target, lines.interval) = (spec.target, spec.interval);
        let mut displaced = None;
        if lines.waiting >= spec.size {
            displaced = Some(lines.displace(priority).ok_or(Reason::QueueFull)?);
        }
        lines.waiting += 1;
        lines.tickets += 1;
        let ticket = lines.tickets;
        let first = lines.in_line == 0;
        self.publish(lines);
        // See the module: the other half is in `released`.
        fence(Ordering::SeqCst);
        if let Some(waker) = displaced {
            waker.wake();
        }
        Ok(Waiter {
            queue: Arc::clone(self),
            clock: clock.clone(),
            ticket,
            priority,
            since,
            deadline: deadline.min(since + spec.timeout),
            first,
            state: State::Looking,
        })
    }

    /// A place has come free. To be called after it was given back.
    pub fn released(&self, clock: &Clock) {
        fence(Ordering::SeqCst);
        if self.waiting() > 0 {
            self.free(1, clock.now());
        }
    }

    /// `count` places may have come free, for a limit was raised or there are other instances.
    pub fn free(&self, count: u32, now: Timestamp) {
        let mut lines = self.lock();
        lines.add_tokens(count);
        let woken = lines.dispatch(now);
        self.publish(lines);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Everything may be different: whoever waits looks for a place, in turn.
    pub fn look_again(&self) {
        fence(Ordering::SeqCst);
        if self.waiting() > 0 {
            let mut lines = self.lock();
            let woken = lines.call_all();
            self.publish(lines);
            woken.into_iter().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it is held.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, lines: MutexGuard<'_, Lines>) {
        self.waiting.store(lines.waiting, Ordering::Relaxed);
        drop(lines);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Looks for a place, or is about to get in line.
    Looking,
    /// In line, or called without knowing.
    InLine,
    /// Has a place, or was told to leave.
    Gone,
}

/// Somebody who waits. Dropping it gives up, whatever the way.
#[derive(Debug)]
pub struct Waiter {
    queue: Arc<Queue>,
    clock: Clock,
    ticket: u64,
    priority: Priority,
    since: Timestamp,
    deadline: Timestamp,
    first: bool,
    state: State,
}

impl Waiter {
    /// Whether nobody was in line before, so that it may look for a place once more before it
    /// gets in line. It has to: one may have come free before it had announced itself.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.first
    }

    /// When it has waited long enough.
    #[must_use]
    pub const fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Gets in line, and is ready when it is called to look for a place, or told to leave.
    pub fn poll_call(&mut self, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let mut lines = self.queue.lock();
        let mut woken = Vec::new();
        if self.state == State::Looking {
            let waiting = InLine {
                since: self.since,
                deadline: self.deadline,
                waker: cx.waker().clone(),
            };
            lines.lanes[self.priority.lane()].insert(self.ticket, waiting);
            lines.in_line += 1;
            self.state = State::InLine;
            woken = lines.dispatch(self.clock.now());
        }
        let verdict = lines.called.remove(&self.ticket);
        let answer = match verdict {
            Some(verdict) => {
                self.state = verdict.map_or(State::Gone, |()| State::Looking);
                Poll::Ready(verdict)
            }
            None => {
                let lane = &mut lines.lanes[self.priority.lane()];
                if let Some(waiting) = lane.get_mut(&self.ticket) {
                    waiting.waker.clone_from(cx.waker());
                }
                Poll::Pending
            }
        };
        self.queue.publish(lines);
        woken.into_iter().for_each(Waker::wake);
        answer
    }

    /// Has found a place.
    pub fn admitted(mut self) {
        self.state = State::Gone;
        let mut lines = self.queue.lock();
        lines.waiting -= 1;
        if lines.waiting == 0 {
            lines.delay.least = Duration::ZERO;
        }
        lines.add_tokens(0);
        self.queue.publish(lines);
        let waited = self.clock.now() - self.since;
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.queue.waits.record(us);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let state = mem::replace(&mut self.state, State::Gone);
        if state == State::Gone {
            return;
        }
        let mut lines = self.queue.lock();
        if state == State::InLine {
            match lines.called.remove(&self.ticket) {
                // Told to leave: does not count any more.
                Some(Err(_)) => return,
                Some(Ok(())) => {}
                None => {
                    lines.lanes[self.priority.lane()].remove(&self.ticket);
                    lines.in_line -= 1;
                    lines.waiting -= 1;
                    lines.add_tokens(0);
                    self.queue.publish(lines);
                    return;
                }
            }
        }
        // It may have been called for a place that it does not take.
        lines.waiting -= 1;
        lines.add_tokens(1);
        let woken = lines.dispatch(self.clock.now());
        self.queue.publish(lines);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
