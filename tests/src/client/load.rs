//! HTTP load: a few keep-alive clients on one thread, for a number of requests or until stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use fastrand::Rng;
use hyper::Method;

use super::http::{Client, runtime};
use crate::netns::Namespace;
use crate::tally::Tally;

/// What to ask, and how much.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Value of `Host`.
    pub host: String,
    /// Path and query; `{}` in it becomes a number of its own for each request.
    pub path: String,
    /// Connections at a time.
    pub clients: u32,
    /// Requests in all; nothing: until stopped.
    pub requests: Option<u64>,
    /// Rest of a client between two of its requests.
    pub pause: Duration,
    /// Whether that is a mean only, and the rest a matter of chance (exponential): many such clients
    /// ask at random moments, as those do who know nothing of each other, and not all at once.
    pub by_chance: bool,
    /// Sessions that the requests belong to, in turn; 0 for none.
    pub sessions: u64,
}

impl Plan {
    /// So many requests of one path by four clients without a pause.
    #[must_use]
    pub fn requests(target: SocketAddr, path: &str, requests: u64) -> Self {
        Self {
            target,
            host: "lb.test".to_owned(),
            path: path.to_owned(),
            clients: 4,
            requests: Some(requests),
            pause: Duration::ZERO,
            by_chance: false,
            sessions: 0,
        }
    }
}

/// Does the whole plan. An answer counts for its instance when its status is 200; everything else is
/// a failure.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn run(namespace: &Namespace, plan: &Plan) -> Result<Tally> {
    start(namespace, plan.clone()).finish()
}

/// Load that runs beside whatever else happens.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<Tally>>,
}

impl Load {
    /// How many requests have been begun.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for the plan's end.
    ///
    /// # Errors
    /// When the namespace could not be entered.
    pub fn finish(self) -> Result<Tally> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the load's thread panicked"))?
    }

    /// Ends the load after the requests in flight.
    ///
    /// # Errors
    /// As [`Load::finish`].
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

/// Starts the plan.
#[must_use]
pub fn start(namespace: &Namespace, plan: Plan) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
    let thread = namespace.spawn(move || {
        let plan = Arc::new(plan);
        runtime()?.block_on(async {
            let clients: Vec<_> = (0..plan.clients)
                .map(|number| {
                    let (plan, stop, sent) =
                        (Arc::clone(&plan), Arc::clone(&stopped), Arc::clone(&count));
                    let random = Rng::with_seed(number.into());
                    tokio::spawn(async move { client(&plan, random, &stop, &sent).await })
                })
                .collect();
            let mut tally = Tally::default();
            for client in clients {
                tally.merge(client.await?);
            }
            Ok(tally)
        })
    });
    Load { stop, sent, thread }
}

async fn client(plan: &Plan, mut random: Rng, stop: &AtomicBool, sent: &AtomicU64) -> Tally {
    let mut client = Client::new(plan.target, &plan.host);
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        if plan.requests.is_some_and(|all| number >= all) {
            break;
        }
        let path = plan.path.replace("{}", &number.to_string());
        // A prime far from any number of sessions: neighbours have sessions far apart.
        let session = (number.wrapping_mul(7919) % plan.sessions.max(1)).to_string();
        let fields = [("x-session-id", &*session)];
        let fields = if plan.sessions > 0 { &fields[..] } else { &[] };
        match client.send(Method::GET, &path, fields, Bytes::new()).await {
            Ok(answer) => match answer.instance() {
                Some(instance) if answer.status.is_success() => tally.answered(instance),
                _ => tally.failed(format_args!(
                    "{} {}",
                    answer.status,
                    answer.text().trim_end()
                )),
            },
            Err(error) => tally.failed(format_args!("{error:#}")),
        }
        if plan.pause > Duration::ZERO {
            let times = if plan.by_chance {
                -(1.0 - random.f64()).ln()
            } else {
                1.0
            };
            tokio::time::sleep(plan.pause.mul_f64(times)).await;
        }
    }
    tally
}
