//! Ejections: from what instances did to who is out, and for how long.
//!
//! Runs of failures are looked at when an instance rings the registry's alarm, which it does in the
//! moment of the failure: such an instance has to be out before it has drawn much traffic. Rates
//! and latencies are looked at once a second, and so are runs that could not be acted upon because
//! too many were out already. The decisions themselves are [`outlier::judge`]'s, and go to the
//! registry, which takes the instance's weight in both data planes.

use std::{collections::HashMap, future::poll_fn, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    model::{BreakerState, Clock, Instance, InstanceId, OutlierSpec, Timestamp, history::Span},
    registry::{Change, Registry, Service},
    resilience::{
        Ejection, Silence,
        outage::{Output, RECENT, lags},
        outlier::{self, Record, Suspect},
    },
};

/// How often rates and latencies are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two looks: an instance that may not be ejected rings at each failure.
const SHORTEST: Duration = Duration::from_millis(10);

/// Ejects instances of `registry`, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock) {
    let alarm = Arc::clone(registry.alarm());
    let mut outliers = Outliers::default();
    let mut whole = clock.now();
    loop {
        let now = clock.now();
        let look = if now >= whole {
            whole = now + PERIOD;
            Look::Whole
        } else {
            Look::Runs
        };
        let due = outliers.look(&registry, now, look);
        let until = due.map_or(whole, |due| due.min(whole));
        sleep(SHORTEST).await;
        tokio::select! {
            () = sleep(until.since(clock.now())) => {}
            () = poll_fn(|cx| alarm.poll_rung(cx)) => {}
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Failures in a row.
    Runs,
    /// Rates and latencies too.
    Whole,
}

/// What is remembered of instances.
#[derive(Debug, Default)]
pub struct Outliers {
    records: HashMap<InstanceId, Record>,
    /// The reset after which it was learned.
    reset: u64,
    random: fastrand::Rng,
}

impl Outliers {
    /// The same with ejections whose jitter follows from `seed`.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ..Self::default()
        }
    }

    /// Ends the ejections that are over at `now` and ejects whom the evidence is against; says
    /// when the next ejection ends.
    pub fn look(&mut self, registry: &Registry, now: Timestamp, look: Look) -> Option<Timestamp> {
        let over = self.follow(registry, now);
        if !over.is_empty() {
            apply(registry, Change::EndEjections(over));
            self.follow(registry, now);
        }
        let mut ejections = Vec::new();
        for service in &registry.snapshot().services {
            if let Some(spec) = &service.spec.outlier {
                self.judge(service, spec, now, look, &mut ejections);
            }
        }
        if !ejections.is_empty() {
            apply(registry, Change::Eject(ejections));
        }
        let snapshot = registry.snapshot();
        let statuses = snapshot.services.iter().flat_map(|s| s.statuses.iter());
        let ends = statuses.filter_map(|status| Some(status.ejected.as_ref()?.until));
        ends.min()
    }

    /// Brings the records to what the registry says; the ejections whose time is over.
    fn follow(&mut self, registry: &Registry, now: Timestamp) -> Vec<InstanceId> {
        let mut before = std::mem::take(&mut self.records);
        let snapshot = registry.snapshot();
        if snapshot.reset != self.reset {
            self.reset = snapshot.reset;
            before.clear();
        }
        let mut over = Vec::new();
        for service in &snapshot.services {
            if service.spec.outlier.is_none() {
                continue;
            }
            for (member, status) in service.members.iter().zip(service.statuses.iter()) {
                let (id, instance) = (member.instance.id, &member.instance);
                let successes = successes(instance);
                let mut record = before
                    .remove(&id)
                    .unwrap_or_else(|| Record::new(now, successes));
                match &status.ejected {
                    Some(ejection) if ejection.until <= now => over.push(id),
                    Some(_) => {}
                    None if record.is_ejected() => {
                        // Requests that were under way may have failed since.
                        instance.failures.end();
                        record.release(now, successes);
                    }
                    None => record.observe(now, successes),
                }
                self.records.insert(id, record);
            }
        }
        over
    }

    fn judge(
        &mut self,
        service: &Service,
        spec: &OutlierSpec,
        now: Timestamp,
        look: Look,
        ejections: &mut Vec<(InstanceId, Ejection)>,
    ) {
        let mut suspects: Vec<Suspect> = (0..service.members.len())
            .map(|position| self.suspect(service, position, spec, now, look))
            .collect();
        find_lags(service, spec, now, &mut suspects);
        for conviction in outlier::judge(spec, &suspects) {
            let instance = &service.members[conviction.position].instance;
            let Some(record) = self.records.get_mut(&instance.id) else {
                continue;
            };
            let ejection = record.eject(now, &conviction.evidence, spec, self.random.f64());
            instance.count_ejection(ejection.by);
            ejections.push((instance.id, ejection));
        }
    }

    fn suspect(
        &self,
        service: &Service,
        position: usize,
        spec: &OutlierSpec,
        now: Timestamp,
        look: Look,
    ) -> Suspect {
        let instance = &service.members[position].instance;
        let status = &service.statuses[position];
        let record = self.records.get(&instance.id);
        let proven = look == Look::Whole
            && record.is_some_and(|record| record.has_whole_window(now, spec.window));
        let seconds = spec.window.as_secs();
        let run = instance.failures.length();
        Suspect {
            stands: status.stands(),
            wanted: status.is_wanted(),
            ejected: status.ejected.is_some(),
            blocked: instance.gate.state().kind(now) != BreakerState::Closed,
            weight: service.members[position].weight,
            run,
            lags: false,
            silence: if run > 0 && run >= spec.consecutive_failures {
                Silence::of(instance, now)
            } else {
                Silence::None
            },
            window: proven.then(|| instance.window(now, 0, seconds)),
            latency: (proven && spec.latency_factor > 0)
                .then(|| instance.history(Span::new(now, seconds)).quantile_us(0.5))
                .flatten()
                .map(|us| Duration::from_micros(us as u64)),
        }
    }
}

/// Finds out which of those that have failed often enough in a row, and serve all the same, lag.
fn find_lags(service: &Service, spec: &OutlierSpec, now: Timestamp, suspects: &mut [Suspect]) {
    let fails = |suspect: &Suspect| {
        suspect.stands
            && spec.consecutive_failures > 0
            && suspect.run >= spec.consecutive_failures
            && suspect.silence == Silence::None
    };
    if !suspects.iter().any(fails) {
        return;
    }
    let of = |position: usize| {
        let member = &service.members[position];
        let sum = member.instance.window(now, 0, RECENT);
        let output = Output::new(&sum, RECENT, member.weight);
        (output, f64::from(member.instance.in_flight()))
    };
    let standing = suspects.iter().enumerate().filter(|(_, s)| s.stands);
    let (all, busy) = standing.map(|(position, _)| of(position)).fold(
        (Output::default(), 0.0),
        |(mut all, busy), (output, own)| {
            all += output;
            (all, busy + own)
        },
    );
    for (position, suspect) in suspects.iter_mut().enumerate() {
        if fails(suspect) {
            let (own, own_busy) = of(position);
            let others = all.without(&own);
            suspect.lags = lags(&own, &others, own_busy, busy - own_busy, RECENT);
        }
    }
}

fn successes(instance: &Instance) -> u64 {
    instance.totals_of_all().successes
}

fn apply(registry: &Registry, change: Change) {
    if let Err(error) = registry.apply(change) {
        tracing::error!(%error, "the registry refused ejections");
    }
}
