//! The TCP connections that the proxy has open to an instance, and how many there may be.
//!
//! Each worker keeps connections of its own, so a limit that holds for the daemon as a whole has
//! to know three things: how many connections there are, on one word for all workers, which is
//! written when one is opened or closed and not with every request; how many of them nobody uses,
//! which each worker counts on a line of its own; and whether somebody wants one that another worker
//! keeps idle. A connection counts from before it is opened to after it is closed, so that an instance
//! never sees more of them than it may have.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use super::{Instance, UNLIMITED, claim};

/// The most connections, of an instance and of its service; [`UNLIMITED`] when there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostConnections {
    /// To the instance.
    pub instance: u32,
    /// To all instances of its service together.
    pub service: u32,
}

impl MostConnections {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        instance: UNLIMITED,
        service: UNLIMITED,
    };

    /// Whether there is any.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.instance != UNLIMITED || self.service != UNLIMITED
    }
}

/// Connections of an instance, or of a service, all workers.
#[derive(Debug)]
pub struct Connections {
    open: AtomicU32,
    wanted: AtomicU32,
    /// Of those that are open, what each worker keeps for the next request.
    idle: Box<[Idle]>,
}

/// What one worker keeps. Written by that worker alone.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Idle(AtomicU32);

impl Connections {
    /// None; `workers` is the number of threads that will count, at least 1.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            open: AtomicU32::default(),
            wanted: AtomicU32::default(),
            idle: (0..workers.max(1)).map(|_| Idle::default()).collect(),
        }
    }

    /// Connections that are open, or being opened or closed.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that no request uses.
    #[must_use]
    pub fn idle(&self) -> u32 {
        let counts = self.idle.iter();
        counts.map(|idle| idle.0.load(Ordering::Relaxed)).sum()
    }

    /// A worker that keeps an idle one, if there is any.
    #[must_use]
    pub fn keeper(&self) -> Option<usize> {
        let keeps = |idle: &Idle| idle.0.load(Ordering::Relaxed) > 0;
        self.idle.iter().position(keeps)
    }

    /// How many requests wait for an idle one to be closed, to open another in its place.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    fn of(&self, worker: usize) -> &AtomicU32 {
        &self.idle[worker % self.idle.len()].0
    }
}

/// Whether and for what a connection is there.
const BUSY: u8 = 0;
const IDLE: u8 = 1;
const CLOSED: u8 = 2;

/// A connection to an instance, as whoever keeps it for the next request sees it. It belongs to the
/// worker that has opened it: nobody else takes it, keeps it or closes it, so what is noted with
/// every request is written without locked instructions.
#[derive(Debug)]
pub struct Connection {
    instance: Arc<Instance>,
    worker: usize,
    state: AtomicU8,
}

/// The same as its socket sees it: dropping this says that it is closed, whatever the way.
#[derive(Debug)]
pub struct Opened(Arc<Connection>);

impl Opened {
    /// The other side.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.set_idle(false);
        connection.state.store(CLOSED, Ordering::Relaxed);
        for count in connection.counts() {
            count.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Connection {
    /// The instance.
    #[must_use]
    pub const fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// A request uses it from now on.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> InUse {
        self.set_idle(false);
        InUse(Arc::clone(self))
    }

    fn set_idle(&self, idle: bool) {
        let (from, to) = if idle { (BUSY, IDLE) } else { (IDLE, BUSY) };
        // A connection that has been closed meanwhile stays closed.
        if self.state.load(Ordering::Relaxed) != from {
            return;
        }
        self.state.store(to, Ordering::Relaxed);
        for count in self.counts() {
            let kept = count.of(self.worker);
            let before = kept.load(Ordering::Relaxed);
            let after = if idle {
                before.wrapping_add(1)
            } else {
                before.wrapping_sub(1)
            };
            kept.store(after, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> [&Connections; 2] {
        [&self.instance.connections, &self.instance.load.connections]
    }
}

/// A request's use of a connection. Dropping it says that no request uses it any more: it is kept for
/// the next one, or about to be closed.
#[derive(Debug)]
pub struct InUse(Arc<Connection>);

impl InUse {
    /// The connection.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.set_idle(true);
    }
}

/// A request that waits for an idle connection to be closed, so that it may open one. Dropping it
/// ends the wait.
#[derive(Debug)]
pub struct Want {
    instance: Arc<Instance>,
    /// Whether a connection to any instance of the service will do.
    any: bool,
    /// A worker that keeps such a connection.
    pub keeper: usize,
}

impl Want {
    fn count(&self) -> &AtomicU32 {
        match self.any {
            false => &self.instance.connections.wanted,
            true => &self.instance.load.connections.wanted,
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Instance {
    /// Whether a request may expect a connection: one that is open and idle, whoever keeps it, or
    /// a new one.
    #[must_use]
    pub fn may_connect(&self, most: &MostConnections) -> bool {
        let (own, all) = (&self.connections, &self.load.connections);
        own.idle() > 0
            || own.open() < most.instance && (all.open() < most.service || all.idle() > 0)
    }

    /// Counts a connection that `worker` is about to open, unless there are as many as there may
    /// be; exact, however many do so at once.
    #[must_use]
    pub fn try_connect(self: &Arc<Self>, most: &MostConnections, worker: usize) -> Option<Opened> {
        let (own, all) = (&self.connections.open, &self.load.connections.open);
        if !claim(own, most.instance) {
            return None;
        }
        if !claim(all, most.service) {
            own.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Opened(Arc::new(Connection {
            instance: Arc::clone(self),
            worker,
            state: AtomicU8::new(BUSY),
        })))
    }

    /// Notes that a request waits for an idle connection to be closed: one to this instance, or to any
    /// of its service if that is what there are too many of. `None` when there is no such.
    #[must_use]
    pub fn want(self: &Arc<Self>, most: &MostConnections) -> Option<Want> {
        let (own, all) = (&self.connections, &self.load.connections);
        let any = own.open() < most.instance;
        let count = if any { all } else { own };
        let keeper = count.keeper()?;
        count.wanted.fetch_add(1, Ordering::Relaxed);
        let instance = Arc::clone(self);
        Some(Want {
            instance,
            any,
            keeper,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Endpoint, InstanceId, ServiceLoad, ServiceName};

    /// Instances of one service for `workers` threads.
    fn instances(count: u16, workers: usize) -> Vec<Arc<Instance>> {
        let load = Arc::new(ServiceLoad::new(workers));
        let instance = |index| {
            let id = InstanceId {
                index,
                generation: 0,
            };
            let endpoint = Endpoint::from_address(([127, 0, 0, 1], index).into());
            let name = ServiceName::new("a").unwrap();
            Arc::new(Instance::new(id, name, endpoint, Arc::clone(&load)))
        };
        (1..=count).map(instance).collect()
    }

    fn most(instance: u32, service: u32) -> MostConnections {
        MostConnections { instance, service }
    }

    #[test]
    fn an_idle_one_may_be_used_when_no_other_may_be_opened() {
        let instances = instances(2, 2);
        let (a, b) = (&instances[0], &instances[1]);
        let most = most(1, 2);
        let first = a.try_connect(&most, 0).unwrap();
        let in_use = first.connection().take();
        assert!(a.try_connect(&most, 1).is_none() && !a.may_connect(&most));
        assert!(a.want(&most).is_none(), "nobody keeps one");
        drop(in_use);
        assert!(a.may_connect(&most) && a.try_connect(&most, 1).is_none());
        let want = a.want(&most).unwrap();
        assert_eq!((want.keeper, a.connections.wanted()), (0, 1));
        assert_eq!(a.load.connections.wanted(), 0, "b's would not do");
        let in_use = first.connection().take();
        assert_eq!(a.connections.idle(), 0);
        let second = b.try_connect(&most, 1).unwrap();
        drop((first, in_use, want));
        // The service has room for one more, and so has a.
        assert!(a.may_connect(&most));
        let first = a.try_connect(&most, 0).unwrap();
        drop(second.connection().take());
        let other = MostConnections {
            instance: 2,
            ..most
        };
        // Full is the service, and the connection to b could give way.
        assert!(a.try_connect(&other, 0).is_none() && a.may_connect(&other));
        let want = a.want(&other).unwrap();
        assert_eq!((want.keeper, b.load.connections.wanted()), (1, 1));
        drop((want, first, second));
        let all = &a.load.connections;
        assert_eq!((all.open(), all.idle(), all.wanted()), (0, 0, 0));
    }

    #[test]
    fn a_connection_that_has_closed_is_idle_no_more() {
        let a = &instances(1, 1)[0];
        let opened = a.try_connect(&MostConnections::UNLIMITED, 0).unwrap();
        let connection = Arc::clone(opened.connection());
        drop(connection.take());
        drop(opened);
        drop(connection.take());
        assert_eq!((a.connections.open(), a.connections.idle()), (0, 0));
    }

    #[test]
    fn a_limit_holds_exactly_with_all_workers_at_once_and_panics() {
        const MOST: u32 = 5;
        let instances = instances(2, 4);
        let most = most(MOST, MOST + 2);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let instances = &instances;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..20_000_u32 {
                        let instance = &instances[(round % 2) as usize];
                        held.extend(instance.try_connect(&most, worker));
                        assert!(instance.connections.open() <= MOST);
                        // May be ahead for the moment in which the other limit is looked at.
                        assert!(instance.load.connections.open() <= MOST + 2);
                        if round % 3 == 0 {
                            held.pop();
                        }
                    }
                    let unwound = std::panic::catch_unwind(move || {
                        let _held = held;
                        std::panic::resume_unwind(Box::new(()));
                    });
                    assert!(unwound.is_err());
                });
            }
        });
        for instance in &instances {
            assert_eq!(instance.connections.open(), 0);
        }
        assert_eq!(instances[0].load.connections.open(), 0);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_list_of_connections(
            limits in (1u32..5, 1u32..8),
            steps in prop::collection::vec((0usize..2, 0usize..3, 0u8..4, 0usize..8), 0..80),
        ) {
            let instances = instances(2, 3);
            let most = most(limits.0, limits.1);
            let mut held: Vec<(usize, usize, Opened, Option<InUse>)> = Vec::new();
            for (at, worker, what, which) in steps {
                match what {
                    0 => {
                        let own = held.iter().filter(|one| one.0 == at).count();
                        let fits = own < limits.0 as usize && held.len() < limits.1 as usize;
                        let opened = instances[at].try_connect(&most, worker);
                        prop_assert_eq!(opened.is_some(), fits);
                        held.extend(opened.map(|opened| {
                            let in_use = opened.connection().take();
                            (at, worker, opened, Some(in_use))
                        }));
                    }
                    1 if which < held.len() => drop(held.swap_remove(which)),
                    2 if which < held.len() => held[which].3 = None,
                    3 if which < held.len() && held[which].3.is_none() => {
                        held[which].3 = Some(held[which].2.connection().take());
                    }
                    _ => {}
                }
                for (at, instance) in instances.iter().enumerate() {
                    let own = || held.iter().filter(|one| one.0 == at);
                    let idle = own().filter(|one| one.3.is_none()).count();
                    let count = &instance.connections;
                    prop_assert_eq!(count.open() as usize, own().count());
                    prop_assert_eq!(count.idle() as usize, idle);
                    let keeps = count.keeper().map(|worker| own().any(|one| one.1 == worker));
                    prop_assert_eq!(keeps, (idle > 0).then_some(true));
                }
                let all = &instances[0].load.connections;
                prop_assert_eq!(all.open() as usize, held.len());
                prop_assert_eq!(all.idle() as usize, held.iter().filter(|one| one.3.is_none()).count());
            }
            drop(held);
            prop_assert_eq!(instances[0].load.connections.open(), 0);
            prop_assert_eq!(instances[0].load.connections.idle(), 0);
        }
    }
}
