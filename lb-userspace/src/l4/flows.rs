//! Following packets: what became of them, as it happens.
//!
//! The program records packets while one word says that somebody wants to see some, and writes them
//! into a ring. One task reads that ring and hands each event to those whose place is marked in it. It
//! owns the word, too, and moves it on as long as anybody follows: with the last one gone, the program
//! records nothing, and when the daemon dies, nothing after [`HOLD`].
//!
//! Whoever follows has a queue that is bounded. One that reads slowly loses events and is told how
//! many, and neither the program nor another follower waits for it.

#[cfg(test)]
pub(super) mod fixture;
mod frame;
mod hub;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use lb_common::{Counter, CounterKind, FlowEvent, MAX_FOLLOWERS};
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::frame::Headers;
pub(crate) use self::hub::start;
use super::L4Error;
use crate::model::IpPrefix;

/// The most who can follow at one time.
pub const MOST_FOLLOWERS: usize = MAX_FOLLOWERS as usize;

/// Events that wait for a follower.
const QUEUE: usize = 1024;

/// How long the program goes on recording without a word from the daemon.
const HOLD: Duration = Duration::from_secs(3);

/// What a follower wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Packets that are counted here.
    pub counters: Vec<Counter>,
    /// Those of these VIPs, by name; with those of `services` all when there are none.
    pub vips: Vec<String>,
    /// Those of VIPs of these services.
    pub services: Vec<String>,
    /// Those from here.
    pub source: Option<IpPrefix>,
    /// One in so many of them.
    pub sample: u32,
    /// Of packets that are forwarded those alone that begin a connection.
    pub new: bool,
}

impl Filter {
    /// The counters of packets that have this fate.
    pub fn counters_of(kind: CounterKind) -> impl Iterator<Item = Counter> {
        let all = Counter::ALL.iter().copied();
        all.filter(move |counter| counter.kind() == kind)
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPacket {
    /// When.
    pub at: SystemTime,
    /// The packet path's own words.
    pub event: FlowEvent,
}

impl SeenPacket {
    /// What it was counted under.
    #[must_use]
    pub fn counter(&self) -> Option<Counter> {
        let mut all = Counter::ALL.iter().copied();
        all.find(|counter| *counter as u32 == self.event.counter)
    }

    /// [`lb_common::Vip::id`] of its VIP.
    #[must_use]
    pub fn vip(&self) -> Option<u32> {
        u32::from(self.event.vip).checked_sub(1)
    }
}

/// How following goes, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFigures {
    /// Who follows now.
    pub followers: usize,
    /// Events that followers have got.
    pub delivered: u64,
    /// Events that a follower was too slow for.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Figures {
    followers: AtomicUsize,
    delivered: AtomicU64,
    lost: AtomicU64,
}

/// Somebody who wants to follow.
#[derive(Debug)]
struct Order {
    filter: Filter,
    answer: oneshot::Sender<Result<Followed, L4Error>>,
}

/// Where packets can be followed. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    orders: mpsc::Sender<Order>,
    figures: Arc<Figures>,
}

impl Flows {
    /// Begins to follow packets.
    ///
    /// # Errors
    /// When too many follow already, or the packet path cannot be told.
    pub(crate) async fn follow(&self, filter: Filter) -> Result<Followed, L4Error> {
        let gone = || L4Error::NoPath {
            why: "the daemon is shutting down".to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        let order = Order { filter, answer };
        self.orders.send(order).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// How following goes.
    pub(crate) fn figures(&self) -> FlowFigures {
        FlowFigures {
            followers: self.figures.followers.load(Ordering::Relaxed),
            delivered: self.figures.delivered.load(Ordering::Relaxed),
            lost: self.figures.lost.load(Ordering::Relaxed),
        }
    }
}

/// Packets that are followed, until this is dropped.
#[derive(Debug)]
pub struct Followed {
    packets: mpsc::Receiver<Arc<SeenPacket>>,
    lost: Arc<AtomicU64>,
    left: Arc<Notify>,
}

impl Followed {
    /// The next packet; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Arc<SeenPacket>> {
        self.packets.recv().await
    }

    /// The next packet, if there is one already.
    pub fn ready(&mut self) -> Option<Arc<SeenPacket>> {
        self.packets.try_recv().ok()
    }

    /// How many events were lost since this was asked last.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // Closed first: whoever is woken has to see it.
        self.packets.close();
        self.left.notify_one();
    }
}
