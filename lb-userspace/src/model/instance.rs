//! An instance and what is counted for it.

mod in_flight;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::in_flight::InFlight;
use super::{
    Alarm, Algorithm, CheckCounts, Clock, Connections, Detector, Endpoint, Exclusion, FailureRun,
    Gate, InstanceId, KernelTraffic, LoadReports, Measured, MostConnections, Pace, PeakEwma,
    ServiceLoad, ServiceName, Timestamp, UNLIMITED, claim,
    history::{Distribution, History, Span},
    identity,
    measure::{LATENCY_BOUNDS_US, LatencyHistogram},
    window::{Window, WindowSum},
};

/// What an operator wants of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// Takes traffic when it is healthy.
    #[default]
    Enabled,
    /// Keeps its connections, its requests and the sessions that are pinned to it, gets no new ones.
    Draining,
    /// Gets nothing; its connections in the kernel go to others at once.
    Disabled,
}

impl AdminState {
    /// The name in API and CLI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// What the active checks say of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not checked so far, or checks are off: treated as healthy.
    #[default]
    Unknown,
    /// The last checks passed.
    Healthy,
    /// The last checks failed.
    Unhealthy,
}

impl Health {
    /// The name in API and CLI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How an exchange with an instance ended, as far as the instance is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The instance answered with a status below 500.
    Success,
    /// The instance answered with 500 or above, or did not answer.
    Failure,
    /// A failure, too: there was no connection to be had, as nothing listens there.
    Refused,
}

impl Outcome {
    /// Whether the instance has failed the request, in whatever way.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failure | Self::Refused)
    }
}

/// An instance in a snapshot: the instance and the weight that it has there.
#[derive(Clone, Debug)]
pub struct Member {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Effective weight; 0 takes no new traffic.
    pub weight: u32,
    /// Whether the weight is held down while the instance recovers. What it gets is then exactly
    /// the share of that weight, whatever its load and latency.
    pub recovering: bool,
    /// What the effective weight would be without the factor from measurements, in the same unit;
    /// 0 exactly when the effective weight is. For algorithms that measure at each pick and would
    /// otherwise count the same latency twice.
    pub base: u32,
    /// The most requests that it may have in flight; [`UNLIMITED`] when there is no limit.
    pub most: u32,
    /// The most connections that the proxy may have open to it.
    pub most_connections: MostConnections,
}

impl Member {
    /// Whether it has as many requests in flight as it may have. A branch when there is no limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.most != UNLIMITED && self.instance.in_flight() >= self.most
    }

    /// Whether the proxy has as many connections to it, or to its service, as it may have, and all
    /// of them are in use. A branch when there is no limit.
    #[must_use]
    pub fn is_out_of_connections(&self) -> bool {
        let most = &self.most_connections;
        most.is_limited() && !self.instance.may_connect(most)
    }
}

/// Counters of one algorithm in one shard.
#[derive(Debug, Default)]
struct AlgorithmCounters {
    successes: AtomicU64,
    failures: AtomicU64,
    latency: LatencyHistogram,
}

/// What one worker counts: written by that worker alone, so that no cache line travels.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    by_algorithm: [OnceLock<Box<AlgorithmCounters>>; Algorithm::ALL.len()],
    window: Window,
    history: OnceLock<Box<History>>,
    /// What its circuit breaker holds against the instance; there once there was anything.
    blame: OnceLock<Box<Window>>,
}

/// Requests of an instance under one algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlgorithmTotals {
    /// Answers below 500.
    pub successes: u64,
    /// Answers of 500 and above, and missing answers.
    pub failures: u64,
    /// Latencies by [`LATENCY_BOUNDS_US`], not cumulative; the last bucket takes the rest.
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of latencies in microseconds.
    pub latency_sum_us: u64,
}

/// A member of a service with its identity and its counters. It lives as long as a configuration
/// names it, whatever else changes.
///
/// In the order of its fields, what a pick reads of each candidate stands in front, in a single
/// cache line: that is what a pick among many instances costs.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Instance {
    /// Its circuit breaker's state.
    pub gate: Gate,
    in_flight: AtomicU32,
    /// Number in both data planes.
    pub id: InstanceId,
    /// Latency of HTTP answers (request sent to head received) as picks go by it, all workers.
    pub pace: Pace,
    /// Requests that it has failed in a row.
    pub failures: FailureRun,
    /// What the control plane has derived; the success rate, which stands first, is for picks.
    pub measured: Measured,
    /// When the last request began, in microseconds; 0 is never.
    asked: AtomicU64,
    /// Until when it has asked to be left alone, in microseconds.
    rests: AtomicU64,
    /// The same latency for people.
    pub latency: PeakEwma,
    /// What its service has in flight, this instance's requests among it.
    pub load: Arc<ServiceLoad>,
    /// Connections of the proxy to it.
    pub connections: Connections,
    shards: Box<[Shard]>,
    /// Fingerprint of service and endpoint, the same in every process. See [`identity`].
    pub identity: u64,
    /// The service that it belongs to.
    pub service: ServiceName,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What the kernel has counted.
    pub kernel: KernelTraffic,
    /// Latency of health checks that passed.
    pub probe_latency: PeakEwma,
    /// What it says of its own load.
    pub reports: LoadReports,
    /// How many health checks there were.
    pub checks: CheckCounts,
    ejections: [AtomicU64; Detector::ALL.len()],
    spared: Spared,
    /// When what was left of it was given up, in microseconds plus one; 0 is never.
    severed: AtomicU64,
}

/// Seconds in which an instance's breaker had cause to open and did not.
#[derive(Debug, Default)]
struct Spared {
    /// The last such second, plus one; 0 is never.
    last: AtomicU64,
    count: AtomicU64,
}

const _: () = assert!(
    std::mem::offset_of!(Instance, measured) + size_of::<u32>() <= 64,
    "what a pick reads is spread over more than a cache line"
);

impl Instance {
    /// An instance without history; `load` is its service's, and says how many threads will count.
    #[must_use]
    pub fn new(
        id: InstanceId,
        service: ServiceName,
        endpoint: Endpoint,
        load: Arc<ServiceLoad>,
    ) -> Self {
        Self {
            id,
            identity: identity(&service, &endpoint),
            service,
            endpoint,
            kernel: KernelTraffic::default(),
            measured: Measured::default(),
            latency: PeakEwma::default(),
            pace: Pace::default(),
            probe_latency: PeakEwma::default(),
            reports: LoadReports::default(),
            checks: CheckCounts::default(),
            gate: Gate::default(),
            failures: FailureRun::default(),
            ejections: Default::default(),
            spared: Spared::default(),
            severed: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            asked: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            shards: (0..load.workers()).map(|_| Shard::default()).collect(),
            connections: Connections::new(load.workers()),
            load,
        }
    }

    /// Why it takes no request at this moment, whatever its weight, if so.
    #[must_use]
    pub fn exclusion(&self, now: Timestamp) -> Option<Exclusion> {
        self.gate.exclusion(now)
    }

    /// Gives up what is left of it at `now`: connections of the proxy that are open to it are cut,
    /// whatever they are used for. Those that are opened later are not.
    pub fn sever(&self, now: Timestamp) {
        let at = now.0.saturating_add(1);
        self.severed.fetch_max(at, Ordering::Relaxed);
    }

    /// When that was last done.
    #[must_use]
    pub fn severed(&self) -> Option<Timestamp> {
        let at = self.severed.load(Ordering::Relaxed);
        at.checked_sub(1).map(Timestamp)
    }

    /// The same with failures in a row that ring `alarm`.
    #[must_use]
    pub fn with_alarm(mut self, alarm: Arc<Alarm>) -> Self {
        self.failures = FailureRun::new(alarm);
        self
    }

    /// Counts an ejection.
    pub fn count_ejection(&self, by: Detector) {
        self.ejections[by as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `by` has had it ejected.
    #[must_use]
    pub fn ejections(&self, by: Detector) -> u64 {
        self.ejections[by as usize].load(Ordering::Relaxed)
    }

    /// Notes that its breaker has cause to open and does not.
    pub fn spare(&self, now: Timestamp) {
        let second = now.seconds() + 1;
        if self.spared.last.load(Ordering::Relaxed) != second
            && self.spared.last.swap(second, Ordering::Relaxed) != second
        {
            self.spared.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// In how many seconds its breaker had cause to open and did not.
    #[must_use]
    pub fn spared(&self) -> u64 {
        self.spared.count.load(Ordering::Relaxed)
    }

    /// Whether that was so in this second or the one before.
    #[must_use]
    pub fn is_spared(&self, now: Timestamp) -> bool {
        let last = self.spared.last.load(Ordering::Relaxed);
        last > 0 && last >= now.seconds()
    }

    /// Requests in flight, all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests in flight and connections of VIPs, a relayed one of which is both and counts once.
    #[must_use]
    pub fn busy_with(&self) -> u64 {
        let kernel = &self.kernel;
        let live = match kernel.relayed.load(Ordering::Relaxed) {
            true => 0,
            false => kernel.live.load(Ordering::Relaxed),
        };
        u64::from(self.in_flight()) + live
    }

    /// Requests that have failed since the last one that succeeded, all workers.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures.length()
    }

    /// When the last request began; `None` before the first.
    #[must_use]
    pub fn asked(&self) -> Option<Timestamp> {
        Some(Timestamp(self.asked.load(Ordering::Relaxed))).filter(|asked| asked.0 > 0)
    }

    /// Notes that it has asked to be left alone (`Retry-After`) until then.
    pub fn rest(&self, until: Timestamp) {
        self.rests.fetch_max(until.0, Ordering::Relaxed);
    }

    /// Whether it has asked to be left alone at this time. Retries respect that.
    #[must_use]
    pub fn rests(&self, now: Timestamp) -> bool {
        now.0 < self.rests.load(Ordering::Relaxed)
    }

    /// Notes that a request goes to this instance; the guard's end notes that it is over.
    #[must_use]
    pub fn begin(self: &Arc<Self>, algorithm: Algorithm, worker: usize, clock: &Clock) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun(algorithm, worker, clock)
    }

    /// The same, unless `most` requests are in flight already; exact across all workers.
    #[must_use]
    pub fn try_begin(
        self: &Arc<Self>,
        most: u32,
        algorithm: Algorithm,
        worker: usize,
        clock: &Clock,
    ) -> Option<InFlight> {
        if most == UNLIMITED {
            return Some(self.begin(algorithm, worker, clock));
        }
        claim(&self.in_flight, most).then(|| self.begun(algorithm, worker, clock))
    }

    fn begun(self: &Arc<Self>, algorithm: Algorithm, worker: usize, clock: &Clock) -> InFlight {
        let started = clock.now();
        self.load.begin(worker);
        self.asked.store(started.0, Ordering::Relaxed);
        InFlight {
            instance: Arc::clone(self),
            algorithm,
            worker,
            clock: clock.clone(),
            started,
            behind: self.in_flight().saturating_sub(1),
            judged: false,
        }
    }

    /// Sum of the requests of the last `seconds`, beginning `skip` seconds ago.
    #[must_use]
    pub fn window(&self, now: Timestamp, skip: u64, seconds: u64) -> WindowSum {
        let mut sum = WindowSum::default();
        for shard in &self.shards {
            sum += shard.window.sum(now, skip, seconds);
        }
        sum
    }

    /// Notes for the circuit breaker how one of the requests in [`Instance::window`] is to count
    /// that was no plain success: as a failure, or not at all.
    pub fn blame(&self, worker: usize, now: Timestamp, counts: bool) {
        let shard = &self.shards[worker % self.shards.len()];
        shard.blame.get_or_init(Box::default).record(now, counts, 0);
    }

    /// The requests of the last `seconds` as they count for the circuit breaker, see
    /// [`Instance::blame`]; without latencies.
    #[must_use]
    pub fn blamed(&self, now: Timestamp, seconds: u64) -> WindowSum {
        let mut blamed = WindowSum::default();
        for window in self.shards.iter().filter_map(|shard| shard.blame.get()) {
            blamed += window.sum(now, 0, seconds);
        }
        // Read while others write: each number is as young as it happens to be.
        let without_count = blamed.requests.saturating_sub(blamed.failures);
        let requests = self.window(now, 0, seconds).requests;
        WindowSum {
            requests: requests.saturating_sub(without_count),
            failures: blamed.failures,
            latency_us: 0,
        }
    }

    /// The requests of `span` and how long they took.
    #[must_use]
    pub fn history(&self, span: Span) -> Distribution {
        let mut sum = Distribution::default();
        for history in self.shards.iter().filter_map(|shard| shard.history.get()) {
            history.add_to(&mut sum, span);
        }
        sum
    }

    /// Totals under `algorithm`; `None` when it never served a request.
    #[must_use]
    pub fn totals(&self, algorithm: Algorithm) -> Option<AlgorithmTotals> {
        let mut totals = None;
        for shard in &self.shards {
            let Some(counters) = shard.by_algorithm[algorithm as usize].get() else {
                continue;
            };
            let sum = totals.get_or_insert_with(AlgorithmTotals::default);
            sum.successes += counters.successes.load(Ordering::Relaxed);
            sum.failures += counters.failures.load(Ordering::Relaxed);
            let (latency, latency_sum_us) = counters.latency.read();
            for (to, from) in sum.latency.iter_mut().zip(latency) {
                *to += from;
            }
            sum.latency_sum_us += latency_sum_us;
        }
        totals
    }

    /// Totals over all algorithms.
    #[must_use]
    pub fn totals_of_all(&self) -> AlgorithmTotals {
        let mut sum = AlgorithmTotals::default();
        for totals in Algorithm::ALL
            .iter()
            .filter_map(|algorithm| self.totals(*algorithm))
        {
            sum.successes += totals.successes;
            sum.failures += totals.failures;
            for (to, from) in sum.latency.iter_mut().zip(totals.latency) {
                *to += from;
            }
            sum.latency_sum_us += totals.latency_sum_us;
        }
        sum
    }

    /// Forgets everything that was counted and measured here; requests in flight stay what they
    /// are, and so does what the kernel has counted. A request that ends in this very moment may be
    /// forgotten in part.
    pub fn reset(&self) {
        for shard in &self.shards {
            for counters in shard.by_algorithm.iter().filter_map(OnceLock::get) {
                counters.successes.store(0, Ordering::Relaxed);
                counters.failures.store(0, Ordering::Relaxed);
                counters.latency.reset();
            }
            shard.window.reset();
            if let Some(history) = shard.history.get() {
                history.reset();
            }
            if let Some(blame) = shard.blame.get() {
                blame.reset();
            }
        }
        self.gate.reset();
        self.latency.reset();
        self.pace.reset();
        self.probe_latency.reset();
        self.checks.reset();
        self.failures.end();
        let counters = self.ejections.iter();
        for counter in counters.chain([&self.spared.last, &self.spared.count]) {
            counter.store(0, Ordering::Relaxed);
        }
        self.measured.set_score(1.0);
        self.measured.set_success(1.0);
        self.measured.forget();
        self.reports.reset();
        self.asked.store(0, Ordering::Relaxed);
        self.rests.store(0, Ordering::Relaxed);
    }

    fn succeeded(&self, now: Timestamp, latency: Duration, behind: u32) {
        self.latency.add(now, latency);
        self.pace.add(now, latency, behind);
        self.failures.end();
    }

    fn failed(&self, now: Timestamp, latency: Duration, behind: u32, refused: bool) {
        self.took_at_least(now, latency, behind);
        self.failures.go_on(now, refused);
    }

    fn took_at_least(&self, now: Timestamp, bound: Duration, behind: u32) {
        self.latency.add_at_least(now, bound);
        self.pace.add_at_least(now, bound, behind);
    }

    fn record(&self, algorithm: Algorithm, worker: usize, now: Timestamp, o: Outcome, us: u64) {
        let shard = &self.shards[worker % self.shards.len()];
        shard.window.record(now, o.is_failure(), us);
        let history = shard.history.get_or_init(Box::default);
        history.record(now, o.is_failure(), us);
        let counters = shard.by_algorithm[algorithm as usize].get_or_init(Box::default);
        match o {
            Outcome::Success => &counters.successes,
            Outcome::Failure | Outcome::Refused => &counters.failures,
        }
        .fetch_add(1, Ordering::Relaxed);
        counters.latency.record(us);
    }
}

impl AsRef<Gate> for Instance {
    fn as_ref(&self) -> &Gate {
        &self.gate
    }
}

#[cfg(test)]
mod tests;
