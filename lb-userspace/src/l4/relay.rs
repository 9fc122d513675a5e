//! TCP VIPs without the kernel's help: the daemon accepts their connections itself and joins each
//! with one of its own to an instance.
//!
//! It is what is left where the XDP program cannot be had, and dearer by far than what it stands in
//! for: every byte is read and written, and instances see lb's address. So it is never used in
//! silence, and it does not pretend: what it serves, counts and cuts is what the kernel path would,
//! as far as sockets can know it.
//!
//! - Instances are chosen as the proxy chooses them, by the service's own balancer. To everything that
//!   measures, a connection is a request that lasts as long as it does: it succeeds when the instance
//!   accepts it, and an instance that does not is blamed for a failure. So algorithms, limits,
//!   circuit breakers and ejections work here without knowing of it.
//! - A connection to an instance that failed goes to another one, never to the same, four at most.
//! - Connections that exist go on while their instance drains. They are reset, as the kernel would
//!   have it, when their instance is down or removed, when its drain is given up, when the VIP is gone,
//!   and after the idle time.
//!
//! One thread a worker, each with its own `SO_REUSEPORT` sockets and its own connections, as in the
//! proxy; a task on the control plane's runtime ([`control`]) opens and closes sockets as snapshots
//! say and reports. What a worker shares are the fronts ([`front`]), replaced whole.
//!
//! [`explain`](mod@explain) tells what would become of a connection.
//!
//! [`choose`] finds an instance, [`pipe`] passes bytes, [`lines`] knows what is open, [`worker`] holds
//! it together.

mod affinity;
mod choose;
mod connection;
mod control;
mod explain;
mod front;
mod lines;
mod pipe;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    future::Future,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc::{self, UnboundedSender},
};

use self::{
    control::Control,
    worker::{Order, Shared, Worker},
};
use super::report::Handle;
pub use explain::{Relayed, explain};

use crate::{
    model::{Clock, DatapathSpec},
    registry::Registry,
};

/// The running workers of a relay. Dropping it cuts every connection; [`Relay::shutdown`] is the
/// polite way.
#[derive(Debug)]
pub struct Relay {
    orders: Vec<UnboundedSender<Order>>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts `workers` threads, and the task that leads them, on the current tokio runtime; the task
/// ends with `shutdown`. `reason` is why the kernel path is not used, empty when nobody wants it.
///
/// # Errors
/// When a thread cannot be made.
pub(super) fn start(
    (spec, reason): (DatapathSpec, String),
    registry: Arc<Registry>,
    clock: Clock,
    workers: usize,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<(Handle, Relay)> {
    raise_file_limit();
    let shared = Arc::new(Shared::new(spec, registry, clock));
    let mut relay = Relay {
        orders: Vec::new(),
        threads: Vec::new(),
    };
    for index in 0..workers.max(1) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Arc::clone(&shared);
        let run = move || {
            let mut builder = Builder::new_current_thread();
            match builder.enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(Worker::new(index, shared).run(receiver)),
                Err(error) => tracing::error!(%error, "a worker of the relay has no runtime"),
            }
        };
        let name = format!("lb-relay-{index}");
        relay
            .threads
            .push(thread::Builder::new().name(name).spawn(run)?);
        relay.orders.push(sender);
    }
    let control = Control::new(shared, relay.orders.clone(), reason);
    let handle = control.handle();
    tokio::spawn(control.run(shutdown));
    Ok((handle, relay))
}

impl Relay {
    /// Accepts no more connections and waits for the ends of those that are open, at most for
    /// `limit`; what is left then is reset.
    ///
    /// Blocks: call it where a thread may wait.
    pub fn shutdown(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        for worker in &self.orders {
            // A worker that is gone has nothing to drain.
            let _ = worker.send(Order::Drain(deadline));
        }
        self.join();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker of the relay has panicked");
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for worker in &self.orders {
            let _ = worker.send(Order::Drain(Instant::now()));
        }
        self.join();
    }
}

/// Each connection takes two files, and the usual limit of 1024 is for programs that use `select`.
/// Who may have more asks for it; without, accepting waits for files.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}
