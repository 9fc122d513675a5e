//! A factor that was learned, and when it was last confirmed.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Algorithm, Timestamp};

/// A factor that one control plane task learns and others read or forget.
///
/// Algorithm, factor and time share one word, so that nobody sees a factor with another one's time,
/// and so that what is forgotten while a new value is worked out stays forgotten.
#[derive(Debug, Default)]
pub struct Learned(AtomicU64);

/// What a [`Learned`] holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesson {
    /// The algorithm that it was learned for.
    pub algorithm: Algorithm,
    /// The factor, 0 to 1.
    pub factor: f32,
    /// When there was last evidence for it.
    pub evidence: Timestamp,
}

/// Steps of a factor in the word, fine beside those of a weight.
const UNIT: f32 = 65_535.0;

impl Learned {
    /// What was learned; `None` when nothing was.
    #[must_use]
    pub fn get(&self) -> Option<Lesson> {
        Self::unpack(self.0.load(Ordering::Relaxed))
    }

    /// What was learned, and how long ago it was confirmed.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<(Lesson, Duration)> {
        self.get().map(|lesson| (lesson, now - lesson.evidence))
    }

    /// Replaces what was learned by what `next` makes of it, unless somebody changes it meanwhile.
    /// What is kept, for the caller to go on with.
    pub fn update(&self, next: impl FnOnce(Option<Lesson>) -> Option<Lesson>) -> Option<Lesson> {
        let before = self.0.load(Ordering::Relaxed);
        let after = next(Self::unpack(before)).map_or(0, Self::pack);
        let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let kept = match self.0.compare_exchange(before, after, set, failed) {
            Ok(_) => after,
            Err(other) => other,
        };
        Self::unpack(kept)
    }

    /// Forgets it.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Algorithm plus one in 8 bits, the factor in 16, tenths of seconds in 40 (3486 years).
    fn pack(lesson: Lesson) -> u64 {
        let factor = (lesson.factor.clamp(0.0, 1.0) * UNIT).round() as u64;
        let tenths = (lesson.evidence.0 / 100_000) & 0xff_ffff_ffff;
        (lesson.algorithm as u64 + 1) << 56 | factor << 40 | tenths
    }

    fn unpack(word: u64) -> Option<Lesson> {
        let algorithm = (word >> 56).checked_sub(1)?;
        Some(Lesson {
            algorithm: *Algorithm::ALL.get(algorithm as usize)?,
            factor: f32::from((word >> 40) as u16) / UNIT,
            evidence: Timestamp((word & 0xff_ffff_ffff) * 100_000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_learned() {
        let learned = Learned::default();
        assert_eq!(learned.get(), None);
        for algorithm in Algorithm::ALL {
            let lesson = Lesson {
                algorithm,
                factor: 0.5,
                evidence: Timestamp(1_234_500_000),
            };
            let kept = learned.update(|_| Some(lesson)).unwrap();
            assert_eq!(
                (kept.algorithm, kept.evidence),
                (algorithm, lesson.evidence)
            );
            assert!((kept.factor - 0.5).abs() < 1e-4);
            assert_eq!(learned.get(), Some(kept));
        }
        let now = Timestamp(1_235_500_000);
        assert_eq!(learned.age(now).unwrap().1, Duration::from_secs(1));
        learned.reset();
        assert_eq!(learned.get(), None);
    }

    #[test]
    fn what_is_forgotten_meanwhile_stays_forgotten() {
        let learned = Learned::default();
        let lesson = Lesson {
            algorithm: Algorithm::Adaptive,
            factor: 0.7,
            evidence: Timestamp(1_000_000),
        };
        learned.update(|_| Some(lesson));
        let kept = learned.update(|known| {
            learned.reset();
            known
        });
        assert_eq!((kept, learned.get()), (None, None));
    }
}
