//! Smooth weighted order.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Balancer, Choice, eligible};
use crate::model::Member;

/// Each in turn.
#[derive(Debug)]
pub(super) struct Weighted {
    turn: AtomicUsize,
    count: usize,
}

impl Weighted {
    pub(super) fn new(members: &[Member]) -> Self {
        Self {
            turn: AtomicUsize::new(0),
            count: members.len(),
        }
    }
}

impl Balancer for Weighted {
    fn pick(&self, members: &[Member], choice: &Choice<'_>) -> Option<usize> {
        for _ in 0..self.count {
            let i = self.turn.fetch_add(1, Ordering::Relaxed) % self.count;
            if eligible(&members[i], choice.tried) {
                return Some(i);
            }
        }
        None
    }
}
