//! Which addresses are listened at, as the snapshot says.
//!
//! One thread opens the sockets, one for each worker and address, and hands them out: a fault is
//! then met once, in one place. A worker never waits for it.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{GatewayStats, L7Error, vips::Vips, worker::Order};
use crate::{
    net::{Group, Steer},
    registry::{Registry, Snapshot},
};

/// How long to wait before an address that could not be opened is tried again: at first for as
/// long as workers may need to close another listener that has the port, then longer each time.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How often it is read what the kernel has handed over.
const READ: Duration = Duration::from_secs(1);

/// The open addresses and the workers that serve them.
#[derive(Debug)]
pub(super) struct Listeners {
    workers: Vec<mpsc::UnboundedSender<Order>>,
    open: BTreeSet<SocketAddr>,
    vips: Vips,
    stats: Arc<GatewayStats>,
}

impl Listeners {
    /// No address is open.
    pub(super) const fn new(
        workers: Vec<mpsc::UnboundedSender<Order>>,
        steer: Option<Box<dyn Steer>>,
        stats: Arc<GatewayStats>,
    ) -> Self {
        Self {
            workers,
            open: BTreeSet::new(),
            vips: Vips::new(steer),
            stats,
        }
    }

    /// Opens what `snapshot` has and is not open, then closes what it does not have.
    ///
    /// # Errors
    /// For each address that could not be opened, and for the VIPs when they are not handed over; the
    /// others are.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> Vec<L7Error> {
        let wanted: BTreeSet<SocketAddr> =
            snapshot.listeners.iter().map(|spec| spec.address).collect();
        let gone: Vec<SocketAddr> = self.open.difference(&wanted).copied().collect();
        for address in gone {
            self.open.remove(&address);
            self.workers.iter().for_each(|worker| {
                // A worker that is gone has closed everything.
                let _ = worker.send(Order::Close(address));
            });
        }
        let mut errors = Vec::new();
        let new: Vec<SocketAddr> = wanted.difference(&self.open).copied().collect();
        for address in new {
            let group = Group {
                address,
                foreign: false,
                shared: false,
            };
            match group.open(self.workers.len()) {
                Ok(sockets) => {
                    self.open.insert(address);
                    for (worker, socket) in self.workers.iter().zip(sockets) {
                        let _ = worker.send(Order::Open(address, socket));
                    }
                }
                Err(source) => errors.push(L7Error::Listen { address, source }),
            }
        }
        let followed = self.vips.follow(&snapshot.gateway.vips, &self.workers);
        errors.extend(followed.err());
        errors
    }

    /// Follows `registry` until `stop`; then gives the workers the last order.
    pub(super) async fn run(
        mut self,
        registry: Arc<Registry>,
        stop: oneshot::Receiver<std::time::Instant>,
    ) {
        let mut revision = registry.subscribe();
        let mut stop = std::pin::pin!(stop);
        let mut complained = BTreeSet::new();
        let mut wait = FIRST_RETRY;
        let mut reads = tokio::time::interval(READ);
        loop {
            revision.mark_unchanged();
            let errors = self.follow(&registry.snapshot());
            let failed = !errors.is_empty();
            if !failed {
                complained.clear();
                wait = FIRST_RETRY;
            }
            for error in errors {
                // Once is enough, and not before it has turned out to last.
                if wait >= LAST_RETRY && complained.insert(error.to_string()) {
                    tracing::error!(%error, "listener is not open; lb goes on trying");
                }
            }
            let retry = async {
                if !failed {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(wait).await;
            };
            tokio::select! {
                changed = revision.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = retry => wait = LAST_RETRY.min(wait * 2),
                _ = reads.tick() => self.stats.set_steered(self.vips.steered()),
                deadline = &mut stop => {
                    self.vips.end();
                    // Without an order the workers end at once, as their channels close.
                    if let Ok(deadline) = deadline {
                        for worker in &self.workers {
                            let _ = worker.send(Order::Drain(deadline));
                        }
                    }
                    return;
                }
            }
        }
    }
}
