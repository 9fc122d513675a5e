//! How fast new connections may begin.
//!
//! A limit is a bucket of tokens that fills at a rate and holds a burst; a connection takes one to
//! begin, and is dropped when there is none. A bucket is one number, the time at which it is full
//! again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371): taking a
//! token moves it ahead by an interval, and there is one as long as it is then no further ahead of
//! now than a full bucket is worth. So a refusal writes nothing, and a flood that is refused moves no
//! cache line from processor to processor.
//!
//! A service has one bucket. Sources have one each, by service and the beginning of the address.
//! They are in a table of fixed size without deletion, because a bucket that is full says nothing
//! that an absent one does not. A source's place is a *set* of four words, found by one half of a
//! hash, each with some of the other half as its tag. A newcomer takes the place of one that is full
//! again, else of the one that is closest to that. So with more sources at one time than there is
//! room for, those are forgotten first that have taken least, and whoever floods stays known.
//!
//! All processors share the buckets and change them by compare and exchange, so no more begins than
//! the limit says, whoever counts. Time is that of the kernel's coarse clock, so what one of its
//! ticks refills comes at once.

use lb_common::{
    Arrivals, Counter, FlowKey, PROTOCOL_TCP, SOURCE_SETS, SOURCE_UNIT_NS, SOURCE_WAYS, SourceSet,
    halves, is_v4, translates,
};

use crate::{Tables, hash, parse::is_opening};

/// How often a processor tries to change a bucket that others change at the same moment. Each time
/// that it fails another one has succeeded; when it gives up, the connection is refused.
const TRIES: u32 = 4;

/// Bits of a source's word that hold the time, in units of [`SOURCE_UNIT_NS`]; the rest are its tag.
/// The time comes round after 52 days.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// No bucket is further ahead of now than this, in the same units: one that seems to be has been left
/// alone for so long that time has come round. Nearly five hours.
const FURTHEST: u64 = 1 << 40;

/// Whether a packet of no known flow begins a connection that is to be counted. A TCP packet that opens
/// none belongs to a connection that was forgotten, or that another balancer knows; where packets are
/// translated nothing can come of that, and it costs as much as one that begins.
#[inline(always)]
#[must_use]
pub const fn counts(key: &FlowKey, tcp_flags: u8, forward: u8) -> bool {
    key.protocol != PROTOCOL_TCP || is_opening(tcp_flags) || translates(forward)
}

/// Takes what a new connection takes: of its source's bucket, then of its service's. A source that is
/// refused takes nothing of what the others have.
///
/// # Errors
/// The reason for which it is dropped.
#[inline(never)]
pub(crate) fn take<T: Tables>(tables: &T, vip: u32, key: &FlowKey) -> Result<(), Counter> {
    let now = tables.now();
    if tables.arrivals(vip).source_interval != 0 && !take_of_source(tables, vip, key, now) {
        return Err(Counter::DropSourceArrivals);
    }
    if tables.arrivals(vip).interval != 0 && !take_of_service(tables, vip, now) {
        return Err(Counter::DropArrivals);
    }
    Ok(())
}

#[inline(always)]
fn take_of_service<T: Tables>(tables: &T, vip: u32, now: u64) -> bool {
    let limit = tables.arrivals(vip);
    for _ in 0..TRIES {
        let full_at = tables.bucket(limit.bucket);
        let ahead = full_at.saturating_sub(now);
        let Some(next) = spend(ahead, limit.interval, limit.window) else {
            if ahead > limit.window {
                // Of a wider limit than there is now; another processor may have seen to it.
                tables.change_bucket(limit.bucket, full_at, now + limit.window);
            }
            return false;
        };
        if tables.change_bucket(limit.bucket, full_at, now + next) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn take_of_source<T: Tables>(tables: &T, vip: u32, key: &FlowKey, now: u64) -> bool {
    let limit = tables.arrivals(vip);
    let hash = source_hash(&limit, key);
    let (set, tag) = (hash as u32 & (SOURCE_SETS - 1), hash >> TIME_BITS);
    let now = now / SOURCE_UNIT_NS;
    for _ in 0..TRIES {
        let words = tables.source_set(set);
        let (way, ahead) = find(&words, tag, now);
        let spent = spend(ahead, limit.source_interval, limit.source_window);
        if spent.is_none() && ahead <= limit.source_window {
            return false;
        }
        // One that is empty beyond what it holds is of a wider limit than there is now.
        let next = spent.unwrap_or(limit.source_window);
        let word = tag << TIME_BITS | now.wrapping_add(next) & TIME;
        if tables.change_source(set, way, words[way], word) {
            return spent.is_some();
        }
    }
    false
}

/// How far ahead of now a bucket is that was so far ahead and gives a token away; `None` when it has
/// none.
#[inline(always)]
#[must_use]
pub const fn spend(ahead: u64, interval: u64, window: u64) -> Option<u64> {
    let next = ahead.wrapping_add(interval);
    if next > window { None } else { Some(next) }
}

/// The hash of a source as a limit tells it from others.
#[inline(always)]
const fn source_hash(limit: &Arrivals, key: &FlowKey) -> u64 {
    let [a, b] = halves(&key.source);
    let [mask_a, mask_b] = halves(if is_v4(&key.source) {
        &limit.mask_v4
    } else {
        &limit.mask_v6
    });
    let own = hash::finish(limit.seed ^ (a & mask_a)).wrapping_add(limit.bucket as u64);
    hash::finish(own ^ (b & mask_b))
}

/// The place of a source in its set, and how far ahead of now its bucket is: its own place, else that
/// of whoever is closest to full.
#[inline(always)]
fn find(words: &SourceSet, tag: u64, now: u64) -> (usize, u64) {
    let (mut way, mut least) = (0, u64::MAX);
    for (place, word) in words.iter().enumerate() {
        let ahead = ahead_of(*word, now);
        if word >> TIME_BITS == tag {
            return (place, ahead);
        }
        if ahead < least {
            (way, least) = (place, ahead);
        }
    }
    (way, 0)
}

/// How far ahead of now a word's bucket is.
#[inline(always)]
const fn ahead_of(word: u64, now: u64) -> u64 {
    let ahead = word.wrapping_sub(now) & TIME;
    if ahead > FURTHEST { 0 } else { ahead }
}

const _: () = assert!(SOURCE_WAYS == 4);

#[cfg(test)]
mod tests {
    use lb_common::from_v4;
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryTables;

    const SECOND: u64 = 1_000_000_000;

    /// So many a second and so many at once, of the service and of each source.
    fn limits(service: (u64, u64), source: (u64, u64)) -> Arrivals {
        let of = |(rate, burst): (u64, u64), unit: u64| match rate {
            0 => (0, 0),
            rate => {
                let interval = (SECOND / unit).div_ceil(rate);
                (interval, interval * burst)
            }
        };
        let ((interval, window), (source_interval, source_window)) =
            (of(service, 1), of(source, SOURCE_UNIT_NS));
        Arrivals {
            interval,
            window,
            source_interval,
            source_window,
            seed: 7,
            mask_v4: [0xff; 16],
            mask_v6: [0xff; 16],
            ..Arrivals::default()
        }
    }

    fn key(source: u32) -> FlowKey {
        FlowKey {
            source: from_v4(source.to_be_bytes()),
            protocol: PROTOCOL_TCP,
            ..FlowKey::default()
        }
    }

    fn begun(tables: &MemoryTables, source: u32, tries: u32) -> u32 {
        let begun = (0..tries).filter(|_| take(tables, 0, &key(source)).is_ok());
        begun.count() as u32
    }

    #[test]
    fn a_burst_then_the_rate_and_a_rest_refills_no_more_than_the_burst() {
        let tables = MemoryTables::new(4, 1);
        tables.set_arrivals(0, Some(limits((100, 20), (0, 0))));
        tables.set_now(50 * SECOND);
        assert_eq!(begun(&tables, 1, 100), 20);
        assert_eq!(take(&tables, 0, &key(1)), Err(Counter::DropArrivals));
        tables.set_now(50 * SECOND + SECOND / 20);
        assert_eq!(begun(&tables, 1, 100), 5);
        tables.set_now(500 * SECOND);
        assert_eq!(begun(&tables, 1, 100), 20);
    }

    #[test]
    fn sources_have_buckets_of_their_own_and_take_nothing_of_others_when_refused() {
        let tables = MemoryTables::new(4, 1);
        tables.set_arrivals(0, Some(limits((1000, 15), (10, 5))));
        tables.set_now(50 * SECOND);
        assert_eq!(begun(&tables, 1, 100), 5);
        assert_eq!(take(&tables, 0, &key(1)), Err(Counter::DropSourceArrivals));
        assert_eq!(begun(&tables, 2, 100), 5);
        assert_eq!(begun(&tables, 3, 100), 5);
        assert_eq!(take(&tables, 0, &key(4)), Err(Counter::DropArrivals));
    }

    #[test]
    fn a_limit_that_becomes_narrower_owes_no_more_than_a_bucket() {
        let tables = MemoryTables::new(4, 1);
        for (wide, narrow) in [
            (limits((1, 40), (0, 0)), limits((1000, 10), (0, 0))),
            (limits((0, 0), (1, 40)), limits((0, 0), (1000, 10))),
        ] {
            tables.set_arrivals(0, Some(wide));
            tables.set_now(50 * SECOND);
            assert_eq!(begun(&tables, 1, 100), 40);
            tables.set_arrivals(0, Some(narrow));
            assert_eq!(begun(&tables, 1, 100), 0);
            tables.set_now(50 * SECOND + SECOND / 50);
            assert_eq!(begun(&tables, 1, 100), 10);
        }
    }

    #[test]
    fn sources_are_told_apart_by_their_prefix() {
        let tables = MemoryTables::new(4, 1);
        let mut wide = limits((0, 0), (10, 3));
        wide.mask_v4[15] = 0;
        tables.set_arrivals(0, Some(wide));
        tables.set_now(50 * SECOND);
        let all: u32 = (0..10)
            .map(|last| begun(&tables, 0x0a00_0100 + last, 1))
            .sum();
        assert_eq!(all, 3);
        assert_eq!(begun(&tables, 0x0a00_0200, 10), 3);
    }

    #[test]
    fn a_flood_of_sources_does_not_make_who_floods_unknown() {
        let tables = MemoryTables::new(4, 1);
        tables.set_arrivals(0, Some(limits((0, 0), (10, 50))));
        tables.set_now(50 * SECOND);
        assert_eq!(begun(&tables, 1, 1000), 50);
        // Twenty times as many as there is room for.
        for source in 0..20 * SOURCE_SETS * SOURCE_WAYS as u32 {
            let _ = take(&tables, 0, &key(0x0b00_0000 + source));
        }
        assert_eq!(begun(&tables, 1, 1000), 0);
    }

    #[test]
    fn time_may_come_round() {
        let tables = MemoryTables::new(4, 1);
        tables.set_arrivals(0, Some(limits((0, 0), (10, 5))));
        let round = TIME * SOURCE_UNIT_NS;
        for now in [round - 10 * SECOND, round - 3, round + 10 * SECOND] {
            tables.set_now(now);
            assert_eq!(begun(&tables, 1, 100), 5, "{now}");
            tables.set_now(now + SECOND);
            assert_eq!(begun(&tables, 1, 100), 5, "{now}");
        }
        // Thirty days of silence are none.
        tables.set_now(round + TIME / 2 * SOURCE_UNIT_NS);
        assert_eq!(begun(&tables, 1, 100), 5);
    }

    proptest! {
        #[test]
        fn it_is_a_token_bucket(
            rate in 1_u64..100_000,
            burst in 1_u64..500,
            steps in prop::collection::vec((0_u64..200_000_000, 0_u32..400), 1..40),
        ) {
            let tables = MemoryTables::new(4, 1);
            tables.set_arrivals(0, Some(limits((rate, burst), (rate, burst))));
            let limit = tables.arrivals(0);
            let mut now = 1000 * SECOND;
            // Tokens in nanoseconds of the service's interval, as a plain bucket counts them.
            let mut level = limit.window;
            for (rest, tries) in steps {
                now += rest;
                level = (level + rest).min(limit.window);
                tables.set_now(now);
                let begun = u64::from(begun(&tables, 1, tries));
                let tokens = level / limit.interval;
                // The source's interval is rounded up to its unit, so it may lag by one.
                let expected = tokens.min(u64::from(tries));
                prop_assert!(begun <= expected && begun + 2 >= expected, "{begun} {expected}");
                level -= begun * limit.interval;
            }
        }
    }
}
