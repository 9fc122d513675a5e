//! What has happened, for whoever wants to be told.
//!
//! The last [`CAPACITY`] happenings are kept, each under a number, and whoever follows them asks for
//! those after the last number that it has. So a slow follower holds nothing up and costs nothing:
//! it finds, when it comes back, that the oldest of what it wanted are gone, and how many.
//!
//! Numbers grow by one with each happening and begin with the time of the start, in millionths of a
//! second. They grow across restarts of the daemon, too, so that a number tells whether it is from
//! this run.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::Event;

/// Happenings that are kept: those of a reload that changes every instance twice, in 2 MB at most.
const CAPACITY: usize = 8192;

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number.
    pub sequence: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: Happening,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// State has changed.
    State {
        /// The revision that has the change.
        revision: u64,
        /// The change.
        event: Event,
    },
    /// The configuration was read again and is in force.
    Reloaded {
        /// The revision that is current since.
        revision: u64,
        /// How many things it changed.
        changes: usize,
        /// Settings that wait for a restart.
        needs_restart: Vec<String>,
    },
    /// The configuration was read again and is not in force.
    ReloadRefused {
        /// Why.
        why: String,
        /// How many faults it has.
        faults: usize,
    },
    /// The packet path is attached in another way, or has other troubles, than before.
    PacketPath {
        /// How it is attached; `None` when it is not.
        mode: Option<&'static str>,
        /// Why the mode is what it is; empty when it is what was asked for.
        reason: String,
        /// What will not work.
        warnings: Vec<String>,
        /// Why bringing the latest snapshot into the kernel failed; `None` when it did not.
        error: Option<String>,
    },
}

/// A part of what has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// How much of what was asked for is not there any more; `None` when nobody can say, because
    /// the number asked for is not of this run.
    pub lost: Option<u64>,
    /// What is there, in the order in which it happened.
    pub entries: Vec<Arc<Entry>>,
    /// The number to ask after next.
    pub last: u64,
}

/// What has happened, the latest of it.
#[derive(Debug)]
pub struct Feed {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// The number that the first happening of this run has got, or will get.
    first: u64,
    /// The number that the next one gets.
    next: u64,
    capacity: usize,
}

impl Feed {
    /// An empty feed of a run that begins at `start`.
    pub(super) fn new(start: SystemTime) -> Self {
        Self::with_capacity(start, CAPACITY)
    }

    fn with_capacity(start: SystemTime, capacity: usize) -> Self {
        let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2);
        Self {
            ring: Mutex::new(Ring {
                entries: VecDeque::new(),
                first,
                next: first,
                capacity,
            }),
            newest: watch::Sender::new(first.saturating_sub(1)),
        }
    }

    /// Notes that something has happened.
    pub fn publish(&self, what: Happening) {
        self.publish_all([what]);
    }

    /// Notes that several things have happened at once.
    pub fn publish_all(&self, all: impl IntoIterator<Item = Happening>) {
        let at = SystemTime::now();
        let newest = {
            // Nobody panics while holding it, and the ring is whole between any two lines.
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for what in all {
                if ring.entries.len() == ring.capacity {
                    ring.entries.pop_front();
                }
                let sequence = ring.next;
                ring.next += 1;
                ring.entries
                    .push_back(Arc::new(Entry { sequence, at, what }));
            }
            ring.next - 1
        };
        self.newest.send_replace(newest);
    }

    /// The number of what happened last.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Tells when something has happened; the value is its number.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What has happened after the happening with the number `after`, at most so much of it.
    #[must_use]
    pub fn after(&self, after: u64, most: usize) -> Batch {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.next - ring.entries.len() as u64;
        let ours = after.saturating_add(1) >= ring.first && after < ring.next;
        let (lost, from) = if ours {
            let from = after.saturating_add(1).max(oldest);
            (Some(from - after - 1), from)
        } else {
            (None, oldest)
        };
        let skipped = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let entries: Vec<_> = ring
            .entries
            .iter()
            .skip(skipped)
            .take(most)
            .cloned()
            .collect();
        Batch {
            lost,
            last: entries.last().map_or(from - 1, |entry| entry.sequence),
            entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_000_000_000_000_000;

    fn feed(capacity: usize) -> Feed {
        Feed::with_capacity(UNIX_EPOCH + Duration::from_micros(START), capacity)
    }

    fn some(count: u64) -> impl Iterator<Item = Happening> {
        (1..=count).map(|revision| Happening::State {
            revision,
            event: Event::RoutesChanged,
        })
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.entries.iter().map(|e| e.sequence - START).collect()
    }

    #[test]
    fn whoever_keeps_up_gets_everything_once() {
        let feed = feed(4);
        let mut at = feed.newest();
        assert_eq!(at, START - 1);
        for round in 0..5 {
            feed.publish_all(some(3));
            let batch = feed.after(at, 100);
            assert_eq!(batch.lost, Some(0));
            assert_eq!(numbers(&batch), [3 * round, 3 * round + 1, 3 * round + 2]);
            at = batch.last;
            assert_eq!(at, feed.newest());
        }
        let nothing = feed.after(at, 100);
        assert_eq!((nothing.lost, nothing.last), (Some(0), at));
        assert_eq!(nothing.entries, []);
    }

    #[test]
    fn whoever_is_late_is_told_how_much_is_gone() {
        let feed = feed(4);
        let start = feed.newest();
        feed.publish_all(some(10));
        let batch = feed.after(start, 2);
        assert_eq!((batch.lost, numbers(&batch)), (Some(6), vec![6, 7]));
        let rest = feed.after(batch.last, 100);
        assert_eq!((rest.lost, numbers(&rest)), (Some(0), vec![8, 9]));
    }

    #[test]
    fn numbers_of_another_run_are_known_as_such() {
        let feed = feed(4);
        feed.publish_all(some(2));
        for other in [0, 17, START - 2, START + 2, u64::MAX] {
            let batch = feed.after(other, 100);
            assert_eq!((batch.lost, numbers(&batch)), (None, vec![0, 1]), "{other}");
        }
    }

    proptest! {
        /// However publishing and reading interleave: what is read and what is told to be lost add
        /// up to what was published, in order.
        #[test]
        fn read_and_lost_are_all_there_was(
            capacity in 1_usize..8,
            steps in proptest::collection::vec((0_u64..6, 0_usize..6), 1..40),
        ) {
            let feed = feed(capacity);
            let (mut at, mut published, mut seen) = (feed.newest(), 0, 0);
            for (add, most) in steps {
                feed.publish_all(some(add));
                published += add;
                let batch = feed.after(at, most);
                seen += batch.lost.unwrap();
                for entry in &batch.entries {
                    prop_assert_eq!(entry.sequence - START, seen);
                    seen += 1;
                }
                at = batch.last;
                prop_assert_eq!(at + 1 - START, seen);
                prop_assert!(published - seen <= capacity as u64);
            }
        }
    }
}
