//! Idle connections to instances, kept by one worker for itself.
//!
//! Nothing here is shared between threads. The connection that was used last is used first: it is
//! the least likely to be dead, and those below it age out. Whether a connection is fit for another
//! request is hyper's word, which has read the last answer to its end and nothing beyond it.
//!
//! Where connections are limited, one that is kept here may be what a request on another thread waits
//! for: see [`super::room`].

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;

use super::upload::Upload;
use crate::{
    model::{Clock, Connection, InUse, InstanceId, ServiceLoad, Timestamp},
    resilience::Admission,
};

/// How long a connection whose answer is complete may take to become fit for the next request.
const SETTLE: Duration = Duration::from_secs(1);

/// A connection to an instance in the hands of one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<Upload>,
    pub(super) in_use: InUse,
    /// Of the service, where requests may wait for it.
    pub(super) admission: Arc<Admission>,
}

impl Lease {
    fn id(&self) -> InstanceId {
        self.in_use.connection().instance().id
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
    connection: Arc<Connection>,
    admission: Arc<Admission>,
    since: Timestamp,
}

/// Connections of one instance, the one that became idle last at the end.
#[derive(Debug, Default)]
struct Slot {
    generation: u16,
    idle: Vec<Idle>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    /// By index of the instance.
    slots: RefCell<Vec<Slot>>,
    most: Cell<usize>,
    clock: Clock,
}

impl Pool {
    /// An empty pool that keeps at most `most` idle connections to each instance.
    pub(super) fn new(most: usize, clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            slots: RefCell::default(),
            most: most.into(),
            clock,
        })
    }

    /// Sets how many idle connections to each instance are kept from now on.
    pub(super) fn set_most(&self, most: usize) {
        self.most.set(most);
    }

    /// Takes a connection that is fit for a request.
    pub(super) fn take(&self, id: InstanceId) -> Option<Lease> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(usize::from(id.index))?;
        if slot.generation != id.generation {
            return None;
        }
        // One that is not ready has been closed by the instance: drop it and look further.
        while let Some(idle) = slot.idle.pop() {
            if idle.sender.is_ready() {
                return Some(Lease {
                    sender: idle.sender,
                    in_use: idle.connection.take(),
                    admission: idle.admission,
                });
            }
        }
        None
    }

    /// The same after a look at what the system knows: an end that has reached this machine, but
    /// not the task of the connection, would cost a request that can not be sent twice. The task
    /// gives way for one turn of the worker's loop, in which all sockets are asked.
    pub(super) async fn take_fresh(&self, id: InstanceId) -> Option<Lease> {
        if !self.has(id) {
            return None;
        }
        tokio::task::yield_now().await;
        self.take(id)
    }

    fn has(&self, id: InstanceId) -> bool {
        let slots = self.slots.borrow();
        let slot = slots.get(usize::from(id.index));
        slot.is_some_and(|slot| slot.generation == id.generation && !slot.idle.is_empty())
    }

    /// Takes back a connection whose answer has been read to its end.
    pub(super) fn give_back(pool: &Rc<Self>, mut lease: Lease, now: Timestamp) {
        if lease.sender.is_ready() {
            pool.keep(lease, now);
        } else if !lease.sender.is_closed() {
            // The task of the connection has yet to see that the exchange is over.
            let pool = Rc::clone(pool);
            tokio::task::spawn_local(async move {
                let ready = tokio::time::timeout(SETTLE, lease.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    let admission = Arc::clone(&lease.admission);
                    pool.keep(lease, now);
                    // The request has given its place back already; whoever took it may have
                    // found no connection.
                    admission.queue().released(&pool.clock);
                }
            });
        }
    }

    fn keep(&self, lease: Lease, since: Timestamp) {
        let id = lease.id();
        let mut slots = self.slots.borrow_mut();
        let index = usize::from(id.index);
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut slots[index];
        if slot.generation != id.generation {
            slot.idle.clear();
            slot.generation = id.generation;
        }
        if slot.idle.len() < self.most.get() {
            slot.idle.push(Idle {
                sender: lease.sender,
                connection: Arc::clone(lease.in_use.connection()),
                admission: lease.admission,
                since,
            });
        }
    }

    /// Closes connections whose end somebody waits for, the oldest first, no more than are wanted.
    pub(super) fn give_way(&self) {
        let mut given: HashMap<*const ServiceLoad, u32> = HashMap::new();
        for slot in self.slots.borrow_mut().iter_mut() {
            let Some(first) = slot.idle.first() else {
                continue;
            };
            let instance = first.connection.instance();
            let given = given.entry(Arc::as_ptr(&instance.load)).or_default();
            let any = instance.load.connections.wanted().saturating_sub(*given);
            let own = instance.connections.wanted() as usize;
            let close = own.saturating_add(any as usize).min(slot.idle.len());
            // What closes for want of one to this instance makes no room that others wait for.
            *given += u32::try_from(close.saturating_sub(own)).unwrap_or(u32::MAX);
            slot.idle.drain(..close);
        }
    }

    /// Closes what has been idle for `timeout`, what the instance has closed, and every connection
    /// to an instance that `wanted` does not want.
    pub(super) fn sweep(
        &self,
        now: Timestamp,
        timeout: Duration,
        wanted: impl Fn(InstanceId) -> bool,
    ) {
        for (index, slot) in self.slots.borrow_mut().iter_mut().enumerate() {
            if slot.idle.is_empty() {
                continue;
            }
            let id = InstanceId {
                index: index as u16,
                generation: slot.generation,
            };
            if wanted(id) {
                slot.idle
                    .retain(|idle| idle.sender.is_ready() && now - idle.since < timeout);
            } else {
                slot.idle.clear();
            }
            // A burst must not hold memory for ever.
            if slot.idle.len() * 4 < slot.idle.capacity() {
                slot.idle.shrink_to_fit();
            }
        }
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.slots.borrow_mut().clear();
    }
}

/// The connection of `lease` after the same look.
pub(super) async fn if_fresh(lease: Lease) -> Option<Lease> {
    tokio::task::yield_now().await;
    lease.sender.is_ready().then_some(lease)
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1;
    use tokio::{
        net::{TcpListener, TcpStream},
        runtime::{Builder, LocalOptions},
    };

    use super::*;
    use crate::{
        l7::socket::Socket,
        model::{Endpoint, Instance, MostConnections, ServiceName},
    };

    /// The end of a connection is in the system, and its task has not run since.
    async fn taken_when_just_ended(fresh: bool) -> bool {
        let id = InstanceId {
            index: 3,
            generation: 1,
        };
        let pool = Pool::new(8, Clock::real());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(stream, listener.accept());
        let socket = Socket::new(stream.unwrap());
        let (sender, connection) = http1::handshake(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let load = Arc::new(ServiceLoad::new(1));
        let endpoint = Endpoint::from_address(([127, 0, 0, 1], 1).into());
        let instance = Instance::new(id, ServiceName::new("a").unwrap(), endpoint, load);
        let opened = Arc::new(instance).try_connect(&MostConnections::UNLIMITED, 0);
        let opened = opened.unwrap();
        let mut lease = Lease {
            sender,
            in_use: opened.connection().take(),
            admission: Arc::default(),
        };
        lease.sender.ready().await.unwrap();
        Pool::give_back(&pool, lease, Timestamp(0));
        tokio::task::yield_now().await;
        drop(accepted);
        let taken = if fresh {
            pool.take_fresh(id).await
        } else {
            pool.take(id)
        };
        taken.is_some()
    }

    #[test]
    fn a_connection_that_has_just_ended_is_seen_by_who_looks() {
        // As a worker's runtime is made.
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(async {
            for fresh in [false, true] {
                let taken = tokio::task::spawn_local(taken_when_just_ended(fresh));
                assert_eq!(taken.await.unwrap(), !fresh);
            }
        });
    }
}
