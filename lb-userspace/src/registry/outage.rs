//! Circuit breakers of instances next to each other: which may open is for their service to say.
//!
//! A breaker's own state is a word that everybody reads and writes without a lock. What it does not
//! know is how the others fare, and that decides whether an instance that fails is broken or busy
//! (see [`crate::resilience::outage`]). So a worker that has a reason to open one asks here. Only
//! one worker at a time gets an answer, because two that count at once would both see room for one
//! more; whoever comes second leaves the breaker closed, and the next failure asks again. Nobody
//! waits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use super::{Service, snapshot::InstanceStatus};
use crate::{
    model::{BreakerSpec, BreakerState, GateState, InFlight, Instance, Member, Step, Timestamp},
    resilience::{
        Cause, Permit, Report, Silence, Verdict, breaker,
        outage::{NEXT_TO_NOTHING, Output, can_be_spared, most_out},
    },
};

/// How long what a service does in sum is not added up again.
const SUMMED: Duration = Duration::from_millis(50);

/// How long a service that had no room for one more has none.
const CROWDED: Duration = Duration::from_millis(10);

/// What failures in a row put an instance into the crowd where no run opens a breaker.
const RUN: u16 = 7;

/// What a service remembers to answer the next question. It lives as long as the service.
#[derive(Debug, Default)]
pub struct Outage(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    /// What those do that serve, and when that was added up.
    output: Option<(Timestamp, Output)>,
    /// When there was no room.
    crowded: Option<Timestamp>,
}

impl Outage {
    /// The right to open breakers, unless somebody else has it.
    fn turn(&self) -> Option<MutexGuard<'_, Ledger>> {
        match self.0.try_lock() {
            Ok(turn) => Some(turn),
            // What is remembered is whole at any time.
            Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn is_recent(at: Timestamp, now: Timestamp, within: Duration) -> bool {
    now.since(at) < within
}

impl Service {
    /// Tells the breaker of an instance how a request to it has ended that was judged, and opens it
    /// when there is cause and nothing speaks against it. `chance` is 64 random bits. Returns what
    /// has changed.
    pub fn weigh(
        &self,
        worker: usize,
        in_flight: &InFlight,
        permit: Option<Permit<Instance>>,
        verdict: Verdict,
        now: Timestamp,
        chance: u64,
    ) -> Option<Step> {
        let spec = self.spec.breakers.instance.as_ref()?;
        let instance = in_flight.instance();
        let report = Report {
            verdict,
            began: in_flight.began(),
            now,
            chance,
        };
        if let Some(permit) = permit {
            return breaker::probed(permit, spec, &report);
        }
        blame(worker, instance, &report);
        // Held until the breaker is open, so that whoever counts next counts it.
        let mut turn = None;
        let may = |cause| {
            let may = self.may_open(&mut turn, spec, instance, cause, now);
            if !may {
                instance.spare(now);
            }
            may
        };
        let window = |seconds| instance.blamed(now, seconds);
        breaker::ended(&instance.gate, spec, &report, window, may)
    }

    /// How many of its instances are out that could serve: ejected, or with a breaker that is not
    /// closed.
    #[must_use]
    pub fn out(&self, now: Timestamp) -> usize {
        let out = |(member, status): &(&Member, &InstanceStatus)| is_out(member, status, now);
        self.counted().filter(out).count()
    }

    /// How many of its instances breakers may leave out at a time.
    #[must_use]
    pub fn most_out(&self) -> usize {
        most_out(self.spec.breakers.max_out, self.counted().count())
    }

    /// Those that would take traffic if it were only for their operator.
    fn counted(&self) -> impl Iterator<Item = (&Member, &InstanceStatus)> {
        let all = self.members.iter().zip(self.statuses.iter());
        all.filter(|(member, status)| {
            status.is_wanted() && member.instance.gate.state() != GateState::HeldOpen
        })
    }

    fn may_open<'a>(
        &'a self,
        turn: &mut Option<MutexGuard<'a, Ledger>>,
        spec: &BreakerSpec,
        instance: &Instance,
        cause: Cause,
        now: Timestamp,
    ) -> bool {
        let silence = match cause {
            Cause::Run => Silence::of(instance, now),
            Cause::Share(sum, _) if sum.failures * 100 >= sum.requests * NEXT_TO_NOTHING => {
                Silence::Certain
            }
            Cause::Share(..) => Silence::Likely,
        };
        match silence {
            Silence::None => return false,
            Silence::Certain => return true,
            Silence::Likely => {}
        }
        if turn.is_none() {
            *turn = self.outage.turn();
        }
        let Some(ledger) = turn else {
            return false;
        };
        if let Cause::Share(sum, seconds) = cause {
            let Some(position) = self.position(instance.id) else {
                return false;
            };
            let weight = self.members[position].weight;
            let own = Output::new(&sum, seconds, weight);
            if !can_be_spared(&own, &self.others(ledger, spec, position, now)) {
                return false;
            }
        }
        self.has_room(ledger, spec, instance, now)
    }

    /// What those do that serve, without the member at `position`.
    fn others(
        &self,
        ledger: &mut Ledger,
        spec: &BreakerSpec,
        position: usize,
        now: Timestamp,
    ) -> Output {
        let seconds = spec.window.as_secs();
        let of = |member: &Member| {
            Output::new(
                &member.instance.blamed(now, seconds),
                seconds,
                member.weight,
            )
        };
        let known = ledger.output.filter(|(at, _)| is_recent(*at, now, SUMMED));
        let all = known.map_or_else(
            || {
                let mut all = Output::default();
                let serves =
                    |member: &&Member| member.weight > 0 && member.instance.gate.is_closed();
                self.members
                    .iter()
                    .filter(serves)
                    .for_each(|member| all += of(member));
                ledger.output = Some((now, all));
                all
            },
            |(_, all)| all,
        );
        all.without(&of(&self.members[position]))
    }

    /// Whether one more may be out beside those that are, and those that fail in a row as it does.
    fn has_room(
        &self,
        ledger: &mut Ledger,
        spec: &BreakerSpec,
        instance: &Instance,
        now: Timestamp,
    ) -> bool {
        if ledger.crowded.is_some_and(|at| is_recent(at, now, CROWDED)) {
            return false;
        }
        let run = u32::from(if spec.failures > 0 {
            spec.failures
        } else {
            RUN
        });
        let (mut wanted, mut out) = (0, 0);
        for (member, status) in self.counted() {
            let other = &member.instance;
            wanted += 1;
            out += usize::from(
                other.id == instance.id
                    || is_out(member, status, now)
                    || other.failures.length() >= run,
            );
        }
        let fits = out <= most_out(self.spec.breakers.max_out, wanted);
        if !fits {
            ledger.crowded = Some(now);
        }
        fits
    }
}

fn is_out(member: &Member, status: &InstanceStatus, now: Timestamp) -> bool {
    status.ejected.is_some() || member.instance.gate.state().kind(now) != BreakerState::Closed
}

/// Keeps what counts against the instance, and what is not to count at all.
fn blame(worker: usize, instance: &Instance, report: &Report) {
    if let GateState::Closed { since, .. } = instance.gate.state() {
        let stale = breaker::is_stale(report.began, since);
        if stale || report.verdict != Verdict::Success {
            instance.blame(worker, report.now, !stale);
        }
    }
}

#[cfg(test)]
mod tests;
