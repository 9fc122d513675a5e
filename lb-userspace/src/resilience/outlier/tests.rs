use proptest::prelude::*;

use super::*;

fn spec() -> OutlierSpec {
    OutlierSpec::default()
}

fn serving() -> Suspect {
    Suspect {
        stands: true,
        wanted: true,
        weight: 10,
        ..Suspect::default()
    }
}

/// One that seems to have served nothing since.
fn failing(run: u32) -> Suspect {
    Suspect {
        run,
        silence: Silence::Likely,
        ..serving()
    }
}

/// One that has certainly served nothing since.
fn dead(run: u32) -> Suspect {
    Suspect {
        silence: Silence::Certain,
        ..failing(run)
    }
}

/// One with so many requests of which so many failed.
fn rate(requests: u64, failures: u64) -> Suspect {
    Suspect {
        window: Some(WindowSum {
            requests,
            failures,
            latency_us: 0,
        }),
        ..serving()
    }
}

fn slow(ms: u64) -> Suspect {
    Suspect {
        latency: Some(Duration::from_millis(ms)),
        ..rate(1000, 0)
    }
}

fn positions(spec: &OutlierSpec, suspects: &[Suspect]) -> Vec<usize> {
    let convictions = judge(spec, suspects);
    convictions.iter().map(|c| c.position).collect()
}

#[test]
fn five_failures_in_a_row_are_enough_and_four_are_not() {
    assert_eq!(
        positions(&spec(), &[failing(5), failing(0), failing(0)]),
        [0]
    );
    assert_eq!(positions(&spec(), &[failing(4), failing(0)]), [0; 0]);
    let off = OutlierSpec {
        consecutive_failures: 0,
        ..spec()
    };
    assert_eq!(positions(&off, &[failing(500), failing(0)]), [0; 0]);
}

#[test]
fn nobody_is_ejected_for_what_all_do_and_never_the_last_that_stands() {
    assert_eq!(
        positions(&spec(), &[failing(5), failing(4), failing(3)]),
        [0; 0]
    );
    assert_eq!(positions(&spec(), &[failing(5)]), [0; 0]);
    let gone = Suspect {
        stands: false,
        ..serving()
    };
    assert_eq!(positions(&spec(), &[failing(5), gone, gone]), [0; 0]);
    assert_eq!(
        positions(&spec(), &[rate(1000, 500), rate(1000, 450)]),
        [0; 0]
    );
}

#[test]
fn the_worst_go_first_and_only_as_many_as_may() {
    let suspects = [failing(6), failing(9), failing(0), failing(0)];
    assert_eq!(positions(&spec(), &suspects), [1, 0]);
    // Of three one may be out, of five two.
    let suspects = [dead(6), dead(9), failing(0), failing(0)];
    assert_eq!(positions(&spec(), &suspects[..3]), [1]);
    let out = Suspect {
        ejected: true,
        stands: false,
        ..serving()
    };
    assert_eq!(positions(&spec(), &[failing(9), out, failing(0)]), [0; 0]);
    let few = OutlierSpec {
        max_ejected: 1,
        ..spec()
    };
    assert_eq!(positions(&few, &suspects), [1], "one always may");
}

#[test]
fn a_busy_instance_is_not_ejected_for_what_it_refuses() {
    let busy = Suspect {
        silence: Silence::None,
        ..failing(50)
    };
    assert_eq!(positions(&spec(), &[busy, serving(), serving()]), [0; 0]);
    // The others do better with less to do.
    let slow = Suspect { lags: true, ..busy };
    assert_eq!(positions(&spec(), &[slow, serving(), serving()]), [0]);
    assert_eq!(positions(&spec(), &[slow, slow, serving()]), [0; 0]);
    // It gets more, refuses more, and serves as much as the others, or the most.
    let most = rate(2000, 1000);
    assert_eq!(
        positions(&spec(), &[most, rate(1250, 250), rate(1200, 200)]),
        [0; 0]
    );
    assert_eq!(
        positions(&spec(), &[most, rate(1000, 0), rate(1000, 0)]),
        [0; 0]
    );
    assert_eq!(
        positions(&spec(), &[most, rate(1100, 0), rate(1100, 0)]),
        [0]
    );
    // For what they weigh.
    let small = Suspect { weight: 5, ..most };
    assert_eq!(
        positions(&spec(), &[small, rate(2000, 0), rate(2000, 0)]),
        [0; 0]
    );
}

#[test]
fn when_many_fail_in_a_row_at_once_it_is_none_of_them_until_that_is_certain() {
    let others = [serving(); 3];
    let with = |bad: [Suspect; 3]| [&bad[..], &others[..]].concat();
    assert_eq!(positions(&spec(), &with([failing(5); 3])), [0, 1, 2]);
    let most = OutlierSpec {
        max_ejected: 34,
        ..spec()
    };
    assert_eq!(positions(&most, &with([failing(5); 3])), [0; 0]);
    assert_eq!(
        positions(&most, &with([failing(5), dead(5), dead(6)])),
        [2, 1]
    );
}

#[test]
fn an_open_breaker_takes_the_room_of_an_ejection_and_not_its_own_instance_s() {
    let shut = Suspect {
        blocked: true,
        ..serving()
    };
    let others = [serving(); 2];
    let with = |one: Suspect, other: Suspect| [&[one, other], &others[..]].concat();
    let half = |max_ejected| OutlierSpec {
        max_ejected,
        ..spec()
    };
    assert_eq!(positions(&half(50), &with(failing(5), shut)), [0]);
    assert_eq!(positions(&half(25), &with(dead(5), shut)), [0; 0]);
    let shut_and_dead = Suspect {
        blocked: true,
        ..dead(7)
    };
    assert_eq!(positions(&half(25), &with(shut_and_dead, serving())), [0]);
}

#[test]
fn a_low_rate_is_seen_among_two() {
    assert_eq!(positions(&spec(), &[rate(100, 30), rate(100, 0)]), [0]);
    assert_eq!(positions(&spec(), &[rate(99, 30), rate(100, 0)]), [0; 0]);
    assert_eq!(positions(&spec(), &[rate(100, 15), rate(100, 0)]), [0; 0]);
    // 70 % is below the limit, but the others have 75 %.
    assert_eq!(positions(&spec(), &[rate(100, 30), rate(100, 25)]), [0; 0]);
    let unseen = Suspect {
        window: None,
        ..rate(100, 30)
    };
    assert_eq!(positions(&spec(), &[unseen, rate(100, 0)]), [0; 0]);
}

#[test]
fn the_spread_shows_what_no_absolute_limit_does() {
    let others = [rate(1000, 10); 5];
    let with = |failures| [&[rate(1000, failures)], &others[..]].concat();
    // 85 %: above the absolute limit of 80 %, far from the 99 % of the rest.
    assert_eq!(positions(&spec(), &with(150)), [0]);
    // 98 %: many deviations of next to nothing away, and no concern.
    assert_eq!(positions(&spec(), &with(20)), [0; 0]);
    let only_absolute = OutlierSpec {
        deviations: 0,
        ..spec()
    };
    assert_eq!(positions(&only_absolute, &with(150)), [0; 0]);
    // Four say nothing about a spread.
    assert_eq!(positions(&spec(), &with(150)[..4]), [0; 0]);
}

#[test]
fn latency_is_off_until_asked_for_and_small_differences_are_none() {
    let suspects = [slow(100), slow(10), slow(12)];
    assert_eq!(positions(&spec(), &suspects), [0; 0]);
    let on = OutlierSpec {
        latency_factor: 300,
        ..spec()
    };
    assert_eq!(positions(&on, &suspects), [0]);
    assert_eq!(positions(&on, &[slow(30), slow(10), slow(12)]), [0; 0]);
    assert_eq!(positions(&on, &[slow(5), slow(1), slow(1)]), [0; 0]);
    let found = judge(&on, &suspects)[0].evidence;
    assert_eq!(
        found.to_string(),
        "median latency 100.0 ms, that of the others 10.0 ms"
    );
}

#[test]
fn times_grow_with_each_ejection_up_to_the_limit_and_only_service_shrinks_them() {
    let mut record = Record::new(Timestamp(0), 0);
    let mut now = Timestamp(0);
    for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        let ejection = record.eject(now, &Evidence::Run(5), &spec(), 0.0);
        assert_eq!(ejection.until - now, Duration::from_secs(seconds));
        now = ejection.until;
        record.release(now, 0);
    }
    // An hour in which nobody asks forgives nothing.
    now = now + Duration::from_secs(3600);
    record.observe(now, 0);
    assert_eq!(record.times(), 11);
    record.observe(now, FORGIVE_AFTER - 1);
    assert_eq!(record.times(), 11);
    record.observe(now, FORGIVE_AFTER);
    assert_eq!(record.times(), 10);
    // However much it serves, once in a while is enough.
    record.observe(now, 1_000_000);
    assert_eq!(record.times(), 10);
    record.observe(now + FORGIVE_EVERY, 1_000_000);
    assert_eq!(record.times(), 9);
}

#[test]
fn what_was_before_the_return_is_no_evidence() {
    let window = Duration::from_secs(10);
    let mut record = Record::new(Timestamp(0), 0);
    let at = |seconds: u64| Timestamp(seconds * 1_000_000);
    assert!(!record.has_whole_window(at(9), window));
    assert!(record.has_whole_window(at(10), window));
    record.eject(at(20), &Evidence::Run(5), &spec(), 1.0);
    assert!(!record.has_whole_window(at(40), window));
    record.release(at(53), 0);
    assert!(!record.has_whole_window(at(62), window));
    assert!(record.has_whole_window(at(63), window));
}

fn suspect() -> impl Strategy<Value = Suspect> {
    let windows = prop::option::of((0u64..300, 0u64..300));
    (
        any::<[bool; 4]>(),
        (
            0u32..12,
            prop::sample::select(vec![Silence::None, Silence::Likely, Silence::Certain]),
            any::<bool>(),
        ),
        windows,
        prop::option::of(0u64..1000),
    )
        .prop_map(
            |([stands, wanted, ejected, blocked], (run, silence, lags), window, latency)| Suspect {
                stands: stands && !ejected,
                wanted,
                ejected,
                blocked,
                weight: 10,
                run,
                silence,
                lags,
                window: window.map(|(requests, failures)| WindowSum {
                    requests,
                    failures: failures.min(requests),
                    latency_us: 0,
                }),
                latency: latency.map(Duration::from_millis),
            },
        )
}

proptest! {
    #[test]
    fn the_limits_are_never_exceeded(
        suspects in prop::collection::vec(suspect(), 0..20),
        max_ejected in 1u8..=100,
        consecutive_failures in 0u32..10,
        latency_factor in prop::sample::select(vec![0u32, 200]),
    ) {
        let spec = OutlierSpec { max_ejected, consecutive_failures, latency_factor, ..spec() };
        let convicted = positions(&spec, &suspects);
        let mut unique = convicted.clone();
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), convicted.len());
        let wanted = suspects.iter().filter(|s| s.wanted).count();
        let out = suspects.iter().filter(|s| s.wanted && s.ejected).count();
        let most = (wanted * usize::from(max_ejected) / 100).max(1);
        prop_assert!(convicted.is_empty() || convicted.len() + out <= most);
        let is_out = |(i, s): &(usize, &Suspect)| {
            s.wanted && (s.ejected || s.blocked || convicted.contains(i))
        };
        let all = suspects.iter().enumerate().filter(is_out).count();
        let before = suspects.iter().filter(|s| s.wanted && (s.ejected || s.blocked)).count();
        prop_assert!(all <= most.max(before));
        for position in &convicted {
            prop_assert!(suspects[*position].stands && !suspects[*position].ejected);
        }
        let left = suspects.iter().enumerate()
            .filter(|(i, s)| s.stands && !convicted.contains(i)).count();
        prop_assert!(convicted.is_empty() || left > 0);
    }

    /// Time alone changes nothing, success never lengthens, and each ejection is the next longer.
    #[test]
    fn a_record_moves_by_one_and_for_a_reason(
        steps in prop::collection::vec((0u64..120, 0u64..40, any::<bool>(), 0.0f64..=1.0), 1..100),
    ) {
        let mut record = Record::new(Timestamp(0), 0);
        let (mut now, mut served, mut shrunk_at) = (Timestamp(0), 0, 0);
        for (seconds, successes, fails, chance) in steps {
            now = now + Duration::from_secs(seconds);
            served += successes;
            let before = record.times();
            record.observe(now, served);
            if record.times() != before {
                prop_assert_eq!(record.times(), before - 1);
                prop_assert!(served - shrunk_at >= FORGIVE_AFTER);
                shrunk_at = served;
            }
            if fails {
                let before = record.times();
                let ejection = record.eject(now, &Evidence::Run(5), &spec(), chance);
                prop_assert_eq!(ejection.times, before + 1);
                let exact = (spec().base_time * ejection.times).min(spec().max_time);
                let time = ejection.until - now;
                prop_assert!(time >= exact && time <= exact.mul_f64(1.0 + JITTER));
                record.observe(now, served + 1000);
                prop_assert_eq!(record.times(), ejection.times, "not while it is out");
                now = ejection.until;
                record.release(now, served);
                shrunk_at = served;
            }
        }
    }
}
