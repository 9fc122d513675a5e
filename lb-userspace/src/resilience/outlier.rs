//! Outlier ejection: who stands out for the worse, and for how long that takes it out.
//!
//! ```text
//!             convicted                     time is over
//!   serving ─────────────► ejected (n-th) ───────────────► serving, n kept
//!      ▲                  n × base, ≤ max                       │
//!      └────────────────────────────────────────────────────────┘
//!          n shrinks by one for every [`FORGIVE_AFTER`] successes,
//!          at most once in [`FORGIVE_EVERY`]
//! ```
//!
//! Three detectors, and what all of them have in common: a service is never judged against itself.
//! When every instance fails, the cause lies behind them all, and an ejection would only move the
//! load to fewer of them. So an instance is ejected only while another one serves and does better.
//!
//! - **Consecutive failures**: a run of them, whoever of the workers saw each, in which nothing was
//!   served for longer than a busy instance would need ([`Silence`]). The only one that is fast: an
//!   instance that answers 500 in a millisecond draws everybody under algorithms that go by load
//!   or latency.
//! - **Success rate**, in two forms. Among five instances or more, Envoy's: below
//!   `mean − deviations × σ` of the rates of those with enough requests, with the population's σ,
//!   and at least [`APART`] below the mean, since instances that are nearly alike have a σ of
//!   nearly nothing. Among two or more: below an absolute rate and at least [`BEHIND`] behind what
//!   the others have together. In either case only an instance that also serves less than the
//!   others do, for what it weighs ([`can_be_spared`]): overload makes rates differ, and to eject
//!   whoever gets the most requests leaves them to the rest.
//! - **Latency**: the median above a multiple of the lower median of the others' medians, and by
//!   more than [`NOTICEABLE`].
//!
//! How many may be out at once is a share of the wanted instances, but always one, and never the
//! last one that stands. Those whose circuit breaker is not closed are out, too. When more fail in a
//! row than may be out, the cause lies behind them all until the silence is certain. The worst go
//! first.
//!
//! Envoy lets an ejection's multiplier shrink with time alone (envoy#21142), so an instance that
//! nobody asks is forgiven everything. Here only served requests forgive.
//!
//! No clock, no I/O: time, chance and counts are arguments.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    factor::median,
    outage::{Output, Silence, can_be_spared, most_out},
};
use crate::model::{Detector, OutlierSpec, Timestamp, window::WindowSum};

/// Instances with enough requests from which on the spread of their rates says something.
pub const ENOUGH_INSTANCES: usize = 5;

/// How far a rate must at least be below the mean, whatever the deviation.
pub const APART: f64 = 0.05;

/// How far a rate below the absolute limit must be behind that of the others.
pub const BEHIND: f64 = 0.1;

/// Differences of latency below this are nobody's concern.
pub const NOTICEABLE: Duration = Duration::from_millis(5);

/// Successes that make the next ejection one step shorter.
pub const FORGIVE_AFTER: u64 = 10;

/// The shortest time between two such steps: a busy instance must not be forgiven in a blink.
pub const FORGIVE_EVERY: Duration = Duration::from_secs(10);

/// How much longer than computed an ejection may be, so that instances that went together do not
/// come back together.
pub const JITTER: f64 = 0.1;

/// What is known of an instance when its service is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Suspect {
    /// Whether it takes traffic now by its own right.
    pub stands: bool,
    /// Whether it is to take traffic at all: configured and not taken out by an operator.
    pub wanted: bool,
    /// Whether it is ejected.
    pub ejected: bool,
    /// Whether its circuit breaker is not closed.
    pub blocked: bool,
    /// Its effective weight.
    pub weight: u32,
    /// Requests that it has failed in a row.
    pub run: u32,
    /// Whether it serves nothing any more since that run began.
    pub silence: Silence,
    /// Whether it serves less than the others, who have less to do.
    pub lags: bool,
    /// Requests of the window, when it had the whole window to prove itself.
    pub window: Option<WindowSum>,
    /// Median latency of the window's requests.
    pub latency: Option<Duration>,
}

/// An instance that is to be ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conviction {
    /// Its position among the suspects.
    pub position: usize,
    /// What the evidence is.
    pub evidence: Evidence,
}

/// Why an instance is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// So many failures in a row.
    Run(u32),
    /// A success rate, and the one that it should at least have had.
    Rate(f64, f64),
    /// A median latency, and that of the others.
    Latency(Duration, Duration),
}

impl Evidence {
    /// The detector that found it.
    #[must_use]
    pub const fn detector(&self) -> Detector {
        match self {
            Self::Run(_) => Detector::ConsecutiveFailures,
            Self::Rate(..) => Detector::SuccessRate,
            Self::Latency(..) => Detector::Latency,
        }
    }

    /// How bad it is, for the order among findings of one detector; more is worse.
    fn badness(&self) -> f64 {
        match self {
            Self::Run(length) => f64::from(*length),
            Self::Rate(rate, _) => -rate,
            Self::Latency(latency, _) => latency.as_secs_f64(),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(length) => write!(f, "{length} failures in a row"),
            Self::Rate(rate, least) => write!(
                f,
                "success rate {:.1} %, at least {:.1} % expected",
                rate * 100.0,
                least * 100.0
            ),
            Self::Latency(latency, others) => write!(
                f,
                "median latency {:.1} ms, that of the others {:.1} ms",
                latency.as_secs_f64() * 1e3,
                others.as_secs_f64() * 1e3
            ),
        }
    }
}

/// Who of a service's instances is to be ejected now, the worst first, within the limits.
#[must_use]
pub fn judge(spec: &OutlierSpec, suspects: &[Suspect]) -> Vec<Conviction> {
    let mut accused = accused(spec, suspects);
    if accused.is_empty() {
        return accused;
    }
    accused.sort_by(|a, b| {
        let by_detector = (a.evidence.detector() as u8).cmp(&(b.evidence.detector() as u8));
        by_detector.then(b.evidence.badness().total_cmp(&a.evidence.badness()))
    });
    let mut room = Room::new(spec, suspects);
    let mut standing: Vec<bool> = suspects.iter().map(|suspect| suspect.stands).collect();
    accused.retain(|conviction| {
        standing[conviction.position] = false;
        let mut others = suspects.iter().zip(&standing);
        let may = others.any(|(other, stands)| *stands && !is_failing(spec, other))
            && room.take(&suspects[conviction.position]);
        standing[conviction.position] = !may;
        may
    });
    accused
}

/// How many more may be ejected.
struct Room {
    /// As far as ejections go.
    ejected: usize,
    /// As far as breakers count, too.
    out: usize,
}

impl Room {
    fn new(spec: &OutlierSpec, suspects: &[Suspect]) -> Self {
        let wanted = || suspects.iter().filter(|suspect| suspect.wanted);
        let most = most_out(spec.max_ejected, wanted().count());
        let left = |taken: usize| most.saturating_sub(taken);
        Self {
            ejected: left(wanted().filter(|suspect| suspect.ejected).count()),
            out: left(wanted().filter(|s| s.ejected || s.blocked).count()),
        }
    }

    /// Whether there is room for this one. Whose breaker is not closed is out already.
    const fn take(&mut self, suspect: &Suspect) -> bool {
        if self.ejected == 0 || (self.out == 0 && !suspect.blocked) {
            return false;
        }
        self.ejected -= 1;
        if !suspect.blocked {
            self.out -= 1;
        }
        true
    }
}

/// Whether so many are out or fail in a row that the cause is not to be looked for in each of them.
fn is_crowd(spec: &OutlierSpec, suspects: &[Suspect]) -> bool {
    let wanted = || suspects.iter().filter(|suspect| suspect.wanted);
    let in_trouble =
        wanted().filter(|s| s.ejected || s.blocked || s.run >= spec.consecutive_failures);
    in_trouble.count() > most_out(spec.max_ejected, wanted().count())
}

/// Whether an instance is no better: it is blocked, or about to be found guilty itself, which is
/// more than half a run.
const fn is_failing(spec: &OutlierSpec, suspect: &Suspect) -> bool {
    suspect.blocked
        || spec.consecutive_failures > 0
            && suspect.run.saturating_mul(2) > spec.consecutive_failures
}

/// Everybody whom a detector points at, once each.
fn accused(spec: &OutlierSpec, suspects: &[Suspect]) -> Vec<Conviction> {
    let rates = Rates::new(spec, suspects);
    let needed = if is_crowd(spec, suspects) {
        Silence::Certain
    } else {
        Silence::Likely
    };
    let of = |(position, suspect): (usize, &Suspect)| {
        if !suspect.stands || suspect.ejected {
            return None;
        }
        let run = (spec.consecutive_failures > 0
            && suspect.run >= spec.consecutive_failures
            && (suspect.silence >= needed || suspect.lags && needed < Silence::Certain))
            .then_some(Evidence::Run(suspect.run));
        let evidence = run
            .or_else(|| {
                rates
                    .against(spec, position)
                    .filter(|_| rates.spares(position))
            })
            .or_else(|| against_latency(spec, suspects, position))?;
        Some(Conviction { position, evidence })
    };
    suspects.iter().enumerate().filter_map(of).collect()
}

/// The success rates of those with enough requests, by position.
struct Rates {
    windows: Vec<Option<WindowSum>>,
    total: WindowSum,
    /// What each of them does, and all together.
    outputs: Vec<Output>,
    output: Output,
    /// What nobody may be below, when there are enough instances to say so.
    spread: Option<f64>,
}

impl Rates {
    fn new(spec: &OutlierSpec, suspects: &[Suspect]) -> Self {
        let windows: Vec<Option<WindowSum>> = suspects
            .iter()
            .map(|suspect| enough(spec, suspect).filter(|_| suspect.stands))
            .collect();
        let (mut total, mut output) = (WindowSum::default(), Output::default());
        let (mut rates, mut outputs) = (Vec::new(), Vec::new());
        for (window, suspect) in windows.iter().zip(suspects) {
            let window = window.unwrap_or_default();
            let own = Output::new(&window, spec.window.as_secs(), suspect.weight);
            if let Some(rate) = window.success_rate() {
                rates.push(rate);
                total += window;
                output += own;
            }
            outputs.push(own);
        }
        let n = rates.len();
        let spread = (n >= ENOUGH_INSTANCES && spec.deviations > 0).then(|| {
            let mean = rates.iter().sum::<f64>() / n as f64;
            let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / n as f64;
            let deviations = f64::from(spec.deviations) / 100.0;
            mean - (deviations * variance.sqrt()).max(APART)
        });
        Self {
            windows,
            total,
            outputs,
            output,
            spread,
        }
    }

    /// Whether an instance with a rate serves so little that it is better gone.
    fn spares(&self, position: usize) -> bool {
        let own = &self.outputs[position];
        can_be_spared(own, &self.output.without(own))
    }

    fn against(&self, spec: &OutlierSpec, position: usize) -> Option<Evidence> {
        let window = self.windows[position]?;
        let rate = window.success_rate()?;
        if let Some(least) = self.spread.filter(|least| rate < *least) {
            return Some(Evidence::Rate(rate, least));
        }
        let limit = f64::from(spec.success_rate) / 1e6;
        let others = WindowSum {
            requests: self.total.requests - window.requests,
            failures: self.total.failures - window.failures,
            latency_us: 0,
        };
        let least = limit.min(others.success_rate()? - BEHIND);
        (rate < least).then_some(Evidence::Rate(rate, least))
    }
}

fn enough(spec: &OutlierSpec, suspect: &Suspect) -> Option<WindowSum> {
    suspect
        .window
        .filter(|window| window.requests >= u64::from(spec.min_requests.max(1)))
}

fn against_latency(spec: &OutlierSpec, suspects: &[Suspect], position: usize) -> Option<Evidence> {
    if spec.latency_factor == 0 {
        return None;
    }
    let of = |suspect: &Suspect| {
        enough(spec, suspect)?;
        suspect.latency.filter(|_| suspect.stands)
    };
    let own = of(&suspects[position])?;
    let others = suspects.iter().enumerate().filter(|(i, _)| *i != position);
    let others = others.filter_map(|(_, other)| of(other));
    let typical = Duration::from_secs_f64(median(others.map(|l| l.as_secs_f64()).collect())?);
    let factor = f64::from(spec.latency_factor) / 100.0;
    (own > typical.mul_f64(factor) && own > typical + NOTICEABLE)
        .then_some(Evidence::Latency(own, typical))
}

/// An ejection as it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Ejection {
    /// What found the instance.
    pub by: Detector,
    /// What it found, for people.
    pub detail: Arc<str>,
    /// When the ejection began.
    pub since: Timestamp,
    /// When it ends, unless an operator ends it before.
    pub until: Timestamp,
    /// The multiplier of its length: how many ejections are not forgiven, this one included.
    pub times: u32,
}

/// What is remembered of an instance from ejection to ejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    times: u32,
    ejected: bool,
    /// Evidence counts from here on.
    fresh: Timestamp,
    /// When it was last forgiven something, or came back.
    forgiven: Timestamp,
    /// Successes that have been taken into account.
    served: u64,
}

impl Record {
    /// A record of an instance first seen at `now`.
    #[must_use]
    pub const fn new(now: Timestamp, successes: u64) -> Self {
        Self {
            times: 0,
            ejected: false,
            fresh: now,
            forgiven: now,
            served: successes,
        }
    }

    /// Whether it is ejected, as far as this record knows.
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        self.ejected
    }

    /// Ejections that are not forgiven.
    #[must_use]
    pub const fn times(&self) -> u32 {
        self.times
    }

    /// Whether all of the last `window` counts as evidence at `now`: what was before an ejection, or
    /// before the instance was known, does not.
    #[must_use]
    pub fn has_whole_window(&self, now: Timestamp, window: Duration) -> bool {
        !self.ejected && now.since(self.fresh) >= window
    }

    /// Ejects it at `now` for `evidence`; `chance`, 0 to 1, moves the end.
    pub fn eject(
        &mut self,
        now: Timestamp,
        evidence: &Evidence,
        spec: &OutlierSpec,
        chance: f64,
    ) -> Ejection {
        self.ejected = true;
        self.times = self.times.saturating_add(1);
        let time = spec
            .base_time
            .saturating_mul(self.times)
            .min(spec.max_time)
            .mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0));
        Ejection {
            by: evidence.detector(),
            detail: evidence.to_string().into(),
            since: now,
            until: now + time,
            times: self.times,
        }
    }

    /// It is back at `now`, with so many `successes` in its life.
    pub const fn release(&mut self, now: Timestamp, successes: u64) {
        *self = Self {
            times: self.times,
            ..Self::new(now, successes)
        };
    }

    /// Takes into account what it has served by `now`: `successes` in its life.
    pub fn observe(&mut self, now: Timestamp, successes: u64) {
        // A reset begins the count anew.
        self.served = self.served.min(successes);
        if self.times > 0
            && !self.ejected
            && successes - self.served >= FORGIVE_AFTER
            && now.since(self.forgiven) >= FORGIVE_EVERY
        {
            self.times -= 1;
            self.served = successes;
            self.forgiven = now;
        }
    }
}

#[cfg(test)]
mod tests;
