//! Idle connections to instances, kept by one worker for itself.
//!
//! Nothing here is shared between threads. The connection that was used last is used first: it is
//! the least likely to be dead, and those below it age out. Whether a connection is fit for another
//! request is hyper's word, which has read the last answer to its end and nothing beyond it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use hyper::client::conn::http1::SendRequest;

use super::upload::Upload;
use crate::model::{InstanceId, Timestamp};

/// How long a connection whose answer is complete may take to become fit for the next request.
const SETTLE: Duration = Duration::from_secs(1);

/// A connection to an instance in the hands of one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<Upload>,
    pub(super) id: InstanceId,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
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
    most: std::cell::Cell<usize>,
}

impl Pool {
    /// An empty pool that keeps at most `most` idle connections to each instance.
    pub(super) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self {
            slots: RefCell::default(),
            most: most.into(),
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
        while let Some(Idle { sender, .. }) = slot.idle.pop() {
            if sender.is_ready() {
                return Some(Lease { sender, id });
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
                    pool.keep(lease, now);
                }
            });
        }
    }

    fn keep(&self, Lease { sender, id }: Lease, since: Timestamp) {
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
            slot.idle.push(Idle { sender, since });
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

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1;
    use tokio::{
        net::{TcpListener, TcpStream},
        runtime::{Builder, LocalOptions},
    };

    use super::*;
    use crate::l7::socket::Socket;

    /// The end of a connection is in the system, and its task has not run since.
    async fn taken_when_just_ended(fresh: bool) -> bool {
        let id = InstanceId {
            index: 3,
            generation: 1,
        };
        let pool = Pool::new(8);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(stream, listener.accept());
        let socket = Socket::new(stream.unwrap());
        let (sender, connection) = http1::handshake(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut lease = Lease { sender, id };
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
