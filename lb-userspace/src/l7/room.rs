//! Room for one more connection to an instance, where connections are limited.
//!
//! Each worker keeps connections for itself, and the limit is of all of them together. So a request
//! may find that an instance has as many connections as it may have, while some of them lie idle with
//! another worker, which cannot hand them over: their tasks belong to its thread. Then the request
//! asks that worker to close one, and opens its own in its place. What is asked for is a bell, not a
//! message: whoever is rung looks for wants in the counters of the instances that it keeps
//! connections of, so nothing piles up and nothing is lost but a few milliseconds, after which
//! whoever waits rings again.
//!
//! A connection gives its place back when its socket has been closed, and then says so to requests that wait
//! here and in the service's queue.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{
    connection::Client,
    exchange::{Failure, unless_stopped},
    pool::{Lease, Pool},
    worker::Worker,
};
use crate::{
    model::{Clock, Instance, Member, MostConnections, Opened, Reason},
    registry::Service,
    resilience::Admission,
};

/// How long to wait before ringing again: whoever was rung may have had a use for the connection.
const AGAIN: Duration = Duration::from_millis(10);

/// How a try comes by its connection.
#[derive(Debug)]
pub(super) enum Way {
    /// Nothing limits connections: one that is kept, else a new one.
    Any,
    /// One that is kept.
    Kept(Lease),
    /// A new one, which counts already.
    New(Opened),
    /// A new one, once another worker has closed one.
    Soon,
}

impl Way {
    /// Whether somebody has to close a connection first.
    pub(super) const fn is_soon(&self) -> bool {
        matches!(self, Self::Soon)
    }
}

/// The way to `member` that a worker has; `None` when there is none left.
pub(super) fn way(worker: &Worker, member: &Member) -> Option<Way> {
    let (instance, most) = (&member.instance, &member.most_connections);
    if !most.is_limited() {
        return Some(Way::Any);
    }
    let kept = worker.pool.take(instance.id).map(Way::Kept);
    let new = || instance.try_connect(most, worker.index).map(Way::New);
    let soon = || instance.may_connect(most).then_some(Way::Soon);
    kept.or_else(new).or_else(soon)
}

/// What the workers of a proxy tell each other of connections.
#[derive(Debug)]
pub(super) struct Bells {
    wanted: Box<[Notify]>,
    closed: Notify,
}

impl Bells {
    /// Bells for so many workers.
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            wanted: (0..workers.max(1)).map(|_| Notify::new()).collect(),
            closed: Notify::new(),
        })
    }

    fn wanted(&self, worker: usize) -> &Notify {
        &self.wanted[worker % self.wanted.len()]
    }
}

/// Closes connections of `pool` that somebody waits for, for as long as it is polled.
pub(super) async fn give_way(bells: Arc<Bells>, worker: usize, pool: std::rc::Rc<Pool>) {
    loop {
        bells.wanted(worker).notified().await;
        pool.give_way();
    }
}

/// Room for a connection to `instance`; waits for somebody else's to be closed, if there is one
/// that nobody uses, no longer than `limit`.
///
/// # Errors
/// That there is none, or that the request is over.
pub(super) async fn wait(
    client: &Client,
    instance: &Arc<Instance>,
    most: &MostConnections,
    limit: Duration,
) -> Result<Opened, Failure> {
    let (worker, end) = (&client.worker, Instant::now() + limit);
    loop {
        // Announced before the look, so that an end in between is not missed.
        let mut closed = pin!(worker.bells.closed.notified());
        closed.as_mut().enable();
        if let Some(opened) = instance.try_connect(most, worker.index) {
            return Ok(opened);
        }
        let want = instance.want(most).filter(|_| Instant::now() < end);
        let Some(want) = want else {
            return Err(Failure {
                reason: Reason::ConnectionLimit,
                blame: false,
            });
        };
        worker.bells.wanted(want.keeper).notify_one();
        let patience = end.min(Instant::now() + AGAIN);
        let either = tokio::time::timeout_at(patience, closed);
        if unless_stopped(&client.pulse, either).await.is_none() {
            return Err(Failure::stopped(&client.pulse));
        }
    }
}

/// What the socket of a connection to an instance holds until it is closed.
#[derive(Debug)]
#[expect(dead_code, reason = "it is held for its end")]
pub(super) struct Held {
    // In this order: whoever is told finds that there is room.
    opened: Opened,
    news: News,
}

impl Held {
    /// For a connection that a worker has opened to an instance of `service`.
    pub(super) fn new(worker: &Worker, service: &Service, opened: Opened) -> Self {
        Self {
            opened,
            news: News {
                bells: Arc::clone(&worker.bells),
                admission: Arc::clone(&service.admission),
                clock: worker.clock.clone(),
            },
        }
    }
}

/// Tells of the end of a connection.
#[derive(Debug)]
struct News {
    bells: Arc<Bells>,
    admission: Arc<Admission>,
    clock: Clock,
}

impl Drop for News {
    fn drop(&mut self) {
        self.bells.closed.notify_waiters();
        self.admission.queue().released(&self.clock);
    }
}
