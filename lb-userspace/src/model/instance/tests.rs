use super::*;

fn instance() -> Arc<Instance> {
    let id = InstanceId {
        index: 1,
        generation: 0,
    };
    let endpoint = Endpoint::parse("127.0.0.1:1").unwrap();
    Arc::new(Instance::new(
        id,
        ServiceName::new("a").unwrap(),
        endpoint,
        Arc::new(ServiceLoad::new(2)),
    ))
}

#[test]
fn counts_return_to_zero_however_a_request_ends() {
    let (instance, clock) = (instance(), Clock::manual(Timestamp(1)));
    let mut served = instance.begin(Algorithm::RoundRobin, 0, &clock);
    let given_up = instance.begin(Algorithm::RoundRobin, 1, &clock);
    assert_eq!((instance.in_flight(), instance.load.total()), (2, 2));
    clock.advance(Duration::from_millis(3));
    assert_eq!(served.judge(Outcome::Success), Duration::from_millis(3));
    assert_eq!(instance.in_flight(), 2);
    drop(served);
    drop(given_up);
    assert_eq!((instance.in_flight(), instance.load.total()), (0, 0));
    let totals = instance.totals(Algorithm::RoundRobin).unwrap();
    assert_eq!((totals.successes, totals.failures), (1, 0));
    assert_eq!(instance.totals(Algorithm::Adaptive), None);
    assert_eq!(instance.window(clock.now(), 0, 10).requests, 1);
}

#[test]
fn counts_return_to_zero_when_a_task_panics() {
    let (instance, clock) = (instance(), Clock::manual(Timestamp(1)));
    for judged in [false, true] {
        let mut request = instance.begin(Algorithm::RoundRobin, 0, &clock);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            if judged {
                request.judge(Outcome::Success);
            }
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(unwound.is_err());
        assert_eq!((instance.in_flight(), instance.load.total()), (0, 0));
    }
    assert_eq!(instance.totals_of_all().successes, 1);
}

#[test]
fn a_limit_holds_exactly_with_all_workers_at_once() {
    const MOST: u32 = 5;
    let (instance, clock) = (instance(), Clock::real());
    let highest = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (instance, clock, highest) = (&instance, &clock, &highest);
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..20_000_u32 {
                    let algorithm = Algorithm::RoundRobin;
                    held.extend(instance.try_begin(MOST, algorithm, worker, clock));
                    highest.fetch_max(instance.in_flight(), Ordering::Relaxed);
                    if round % 3 == 0 {
                        held.pop();
                    }
                }
            });
        }
    });
    assert_eq!(highest.into_inner(), MOST);
    assert_eq!(instance.in_flight(), 0);
}

#[test]
fn a_request_is_judged_once() {
    let (instance, clock) = (instance(), Clock::manual(Timestamp(1)));
    let mut request = instance.begin(Algorithm::Adaptive, 0, &clock);
    request.judge(Outcome::Failure);
    request.judge(Outcome::Success);
    let totals = instance.totals_of_all();
    assert_eq!((totals.successes, totals.failures), (0, 1));
}
