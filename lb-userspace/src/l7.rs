//! The L7 data plane: an HTTP/1.1 reverse proxy, one thread a worker.
//!
//! Each worker is a current-thread runtime with its own `SO_REUSEPORT` listeners, its own view of
//! the snapshot and its own connections to instances, so that requests on different cores share
//! nothing but the counters that balancing needs. hyper parses and frames on both sides; its
//! connections are driven directly, without a client that keeps a pool behind a lock.
//!
//! One request passes the modules in this order: [`connection`] (limits of a client's connection),
//! [`proxy`] (the way of a request), [`head`] (what a request must look like), [`management`] or
//! [`router`], [`affinity`] (its session), [`headers`] (what is forwarded), [`guard`] (the service's breaker), [`forward`] and
//! [`course`] (which instances it is sent to), [`admission`] (whether there is room) and [`breaker`] (who of them may be asked),
//! [`exchange`] with [`pool`], [`room`] and [`spare`] (one try on one instance), [`body`] and [`tunnel`]
//! (what follows the heads), [`answer`] (answers of lb's own).
//! [`access`] accompanies it for the access log, [`trace`] for traces.
//!
//! Deliberately absent: TLS, HTTP/2 and HTTP/3, caching, compression, rewriting of paths or
//! bodies. A request is never retried when an instance may have acted upon it, unless repeating it is
//! harmless by the definition of its method.

mod access;
mod admission;
mod affinity;
mod answer;
mod body;
mod breaker;
mod connection;
mod course;
mod exchange;
pub mod explain;
mod forward;
mod guard;
mod head;
mod headers;
mod hedge;
mod key;
mod lines;
mod listeners;
mod load_report;
mod management;
mod pool;
mod proxy;
mod pulse;
mod room;
mod router;
mod socket;
mod spare;
mod tally;
mod trace;
mod tunnel;
mod upload;
mod vips;
mod worker;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime, RuntimeMetrics},
    sync::{mpsc, oneshot},
};

use self::{listeners::Listeners, room::Bells, worker::Worker};
use crate::{model::Clock, net::Steer, registry::Registry};

pub use access::{AccessLog, Asked, Ending, MOST_PATH, Record, Trace, WHOLE};
pub use affinity::{Preview, Way};
pub use management::{Management, ManagementService};
pub use pulse::Closed;
pub use trace::{Closed as ClosedSpan, SpanId, SpanRecord, Spans, TraceId, TryEnd, TryRecord};
pub use worker::GatewayStats;

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum L7Error {
    /// A listener's address cannot be used.
    #[error("expected to listen at {address}, found: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What is no listener's cannot be served.
    #[error("expected to serve gateway.vips, found: {0}")]
    Steer(String),
    /// A worker's thread or runtime cannot be made.
    #[error("expected to start a worker, found: {0}")]
    Worker(#[from] io::Error),
}

/// The running proxy. Dropping it cuts every connection; [`Proxy::shutdown`] is the polite way.
#[derive(Debug)]
pub struct Proxy {
    stats: Arc<GatewayStats>,
    spans: Mutex<Option<Spans>>,
    stop: Option<oneshot::Sender<Instant>>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts `workers` threads (at least one) that serve the listeners, routes and services that
/// `registry` publishes, now and after every change. Counters of instances are sharded by worker,
/// so `workers` should be what the registry was made with. VIPs of the gateway
/// are handed over by `steer`. Every request that is not for
/// `management` is told to `access`.
///
/// # Errors
/// When an address of the current snapshot cannot be listened at, or a thread cannot be made.
/// Addresses that a later snapshot adds are tried until they can be opened, with a line in the log.
#[expect(
    clippy::needless_pass_by_value,
    reason = "every worker keeps a clone of its own; the caller has no further use for its"
)]
pub fn start(
    registry: Arc<Registry>,
    clock: Clock,
    workers: usize,
    management: Option<Management>,
    access: Option<AccessLog>,
    steer: Option<Box<dyn Steer>>,
) -> Result<Proxy, L7Error> {
    let access = access.map(Arc::new);
    let lost = access.as_ref().map(|log| Arc::clone(log.lost()));
    let mut proxy = Proxy {
        stats: Arc::new(GatewayStats::new(lost)),
        spans: Mutex::default(),
        stop: None,
        threads: Vec::new(),
    };
    let mut orders = Vec::new();
    let bells = Bells::new(workers);
    let mut spans = Spans::none();
    for index in 0..workers.max(1) {
        let (sender, receiver) = mpsc::unbounded_channel();
        orders.push(sender);
        let (registry, clock) = (Arc::clone(&registry), clock.clone());
        let (management, stats) = (management.clone(), Arc::clone(&proxy.stats));
        let (access, bells) = (access.clone(), Arc::clone(&bells));
        let queue = spans.queue();
        let runtime = proxy.spawn(format!("lb-l7-{index}"), move |runtime| {
            let ends = (access, queue);
            let worker = Worker::new(index, registry, clock, management, ends, stats, bells);
            runtime.block_on(worker.run(receiver));
        })?;
        proxy.stats.runs(runtime);
    }
    proxy.spans = Mutex::new(Some(spans));
    let mut listeners = Listeners::new(orders, steer, Arc::clone(&proxy.stats));
    // Dropping `proxy` on the way out ends the workers, whose orders have no giver any more.
    if let Some(error) = listeners.follow(&registry.snapshot()).into_iter().next() {
        drop(listeners);
        return Err(error);
    }
    let (stop, stopped) = oneshot::channel();
    proxy.stop = Some(stop);
    proxy.spawn("lb-l7-listen".to_owned(), move |runtime| {
        runtime.block_on(listeners.run(registry, stopped));
    })?;
    Ok(proxy)
}

impl Proxy {
    /// What is counted for the gateway as a whole.
    #[must_use]
    pub const fn stats(&self) -> &Arc<GatewayStats> {
        &self.stats
    }

    /// Where recorded traces are found. Given away once, to whoever passes them on.
    pub fn take_spans(&self) -> Option<Spans> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.take()
    }

    /// Accepts no more connections, closes those that are between two requests, and waits until
    /// the answers to all others are passed on, at most for `limit`; what is left then is told so
    /// (503) or cut. Connections that became tunnels are cut at the limit.
    ///
    /// Blocks: call it where a thread may wait.
    pub fn shutdown(mut self, limit: Duration) {
        if let Some(stop) = self.stop.take() {
            // When the thread is gone already, there is nobody left to tell.
            let _ = stop.send(Instant::now() + limit);
        }
        self.join();
    }

    /// Starts a thread with a runtime, which has to be made on the thread that it runs on.
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(LocalRuntime) + Send + 'static,
    ) -> io::Result<RuntimeMetrics> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name).spawn(move || {
            let mut builder = Builder::new_current_thread();
            let runtime = builder.enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.metrics()));
                    run(runtime);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        self.threads.push(thread);
        told.recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy has panicked");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop = None;
        self.join();
    }
}

#[cfg(test)]
mod tests;
