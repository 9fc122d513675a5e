//! Whether SYNs come so fast that they are answered by cookies.
//!
//! Limits of new connections ([`crate::arrivals`]) let through what the limit allows whatever comes
//! beyond. That is not what is wanted here: of a flood that is a hundred times the rate nearly all that
//! is let through is the flood's, and fills the connection table. So what comes too fast is answered by
//! cookies *as a whole*, until it is slower again. The bucket is a leaky one that every SYN adds to, also
//! one that is answered by a cookie; while it is above its brim, all are. It is filled no further than a
//! second above the brim ([`HOLDS`]), so what was too fast has to be slow for about that long, and a rate
//! that swings round the threshold does not switch with every packet.
//!
//! The bucket is one number, the time at which it is empty, as there. All processors share it, and change
//! it as often as SYNs come when these are below the threshold, and as often as the threshold says when
//! they are above, however many come.

use lb_common::COOKIE_PACES;

use crate::Tables;

/// How far the bucket may be above its brim, in nanoseconds.
pub const HOLDS: u64 = 1_000_000_000;

/// How often a processor tries to change a bucket that others change at the same moment.
const TRIES: u32 = 4;

/// What a SYN makes of a bucket, and whether it is answered by a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Whether SYNs are too fast.
    pub is_above: bool,
    /// Nanoseconds until the bucket is empty.
    pub ahead: u64,
}

impl Pace {
    /// A SYN, when the bucket is empty in `ahead` nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn of(ahead: u64, interval: u64, window: u64) -> Self {
        let most = window.saturating_add(HOLDS);
        let next = ahead.saturating_add(interval);
        Self {
            is_above: next > window,
            ahead: if next > most { most } else { next },
        }
    }
}

/// Whether a SYN of a service comes too fast, in the bucket of which it is counted.
#[inline(always)]
pub(crate) fn is_above<T: Tables>(tables: &T, bucket: u32, interval: u64, window: u64) -> bool {
    if window == 0 {
        return true;
    }
    let (now, place) = (tables.now(), bucket.wrapping_add(COOKIE_PACES));
    for _ in 0..TRIES {
        let empty_at = tables.bucket(place);
        let ahead = empty_at.saturating_sub(now);
        let pace = Pace::of(ahead, interval, window);
        // As full as it gets: nothing to write.
        if pace.ahead == ahead || tables.change_bucket(place, empty_at, now + pace.ahead) {
            return pace.is_above;
        }
    }
    // So many at once are many.
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryTables;

    const SECOND: u64 = 1_000_000_000;

    /// How many of so many SYNs a second, for so long, get a cookie in each tenth of a second.
    fn tenths(tables: &MemoryTables, from: u64, rate: u64, tenths: u64) -> Vec<u64> {
        let (interval, window) = (SECOND / 1000, SECOND);
        (0..tenths)
            .map(|tenth| {
                let syns = 0..rate / 10;
                let above = syns.filter(|syn| {
                    tables.set_now(from + tenth * SECOND / 10 + syn * SECOND / rate);
                    is_above(tables, 3, interval, window)
                });
                above.count() as u64
            })
            .collect()
    }

    #[test]
    fn what_is_slower_than_the_threshold_never_gets_one() {
        let tables = MemoryTables::new(4, 1);
        assert_eq!(tenths(&tables, 50 * SECOND, 990, 100), [0; 100]);
        // Nor does a burst of a second's worth after a rest.
        tables.set_now(90 * SECOND);
        let above = (0..1000).filter(|_| is_above(&tables, 3, SECOND / 1000, SECOND));
        assert_eq!(above.count(), 0);
        assert!(is_above(&tables, 3, SECOND / 1000, SECOND));
    }

    #[test]
    fn a_flood_gets_nothing_else_until_it_is_over() {
        let tables = MemoryTables::new(4, 1);
        let flood = tenths(&tables, 50 * SECOND, 100_000, 30);
        // The first thousand in a hundredth of a second, and no other.
        assert!((8_900..=9_000).contains(&flood[0]), "{}", flood[0]);
        assert_eq!(flood[1..], [10_000; 29]);
        // What is left then is half of the threshold: for two seconds the bucket is above its brim.
        let rest = tenths(&tables, 53 * SECOND, 500, 30);
        let last = rest.iter().rposition(|above| *above > 0).unwrap();
        assert!((18..=21).contains(&last), "{rest:?}");
        assert!(rest[..last].iter().all(|above| *above == 50), "{rest:?}");
    }

    #[test]
    fn a_window_of_nothing_means_always_and_buckets_are_apart() {
        let tables = MemoryTables::new(4, 1);
        tables.set_now(SECOND);
        assert!((0..100).all(|_| is_above(&tables, 0, 1, 0)));
        while !is_above(&tables, 1, SECOND / 10, SECOND) {}
        assert!(!is_above(&tables, 2, SECOND / 10, SECOND));
    }

    proptest! {
        #[test]
        fn a_bucket_is_never_fuller_than_it_may_be_and_above_from_its_brim(
            ahead in 0..3 * SECOND,
            interval in 1..SECOND,
            window in 1..SECOND,
        ) {
            let pace = Pace::of(ahead.min(window + HOLDS), interval, window);
            prop_assert!(pace.ahead <= window + HOLDS);
            prop_assert!(pace.ahead >= ahead.min(window + HOLDS));
            prop_assert_eq!(pace.is_above, pace.ahead > window);
        }
    }
}
