use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::model::BreakerState;

fn spec() -> BreakerSpec {
    BreakerSpec {
        open: Duration::from_secs(2),
        max_open: Duration::from_secs(60),
        ..BreakerSpec::default()
    }
}

const NOTHING: WindowSum = WindowSum {
    requests: 0,
    failures: 0,
    latency_us: 0,
};

/// A breaker and its time.
struct Run {
    gate: Arc<Gate>,
    spec: BreakerSpec,
    now: Timestamp,
    sum: WindowSum,
}

impl Run {
    fn new(spec: BreakerSpec) -> Self {
        Self {
            gate: Arc::default(),
            spec,
            now: Timestamp(1_000_000_000),
            sum: NOTHING,
        }
    }

    fn report(&self, verdict: Verdict) -> Report {
        Report {
            verdict,
            began: self.now,
            now: self.now,
            chance: 0,
        }
    }

    fn pass(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    fn admit(&self) -> Result<Option<Permit<Gate>>, Exclusion> {
        admit(&self.gate, &self.spec, self.now)
    }

    fn end(&self, verdict: Verdict) -> BreakerState {
        ended(
            &self.gate,
            &self.spec,
            &self.report(verdict),
            |_| self.sum,
            |_| true,
        );
        self.kind()
    }

    fn probe(&self, verdict: Verdict) -> BreakerState {
        let permit = self.admit().unwrap().unwrap();
        probed(permit, &self.spec, &self.report(verdict));
        self.kind()
    }

    fn kind(&self) -> BreakerState {
        self.gate.state().kind(self.now)
    }

    /// How long it will be open.
    fn wait(&self) -> Duration {
        match self.gate.state() {
            GateState::Open { until, .. } => until - self.now,
            state => panic!("{state:?}"),
        }
    }

    fn trip(&self) {
        (0..self.spec.failures).for_each(|_| {
            self.end(Verdict::Failure);
        });
        assert_eq!(self.kind(), BreakerState::Open);
    }
}

#[test]
fn a_run_of_failures_opens_it_and_a_success_ends_the_run() {
    let run = Run::new(spec());
    for _ in 0..3 {
        for _ in 0..6 {
            assert_eq!(run.end(Verdict::Failure), BreakerState::Closed);
            assert_eq!(run.end(Verdict::Throttled), BreakerState::Closed);
        }
        assert_eq!(run.end(Verdict::Success), BreakerState::Closed);
        assert!(run.gate.is_quiet());
    }
    run.trip();
    assert_eq!(run.admit().unwrap_err(), Exclusion::BreakerOpen);
    assert_eq!(run.wait(), Duration::from_secs(2));
}

#[test]
fn a_share_of_failures_opens_it_once_there_were_enough_requests() {
    for (requests, failures, kind) in [
        (19, 19, BreakerState::Closed),
        (20, 9, BreakerState::Closed),
        (20, 10, BreakerState::Open),
        (1000, 499, BreakerState::Closed),
        (1000, 500, BreakerState::Open),
    ] {
        for verdict in [Verdict::Failure, Verdict::Throttled] {
            let mut run = Run::new(spec());
            run.sum = WindowSum {
                requests,
                failures,
                latency_us: 0,
            };
            assert_eq!(run.end(Verdict::Success), BreakerState::Closed);
            assert_eq!(run.end(verdict), kind, "{failures} of {requests}");
        }
    }
}

#[test]
fn it_stays_closed_as_long_as_it_may_not_open() {
    let mut run = Run::new(spec());
    run.sum = WindowSum {
        requests: 20,
        failures: 20,
        latency_us: 0,
    };
    let mut asked = Vec::new();
    let (gate, report) = (&run.gate, run.report(Verdict::Failure));
    for _ in 0..8 {
        let refuse = |cause| {
            asked.push(cause);
            false
        };
        ended(gate, &run.spec, &report, |_| run.sum, refuse);
    }
    assert_eq!(run.kind(), BreakerState::Closed);
    let share = Cause::Share(run.sum, 10);
    let before = [share; 6];
    assert_eq!(asked[..6], before);
    assert_eq!(asked[6..], [Cause::Run, share, Cause::Run, share]);
    // The run is remembered.
    let may = |cause| cause == Cause::Run;
    let step = ended(gate, &run.spec, &report, |_| run.sum, may);
    assert!(step.is_some_and(|step| step.is_transition()));
}

#[test]
fn probes_close_it_or_open_it_for_twice_as_long() {
    let mut run = Run::new(spec());
    run.trip();
    for wait in [2u64, 4, 8, 16, 32, 60, 60] {
        assert_eq!(run.wait(), Duration::from_secs(wait));
        run.pass(Duration::from_secs(wait) - Duration::from_millis(1));
        assert_eq!(run.admit().unwrap_err(), Exclusion::BreakerOpen);
        run.pass(Duration::from_millis(1));
        assert_eq!(run.kind(), BreakerState::HalfOpen);
        assert_eq!(run.probe(Verdict::Success), BreakerState::HalfOpen);
        assert_eq!(run.probe(Verdict::Failure), BreakerState::Open);
    }
    run.pass(Duration::from_secs(60));
    assert_eq!(run.probe(Verdict::Success), BreakerState::HalfOpen);
    assert_eq!(run.probe(Verdict::Success), BreakerState::Closed);
    assert!(run.admit().unwrap().is_none());
    // The slate is clean.
    run.trip();
    assert_eq!(run.wait(), Duration::from_secs(2));
    run.pass(Duration::from_secs(2));
    assert_eq!(run.probe(Verdict::Throttled), BreakerState::Open);
}

#[test]
fn only_probes_decide_while_it_is_half_open() {
    let mut run = Run::new(spec());
    run.trip();
    run.pass(Duration::from_secs(2));
    let permit = run.admit().unwrap().unwrap();
    for verdict in [Verdict::Failure, Verdict::Success, Verdict::Throttled] {
        assert_eq!(run.end(verdict), BreakerState::HalfOpen);
    }
    assert_eq!(run.admit().unwrap_err(), Exclusion::ProbeBusy);
    drop(permit);
    assert!(run.admit().unwrap().is_some());
}

#[test]
fn what_began_before_it_was_closed_does_not_count() {
    let mut run = Run::new(spec());
    let began = run.now;
    run.trip();
    run.pass(Duration::from_secs(2));
    run.probe(Verdict::Success);
    run.probe(Verdict::Success);
    for _ in 0..100 {
        let late = Report {
            began,
            ..run.report(Verdict::Failure)
        };
        assert_eq!(
            ended(&run.gate, &run.spec, &late, |_| NOTHING, |_| true),
            None
        );
    }
    run.trip();
}

#[test]
fn the_window_begins_anew_when_it_is_closed() {
    let (run, asked) = (Run::new(spec()), Mutex::new(None));
    let window = |seconds| {
        *asked.lock().unwrap() = Some(seconds);
        NOTHING
    };
    let closed = Timestamp(1_000_500_000);
    for (now, seconds) in [
        (1_000_900_000, 0),
        (1_001_000_000, 1),
        (1_001_999_999, 1),
        (1_008_000_000, 8),
        (1_500_000_000, 10),
    ] {
        run.gate.update(|_| Some(GateState::closed(closed)));
        let now = Timestamp(now);
        let report = Report {
            now,
            began: now,
            ..run.report(Verdict::Failure)
        };
        ended(&run.gate, &run.spec, &report, window, |_| true);
        assert_eq!(*asked.lock().unwrap(), Some(seconds), "{now:?}");
    }
}

#[test]
fn a_permit_of_a_phase_that_is_over_changes_nothing() {
    let mut run = Run::new(BreakerSpec {
        probes: 2,
        ..spec()
    });
    run.trip();
    run.pass(Duration::from_secs(2));
    let late = run.admit().unwrap().unwrap();
    assert_eq!(run.probe(Verdict::Failure), BreakerState::Open);
    run.pass(Duration::from_secs(4));
    let permits = (run.admit().unwrap(), run.admit().unwrap());
    assert_eq!(run.admit().unwrap_err(), Exclusion::ProbeBusy);
    let before = run.gate.state();
    assert_eq!(probed(late, &run.spec, &run.report(Verdict::Failure)), None);
    assert_eq!(run.gate.state(), before);
    drop(permits);
}

#[test]
fn without_requests_it_closes_in_the_end() {
    let mut run = Run::new(spec());
    run.trip();
    run.pass(Duration::from_secs(61));
    assert_eq!(expire(&run.gate, &run.spec, run.now), None);
    // A probe under way keeps it; one that came to nothing makes it wait anew.
    let permit = run.admit().unwrap().unwrap();
    assert_eq!(expiry(run.gate.state(), &run.spec), None);
    drop(permit);
    run.pass(Duration::from_secs(59));
    assert_eq!(expire(&run.gate, &run.spec, run.now), None);
    run.pass(Duration::from_secs(1));
    assert!(expire(&run.gate, &run.spec, run.now).is_some());
    assert_eq!(run.kind(), BreakerState::Closed);
}

#[test]
fn an_operator_has_the_last_word() {
    let mut run = Run::new(spec());
    hold(&run.gate, Hold::Open, run.now);
    run.pass(Duration::from_secs(100_000));
    assert_eq!(expire(&run.gate, &run.spec, run.now), None);
    assert_eq!(run.admit().unwrap_err(), Exclusion::BreakerOpen);
    hold(&run.gate, Hold::Closed, run.now);
    for _ in 0..100 {
        assert_eq!(run.end(Verdict::Failure), BreakerState::Closed);
    }
    assert!(run.admit().unwrap().is_none());
    clear(&run.gate, run.now);
    assert_eq!(run.gate.state(), GateState::HeldClosed);
    hold(&run.gate, Hold::Release, run.now);
    run.trip();
}

#[test]
fn many_threads_get_as_many_permits_as_there_are() {
    for probes in [1, 3] {
        let mut run = Run::new(BreakerSpec { probes, ..spec() });
        run.trip();
        run.pass(Duration::from_secs(2));
        let most = Mutex::new((0, 0));
        let attempts = || {
            for _ in 0..2000 {
                if let Ok(Some(permit)) = run.admit() {
                    let mut held = most.lock().unwrap();
                    held.0 += 1;
                    held.1 = held.1.max(held.0);
                    drop(held);
                    std::thread::yield_now();
                    most.lock().unwrap().0 -= 1;
                    drop(permit);
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(attempts))));
        let (held, most) = *most.lock().unwrap();
        assert!(held == 0 && most <= probes, "{most} of {probes}");
        let all: Vec<_> = (0..probes).map(|_| run.admit().unwrap().unwrap()).collect();
        assert_eq!(run.admit().unwrap_err(), Exclusion::ProbeBusy);
        drop(all);
    }
}

/// One thing that may happen to a breaker.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask,
    End(Verdict),
    Leave,
    Wait(u64),
    Expire,
    Hold(Hold),
}

fn act() -> impl Strategy<Value = Act> {
    let verdict = prop::sample::select(vec![
        Verdict::Success,
        Verdict::Failure,
        Verdict::Failure,
        Verdict::Throttled,
    ]);
    let hold = prop::sample::select(vec![Hold::Open, Hold::Closed, Hold::Release]);
    prop_oneof![
        8 => Just(Act::Ask),
        8 => verdict.prop_map(Act::End),
        2 => Just(Act::Leave),
        3 => (1u64..30_000).prop_map(Act::Wait),
        1 => Just(Act::Expire),
        1 => hold.prop_map(Act::Hold),
    ]
}

proptest! {
    #[test]
    fn it_is_never_out_of_bounds_whatever_happens(
        steps in prop::collection::vec(act(), 1..300),
        probes in 1u8..4,
        successes in 1u8..4,
        failures in 1u16..4,
        chance in any::<u64>(),
    ) {
        let spec = BreakerSpec { probes, successes, failures, ..spec() };
        let mut run = Run::new(spec);
        let mut under_way: Vec<Option<Permit<Gate>>> = Vec::new();
        for step in steps {
            let before = run.gate.state();
            match step {
                Act::Ask => match run.admit() {
                    Ok(permit) => {
                        prop_assert_eq!(before.exclusion(run.now), None);
                        let closed = before.kind(run.now) == BreakerState::Closed;
                        prop_assert_eq!(permit.is_none(), closed);
                        under_way.push(permit);
                    }
                    Err(why) => prop_assert_eq!(before.exclusion(run.now), Some(why)),
                },
                Act::End(verdict) => {
                    let report = Report { chance, ..run.report(verdict) };
                    match under_way.pop() {
                        Some(Some(permit)) => drop(probed(permit, &spec, &report)),
                        Some(None) => drop(ended(&run.gate, &spec, &report, |_| run.sum, |_| true)),
                        None => {}
                    }
                }
                Act::Leave => drop(under_way.pop()),
                Act::Wait(millis) => run.pass(Duration::from_millis(millis)),
                Act::Expire => drop(expire(&run.gate, &spec, run.now)),
                Act::Hold(order) => drop(hold(&run.gate, order, run.now)),
            }
            match run.gate.state() {
                GateState::Closed { run, .. } => prop_assert!(run < failures),
                GateState::Open { until, trips } => {
                    let most = wait(trips, &spec, 0);
                    let left = until - run.now;
                    prop_assert!(left <= most + Duration::from_millis(1));
                    prop_assert!(most <= spec.max_open && trips >= 1);
                    if !matches!(before, GateState::Open { .. }) {
                        prop_assert!(left >= most.mul_f64(0.79));
                    }
                }
                GateState::HalfOpen { free, passed, since, .. } => {
                    let used = under_way.iter().flatten().filter(|p| p.phase == Some(since));
                    prop_assert_eq!(usize::from(free) + used.count(), usize::from(probes));
                    prop_assert!(passed < successes);
                }
                GateState::HeldOpen | GateState::HeldClosed => {}
            }
        }
    }
}
