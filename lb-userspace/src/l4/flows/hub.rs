//! The task that reads the ring.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use lb_common::{Counter, FOLLOW_ALL_VIPS, FOLLOW_NEW, FlowEvent, Follower};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, mpsc::error::TrySendError, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{Figures, Filter, Flows, Followed, HOLD, MOST_FOLLOWERS, Order, QUEUE, SeenPacket};
use crate::l4::{DatapathError, L4Error, datapath::Recorder, host, plan::address, report::Report};

/// Events that are read before anything else has its turn.
const BATCH: usize = 256;

/// How often the program is told to go on.
const RENEW: Duration = Duration::from_secs(1);

/// Starts the task. It ends when nobody makes reports any more.
///
/// # Errors
/// When the system has no descriptor left.
pub(crate) fn start(
    recorder: Box<dyn Recorder>,
    reports: watch::Receiver<Arc<Report>>,
) -> io::Result<Flows> {
    let (orders, wanted) = mpsc::channel(1);
    let figures = Arc::<Figures>::default();
    let lost = reports.borrow().counters.get(Counter::FlowsLost);
    let hub = Hub {
        places: std::array::from_fn(|_| None),
        left: Arc::default(),
        lost,
        reports,
        figures: Arc::clone(&figures),
    };
    let bell = recorder.as_fd().try_clone_to_owned()?;
    // SAFETY: a descriptor that is owned is open, and the same one for as long as it is.
    let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
    tokio::spawn(hub.run(recorder, bell, wanted));
    Ok(Flows { orders, figures })
}

/// What the daemon reads and writes; told apart from what says that there is something to read.
type Ring = Box<dyn Recorder>;

/// A follower.
#[derive(Debug)]
struct Place {
    filter: Filter,
    /// What the program was told of it.
    told: Follower,
    /// What is older was recorded for whoever had the place before.
    since: u64,
    queue: mpsc::Sender<Arc<SeenPacket>>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Hub {
    places: [Option<Place>; MOST_FOLLOWERS],
    left: Arc<Notify>,
    reports: watch::Receiver<Arc<Report>>,
    /// Events that the program has lost so far.
    lost: u64,
    figures: Arc<Figures>,
}

impl Hub {
    async fn run(
        mut self,
        mut ring: Ring,
        bell: AsyncFd<OwnedFd>,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let left = Arc::clone(&self.left);
        let mut reports = self.reports.clone();
        let mut renew = interval_at(Instant::now() + RENEW, RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more = false;
        loop {
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        self.begin(&mut ring, order);
                        Ok(())
                    }
                    None => break,
                },
                () = left.notified() => self.leave(&mut ring),
                changed = reports.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.refresh(&mut ring)
                }
                _ = renew.tick(), if self.is_followed() => go_on(&mut ring),
                // Whatever else the control plane has to do comes in between.
                () = tokio::task::yield_now(), if more => {
                    more = self.read(&mut ring, BATCH);
                    Ok(())
                }
                ready = readable(&bell), if self.is_followed() && !more => match ready {
                    Ok(()) => {
                        more = true;
                        Ok(())
                    }
                    Err(error) => {
                        tracing::error!(%error, "packets cannot be followed any more");
                        break;
                    }
                },
            };
            if let Err(error) = done {
                tracing::warn!(%error, "cannot tell the program which packets are followed");
            }
        }
        // Whoever still follows is told by the end of its queue.
        drop(ring.set_until(0));
        self.figures.followers.store(0, Ordering::Relaxed);
    }

    fn is_followed(&self) -> bool {
        self.places.iter().any(Option::is_some)
    }

    /// Gives somebody a place, if there is one.
    fn begin(&mut self, ring: &mut Ring, order: Order) {
        let Order { filter, answer } = order;
        // Those who have left without this having been noticed so far.
        let followed = match self.leave(ring) {
            Ok(()) => self.place(ring, filter),
            Err(error) => Err(error.into()),
        };
        // If nobody waits for it any more, dropping it is leaving.
        drop(answer.send(followed));
    }

    fn place(&mut self, ring: &mut Ring, filter: Filter) -> Result<Followed, L4Error> {
        let free = self.places.iter().position(Option::is_none);
        let at = free.ok_or(L4Error::Followers {
            most: MOST_FOLLOWERS,
        })?;
        if !self.is_followed() {
            // What was recorded for others who are gone.
            while self.read(ring, BATCH) {}
        }
        let told = told(&filter, &self.reports.borrow());
        ring.set_follower(at, &told)?;
        let (queue, packets) = mpsc::channel(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        self.places[at] = Some(Place {
            filter,
            told,
            since: host::monotonic_ns(),
            queue,
            lost: Arc::clone(&lost),
        });
        self.count();
        go_on(ring)?;
        Ok(Followed {
            packets,
            lost,
            left: Arc::clone(&self.left),
        })
    }

    /// Takes the places of those who are gone.
    fn leave(&mut self, ring: &mut Ring) -> Result<(), DatapathError> {
        for at in 0..MOST_FOLLOWERS {
            let place = &mut self.places[at];
            if place.as_ref().is_some_and(|place| place.queue.is_closed()) {
                *place = None;
                ring.set_follower(at, &Follower::default())?;
            }
        }
        self.count();
        if self.is_followed() {
            return Ok(());
        }
        ring.set_until(0)
    }

    fn count(&self) {
        let count = self.places.iter().flatten().count();
        self.figures.followers.store(count, Ordering::Relaxed);
    }

    /// What followers want may be something else now that VIPs have changed, and the program may have lost
    /// events. Nobody knows whose those would have been.
    fn refresh(&mut self, ring: &mut Ring) -> Result<(), DatapathError> {
        let report = Arc::clone(&self.reports.borrow_and_update());
        let lost = report.counters.get(Counter::FlowsLost);
        let more = lost.saturating_sub(self.lost);
        self.lost = lost;
        for (at, place) in self.places.iter_mut().enumerate() {
            let Some(place) = place else { continue };
            place.lost.fetch_add(more, Ordering::Relaxed);
            let wanted = told(&place.filter, &report);
            if wanted != place.told {
                ring.set_follower(at, &wanted)?;
                place.told = wanted;
            }
        }
        Ok(())
    }

    /// Hands on so many events at most; whether there may be more.
    fn read(&self, ring: &mut Ring, most: usize) -> bool {
        let (wall, now) = (SystemTime::now(), host::monotonic_ns());
        ring.read(most, &mut |event: FlowEvent| {
            let age = Duration::from_nanos(now.saturating_sub(event.time));
            let packet = Arc::new(SeenPacket {
                at: wall.checked_sub(age).unwrap_or(wall),
                event,
            });
            for (at, place) in self.places.iter().enumerate() {
                let wants = packet.event.followers >> at & 1 != 0;
                if let Some(place) = place.as_ref().filter(|_| wants) {
                    self.hand(place, &packet);
                }
            }
        })
    }

    fn hand(&self, place: &Place, packet: &Arc<SeenPacket>) {
        if packet.event.time < place.since {
            return;
        }
        match place.queue.try_send(Arc::clone(packet)) {
            Ok(()) => {
                self.figures.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Full(_)) => {
                place.lost.fetch_add(1, Ordering::Relaxed);
                self.figures.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => {}
        }
    }
}

/// Waits until there are events. What comes from now on is told anew: so whoever was told has to read all
/// that is there.
async fn readable(bell: &AsyncFd<OwnedFd>) -> io::Result<()> {
    bell.readable().await?.clear_ready();
    Ok(())
}

/// Tells the program to go on for a while.
fn go_on(ring: &mut Ring) -> Result<(), DatapathError> {
    let hold = u64::try_from(HOLD.as_nanos()).unwrap_or(u64::MAX);
    ring.set_until(host::monotonic_ns().saturating_add(hold))
}

/// What the program is told of a follower.
fn told(filter: &Filter, report: &Report) -> Follower {
    let mut told = Follower {
        sample: filter.sample,
        flags: if filter.new { FOLLOW_NEW } else { 0 },
        ..Follower::default()
    };
    for counter in &filter.counters {
        told.want(*counter);
    }
    if filter.vips.is_empty() && filter.services.is_empty() {
        told.flags |= FOLLOW_ALL_VIPS;
    }
    for vip in &report.vips {
        let service = vip.vip.service.as_str();
        let wanted = filter.services.iter().any(|name| name == service)
            || filter.vips.contains(&vip.vip.to_string());
        if wanted {
            told.want_vip(vip.id);
        }
    }
    if let Some(prefix) = filter.source {
        let before = if prefix.address().is_ipv4() { 96 } else { 0 };
        told.want_source(&address(prefix.address()), before + prefix.length());
    }
    told
}
