//! Circuit breakers: who fails is left alone for a while, then asked carefully.
//!
//! ```text
//!            too many failures               time is over, first request
//!   closed ──────────────────────► open ──────────────────────────────► half-open
//!     ▲                             ▲                                      │  │
//!     │                             └──────────── a probe fails ───────────┘  │
//!     └───────────────────────────── enough probes succeed ───────────────────┘
//! ```
//!
//! A closed breaker opens after a run of failures, whatever their number per second, or when the
//! share of failures in a window of whole seconds is too high and there were requests enough to
//! tell. Both count exactly: a moving average would hide a burst. A throttled request (429) counts
//! in the share and neither lengthens nor ends a run: the instance is well, there is too much for
//! it. What began before the breaker was last closed does not count at all, or the requests that
//! hung in an instance while it was stuck would open it again once they time out.
//!
//! Neither is proof enough by itself. A breaker that has cause to open asks whether it may: a busy
//! instance fails in a row, too, and not everybody may be out at once (see [`super::outage`]).
//!
//! It stays open for `open × 2^(n-1)` at the n-th opening in a row, up to a limit, less up to a
//! fifth by chance: many proxies must not probe in step. Then single requests pass as probes, each
//! with a [`Permit`], of which there are only so many for all workers together. A probe that ends
//! without a verdict (its client went away, its task panicked) gives its permit back by being
//! dropped. Only probes decide: what else still comes in from before says nothing about now.
//!
//! A breaker that waits for a probe and gets no request for `max_open` closes: what it knows is
//! older than anything that it would otherwise believe.
//!
//! The state is one word in [`Gate`]; here is what follows on what. No clock, no I/O, no lock.

use std::{sync::Arc, time::Duration};

use crate::model::{
    BreakerSpec, BreakerState, Exclusion, Gate, GateState, ServiceGuard, Step, Timestamp,
    WindowSum, gate::MOST_TRIPS,
};

/// What the end of a request says about whoever it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// It has too much to do.
    Throttled,
}

/// What gives a closed breaker cause to open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// A run of failures.
    Run,
    /// The share of failures in the requests of so many seconds.
    Share(WindowSum, u64),
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub now: Timestamp,
    /// 64 random bits.
    pub chance: u64,
}

/// What an operator orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Open until told otherwise.
    Open,
    /// Closed until told otherwise, whatever fails.
    Closed,
    /// Closed now, and by the rules from now on.
    Release,
}

/// Permission to send a probe. Dropping it without a verdict gives it back.
#[derive(Debug)]
pub struct Permit<T: AsRef<Gate>> {
    owner: Arc<T>,
    /// Since when the breaker is half-open; `None` once the permit is used up.
    phase: Option<Timestamp>,
}

impl<T: AsRef<Gate>> Permit<T> {
    /// Uses the permit up: `next` makes the new state, if the phase has not ended meanwhile.
    fn settle(&mut self, next: impl Fn(HalfOpen) -> GateState) -> Option<Step> {
        let phase = self.phase.take()?;
        let gate: &Gate = (*self.owner).as_ref();
        gate.update(|state| HalfOpen::of(state, phase).map(&next))
    }
}

impl<T: AsRef<Gate>> Drop for Permit<T> {
    fn drop(&mut self) {
        self.settle(|at| at.with(at.passed));
    }
}

/// A half-open state, taken apart.
#[derive(Clone, Copy)]
struct HalfOpen {
    free: u8,
    passed: u8,
    trips: u8,
    since: Timestamp,
}

impl HalfOpen {
    /// The state if it is half-open since `phase`.
    fn of(state: GateState, phase: Timestamp) -> Option<Self> {
        match state {
            GateState::HalfOpen {
                free,
                passed,
                trips,
                since,
            } if since == phase => Some(Self {
                free,
                passed,
                trips,
                since,
            }),
            _ => None,
        }
    }

    /// With one more permit to give, and so many probes passed.
    const fn with(self, passed: u8) -> GateState {
        GateState::HalfOpen {
            free: self.free.saturating_add(1),
            passed,
            trips: self.trips,
            since: self.since,
        }
    }
}

/// Asks whether a request may pass now. `Ok(None)` needs nothing more; with a permit it is a probe.
///
/// # Errors
/// Why it may not.
pub fn admit<T: AsRef<Gate>>(
    owner: &Arc<T>,
    spec: &BreakerSpec,
    now: Timestamp,
) -> Result<Option<Permit<T>>, Exclusion> {
    let gate: &Gate = (**owner).as_ref();
    if gate.is_closed() {
        return Ok(None);
    }
    let mut refused = None;
    let changed = gate.update(|state| {
        refused = state.exclusion(now);
        if refused.is_some() {
            return None;
        }
        match state {
            GateState::Open { trips, .. } => Some(GateState::HalfOpen {
                free: spec.probes.max(1) - 1,
                passed: 0,
                trips,
                since: now,
            }),
            GateState::HalfOpen {
                free,
                passed,
                trips,
                since,
            } => Some(GateState::HalfOpen {
                free: free.saturating_sub(1),
                passed,
                trips,
                since,
            }),
            GateState::Closed { .. } | GateState::HeldOpen | GateState::HeldClosed => None,
        }
    });
    if let Some(why) = refused {
        return Err(why);
    }
    Ok(match changed {
        Some(Step {
            after: GateState::HalfOpen { since, .. },
            ..
        }) => Some(Permit {
            owner: Arc::clone(owner),
            phase: Some(since),
        }),
        _ => None,
    })
}

/// Takes a probe's end into account. Returns what it has changed.
pub fn probed<T: AsRef<Gate>>(
    mut permit: Permit<T>,
    spec: &BreakerSpec,
    report: &Report,
) -> Option<Step> {
    permit.settle(|at| match report.verdict {
        Verdict::Success => {
            let passed = at.passed.saturating_add(1);
            if passed >= spec.successes {
                GateState::closed(report.now)
            } else {
                at.with(passed)
            }
        }
        Verdict::Failure | Verdict::Throttled => opened(at.trips, spec, report),
    })
}

/// Takes the end of a request that was no probe into account. `window` sums the given number of
/// seconds up to then, the request at hand included; `may` says whether the breaker may open when
/// it has cause to, and what it relies on for that must hold until this returns. Returns what it
/// has changed.
pub fn ended(
    gate: &Gate,
    spec: &BreakerSpec,
    report: &Report,
    window: impl Fn(u64) -> WindowSum,
    mut may: impl FnMut(Cause) -> bool,
) -> Option<Step> {
    if gate.is_quiet() && report.verdict == Verdict::Success {
        return None;
    }
    gate.update(|state| {
        let GateState::Closed { run, since } = state else {
            return None;
        };
        if is_stale(report.began, since) {
            return None;
        }
        let run = match report.verdict {
            Verdict::Success => return (run > 0).then_some(GateState::Closed { run: 0, since }),
            Verdict::Failure if spec.failures > 0 => run.saturating_add(1),
            Verdict::Failure | Verdict::Throttled => run,
        };
        let by_run = spec.failures > 0 && run >= spec.failures;
        if by_run && may(Cause::Run) {
            return Some(opened(0, spec, report));
        }
        let seconds = seconds(spec, since, report.now);
        let sum = window(seconds);
        if is_too_much(spec, &sum) && may(Cause::Share(sum, seconds)) {
            return Some(opened(0, spec, report));
        }
        let after = GateState::Closed { run, since };
        (after != state).then_some(after)
    })
}

/// Whether what began at `began` says nothing about a breaker that was closed at `since`. Both in
/// the precision of the state.
#[must_use]
pub const fn is_stale(began: Timestamp, since: Timestamp) -> bool {
    began.0 / 1000 < since.0 / 1000
}

/// The seconds of the window that lie after `since`, the running one included: the window is
/// empty when the breaker is closed. What is left of the second in which that was is left out.
#[must_use]
pub fn seconds(spec: &BreakerSpec, since: Timestamp, now: Timestamp) -> u64 {
    let first = if since.0 == 0 { 0 } else { since.seconds() + 1 };
    spec.window
        .as_secs()
        .min((now.seconds() + 1).saturating_sub(first))
}

fn is_too_much(spec: &BreakerSpec, sum: &WindowSum) -> bool {
    sum.requests >= u64::from(spec.min_requests).max(1)
        && u128::from(sum.failures) * 100 >= u128::from(sum.requests) * u128::from(spec.ratio)
}

fn opened(trips: u8, spec: &BreakerSpec, report: &Report) -> GateState {
    let trips = trips.saturating_add(1).min(MOST_TRIPS);
    GateState::Open {
        until: report.now + wait(trips, spec, report.chance),
        trips,
    }
}

/// How long a breaker stays open at the n-th time in a row: doubling, at most `max_open`, less up to
/// a fifth.
#[must_use]
pub fn wait(trips: u8, spec: &BreakerSpec, chance: u64) -> Duration {
    let doublings = u32::from(trips.saturating_sub(1)).min(30);
    let whole = spec.open.saturating_mul(1 << doublings).min(spec.max_open);
    let less = (chance >> 11) as f64 / (1u64 << 53) as f64 / 5.0;
    whole.mul_f64(1.0 - less)
}

/// When the breaker closes for want of requests, unless one comes; `None` while it waits for none.
/// One that an advice has opened waits as long as that lasts.
#[must_use]
pub fn expiry(state: GateState, spec: &BreakerSpec) -> Option<Timestamp> {
    match state {
        GateState::Open { trips: ADVISED, .. } | GateState::HalfOpen { trips: ADVISED, .. } => None,
        GateState::Open { until, .. } => Some(until + spec.max_open),
        GateState::HalfOpen { free, since, .. } if free >= spec.probes => {
            Some(since + spec.max_open)
        }
        _ => None,
    }
}

/// Closes a breaker that has waited too long for a request to probe with.
pub fn expire(gate: &Gate, spec: &BreakerSpec, now: Timestamp) -> Option<Step> {
    gate.update(|state| {
        let due = expiry(state, spec)?;
        (now >= due).then(|| GateState::closed(now))
    })
}

/// Takes an advice from elsewhere into account: that the service does not work, for so long unless
/// it is repeated; or, with `None`, that it does.
///
/// An advice makes a closed breaker probe, no more: what the probes find out is first-hand and
/// newer. An advice that is repeated before it ends is the same one, so it is heard once, however
/// often a far-off watcher that is wrong repeats it.
pub fn advise(guard: &ServiceGuard, bad_for: Option<Duration>, now: Timestamp) -> Option<Step> {
    let before = guard.set_advised(bad_for.map(|time| now + time), now);
    match bad_for {
        None => forget_advice(guard, now),
        Some(_) if before.is_some() => None,
        Some(_) => guard.gate.update(|state| {
            let open = GateState::Open {
                until: now,
                trips: ADVISED,
            };
            matches!(state, GateState::Closed { .. }).then_some(open)
        }),
    }
}

/// The number of trips of a breaker that nothing but an advice has opened.
const ADVISED: u8 = 0;

/// Closes a breaker that only an advice has opened when that does not hold any more.
pub fn forget_advice(guard: &ServiceGuard, now: Timestamp) -> Option<Step> {
    if guard.advised(now).is_some() {
        return None;
    }
    guard.gate.update(|state| {
        let (GateState::Open { trips, .. } | GateState::HalfOpen { trips, .. }) = state else {
            return None;
        };
        (trips == ADVISED).then(|| GateState::closed(now))
    })
}

/// Takes the word of a circuit breaker elsewhere into account, which holds for so long unless it is
/// repeated; `before` is the one that it has said last, if that still holds.
///
/// Unlike an [advice](advise), `open` is obeyed: all requests are refused while it holds. Who says
/// `half_open` wants to know how requests fare, so that is an advice: a few pass, and what becomes
/// of them is first-hand and newer. `closed` takes back what the same breaker has said before, and
/// no advice of anybody else's.
pub fn heard(
    guard: &ServiceGuard,
    before: Option<BreakerState>,
    word: BreakerState,
    holds: Duration,
    now: Timestamp,
) -> Option<Step> {
    let refused = word == BreakerState::Open;
    guard.refuse(refused.then(|| now + holds));
    match (before, word) {
        (_, BreakerState::HalfOpen) => advise(guard, Some(holds), now),
        (Some(BreakerState::HalfOpen), _) => advise(guard, None, now),
        _ => None,
    }
}

/// Closes a breaker for a reason that lies outside of it, unless an operator holds it.
pub fn clear(gate: &Gate, now: Timestamp) -> Option<Step> {
    gate.update(|state| {
        let is_new = matches!(state, GateState::Closed { run: 0, .. });
        (!state.is_held() && !is_new).then(|| GateState::closed(now))
    })
}

/// Carries out an operator's order.
pub fn hold(gate: &Gate, order: Hold, now: Timestamp) -> Option<Step> {
    gate.update(|state| {
        let wanted = match order {
            Hold::Open => GateState::HeldOpen,
            Hold::Closed => GateState::HeldClosed,
            Hold::Release => GateState::closed(now),
        };
        (state != wanted).then_some(wanted)
    })
}

#[cfg(test)]
mod tests;
