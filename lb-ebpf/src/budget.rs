//! How many messages of its own lb sends.
//!
//! Each answers a packet that anybody can send, so there is a limit (RFC 1812, 4.3.2.8; RFC 4443,
//! 2.4 f). A fixed window of a second is the simplest limit that bounds the load; each processor has
//! its own, so that none waits for another.

/// Nanoseconds of a window.
const WINDOW: u64 = 1_000_000_000;

/// What a processor has sent in the window at hand.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    window: u64,
    spent: u64,
}

impl Budget {
    /// Whether one more message may be sent at `now` (nanoseconds), of so many a second.
    #[inline(always)]
    pub const fn spend(&mut self, now: u64, per_second: u32) -> bool {
        let window = now / WINDOW;
        if self.window != window {
            self.window = window;
            self.spent = 0;
        }
        if self.spent >= per_second as u64 {
            return false;
        }
        self.spent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_budget_and_unused_ones_are_not_saved_up() {
        let mut budget = Budget::default();
        let spent = |budget: &mut Budget, now| (0..10).filter(|_| budget.spend(now, 3)).count();
        assert_eq!(spent(&mut budget, 5 * WINDOW), 3);
        assert_eq!(spent(&mut budget, 6 * WINDOW - 1), 0);
        assert_eq!(spent(&mut budget, 6 * WINDOW), 3);
        assert_eq!(spent(&mut budget, 60 * WINDOW), 3);
        assert!(!budget.spend(61 * WINDOW, 0));
    }
}
