use std::{collections::HashMap, sync::Arc};

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn session(number: u64) -> SessionId {
    SessionId::of(&number.to_be_bytes())
}

fn pin(store: &Store, number: u64, instance: u64, now: Timestamp) -> Pinned {
    store.pin(session(number), 1, instance, None, MINUTE, now)
}

#[test]
fn an_entry_lives_for_its_time_after_the_last_use() {
    let store = Store::new(100);
    assert_eq!(pin(&store, 1, 10, at(0)), Pinned::Here);
    assert_eq!(store.get(session(1), 1, MINUTE, at(59)), Some(10));
    assert_eq!(store.get(session(1), 1, MINUTE, at(118)), Some(10));
    assert_eq!(store.get(session(1), 1, MINUTE, at(178)), None);
    assert_eq!(store.len(), 1);
    store.sweep(SHARDS, at(178));
    assert_eq!((store.len(), store.expired()), (0, 1));
    // Never a moment too early, whatever part of a second it was pinned in.
    let begun = Timestamp(200_900_000);
    store.pin(session(2), 1, 10, None, Duration::from_secs(1), begun);
    let just_before = Timestamp(201_899_999);
    assert!(store.find(session(2), just_before).len() == 1);
}

#[test]
fn the_first_of_several_requests_decides() {
    let store = Store::new(100);
    assert_eq!(pin(&store, 1, 10, at(0)), Pinned::Here);
    assert_eq!(pin(&store, 1, 11, at(0)), Pinned::There(10));
    assert_eq!(pin(&store, 1, 10, at(0)), Pinned::Here);
    let moved = |instance, from| store.pin(session(1), 1, instance, Some(from), MINUTE, at(1));
    assert_eq!(moved(11, 10), Pinned::Here);
    // Broken off by two at once: the second goes where the first has gone.
    assert_eq!(moved(12, 10), Pinned::There(11));
    // What has expired is nobody's.
    assert_eq!(pin(&store, 1, 13, at(100)), Pinned::Here);
    assert_eq!(store.len(), 1);
}

#[test]
fn a_session_is_found_and_forgotten_in_all_services_at_once() {
    let store = Store::new(100);
    for service in 0..5 {
        store.pin(
            session(1),
            service,
            10 + u64::from(service),
            None,
            MINUTE,
            at(0),
        );
        store.pin(session(2), service, 20, None, MINUTE, at(0));
    }
    let mut found = store.find(session(1), at(1));
    found.sort_unstable_by_key(|entry| entry.service);
    let instances: Vec<u64> = found.iter().map(|entry| entry.instance).collect();
    assert_eq!(instances, [10, 11, 12, 13, 14]);
    assert_eq!(store.remove(session(1), at(1)), 5);
    assert_eq!(store.remove(session(1), at(1)), 0);
    assert_eq!(store.len(), 5);
    assert_eq!(store.clear(7), 5);
    assert!(store.is_empty());
    assert_eq!(store.cleared(), 7);
}

#[test]
fn pages_have_everything_once() {
    let store = Store::new(10_000);
    for number in 0..1000 {
        for service in 0..=(number % 3) as u32 {
            store.pin(session(number), service, number, None, MINUTE, at(0));
        }
    }
    for limit in [1, 7, 100, 5000] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.page(after, limit, at(1), |entry| entry.service == 1);
            assert!(page.entries.len() <= limit);
            seen.extend(page.entries.iter().map(|entry| entry.instance));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        let expected: Vec<u64> = (0..1000).filter(|number| number % 3 >= 1).collect();
        assert_eq!(seen, expected);
        assert!(pages >= expected.len() / limit, "{pages} pages of {limit}");
    }
    assert_eq!(store.page(None, 5000, at(60), |_| true), Page::default());
}

#[test]
fn a_full_store_forgets_what_was_used_longest_ago() {
    let capacity = 40_000;
    let store = Store::new(capacity);
    for number in 0..capacity as u64 {
        pin(&store, number, 1, at(number / 1000));
    }
    assert_eq!((store.len(), store.evicted()), (capacity, 0));
    for number in capacity as u64..capacity as u64 + 10_000 {
        pin(&store, number, 1, at(40));
        assert!(store.len() <= capacity);
    }
    assert!(store.evicted() >= 10_000, "{}", store.evicted());
    let kept = |from: u64, to: u64| {
        let alive = |number: &u64| !store.find(session(*number), at(41)).is_empty();
        (from..to).filter(alive).count()
    };
    // The newest are all there; of the quarter that was oldest, next to nothing is.
    assert_eq!(kept(40_000, 50_000), 10_000);
    assert!(kept(25_000, 40_000) > 14_000, "{}", kept(25_000, 40_000));
    assert!(kept(0, 8_000) < 1_500, "{}", kept(0, 8_000));
    // A capacity of one is one, wherever the entries would be.
    let small = Store::new(1);
    for number in 0..500 {
        pin(&small, number, 1, at(0));
        assert_eq!(small.len(), 1);
    }
}

#[test]
fn expired_entries_make_room_before_live_ones_do() {
    let store = Store::new(32_000);
    for number in 0..32_000 {
        pin(&store, number, 1, at(0));
    }
    for number in 32_000..33_000 {
        pin(&store, number, 1, at(60));
    }
    assert_eq!(store.evicted(), 0);
    assert!(store.expired() >= 1000);
    assert!((32_000..33_000).all(|number| store.find(session(number), at(60)).len() == 1));
}

#[test]
fn a_million_sessions_take_64_mb_and_give_them_back() {
    let store = Store::new(1_000_000);
    for number in 0..1_000_000_u128 {
        // Hashing the ids is not what is measured.
        let session = SessionId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        store.pin(session, 1, 7, None, MINUTE, at(0));
    }
    assert_eq!((store.len(), store.evicted()), (1_000_000, 0));
    let memory = store.memory();
    assert!(memory <= 64 << 20, "{memory}");
    store.sweep(SHARDS, at(60));
    assert_eq!((store.len(), store.expired()), (0, 1_000_000));
    assert!(store.memory() < 1 << 20, "{}", store.memory());
}

#[test]
fn threads_lose_nothing() {
    let store = Arc::new(Store::new(100_000));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for number in 0..5_000 {
                    store.pin(session(number), 1, thread, None, MINUTE, at(0));
                    store.pin(
                        session(10_000 * (thread + 1) + number),
                        1,
                        thread,
                        None,
                        MINUTE,
                        at(0),
                    );
                    if number % 100 == 0 {
                        store.sweep(1, at(1));
                    }
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(store.len(), 25_000);
    assert!((0..5_000).all(|number| store.find(session(number), at(1)).len() == 1));
}

/// What may be done to a store.
#[derive(Clone, Debug)]
enum Step {
    Get(u64, u32),
    Pin(u64, u32, u64),
    Move(u64, u32, u64, u64),
    Remove(u64),
    Clear,
    Sweep,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (session, service, instance) = (0..12u64, 0..3u32, 0..4u64);
    prop_oneof![
        6 => (session.clone(), service.clone()).prop_map(|(s, v)| Step::Get(s, v)),
        6 => (session.clone(), service.clone(), instance.clone())
            .prop_map(|(s, v, i)| Step::Pin(s, v, i)),
        3 => (session.clone(), service, instance.clone(), instance)
            .prop_map(|(s, v, i, o)| Step::Move(s, v, i, o)),
        1 => session.prop_map(Step::Remove),
        1 => Just(Step::Clear),
        2 => Just(Step::Sweep),
        3 => (1..40u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// The store against a map that does the same in the obvious way.
    #[test]
    fn does_what_a_plain_map_would_do(steps in prop::collection::vec(step(), 1..300)) {
        let store = Store::new(1000);
        let mut map: HashMap<(u64, u32), (u64, u64)> = HashMap::new();
        let mut now = 0;
        for step in steps {
            map.retain(|_, (_, expires)| *expires > now);
            let time = at(now);
            match step {
                Step::Get(number, service) => {
                    let expected = map.get_mut(&(number, service)).map(|(instance, expires)| {
                        *expires = now + 60;
                        *instance
                    });
                    prop_assert_eq!(store.get(session(number), service, MINUTE, time), expected);
                }
                Step::Pin(number, service, instance) | Step::Move(number, service, instance, _) => {
                    let instead_of = match step {
                        Step::Move(.., other) => Some(other),
                        _ => None,
                    };
                    let taken = map.get(&(number, service)).map(|(taken, _)| *taken);
                    let taken = taken.filter(|t| *t != instance && Some(*t) != instead_of);
                    let expected = taken.map_or(Pinned::Here, Pinned::There);
                    if taken.is_none() {
                        map.insert((number, service), (instance, now + 60));
                    }
                    let id = session(number);
                    let pinned = store.pin(id, service, instance, instead_of, MINUTE, time);
                    prop_assert_eq!(pinned, expected);
                }
                Step::Remove(number) => {
                    let before = map.len();
                    map.retain(|(session, _), _| *session != number);
                    prop_assert_eq!(store.remove(session(number), time), before - map.len());
                }
                Step::Clear => {
                    store.clear(0);
                    map.clear();
                    prop_assert_eq!(store.len(), 0);
                }
                Step::Sweep => {
                    store.sweep(SHARDS, time);
                    prop_assert_eq!(store.len(), map.len());
                }
                Step::Wait(seconds) => now += seconds,
            }
        }
        map.retain(|_, (_, expires)| *expires > now);
        let listed = store.page(None, 1000, at(now), |_| true).entries;
        prop_assert_eq!(listed.len(), map.len());
        for ((number, service), (instance, expires)) in map {
            let found = listed.iter().find(|entry| {
                entry.session == session(number) && entry.service == service
            });
            prop_assert_eq!(found.map(|e| (e.instance, e.expires)), Some((instance, at(expires))));
        }
        prop_assert_eq!(store.evicted(), 0);
    }
}
