//! What SYN cookies are made with.

/// The keys of SYN cookies.
///
/// There are two, so that one may be replaced while cookies of the other are under way: the daemon
/// writes the key that is not in use, and then says that it is.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CookieKeys {
    /// Keys of SipHash; all zero: there is none, and with it no cookie is made or accepted.
    pub keys: [[u64; 2]; 2],
    /// Which of them cookies are made with: 0 or 1.
    pub current: u64,
    /// `CLOCK_MONOTONIC` nanoseconds since when.
    pub since: u64,
    /// `CLOCK_MONOTONIC` nanoseconds from which the age of cookies is counted; the same for all keys.
    pub origin: u64,
}

/// Whoever knows the keys can make cookies, so they are in no log.
impl core::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CookieKeys")
            .field("current", &self.current)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

impl CookieKeys {
    /// Whether cookies can be made.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        let [first, second] = &self.keys;
        let [a, b] = if self.current & 1 == 0 {
            *first
        } else {
            *second
        };
        a | b != 0
    }

    /// These, with another key in the place of the one that is not in use. It is not in use yet.
    #[must_use]
    pub const fn prepared(mut self, key: [u64; 2]) -> Self {
        self.keys[(self.current & 1 ^ 1) as usize] = key;
        self
    }

    /// These, with the other key in use since `now`.
    #[must_use]
    pub const fn turned(mut self, now: u64) -> Self {
        self.current = self.current & 1 ^ 1;
        if self.origin == 0 {
            self.origin = now;
        }
        self.since = now;
        self
    }
}

const _: () = assert!(size_of::<CookieKeys>() == 56);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_replaced_stays_for_what_it_has_made() {
        let none = CookieKeys::default();
        assert!(!none.is_set() && !none.prepared([1, 2]).is_set());
        let first = none.prepared([1, 2]).turned(5);
        assert!(first.is_set() && first.current == 1 && first.since == 5);
        let second = first.prepared([3, 4]).turned(9);
        assert_eq!(second.keys, [[3, 4], [1, 2]]);
        assert!(second.is_set() && second.current == 0);
        assert_eq!((first.origin, second.origin), (5, 5));
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = CookieKeys::default().prepared([0x1234_5678, 0x9abc_def0]);
        let text = format!("{keys:?}");
        assert!(
            !text.contains("305419896") && !text.contains("2596069104"),
            "{text}"
        );
    }
}
