//! How fast an instance answers, and how sure that is.
//!
//! Latencies are skewed: a few long ones make most of the mean, and two instances that are alike
//! have different means for minutes. Whoever sends requests by such means sends them by chance. So
//! what is kept is the mean of the *logarithm*, on which one answer in a hundred weighs no more
//! than others, its variance, and how many answers stand behind both. From these follows an
//! interval that holds the true value most likely; two instances whose intervals overlap are not
//! known to differ, and [`crate::balance`] treats them alike.
//!
//! **Queues.** A latency has in it what the request waited for others that were there before it. An
//! instance that works on one request at a time takes `s (n + 1)` with `n` before it, so its
//! latency would have to be divided by `n + 1`; one that works on all at once takes `s`, whatever
//! `n` is. Which of the two an instance resembles is not known and changes with its load, so what
//! is averaged is `latency / (n + 1)^k` with a [`QUEUE`] exponent between 0 and 1. With 0, an
//! instance that has just come and has no queue yet looks several times as fast as its equals with
//! theirs and is flooded; with 1, one that had little to do for a while looks slow and keeps having
//! little to do.
//!
//! Memory is short in two ways, so that a change is noticed: no answer weighs less than one in
//! [`MEMORY`], and what is known loses its weight with time (see [`Interval`]).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Timestamp;

/// Answers that an estimate rests on at most. With 32 the deviation of an exponential latency's
/// estimate is a quarter of its value.
const MEMORY: f32 = 32.0;

/// After so long without an answer an interval is twice as wide as it was.
const AGES_IN: Duration = Duration::from_secs(5);

/// Half the width of an interval, in deviations of the estimate. Found in simulation: at 1.2 one of
/// a thousand instances that are alike is taken for slower now and then and misses half its share;
/// at 2 an instance with half the speed of the others goes unnoticed.
const WIDTH: f32 = 1.5;

/// How much of the requests before one is taken out of its latency. Found in simulation: with 0 the
/// mean latency under overload is 5 % above that of `least_connections`; with a half, instances of
/// different sizes seem to differ in speed.
const QUEUE: f32 = 0.25;

/// Variance of the logarithm (to base 2) before there is evidence, and how many answers it weighs
/// as much as. The logarithm of an exponential latency has 3.4.
const PRIOR: (f32, f32) = (4.0, 2.0);

/// A moving estimate of the logarithm of the latency, less a part of that of the queue.
///
/// It lies in two words, one that picks read and one for the bookkeeping. Two writers at once may
/// lose an answer of the two, or mix words of both; neither matters to an average.
#[derive(Debug, Default)]
pub struct Pace {
    /// Mean and half the width of the interval, each as bits of an `f32`; 0 is nothing known.
    known: AtomicU64,
    /// Number of answers as bits of an `f32`, time of the last one in ms.
    evidence: AtomicU64,
}

/// Where the logarithm (to base 2) of an instance's latency in microseconds, divided by a
/// power of the queue, lies most likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The middle.
    pub mean: f32,
    /// Half its width; grows with the time that nothing has been heard.
    pub margin: f32,
}

impl Interval {
    /// Where nothing is known: below everything.
    pub const UNKNOWN: Self = Self {
        mean: f32::NEG_INFINITY,
        margin: 0.0,
    };

    /// The upper end.
    #[must_use]
    pub fn upper(&self) -> f32 {
        self.mean + self.margin
    }

    /// The lower end.
    #[must_use]
    pub fn lower(&self) -> f32 {
        self.mean - self.margin
    }
}

impl Pace {
    /// What is known at `now`; `None` before the first answer.
    #[must_use]
    pub fn get(&self, now: Timestamp) -> Option<Interval> {
        let known = self.known.load(Ordering::Relaxed);
        if known == 0 {
            return None;
        }
        let (mean, margin) = floats(known);
        let (_, time) = split(self.evidence.load(Ordering::Relaxed));
        Some(Interval {
            mean,
            margin: margin * age(time, now),
        })
    }

    /// Adds the latency of an answer to a request that had so many others of this process in
    /// flight before it.
    pub fn add(&self, now: Timestamp, latency: Duration, behind: u32) {
        let sample = log(latency, behind);
        let known = self.known.load(Ordering::Relaxed);
        let (count, mean, variance) = if known == 0 {
            (0.0, sample, PRIOR.0)
        } else {
            let (mean, margin) = floats(known);
            let (count, time) = split(self.evidence.load(Ordering::Relaxed));
            let count = f32::from_bits(count);
            let variance = (margin / WIDTH).powi(2) * count;
            // An interval is as wide as the root of its evidence is small.
            (count / age(time, now).powi(2), mean, variance)
        };
        let count = (count + 1.0).min(MEMORY);
        let off = sample - mean;
        let mean = mean + off / count;
        let variance = variance + (off * off - variance) / (count + PRIOR.1);
        let margin = WIDTH * (variance / count).sqrt();
        // A mean of 0 with a margin of 0 would read as nothing known.
        let margin = margin.max(f32::MIN_POSITIVE);
        self.known.store(word(mean, margin), Ordering::Relaxed);
        let evidence = (u64::from(count.to_bits()) << 32) | u64::from(ms(now));
        self.evidence.store(evidence, Ordering::Relaxed);
    }

    /// Adds a lower bound: it counts as an answer when it is above what is known, else not at all.
    pub fn add_at_least(&self, now: Timestamp, bound: Duration, behind: u32) {
        let log = log(bound, behind);
        if self.get(now).is_none_or(|known| log > known.mean) {
            self.add(now, bound, behind);
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.known.store(0, Ordering::Relaxed);
    }
}

/// The logarithm of `latency / (behind + 1)^QUEUE`. Below a microsecond all are equal.
fn log(latency: Duration, behind: u32) -> f32 {
    let micros = latency.as_micros().max(1) as f32;
    micros.log2() - QUEUE * (behind as f32 + 1.0).log2()
}

/// How many times as wide an interval is at `now` as when its last answer came at `time`, in ms.
fn age(time: u32, now: Timestamp) -> f32 {
    // A racing writer may have stored a slightly later time: that is no time at all.
    let elapsed = (ms(now).wrapping_sub(time) as i32).max(0);
    1.0 + elapsed as f32 * (1.0 / AGES_IN.as_millis() as f32)
}

/// Milliseconds, wrapping.
const fn ms(now: Timestamp) -> u32 {
    (now.0 / 1000) as u32
}

fn word(upper: f32, lower: f32) -> u64 {
    (u64::from(upper.to_bits()) << 32) | u64::from(lower.to_bits())
}

const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

const fn floats(word: u64) -> (f32, f32) {
    let (upper, lower) = split(word);
    (f32::from_bits(upper), f32::from_bits(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    /// The pace after latencies of `micros`, one a millisecond.
    fn pace(micros: impl IntoIterator<Item = u64>) -> (Pace, Timestamp) {
        let (pace, mut now) = (Pace::default(), START);
        for latency in micros {
            now = now + Duration::from_millis(1);
            pace.add(now, Duration::from_micros(latency), 0);
        }
        (pace, now)
    }

    #[test]
    fn finds_the_level_and_grows_sure_of_it() {
        assert_eq!(Pace::default().get(START), None);
        let (one, now) = pace([1024]);
        let first = one.get(now).unwrap();
        assert!((first.mean - 10.0).abs() < 1e-6 && first.margin > 1.5);
        let (many, now) = pace((0..100).map(|i| if i % 2 == 0 { 512 } else { 2048 }));
        let known = many.get(now).unwrap();
        assert!((known.mean - 10.0).abs() < 0.1, "{known:?}");
        assert!(
            (known.margin - WIDTH / 32.0f32.sqrt()).abs() < 0.05,
            "{known:?}"
        );
    }

    #[test]
    fn one_answer_of_a_second_among_many_is_not_a_slow_instance() {
        let (pace, now) = pace((0..200).map(|i| if i == 198 { 1_000_000 } else { 1000 }));
        let known = pace.get(now).unwrap();
        assert!(known.lower() < 1000.0f32.log2() + 0.1, "{known:?}");
    }

    #[test]
    fn a_change_shows_within_the_memory() {
        let (pace, now) = pace((0..140).map(|i| if i < 100 { 1000 } else { 10_000 }));
        let known = pace.get(now).unwrap();
        assert!(known.lower() > 1000.0f32.log2() + 1.0, "{known:?}");
    }

    #[test]
    fn time_makes_it_less_sure_and_what_comes_then_weighs_more() {
        let (pace, now) = pace((0..100).map(|_| 10_000));
        let known = pace.get(now).unwrap();
        let later = now + AGES_IN;
        let aged = pace.get(later).unwrap();
        assert_eq!(aged.mean, known.mean);
        assert!((aged.margin / known.margin - 2.0).abs() < 0.01);
        for i in 1..=4 {
            pace.add(now + AGES_IN * i, Duration::from_millis(1), 0);
        }
        let known = pace.get(now + AGES_IN * 4).unwrap();
        assert!(known.lower() < 1000.0f32.log2(), "{known:?}");
    }

    #[test]
    fn a_part_of_the_queue_is_taken_out() {
        let (idle, now) = pace((0..100).map(|_| 1000));
        for i in 0..100 {
            idle.add(
                now + Duration::from_millis(i),
                Duration::from_micros(2000),
                15,
            );
        }
        let known = idle.get(now).unwrap();
        assert!((known.mean - 1000.0f32.log2()).abs() < 1e-3, "{known:?}");
    }

    #[test]
    fn a_lower_bound_raises_only() {
        let (pace, now) = pace((0..100).map(|_| 10_000));
        let before = pace.get(now);
        pace.add_at_least(now, Duration::from_millis(1), 0);
        assert_eq!(pace.get(now), before);
        pace.add_at_least(now, Duration::from_secs(1), 0);
        assert!(pace.get(now).unwrap().mean > before.unwrap().mean);
        pace.reset();
        assert_eq!(pace.get(now), None);
    }
}
