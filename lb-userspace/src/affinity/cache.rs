//! What a worker has found out of a text, kept for the next time.
//!
//! Verifying a token takes tens of microseconds and a client shows the same one in each request.
//! Texts are compared in full, so a hash that somebody makes collide costs time and nothing else.
//! Each text has two places; of those the one that was used longer ago gives way.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

/// Places of a cache.
const PLACES: usize = 2048;

/// Longest text that is kept, in bytes: with the above 8 MiB at most.
const LONGEST: usize = 4096;

/// See the module. `scope` keeps texts apart that mean something else in another place.
#[derive(Debug)]
pub struct Cache<V> {
    places: Box<[Option<Place<V>>]>,
    state: RandomState,
    turn: u32,
}

#[derive(Debug)]
struct Place<V> {
    hash: u64,
    scope: u32,
    used: u32,
    text: Box<[u8]>,
    value: V,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self {
            places: std::iter::repeat_with(|| None).take(PLACES).collect(),
            state: RandomState::default(),
            turn: 0,
        }
    }
}

impl<V: Copy> Cache<V> {
    /// What is known of `text` in `scope`, else what `find` says, which is kept unless it is
    /// nothing.
    pub fn get_or(
        &mut self,
        scope: u32,
        text: &[u8],
        find: impl FnOnce() -> Option<V>,
    ) -> Option<V> {
        if text.len() > LONGEST {
            return find();
        }
        let hash = self.state.hash_one((scope, text));
        self.turn = self.turn.wrapping_add(1);
        let places = [hash as usize % PLACES, (hash >> 32) as usize % PLACES];
        for at in places {
            if let Some(place) = &mut self.places[at]
                && (place.hash, place.scope) == (hash, scope)
                && *place.text == *text
            {
                place.used = self.turn;
                return Some(place.value);
            }
        }
        let value = find()?;
        let age = |at: usize| {
            let place = self.places[at].as_ref();
            place.map_or(u32::MAX, |place| self.turn.wrapping_sub(place.used))
        };
        let [first, second] = places;
        let at = if age(second) > age(first) {
            second
        } else {
            first
        };
        self.places[at] = Some(Place {
            hash,
            scope,
            used: self.turn,
            text: text.into(),
            value,
        });
        Some(value)
    }

    /// Forgets everything: what the values were found out with has changed.
    pub fn clear(&mut self) {
        self.places.fill_with(|| None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_worked_out_once_in_each_scope() {
        let mut cache = Cache::default();
        let mut worked = 0;
        for (scope, text, expected) in [
            (0, &b"a"[..], 1),
            (0, b"a", 1),
            (1, b"a", 2),
            (0, b"b", 3),
            (1, b"a", 2),
            (0, b"a", 1),
        ] {
            let value = cache.get_or(scope, text, || {
                worked += 1;
                Some(worked)
            });
            assert_eq!(value, Some(expected));
        }
        cache.clear();
        // Nothing is not kept.
        assert_eq!(cache.get_or(0, b"a", || None), None);
        assert_eq!(cache.get_or(0, b"a", || Some(9)), Some(9));
    }

    #[test]
    fn what_is_too_long_is_not_kept_and_the_rest_is_bounded() {
        let mut cache = Cache::default();
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(cache.get_or(0, &long, || Some(1)), Some(1));
        assert_eq!(cache.get_or(0, &long, || Some(2)), Some(2));
        for number in 0..10 * PLACES as u32 {
            let found = cache.get_or(0, &number.to_be_bytes(), || Some(number));
            assert_eq!(found, Some(number));
        }
        let last = 10 * PLACES as u32 - 1;
        assert_eq!(cache.get_or(0, &last.to_be_bytes(), || None), Some(last));
    }
}
