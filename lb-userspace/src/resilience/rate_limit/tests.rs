//! Budgets are never exceeded, never more refused than asked for, and never more than there is
//! room for.

use std::sync::{Arc, atomic::AtomicU32};

use proptest::prelude::*;

use super::*;

fn spec(requests: u32, per: Duration, burst: u32, key: RateKey) -> RateLimitSpec {
    RateLimitSpec {
        requests,
        per,
        burst,
        key,
        max_keys: 1024,
    }
}

fn limiter(requests: u32, per: Duration, burst: u32, key: RateKey) -> RateLimiter {
    let spec = spec(requests, per, burst, key);
    RateLimiter::new(spec, RateScope::Gateway, String::new())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let limit = limiter(10, seconds(1), 3, RateKey::All);
    let mut now = Timestamp(5_000_000);
    for _ in 0..3 {
        assert_eq!(limit.take(now, || 0), Ok(()));
    }
    assert_eq!(limit.take(now, || 0), Err(Duration::from_millis(100)));
    now = now + Duration::from_millis(99);
    assert_eq!(limit.take(now, || 0), Err(Duration::from_millis(1)));
    now = now + Duration::from_millis(1);
    assert_eq!(limit.take(now, || 0), Ok(()));
    assert!(limit.take(now, || 0).is_err());
    assert_eq!(limit.refused(), 3);
    // Nothing is saved up beyond the burst.
    now = now + seconds(3600);
    let passed = (0..10).filter(|_| limit.take(now, || 0).is_ok()).count();
    assert_eq!(passed, 3);
}

#[test]
fn each_key_has_a_budget_of_its_own() {
    let limit = limiter(1, seconds(60), 2, RateKey::Client);
    let now = Timestamp(1);
    for key in 0..100 {
        assert_eq!(limit.take(now, || key), Ok(()));
        assert_eq!(limit.take(now, || key), Ok(()));
        assert_eq!(limit.take(now, || key), Err(seconds(60)));
    }
    assert_eq!((limit.refused(), limit.crowded()), (100, 0));
}

#[test]
fn a_flood_of_keys_gets_no_more_than_the_table_and_takes_no_more_memory() {
    let limit = limiter(1, seconds(3600), 1, RateKey::Client);
    let Budgets::ByKey(table) = &limit.budgets else {
        panic!("budgets by key have a table");
    };
    assert!((1024..=8192).contains(&table.size()), "{}", table.size());
    let now = Timestamp(1_000_000);
    let keys = 20 * table.size() as u64;
    let passed = (0..keys).filter(|key| limit.take(now, || *key).is_ok());
    assert!(passed.count() <= table.size());
    assert!(limit.crowded() > 0);
    let held: usize = table.shards.iter().map(|s| s.lock().unwrap().len()).sum();
    assert_eq!(held, table.size());
    // An hour later all of it is free again.
    let later = now + seconds(3601);
    assert_eq!(limit.take(later, || u64::MAX), Ok(()));
}

#[test]
fn budgets_hold_with_all_workers_at_once() {
    for key in [RateKey::All, RateKey::Client] {
        let limit = Arc::new(limiter(1000, seconds(1), 50, key));
        let passed = Arc::new(AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (limit, passed) = (Arc::clone(&limit), Arc::clone(&passed));
                scope.spawn(move || {
                    // Each millisecond of 100 is asked for twenty times by each worker.
                    for at in 0..2000_u64 {
                        let now = Timestamp(1_000_000 + at / 20 * 1000);
                        if limit.take(now, || 7).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // 99 ms between the first and the last request. A worker that lags behind asks at a time
        // that is over, which can only refuse.
        let passed = passed.load(Ordering::Relaxed);
        assert!((50 + 95..=50 + 100).contains(&passed), "{passed}");
    }
}

#[test]
fn extremes_do_not_overflow() {
    let day = seconds(24 * 3600);
    for (requests, per, burst) in [
        (1, day, 1_000_000),
        (1_000_000, Duration::from_millis(1), 1),
        (1_000_000, day, 1_000_000),
        (1, Duration::from_millis(1), 1),
    ] {
        let limit = limiter(requests, per, burst, RateKey::All);
        for now in [0, 10_u64.pow(14)] {
            assert_eq!(limit.take(Timestamp(now), || 0), Ok(()));
        }
        // After the clock has run out of bits nothing is right any more, but nothing panics.
        let _ = limit.take(Timestamp(u64::MAX), || 0);
    }
}

proptest! {
    /// In every window that begins and ends with a request, no more pass than burst and rate allow;
    /// and a request is refused only when one more would have been too many.
    #[test]
    fn no_window_exceeds_its_budget(
        requests in 1_u32..5000,
        per_ms in 1_u64..5000,
        burst in 1_u32..50,
        keyed in any::<bool>(),
        gaps in prop::collection::vec(0_u64..20_000, 1..300),
    ) {
        let key = if keyed { RateKey::Client } else { RateKey::All };
        let per = Duration::from_millis(per_ms);
        let limit = limiter(requests, per, burst, key);
        let step = per.as_secs_f64() * 1e6 / f64::from(requests);
        let mut now = Timestamp(1_000_000);
        let mut passed: Vec<u64> = Vec::new();
        for gap in gaps {
            now = Timestamp(now.0 + gap);
            match limit.take(now, || 1) {
                Ok(()) => {
                    passed.push(now.0);
                    for (at, first) in passed.iter().enumerate() {
                        let in_window = (passed.len() - at) as f64;
                        let window = (now.0 - first) as f64;
                        prop_assert!(in_window <= f64::from(burst) + window / step + 1e-6);
                    }
                }
                Err(wait) => {
                    // One more now would have exceeded some window.
                    let too_many = passed.iter().enumerate().any(|(at, first)| {
                        let in_window = (passed.len() - at + 1) as f64;
                        in_window > f64::from(burst) + (now.0 - first) as f64 / step - 1e-3
                    });
                    prop_assert!(too_many);
                    // What it says about the future is true.
                    let then = Timestamp(now.0 + wait.as_micros() as u64 + 1);
                    prop_assert!(wait > Duration::ZERO);
                    prop_assert!(limit.rule.take(peek(&limit), ticks(then)).is_ok());
                }
            }
        }
    }
}

/// The budget of the one key of a limit.
fn peek(limit: &RateLimiter) -> u64 {
    match &limit.budgets {
        Budgets::One(budget) => budget.load(Ordering::Relaxed),
        Budgets::ByKey(table) => table
            .shards
            .iter()
            .flat_map(|shard| shard.lock().unwrap().clone())
            .map(|budget| budget.tat)
            .max()
            .unwrap(),
    }
}
