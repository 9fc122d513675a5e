//! Batches on their way to a system that may not take them: a bounded queue, retries that wait
//! longer and longer, and a count of what was given up.
//!
//! The oldest batch gives way to the newest: who comes back after an hour wants to know how things
//! are. A batch that the peer refuses for its content is not offered again.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::{sync::Notify, time::sleep};

use super::{
    http::{Answer, Client, HttpError},
    report::Report,
};

/// The wait after a first failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait, however long the interval is.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A batch: what is sent, and how much it holds.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) json: Bytes,
    pub(super) items: u64,
}

/// Where batches go.
#[derive(Debug)]
pub(super) struct Outlet<'a> {
    pub(super) client: Client,
    pub(super) path: &'a str,
    pub(super) report: &'a Report,
    /// From one batch to the next, when all goes well.
    pub(super) interval: Duration,
    /// Reads from an answer of success how many items the peer has not taken all the same.
    pub(super) refused: fn(&Answer) -> u64,
}

/// Batches that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    batches: Mutex<Batches>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Batches {
    waiting: VecDeque<Batch>,
    /// How many have left, so that one that is under way is not taken for its successor.
    left: u64,
}

impl Batches {
    fn items(&self) -> u64 {
        self.waiting.iter().map(|batch| batch.items).sum()
    }
}

impl Queue {
    /// Adds a batch; where there are more than `most`, the oldest are given up.
    pub(super) fn push(&self, batch: Batch, most: usize, report: &Report) {
        let mut batches = self.lock();
        batches.waiting.push_back(batch);
        while batches.waiting.len() > most.max(1) {
            batches.left += 1;
            if let Some(oldest) = batches.waiting.pop_front() {
                report.drops(oldest.items);
            }
        }
        report.waits(batches.items());
        drop(batches);
        self.arrived.notify_one();
    }

    /// Gives everything up.
    pub(super) fn clear(&self, report: &Report) {
        let mut batches = self.lock();
        let lost = batches.waiting.drain(..).map(|batch| batch.items).sum();
        batches.left = batches.left.wrapping_add(1);
        report.drops(lost);
        report.waits(0);
    }

    /// The oldest batch and its number.
    fn first(&self) -> Option<(u64, Batch)> {
        let batches = self.lock();
        let first = batches.waiting.front().cloned();
        first.map(|batch| (batches.left, batch))
    }

    /// Removes the batch of that number, if it still waits.
    fn done(&self, number: u64, report: &Report) {
        let mut batches = self.lock();
        if batches.left == number {
            batches.left += 1;
            batches.waiting.pop_front();
        }
        report.waits(batches.items());
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what comes, for as long as it is polled.
    pub(super) async fn deliver(&self, outlet: &Outlet<'_>) {
        let mut failures = 0;
        loop {
            let Some((number, batch)) = self.first() else {
                self.arrived.notified().await;
                continue;
            };
            match outlet.send(&batch).await {
                Sent::Taken | Sent::Refused => {
                    failures = 0;
                    self.done(number, outlet.report);
                }
                Sent::Later(asked) => {
                    let wait = wait(failures, outlet.interval, fastrand::f64());
                    failures = failures.saturating_add(1);
                    sleep(wait.max(asked.unwrap_or_default().min(LONGEST_WAIT))).await;
                }
            }
        }
    }

    /// Sends what waits, until that fails once.
    pub(super) async fn deliver_rest(&self, outlet: &Outlet<'_>) {
        while let Some((number, batch)) = self.first() {
            match outlet.send(&batch).await {
                Sent::Taken | Sent::Refused => self.done(number, outlet.report),
                Sent::Later(_) => return,
            }
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It is there.
    Taken,
    /// The peer does not want it, and will not later.
    Refused,
    /// It may do later, after as long as the peer has asked for.
    Later(Option<Duration>),
}

impl Outlet<'_> {
    async fn send(&self, batch: &Batch) -> Sent {
        let report = self.report;
        let (sent, outcome) = match self.client.post(self.path, batch.json.clone()).await {
            Ok(answer) if answer.status.is_success() => {
                let refused = (self.refused)(&answer).min(batch.items);
                report.delivers(batch.items - refused);
                report.drops(refused);
                (Sent::Taken, Ok(()))
            }
            Ok(answer) => {
                let sent = if is_passing(answer.status) {
                    Sent::Later(answer.retry_after)
                } else {
                    report.drops(batch.items);
                    Sent::Refused
                };
                let error = HttpError::Status {
                    expected: "a status of success",
                    found: answer.status.as_u16(),
                };
                (sent, Err(error.to_string()))
            }
            Err(error) => (Sent::Later(None), Err(error.to_string())),
        };
        report.ends(&outcome);
        report.works(&outcome);
        sent
    }
}

/// Whether a refusal says something about the moment, not about what was sent.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
        )
}

/// How long to wait after so many failures before: doubling, up to twice the interval at which
/// batches come and a limit, less up to a fifth by `chance`, or many lbs would come back in step.
fn wait(failures: u32, interval: Duration, chance: f64) -> Duration {
    let longest = (interval * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    let whole = FIRST_WAIT
        .saturating_mul(1 << failures.min(10))
        .min(longest);
    whole.mul_f64(1.0 - chance / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(items: u64) -> Batch {
        Batch {
            json: Bytes::new(),
            items,
        }
    }

    #[test]
    fn the_oldest_gives_way_and_is_counted() {
        let (queue, report) = (Queue::default(), Report::new("test"));
        for items in 1..=5 {
            queue.push(batch(items), 3, &report);
        }
        assert_eq!((report.dropped(), report.waiting()), (1 + 2, 3 + 4 + 5));
        let (number, first) = queue.first().unwrap();
        assert_eq!(first.items, 3);
        // It gives way while it is under way: its end does not remove its successor.
        queue.push(batch(6), 3, &report);
        queue.done(number, &report);
        assert_eq!(queue.first().unwrap().1.items, 4);
        assert_eq!(report.waiting(), 4 + 5 + 6);
        queue.clear(&report);
        assert_eq!(
            (report.dropped(), report.waiting()),
            (1 + 2 + 3 + 4 + 5 + 6, 0)
        );
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let minute = Duration::from_secs(60);
        for (failures, interval, chance, expected) in [
            (0, minute, 0.0, FIRST_WAIT),
            (3, minute, 0.0, FIRST_WAIT * 8),
            (3, minute, 1.0, FIRST_WAIT.mul_f64(6.4)),
            (6, minute, 0.0, LONGEST_WAIT),
            (u32::MAX, minute, 0.0, LONGEST_WAIT),
            (u32::MAX, minute / 10, 0.0, minute / 5),
            (u32::MAX, Duration::from_millis(1), 0.0, FIRST_WAIT),
        ] {
            assert_eq!(wait(failures, interval, chance), expected);
        }
    }

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        for status in [500, 503, 429, 408, 401, 404] {
            assert!(
                is_passing(StatusCode::from_u16(status).unwrap()),
                "{status}"
            );
        }
        for status in [400, 413, 422, 301] {
            assert!(
                !is_passing(StatusCode::from_u16(status).unwrap()),
                "{status}"
            );
        }
    }
}
